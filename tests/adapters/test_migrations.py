"""Files of earlier releases, of later ones, and files that are no longer what they were."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pyfaas.adapters.sqlite import schema
from pyfaas.adapters.sqlite.queue import SqliteQueue
from pyfaas.adapters.sqlite.schema import MIGRATIONS, open_database
from pyfaas.adapters.sqlite.store import SqliteStore
from pyfaas.errors import Code, PyfaasError
from pyfaas.model import InvocationId
from tests.adapters.samples import ALICE, RESIZE, account, function, job, move, token, version

FIRST = Path(__file__).with_name("version1.sql")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Return a file of the first schema, in the mode in which that release left it."""
    path = tmp_path / "pyfaas.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(FIRST.read_text())
        connection.execute("PRAGMA journal_mode = WAL")
    return path


def shape(path: Path) -> set[tuple[str, str, str]]:
    """Return tables, indexes and triggers with their text."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        found = connection.execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL")
        return {(kind, name, " ".join(sql.split())) for kind, name, sql in found}


def pragma(path: Path, name: str) -> int:
    """Return a number that a file keeps in its head."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


@pytest.mark.asyncio
async def test_the_first_schema_becomes_todays_with_all_that_is_in_it(old: Path, tmp_path: Path) -> None:
    """A migrated file has exactly the tables of a new one, every row of the old, build logs apart, and it can shrink."""
    database = open_database(str(old))
    store, queue = SqliteStore(database), SqliteQueue(database)
    found = await store.load()
    assert (found.accounts, found.tokens) == ([account()], [token()])
    assert (found.functions, found.versions, found.moves) == ([function()], [version()], [move()])
    assert await queue.get(InvocationId("j1")) == job()
    assert [line.line for _, line in await store.logs(RESIZE)] == ["hello", "é"]
    assert [line.line for _, line in await store.logs(RESIZE, build=True)] == ["Collecting idna", "done"]
    assert [(row["calls"], row["wall_ms"]) for row in await store.usage(ALICE, 0, 1e9)] == [(2, 3.0)]
    sizes = await database.read(lambda c: [tuple(row) for row in c.execute("SELECT * FROM log_sizes")])
    assert sizes == [(RESIZE, 5 + 2 + 2 * 128)]
    await store.close()
    await open_database(str(tmp_path / "new.db")).close()
    assert shape(old) == shape(tmp_path / "new.db")
    assert [pragma(path, "auto_vacuum") for path in (old, tmp_path / "new.db")] == [2, 2]


@pytest.mark.asyncio
async def test_what_was_never_said_of_staleness_stays_unsaid(old: Path) -> None:
    """Defaults that an earlier release wrote down override no account's policy; what somebody said against them stays."""
    with contextlib.closing(sqlite3.connect(old, isolation_level=None)) as connection:
        connection.execute("""UPDATE functions SET settings = json_set(settings, '$.stale', 'forbid', '$.max_wait_ms', 5000)""")
    database = open_database(str(old))
    (found,) = (await SqliteStore(database).load()).functions
    await database.close()
    assert (found.settings.stale, found.settings.max_wait_ms) == ("forbid", 5000)


@pytest.mark.asyncio
async def test_the_file_is_kept_as_it_was_before_a_migration(old: Path) -> None:
    """A copy beside the file holds the old schema with its rows; a start that migrates nothing leaves it as it is."""
    await open_database(str(old)).close()
    kept = Path(f"{old}.before-migration")
    assert pragma(kept, "user_version") == 1
    with contextlib.closing(sqlite3.connect(kept)) as connection:
        assert connection.execute("SELECT count(*) FROM logs").fetchone() == (4,)
    before = kept.stat()
    await open_database(str(old)).close()
    assert kept.stat().st_mtime_ns == before.st_mtime_ns
    assert sorted(p.name for p in old.parent.glob("*before*")) == [kept.name]


_SLOW = """
import sys
from pyfaas.adapters.sqlite import schema
grow = "INSERT INTO slow WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i, zeroblob(500) FROM n"
schema.migrate(schema.connect(sys.argv[1]), (*schema.MIGRATIONS, ("slow", ("CREATE TABLE slow (i, b)", grow))))
"""


@pytest.mark.asyncio
async def test_a_kill_in_the_middle_of_a_migration_leaves_the_file_as_it_was(old: Path) -> None:
    """A migration that is killed while it writes has not happened, and the next start does it."""
    migrating = subprocess.Popen([sys.executable, "-c", _SLOW, str(old)])
    wal = Path(f"{old}-wal")
    until = time.monotonic() + 60
    while (not wal.exists() or wal.stat().st_size < 4 << 20) and time.monotonic() < until:
        assert migrating.poll() is None
        time.sleep(0.01)
    migrating.kill()
    migrating.wait()
    assert pragma(old, "user_version") == 1
    assert not any(name == "slow" for _, name, _ in shape(old))
    database = open_database(str(old))
    assert len((await SqliteStore(database).load()).functions) == 1
    await database.close()
    assert pragma(old, "user_version") == len(MIGRATIONS)


def refusal(path: Path) -> PyfaasError:
    """Open a file that must be refused."""
    before = path.read_bytes() if path.exists() else None
    with pytest.raises(PyfaasError) as failed:
        open_database(str(path))
    assert failed.value.code is Code.INTERNAL
    assert failed.value.hint
    assert (path.read_bytes() if path.exists() else None) == before
    return failed.value


@pytest.mark.parametrize("state", ["gone", "empty"])
@pytest.mark.parametrize("left", ["admin.token", "bundles/sha256-a.zip"])
@pytest.mark.asyncio
async def test_a_database_that_is_lost_is_not_begun_anew(state: str, left: str, tmp_path: Path) -> None:
    """Where keys or bundles lie beside no database, or an empty one, it is refused; without them a new one is made."""
    path = tmp_path / "pyfaas.db"
    (tmp_path / "bundles").mkdir()
    (tmp_path / left).write_text("x")
    if state == "empty":
        path.touch()
    failed = refusal(path)
    assert state in failed.message
    assert left in failed.message
    (tmp_path / left).unlink()
    await open_database(str(path)).close()
    assert pragma(path, "user_version") == len(MIGRATIONS)


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    """A database with tables that are not ours is told by one of them, and gets none of ours."""
    path = tmp_path / "pyfaas.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
        connection.execute("PRAGMA journal_mode = WAL")
    assert "bookmarks" in refusal(path).message
    assert {name for _, name, _ in shape(path)} == {"bookmarks"}


@pytest.mark.parametrize("kept", [100, 4096, 40_000])
@pytest.mark.asyncio
async def test_a_truncated_database_is_refused(kept: int, old: Path) -> None:
    """A file of which the end is missing is damaged, wherever it was cut."""
    await open_database(str(old)).close()
    os.truncate(old, kept)
    assert "damaged" in refusal(old).message or "no database" in refusal(old).message


@pytest.mark.parametrize("most", [0, 1 << 30], ids=["large", "small"])
@pytest.mark.asyncio
async def test_a_damaged_table_is_found_in_a_large_file_too(most: int, old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a file that is too large to be read whole at a start, what serving rests on is looked at all the same."""
    await open_database(str(old)).close()
    with contextlib.closing(sqlite3.connect(old)) as connection:
        page = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'tokens'").fetchone()[0]
    monkeypatch.setattr(schema, "_WHOLE_BYTES", most)
    await open_database(str(old)).close()
    with old.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)
    with pytest.raises(PyfaasError, match="damaged"):
        open_database(str(old))


@pytest.mark.asyncio
async def test_a_lost_index_of_the_wal_is_no_loss(old: Path, tmp_path: Path) -> None:
    """The shared-memory file is made anew from the WAL: what was committed and never checkpointed is there."""
    program = (
        "import os, sqlite3, sys; from pyfaas.adapters.sqlite.schema import connect; c = connect(sys.argv[1]); "
        "c.execute(\"UPDATE accounts SET name = 'renamed'\"); os._exit(0)"
    )
    await open_database(str(old)).close()
    subprocess.run([sys.executable, "-c", program, str(old)], check=True, timeout=60)
    Path(f"{old}-shm").unlink()
    store = SqliteStore(open_database(str(old)))
    assert [a.name for a in (await store.load()).accounts] == ["renamed"]
    await store.close()
