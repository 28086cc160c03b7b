"""`ports.Vault` in SQLite: secrets as they were sealed. No value ever comes here, so none is in the file, its WAL or a copy of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from pyfaas.adapters.sqlite.connection import Database
from pyfaas.ports import Sealed

_PUT = """INSERT INTO secrets (owner, key, key_id, sealed, at) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET key_id = excluded.key_id, sealed = excluded.sealed, at = excluded.at"""


class SqliteVault:
    """`ports.Vault` over a Database, which somebody else closes."""

    def __init__(self, database: Database) -> None:
        """Take a database from `schema.open_database`."""
        self._database = database

    async def load(self) -> Sequence[Sealed]:
        """Return every sealed secret, by owner and key."""

        def work(connection: sqlite3.Connection) -> Sequence[Sealed]:
            rows = connection.execute("SELECT owner, key, key_id, sealed, at FROM secrets ORDER BY owner, key")
            return [Sealed(owner=r["owner"], key=r["key"], key_id=r["key_id"], sealed=bytes(r["sealed"]), at=r["at"]) for r in rows]

        return await self._database.read(work)

    async def put(self, sealed: Sequence[Sealed]) -> None:
        """Keep secrets, in one transaction, each in place of one with its owner and key."""
        await self._database.write(lambda connection: _put(connection, sealed))

    async def replace(self, owner: str, sealed: Sequence[Sealed]) -> None:
        """Keep these in place of all that an owner has, in one transaction."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM secrets WHERE owner = ?", (owner,))
            _put(connection, sealed)

        await self._database.write(work)

    async def remove(self, owner: str, key: str | None = None) -> None:
        """Remove a secret, or all of an owner's; what is not there stays so."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM secrets WHERE owner = ? AND key = ifnull(?, key)", (owner, key))

        await self._database.write(work)


def _put(connection: sqlite3.Connection, sealed: Sequence[Sealed]) -> None:
    connection.executemany(_PUT, [(each.owner, each.key, each.key_id, each.sealed, each.at) for each in sealed])
