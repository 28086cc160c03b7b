"""`ports.Trees`: what the launcher made for containers, as the server may list and not change it."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path

from pyfaas.errors import Code, PyfaasError

_SOURCE_BYTES = 1 << 20  # of a file whose lines are counted


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

    def lines_nowait(self, name: str, path: str) -> int:
        """Return how many lines a file of a prepared version has, at once; 0 for what is not there, is no plain file in it, or is large."""
        return _lines(str(self._data / "prepared" / name), path)


@lru_cache(maxsize=4096)  # a prepared version never changes
def _lines(directory: str, path: str) -> int:
    file = os.path.join(directory, path)
    if os.path.realpath(file) != os.path.join(os.path.realpath(directory), path):
        return 0  # it leads elsewhere
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size > _SOURCE_BYTES:
            return 0
        return len(os.read(descriptor, _SOURCE_BYTES).splitlines())
    finally:
        os.close(descriptor)
