"""`ports.Trees`: what the launcher made for containers, as the server may list and not change it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection
from pathlib import Path

from pyfaas.errors import Code, PyfaasError


class TreeDirectories:
    """The stores `prepared` and `environments` of a data directory."""

    def __init__(self, data: Path) -> None:
        """Read beneath `data`."""
        self._data = data

    async def names(self, store: str) -> Collection[str]:
        """Return the entries of a store. Raises internal."""
        return await asyncio.to_thread(self.names_nowait, store)

    def names_nowait(self, store: str) -> Collection[str]:
        """Return the entries of a store, at once: at the start nobody waits. Raises internal."""
        try:
            return frozenset(os.listdir(self._data / store))
        except OSError as error:
            raise PyfaasError(Code.INTERNAL, f"the store {store} cannot be read: {error.strerror}") from error
