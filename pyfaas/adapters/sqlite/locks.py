"""`ports.Locks` in SQLite: the text of what requirements resolved to, by the name of the environment that is made of it.

A row stays for as long as a living version names its environment; the text may be some hundred kilobytes, so versions share it.
"""

from __future__ import annotations

import sqlite3

from pyfaas.adapters.sqlite.connection import Database
from pyfaas.errors import not_found
from pyfaas.model import FunctionId

_KEPT = """SELECT environment FROM versions JOIN functions ON functions.id = versions.function
    WHERE versions.deleted = 0 AND functions.removed IS NULL AND environment IS NOT NULL"""


class SqliteLocks:
    """`ports.Locks` over a Database, which somebody else closes."""

    def __init__(self, database: Database) -> None:
        """Take a database from `schema.open_database`."""
        self._database = database

    async def keep(self, function: FunctionId, version: int, environment: str, lock: str) -> None:
        """Keep a lock, and that a version has this environment, in one transaction. Raises not_found, or storage_full."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT INTO locks VALUES (?, ?) ON CONFLICT DO NOTHING", (environment, lock))
            values = environment, function, version
            if not connection.execute("UPDATE versions SET environment = ? WHERE function = ? AND number = ?", values).rowcount:
                raise not_found("version", str(version))

        await self._database.write(work)

    async def text(self, environment: str) -> str | None:
        """Return an environment's lock, if it is known."""

        def work(connection: sqlite3.Connection) -> str | None:
            row = connection.execute("SELECT lock FROM locks WHERE environment = ?", (environment,)).fetchone()
            return None if row is None else str(row["lock"])

        return await self._database.read(work)

    async def trim(self) -> int:
        """Forget the locks that no living version needs; returns how many."""
        sql = f"DELETE FROM locks WHERE environment NOT IN ({_KEPT})"  # noqa: S608 - fixed words only
        return await self._database.append(lambda connection: connection.execute(sql).rowcount)
