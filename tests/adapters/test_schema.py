"""Opening a database file: new, older, newer, damaged."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from pyfaas import __version__
from pyfaas.adapters.sqlite.connection import connect
from pyfaas.adapters.sqlite.schema import MIGRATIONS, migrate, open_database
from pyfaas.errors import Code, PyfaasError

FIRST = ("first", ("CREATE TABLE a (x INTEGER)",))
SECOND = ("second", ("ALTER TABLE a ADD COLUMN y TEXT", "CREATE TABLE b (z TEXT)"))


def tables(connection: sqlite3.Connection) -> set[str]:
    """Return the names of the tables."""
    return {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def test_an_older_file_is_migrated_with_what_it_holds(tmp_path: Path) -> None:
    """Missing migrations are applied once each, in order, and rows stay."""
    connection = connect(str(tmp_path / "x.db"))
    migrate(connection, (FIRST,))
    connection.execute("INSERT INTO a VALUES (7)")
    migrate(connection, (FIRST, SECOND))
    migrate(connection, (FIRST, SECOND))
    assert tables(connection) == {"_migrations", "a", "b"}
    assert [tuple(row) for row in connection.execute("SELECT * FROM a")] == [(7, None)]
    done = connection.execute('SELECT number, name, "release" FROM _migrations ORDER BY number').fetchall()
    assert [tuple(row) for row in done] == [(1, "first", __version__), (2, "second", __version__)]
    assert connection.execute("PRAGMA user_version").fetchone()[0] == 2
    connection.close()


def test_a_migration_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    """All missing migrations are one transaction."""
    connection = connect(str(tmp_path / "x.db"))
    migrate(connection, (FIRST,))
    with pytest.raises(sqlite3.OperationalError):
        migrate(connection, (FIRST, SECOND, ("third", ("CREATE TABLE c (x)", "no such thing"))))
    assert tables(connection) == {"_migrations", "a"}
    assert connection.execute("PRAGMA user_version").fetchone()[0] == 1
    connection.close()


def test_a_file_of_a_newer_release_is_refused_by_name(tmp_path: Path) -> None:
    """The refusal names the release that wrote the file, and the file is not touched."""
    path = tmp_path / "x.db"
    connection = connect(str(path))
    migrate(connection)
    connection.execute("INSERT INTO _migrations VALUES (?, 'from the future', '9.8.7', 0)", (len(MIGRATIONS) + 1,))
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    with pytest.raises(PyfaasError, match=r"pyfaas 9\.8\.7") as refused:
        open_database(str(path))
    assert refused.value.code is Code.INTERNAL
    assert "9.8.7" in refused.value.hint


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    """A file whose pages are overwritten, or that is no database, is not opened."""
    path = tmp_path / "x.db"
    connection = connect(str(path))
    migrate(connection)
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.close()
    content = bytearray(path.read_bytes())
    assert len(content) > 8 * 4096
    content[4096 * 3 : 4096 * 5] = b"\xff" * 8192
    path.write_bytes(content)
    with pytest.raises(PyfaasError, match="database"):
        open_database(str(path))
    path.write_bytes(b"this is not a database" * 500)
    with pytest.raises(PyfaasError) as refused:
        open_database(str(path))
    assert refused.value.evidence == {"sqlite": "SQLITE_NOTADB"}
