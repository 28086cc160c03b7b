"""A process that keeps and rotates secrets until it is killed at a point: `python -m tests.service.rotating DIRECTORY POINT COUNT`.

It kills itself at the COUNTth time that it comes to POINT: `key`, when the new key file is written and not yet in its place, `placed`,
when it is there, `batch`, before a batch is committed, or `sealed`, after one.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyfaas.adapters import keyring
from pyfaas.adapters.clock import SystemClock
from pyfaas.adapters.sqlite.schema import open_database
from pyfaas.adapters.sqlite.vault import SqliteVault
from pyfaas.ports import Sealed, Snapshot
from pyfaas.service.registry import Registry
from pyfaas.service.secrets import Secrets


class Killed(SqliteVault):
    """A vault in front of which, or behind which, the process ends."""

    def __init__(self, database: Any, point: Point) -> None:
        """Take the point."""
        super().__init__(database)
        self._point = point

    async def put(self, sealed: Sequence[Sealed]) -> None:
        """Keep a batch, unless killed."""
        self._point.reach("batch")
        await super().put(sealed)
        self._point.reach("sealed")


class Point:
    """Where and when the process ends."""

    def __init__(self, name: str, count: int) -> None:
        """Count down."""
        self._name, self._left = name, count

    def reach(self, name: str) -> None:
        """End here when it is the one."""
        self._left -= name == self._name
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


async def main(directory: str, name: str, count: int) -> None:
    """Open what is there, and rotate."""
    point = Point(name, count)
    database = open_database(f"{directory}/pyfaas.db")
    vault = Killed(database, point)
    sealed = await vault.load()
    secrets = Secrets(
        Registry(Snapshot(accounts=(), tokens=(), functions=(), versions=(), moves=())),
        vault, keyring.opened(Path(directory), is_needed=bool(sealed)), SystemClock(), 16384,
    )
    secrets.take(sealed)
    replace = os.replace

    def replaced(*names: Any) -> None:
        point.reach("key")
        replace(*names)
        point.reach("placed")

    os.replace = replaced  # type: ignore[assignment]
    secrets._keyring.renew()
    secrets.resume()
    assert secrets._rotating is not None
    await secrets._rotating
    await asyncio.sleep(0)  # the keys that nothing needs go in a task of their own
    while secrets._retiring is None or not secrets._retiring.done():
        await asyncio.sleep(0.001)
    await secrets.close()
    await database.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
