"""A consistent copy of the database beside the one in use, and what such a copy says about itself.

`sqlite3.Connection.backup` in one step is one read transaction: writers append to the WAL meanwhile and never wait, and what
was acknowledged before it began is in it. The copy gets a rollback journal instead of a WAL, so that it is one file.
"""

from __future__ import annotations

import contextlib
import sqlite3

from pyfaas.adapters.sqlite.connection import connect, translate
from pyfaas.adapters.sqlite.schema import check
from pyfaas.errors import Code, PyfaasError
from pyfaas.ports import Contents

_LIVING = """
    FROM versions JOIN revisions USING (function, code_id) JOIN functions ON functions.id = versions.function
    WHERE versions.deleted = 0 AND functions.removed IS NULL
"""
_NEEDED = {
    "bundles": f"SELECT DISTINCT bundle {_LIVING} ORDER BY 1",
    "prepared": f"SELECT DISTINCT code_id {_LIVING} ORDER BY 1",
    "environments": f"SELECT DISTINCT environment {_LIVING} AND environment IS NOT NULL ORDER BY 1",
}
_COUNTS = {
    "accounts": "SELECT count(*) FROM accounts WHERE removed IS NULL",
    "functions": "SELECT count(*) FROM functions WHERE removed IS NULL",
    "versions": f"SELECT count(*) {_LIVING}",
    "jobs": "SELECT count(*) FROM jobs WHERE finished IS NULL",
}


def copy(source: str, target: str) -> Contents:
    """Write a checked copy of the database `source` to the new file `target`; returns what belongs to it.

    Raises storage_full, or internal also when the copy is damaged: a backup of that would be none.
    """
    try:
        with (
            contextlib.closing(connect(source, readonly=True)) as origin,
            contextlib.closing(sqlite3.connect(target, isolation_level=None)) as made,
        ):
            origin.backup(made)
            made.execute("PRAGMA journal_mode = DELETE")
            check(made)
            return _contents(made)
    except sqlite3.Error as error:
        raise translate(error) from error


def examine(path: str) -> Contents:
    """Check a database file that comes from elsewhere, in full; returns what belongs to it. Raises invalid_request."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)) as found:
            damage = found.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if damage == "ok":
                stray = found.execute("PRAGMA foreign_key_check").fetchone()
                if stray is None:
                    return _contents(found)
                damage = f"a row of {stray[0]} belongs to none of {stray[2]}"
    except sqlite3.Error as error:
        damage = getattr(error, "sqlite_errorname", None) or str(error)
    message = f"the backup's database is damaged: {damage}"
    raise PyfaasError(Code.INVALID_REQUEST, message, hint="use an older backup; nothing was restored")


def needed(connection: sqlite3.Connection) -> dict[str, tuple[str, ...]]:
    """Return the bundles, prepared trees and environments that living versions need, by store."""
    return {store: tuple(row[0] for row in connection.execute(sql)) for store, sql in _NEEDED.items()}


def _contents(connection: sqlite3.Connection) -> Contents:
    schema = int(connection.execute("PRAGMA user_version").fetchone()[0])
    counts = {name: int(connection.execute(sql).fetchone()[0]) for name, sql in _COUNTS.items()}
    return Contents(schema=schema, counts=counts, **needed(connection))
