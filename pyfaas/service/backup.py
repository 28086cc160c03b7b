"""The backup of a running server, as a use case: who may have one, and what waits meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

from pyfaas.decisions.access import require
from pyfaas.errors import Code, PyfaasError
from pyfaas.model import Caller, Scope
from pyfaas.ports import Backups, Clock
from pyfaas.service.journal import Journal


class Backup:
    """Gives one backup at a time; `is_running` tells whoever removes files to wait."""

    def __init__(self, backups: Backups, journal: Journal, clock: Clock) -> None:
        """Read through `backups`, after writing what `journal` holds."""
        self._backups, self._journal, self._clock = backups, journal, clock
        self.is_running = False

    async def read(self, caller: Caller) -> AsyncGenerator[bytes, None]:
        """Yield a backup's bytes; all that was acknowledged before is in it.

        Raises not_allowed, conflict when another one is being taken, storage_full or internal.
        """
        require(caller, Scope.ADMIN)
        if self.is_running:
            raise PyfaasError(Code.CONFLICT, "a backup is being taken already", hint="wait for it, or end it")
        self.is_running = True
        try:
            await self._journal.flush()
            async with contextlib.aclosing(self._backups.read(self._clock.now())) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            self.is_running = False
