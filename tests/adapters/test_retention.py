"""What is kept for a while: what goes, what stays, and what is exact all the same."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pyfaas.adapters.bundles import BundleDirectory
from pyfaas.adapters.sqlite.connection import Database
from pyfaas.adapters.sqlite.locks import SqliteLocks
from pyfaas.adapters.sqlite.queue import SqliteQueue
from pyfaas.adapters.sqlite.sharing import SqliteSharing
from pyfaas.adapters.sqlite.store import SqliteStore
from pyfaas.adapters.trees import TreeDirectories
from pyfaas.config import Config
from pyfaas.errors import Code, PyfaasError
from pyfaas.model import FunctionId, JobState, LogLine, Outcome, UsageRow
from pyfaas.service.journal import Journal
from pyfaas.service.retention import Retention
from pyfaas.sharing import AuditKind, AuditLine
from tests.adapters.samples import ALICE, BOB, RESIZE, account, function, job, move, token, version

pytestmark = pytest.mark.asyncio
DAY, NOW = 86_400.0, 100 * 86_400.0
OTHER = FunctionId("f-other")


@dataclass
class Clock:
    """A clock that the test turns."""

    at: float = NOW

    def now(self) -> float:
        """Tell the time."""
        return self.at

    def monotonic(self) -> float:
        """Tell the time."""
        return self.at


class Discarding:
    """The one thing of the workers that removing files needs."""

    def __init__(self, data: Path) -> None:
        """Work beneath a directory."""
        self._data = data

    async def discard(self, store: str, name: str) -> None:
        """Remove a tree."""
        shutil.rmtree(self._data / store / name)


class Place:
    """A retention over a real database and real directories."""

    def __init__(self, database: Database, data: Path, **options: Any) -> None:
        """Put the parts together."""
        self.data, self.clock, self.is_held = data, Clock(), False
        for store in ("prepared", "environments"):
            (data / store).mkdir()
        self.store, self.queue = SqliteStore(database), SqliteQueue(database)
        self.bundles = BundleDirectory(data / "bundles")
        config = Config(**{"data_dir": str(data), **options})
        workers: Any = Discarding(data)
        self.retention = Retention(
            *(config, self.store, self.bundles, TreeDirectories(data), workers, self.clock),
            is_held=lambda: self.is_held,
            locks=SqliteLocks(database),
            turn=asyncio.Lock(),
        )

    async def publish(self, number: int, digit: str) -> None:
        """Publish a version with all its files."""
        made = version(number, digit, bundle="sha256-" + digit * 64, environment="sha256-" + digit * 64)
        await self.bundles.put(made.bundle, b"zip")
        (self.data / "prepared" / made.code_id / "x").mkdir(parents=True)
        (self.data / "environments" / str(made.environment)).mkdir()
        await self.store.publish(function(), made, move(number, number))

    def files(self) -> set[tuple[str, str]]:
        """Return which digit's files are in which store."""
        return {(place.name, path.name[7]) for place in self.data.iterdir() if place.is_dir() for path in place.iterdir()}


@pytest.fixture
def make(database: Database, tmp_path: Path) -> Callable[..., Place]:
    """Return a maker of a place with options."""
    return lambda **options: Place(database, tmp_path, **options)


def line(text: str, at: float, *, owner: FunctionId = RESIZE, stream: str = "out") -> LogLine:
    """Make a line of a log."""
    return LogLine(at=at, function=owner, version=1, invocation=None, stream=stream, line=text)


def used(at: float, **more: Any) -> UsageRow:
    """Make a row of usage."""
    defaults = {"kind": "call", "account": ALICE, "caller": ALICE, "owner": ALICE, "function": RESIZE, "version": 1, "invocation": None}
    return UsageRow(**{"at": at, "outcome": Outcome.OK, "wall_us": 1500, "memory_bytes": 1 << 30, **defaults, **more})


async def test_each_kind_has_its_days(make: Callable[..., Place], database: Database) -> None:
    """Logs, build logs, finished jobs, usage and the audit trail go after as many days as their option says, and not a batch before."""
    place, sharing = make(log_days=1, build_log_days=3, job_days=2, usage_days=4), SqliteSharing(database)
    await place.store.add_account(account(), token())
    days = (0.5, 1.5, 2.5, 3.5, 4.5)
    for age in days:
        at = NOW - age * DAY
        await place.store.add_logs([line(f"{age}", at), line(f"{age}", at, stream="build")])
        await place.queue.put(job(f"j{age}", state=JobState.SUCCEEDED, created=at, finished=at))
        await place.store.add_usage([used(at)])
        await sharing.add_audit([AuditLine(at=at, account=ALICE, kind=AuditKind.CALLED, other=None, name=f"{age}")])
    await place.retention.sweep()
    assert [found.line for _, found in await place.store.logs(RESIZE)] == ["0.5"]
    assert [found.line for _, found in await place.store.logs(RESIZE, build=True)] == ["0.5", "1.5", "2.5"]
    assert [found.id for found in await place.queue.list(ALICE)] == ["j0.5", "j1.5"]
    assert sum(row["calls"] for row in await place.store.usage(None, 0, NOW + DAY)) == 4
    assert [line.name for _, line in await sharing.audit(ALICE, 0, 10)] == ["0.5", "1.5", "2.5", "3.5"]


async def test_an_accounts_logs_are_capped_and_the_oldest_go(make: Callable[..., Place], database: Database) -> None:
    """What one account has above the cap goes, its oldest lines first whatever function wrote them; others lose nothing."""
    place = make(log_account_bytes=200_000)
    for owner, id_, name in ((ALICE, RESIZE, "resize"), (ALICE, OTHER, "other"), (BOB, FunctionId("f-bob"), "bobs")):
        if name != "other":
            await place.store.add_account(account(owner, name), None)
        await place.store.publish(replace(function(id_, name), account=owner), None, None)
    for n in range(2000):
        lines = [line(f"{n:04}" + "x" * 96, NOW, owner=(RESIZE, OTHER)[n % 2])]
        await place.store.add_logs([*lines, line("b", NOW, owner=FunctionId("f-bob"))] if n < 10 else lines)
    await place.retention.relieve()
    mine = [await place.store.logs(owner, limit=5000) for owner in (RESIZE, OTHER)]
    kept = sorted(found.line[:4] for lines in mine for _, found in lines)
    assert kept == [f"{n:04}" for n in range(2000 - len(kept), 2000)]
    assert 300 < len(kept) <= 200_000 // 228
    assert len(await place.store.logs(FunctionId("f-bob"))) == 10
    await place.store.add_logs([line("é" * 50, NOW - 30 * DAY, owner=OTHER), line("é", NOW, owner=OTHER)])
    await place.retention.sweep()
    counted, real = "SELECT * FROM log_sizes", "SELECT function, sum(length(CAST(line AS BLOB)) + 128) FROM logs GROUP BY 1"
    sizes = [await database.read(lambda c, sql=sql: {tuple(row) for row in c.execute(sql)}) for sql in (counted, real)]
    assert sizes[0] == sizes[1]


async def test_usage_by_the_hour_is_as_exact_as_by_the_minute(make: Callable[..., Place], database: Database) -> None:
    """Older minutes become hours: far fewer rows, the same sums for every day, and the young ones stay as they are."""
    place = make()
    await place.store.add_account(account(), token())
    for minute in range(0, 4 * 1440, 7):
        await place.store.add_usage([used(NOW - minute * 60, outcome=outcome, bytes_in=minute) for outcome in (Outcome.OK, Outcome.ERROR)])
    before = await place.store.usage(ALICE, 0, NOW + DAY)

    async def rows(where: str) -> int:
        return await database.read(lambda c: int(c.execute(f"SELECT count(*) FROM usage WHERE {where}").fetchone()[0]))

    young = await rows(f"minute >= {(NOW - 2 * DAY) // 60}")
    await place.retention.sweep()
    assert await place.store.usage(ALICE, 0, NOW + DAY) == before
    assert await rows(f"minute >= {(NOW - 2 * DAY) // 60}") == young
    assert await rows(f"minute < {(NOW - 2 * DAY) // 60}") == 2 * 2 * 24
    await place.store.add_usage([used(NOW - 3 * DAY + 61)])  # a late one joins its hour
    await place.retention.sweep()
    assert await rows(f"minute < {(NOW - 2 * DAY) // 60}") == 2 * 2 * 24


async def test_usage_keeps_the_name_of_a_removed_function(make: Callable[..., Place]) -> None:
    """Sums of a function that is gone have its name and say so, beside those of a new one of the same name."""
    place = make()
    await place.store.add_account(account(), token())
    await place.store.publish(function(), None, None)
    await place.store.add_usage([used(NOW)])
    await place.store.remove_function(RESIZE, NOW)
    await place.store.publish(function("f-new", "resize"), None, None)
    await place.store.add_usage([used(NOW, function=FunctionId("f-new"))])
    shown = await place.store.usage(ALICE, 0, NOW + DAY)
    assert sorted((row["name"], row["removed"], row["calls"]) for row in shown) == [("resize", False, 1), ("resize", True, 1)]


async def test_files_of_no_version_go_after_their_hours(make: Callable[..., Place]) -> None:
    """A removed version's bundle, code and environment stay for the hours of the option, then go; those of others never do."""
    place = make(unused_hours=2)
    await place.store.add_account(account(), token())
    await place.publish(1, "1")
    await place.publish(2, "2")
    await place.store.set_version(version(1, "1", bundle="sha256-" + "1" * 64, deleted=True))
    for hours in (0.0, 1.9, 3.9):
        place.clock.at = NOW + hours * 3600
        await place.retention.sweep()
        assert ("prepared", "1") in place.files() or hours > 2
    assert place.files() == {("bundles", "2"), ("prepared", "2"), ("environments", "2")}


async def test_nothing_goes_while_a_backup_is_taken(make: Callable[..., Place]) -> None:
    """While files are held the sweep leaves them, and the first one afterwards removes them."""
    place = make(unused_hours=0)
    (place.data / "prepared" / ("sha256-" + "a" * 64)).mkdir()
    place.is_held = True
    await place.retention.sweep()
    assert place.files() == {("prepared", "a")}
    place.is_held = False
    await place.retention.sweep()
    assert place.files() == set()


async def test_a_bundle_that_was_just_put_again_stays(make: Callable[..., Place]) -> None:
    """A bundle of no version that is uploaded anew is not removed before its version can have been committed."""
    place = make(unused_hours=0)
    await place.bundles.put("sha256-" + "a" * 64, b"zip")
    await place.retention.sweep()
    await place.bundles.put("sha256-" + "a" * 64, b"zip")
    await place.retention.sweep()
    assert place.files() == {("bundles", "a")}
    for _ in range(2):
        await place.retention.sweep()
    assert place.files() == set()


async def test_the_file_shrinks_when_rows_go(make: Callable[..., Place], database: Database) -> None:
    """Pages that nothing is stored in any more are given back, sweep by sweep."""
    place = make(log_days=1)
    await place.store.add_logs([line("x" * 2000, NOW - 2 * DAY) for _ in range(2000)])

    async def pages() -> int:
        return await database.read(lambda c: int(c.execute("PRAGMA page_count").fetchone()[0]))

    before = await pages()
    await place.retention.sweep()
    assert before > 1000
    assert await pages() < before // 4


class Failing:
    """A store that cannot write for a while."""

    def __init__(self, store: SqliteStore) -> None:
        """Stand before a store."""
        self._store = store
        self.is_full = True

    async def add_usage(self, rows: Any) -> None:
        """Write, or refuse."""
        if self.is_full:
            raise PyfaasError(Code.STORAGE_FULL, "full")
        await self._store.add_usage(rows)

    async def add_logs(self, lines: Any) -> None:
        """Write, or refuse."""
        if self.is_full:
            raise PyfaasError(Code.STORAGE_FULL, "full")
        await self._store.add_logs(lines)


async def test_usage_waits_for_a_full_disk_and_logs_are_counted_as_lost(make: Callable[..., Place]) -> None:
    """While nothing can be written usage is summed and lines are counted; afterwards the sums are exact, and lines are kept again."""
    place = make()
    failing: Any = Failing(place.store)
    journal = Journal(failing)
    for _ in range(3):
        journal.usage.extend(used(NOW, wall_us=10) for _ in range(1000))
        journal.text(NOW, RESIZE, 1, None, "out", b"one\ntwo")
        await journal.flush()
    assert (journal.failed, journal.pending()) == (6, 1)
    failing.is_full = False
    journal.text(NOW, RESIZE, 1, None, "out", b"three")
    await journal.flush()
    row = (await place.store.usage(ALICE, 0, NOW + DAY))[0]
    assert (row["calls"], row["outcomes"], row["wall_ms"]) == (3000, {"ok": 3000}, 30.0)
    assert [found.line for _, found in await place.store.logs(RESIZE)] == ["three"]
    assert (journal.failed, journal.pending()) == (6, 0)
