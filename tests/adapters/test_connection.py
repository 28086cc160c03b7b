"""The lanes: what a group of writes shares, and what each keeps to itself."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pyfaas.adapters.sqlite.connection import Database, connect, translate
from pyfaas.adapters.sqlite.schema import open_database
from pyfaas.errors import Code, PyfaasError

pytestmark = pytest.mark.asyncio


def insert(key: str, size: int = 1) -> Callable[[sqlite3.Connection], str]:
    """Return work that adds a row of `size` bytes to the table `t`."""

    def work(connection: sqlite3.Connection) -> str:
        connection.execute("INSERT INTO t VALUES (?, zeroblob(?))", (key, size))
        return key

    return work


async def keys(database: Database) -> list[str]:
    """Return what is in the table `t`."""
    return await database.read(lambda c: [row[0] for row in c.execute("SELECT k FROM t ORDER BY k")])


async def make_table(database: Database) -> None:
    """Make the table `t`."""
    await database.write(lambda c: c.execute("CREATE TABLE t (k TEXT PRIMARY KEY, v BLOB)") and None)


async def test_writes_that_wait_together_share_a_commit(database: Database) -> None:
    """A hundred writes at once take far fewer transactions than a hundred, and each gets its own value."""
    await make_table(database)
    before = database.statistics()
    names = [f"{n:03}" for n in range(100)]
    assert await asyncio.gather(*(database.write(insert(name)) for name in names)) == names
    after = database.statistics()
    assert after["writes"] - before["writes"] == 100
    assert after["commits"] - before["commits"] < 50
    assert await keys(database) == names


async def test_each_write_of_a_group_keeps_its_own_error(database: Database) -> None:
    """In one group a taken key and a mistake of ours fail alone, half done work is undone, and the rest is kept."""
    await make_table(database)

    def half_done(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO t VALUES ('half', NULL)")
        raise LookupError("half")

    works = [insert("a"), insert("a"), half_done, insert("b")]
    results = await asyncio.gather(*(database.write(w) for w in works), return_exceptions=True)
    assert (results[0], results[3]) == ("a", "b")
    assert isinstance(results[1], PyfaasError)
    assert results[1].code is Code.CONFLICT
    assert isinstance(results[2], LookupError)
    assert await keys(database) == ["a", "b"]


async def test_a_full_disk_refuses_the_large_write_only(database: Database) -> None:
    """When the file may not grow, what does not fit is refused as storage_full, and what fits is written, then and later."""
    await make_table(database)
    await database.write(
        lambda c: c.execute(f"PRAGMA max_page_count = {c.execute('PRAGMA page_count').fetchone()[0] + 8}").fetchone()
    )
    works = [insert("a"), insert("large", 1 << 20), insert("b")]
    results = await asyncio.gather(*(database.write(w) for w in works), return_exceptions=True)
    assert (results[0], results[2]) == ("a", "b")
    assert isinstance(results[1], PyfaasError)
    assert results[1].code is Code.STORAGE_FULL
    await database.write(insert("c"))
    assert await keys(database) == ["a", "b", "c"]


async def test_readers_cannot_write(database: Database) -> None:
    """Work in the read lane that tries to write is refused by the database."""
    await make_table(database)
    with pytest.raises(PyfaasError) as refused:
        await database.read(insert("a"))
    assert refused.value.evidence == {"sqlite": "SQLITE_READONLY"}
    await database.write(insert("a"))


async def test_a_cancelled_write_harms_nobody(database: Database) -> None:
    """A caller that leaves before its turn takes its write along, and the lane goes on."""
    await make_table(database)
    waiting = [asyncio.ensure_future(database.write(insert(f"{n:02}"))) for n in range(20)]
    await asyncio.sleep(0)
    waiting[19].cancel()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(results[19], asyncio.CancelledError)
    assert await keys(database) in ([f"{n:02}" for n in range(19)], [f"{n:02}" for n in range(20)])
    assert await database.write(insert("last")) == "last"


async def test_appends_and_writes_take_turns(database: Database) -> None:
    """Both writing lanes at once lose nothing and never find the file locked."""
    await make_table(database)
    works = [(database.write if n % 2 else database.append)(insert(f"{n:03}")) for n in range(200)]
    await asyncio.gather(*works)
    assert len(await keys(database)) == 200


async def test_after_close_a_write_is_refused(tmp_path: Path) -> None:
    """What waited is written before the close, and what comes after it is refused instead of waiting for ever."""
    database = open_database(str(tmp_path / "x.db"))
    await make_table(database)
    waiting = [asyncio.ensure_future(database.write(insert(f"{n}"))) for n in range(5)]
    await asyncio.sleep(0)
    await database.close()
    assert await asyncio.gather(*waiting) == ["0", "1", "2", "3", "4"]
    with pytest.raises(PyfaasError):
        await database.write(insert("late"))


async def test_the_pragmas_are_set(database: Database) -> None:
    """Writers sync fully and check foreign keys, appenders sync at checkpoints, readers only read."""

    def pragmas(connection: sqlite3.Connection) -> list[object]:
        names = ("journal_mode", "synchronous", "foreign_keys", "query_only")
        return [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names]

    assert await database.write(pragmas) == ["wal", 2, 1, 0]
    assert await database.append(pragmas) == ["wal", 1, 1, 0]
    assert await database.read(pragmas) == ["wal", 2, 1, 1]


async def test_errors_are_told_apart_by_their_name(tmp_path: Path) -> None:
    """A foreign key is no conflict and an unknown table is internal: SQLite's name decides, and is the evidence."""
    connection = connect(str(tmp_path / "x.db"))
    connection.execute("CREATE TABLE a (id INTEGER PRIMARY KEY, n TEXT UNIQUE, a INTEGER REFERENCES a (id))")
    connection.execute("INSERT INTO a VALUES (1, 'n', NULL)")
    found = {}
    for sql in (
        "INSERT INTO a VALUES (1, 'm', NULL)",
        "INSERT INTO a VALUES (2, 'n', NULL)",
        "INSERT INTO a VALUES (3, 'o', 9)",
        "x",
    ):
        with pytest.raises(sqlite3.Error) as failed:
            connection.execute(sql)
        error = translate(failed.value)
        found[error.evidence["sqlite"]] = error.code
    connection.close()
    assert found == {
        "SQLITE_CONSTRAINT_PRIMARYKEY": Code.CONFLICT,
        "SQLITE_CONSTRAINT_UNIQUE": Code.CONFLICT,
        "SQLITE_CONSTRAINT_FOREIGNKEY": Code.INTERNAL,
        "SQLITE_ERROR": Code.INTERNAL,
    }


_BROKEN_DISK = """
import asyncio, resource, sys
from pyfaas.adapters.sqlite.schema import open_database
from pyfaas.errors import PyfaasError

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

async def main(path):
    database = open_database(path)
    await database.write(lambda c: c.execute("CREATE TABLE t (k TEXT, v BLOB)") and None)
    add = lambda key, size: database.write(lambda c: c.execute("INSERT INTO t VALUES (?, zeroblob(?))", (key, size)) and key)
    print(await add("before", 10))
    handle = database._write._connection
    limit(1 << 17)
    for _ in range(2):
        try:
            print(await add("lost", 1 << 20))
        except PyfaasError as error:
            print(error.code, error.evidence["sqlite"])
    limit(resource.RLIM_INFINITY)
    print(await add("after", 10), database._write._connection is not handle)
    print(await database.read(lambda c: [r[0] for r in c.execute("SELECT k FROM t")]))
    await database.close()

asyncio.run(main(sys.argv[1]))
"""


async def test_after_an_input_output_error_another_connection_goes_on(tmp_path: Path) -> None:
    """A commit that the kernel refuses to write is internal and leaves nothing; a new connection serves what follows."""
    command = [sys.executable, "-c", _BROKEN_DISK, str(tmp_path / "x.db")]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "before",
        "internal SQLITE_IOERR_WRITE",
        "internal SQLITE_IOERR_WRITE",
        "after True",
        "['before', 'after']",
    ]


_LOST_SYNC = """
import asyncio, errno, os, sys
import pyseccomp
from pyfaas.adapters.sqlite.schema import open_database
from pyfaas.errors import PyfaasError

def logs_of_writes():
    places = {int(name): os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")}
    return [number for number, path in places.items() if path.endswith("-wal")]

def fail_syncs(numbers):
    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    rules.set_attr(pyseccomp.Attr.CTL_TSYNC, True)
    for call in ("fsync", "fdatasync"):
        for number in numbers:
            rules.add_rule(pyseccomp.ERRNO(errno.EIO), call, pyseccomp.Arg(0, pyseccomp.EQ, number))
    rules.load()

async def main(path):
    database = open_database(path)
    await database.write(lambda c: c.execute("CREATE TABLE t (k TEXT)") and None)
    add = lambda key: database.write(lambda c: c.execute("INSERT INTO t VALUES (?)", (key,)) and key)
    print(await add("before"))
    handle, numbers = database._write._connection, logs_of_writes()
    fail_syncs(numbers)
    try:
        print(await add("lost"))
    except PyfaasError as error:
        print(error.code, error.evidence["sqlite"])
    print(database._write._connection is None)
    while not all(os.path.exists(f"/proc/self/fd/{number}") for number in numbers):
        os.open("/dev/null", os.O_RDONLY)  # so that the next connection's log has a number that can be synced
    print(await add("after"), database._write._connection is not handle)
    print(await database.read(lambda c: [r[0] for r in c.execute("SELECT k FROM t")]))
    sys.stdout.flush()
    os._exit(0)  # the database's close would sync what cannot be

asyncio.run(main(sys.argv[1]))
"""


async def test_after_a_sync_that_failed_the_connection_is_not_used_again(tmp_path: Path) -> None:
    """A commit whose fdatasync the kernel answers with EIO is not acknowledged, and what follows has a connection of its own."""
    path = tmp_path / "x.db"
    command = [sys.executable, "-c", _LOST_SYNC, str(path)]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "before",
        "internal SQLITE_IOERR_FSYNC",
        "True",
        "after True",
        "['before', 'after']",
    ]
    again = open_database(str(path))
    assert await keys(again) == ["after", "before"]
    await again.close()


async def test_the_log_of_writes_is_cut_back_after_a_burst(database: Database, tmp_path: Path) -> None:
    """A WAL that one large write made long is short again once later writes have begun it anew."""
    await make_table(database)
    wal = tmp_path / "pyfaas.db-wal"
    await database.write(insert("large", 40 << 20))
    before = wal.stat().st_size
    for n in range(20):
        await database.write(insert(f"{n}", 5000))
    assert before > 40 << 20
    assert wal.stat().st_size <= 16 << 20
