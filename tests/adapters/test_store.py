"""The SQLite store: what is unique among the living, what a removal leaves, and the records."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import pytest_asyncio

from pyfaas.adapters.sqlite.schema import open_database
from pyfaas.adapters.sqlite.store import SqliteStore
from pyfaas.errors import Code, PyfaasError
from pyfaas.model import (
    Canary,
    CanaryState,
    Event,
    EventKind,
    FunctionId,
    InvocationId,
    JobState,
    LogLine,
    Outcome,
    Reason,
    Retries,
    Shape,
    StalePolicy,
    UsageRow,
    VersionState,
)
from pyfaas.ports import Kept
from tests.adapters.samples import ALICE, BOB, RESIZE, account, function, job, move, token, version

if TYPE_CHECKING:
    from pathlib import Path

    from pyfaas.adapters.sqlite.queue import SqliteQueue

pytestmark = pytest.mark.asyncio
I1 = InvocationId("i1")


async def code_of(awaitable: object) -> Code:
    """Return the code with which a write is refused."""
    with pytest.raises(PyfaasError) as refused:
        await awaitable  # type: ignore[misc]
    return refused.value.code


def line(text: str, *, at: float = 5.0, invocation: InvocationId | None = I1, stream: str = "out") -> LogLine:
    """Make a line of `resize`'s log."""
    return LogLine(at=at, function=RESIZE, version=1, invocation=invocation, stream=stream, line=text)


def used(at: float = 60.0, kind: str = "call", outcome: Outcome | None = Outcome.OK, **more: int) -> UsageRow:
    """Make a usage row of `resize`."""
    return UsageRow(
        kind=kind, at=at, account=ALICE, caller=ALICE, owner=ALICE, function=RESIZE, version=1, invocation=I1, outcome=outcome, **more
    )


@pytest_asyncio.fixture
async def deployed(store: SqliteStore) -> SqliteStore:
    """Give a store in which Alice has published `resize`."""
    await store.add_account(account(), token())
    await store.publish(function(), version(), move())
    return store


async def test_everything_survives_a_reopening(tmp_path: Path) -> None:
    """What was written is loaded from the file by the next process, equal in every field."""
    path = str(tmp_path / "again.db")
    store = SqliteStore(open_database(path))
    changed = function(concurrency=3, public=True, max_stale_time_ms=10, retries=Retries(max=5, factor=1.5))
    failed = version(
        state=VersionState.FAILED,
        reason=Reason(code="requirements_failed", message="no such package", log_tail="…"),
        handler="main:handler",
        shape=Shape.EVENT,
        generator=True,
        environment="sha256-e",
        withdrawn=True,
    )
    await store.add_account(account(network=False), token())
    await store.publish(changed, failed, move(weights={4: 10}))
    await store.close()
    again = SqliteStore(open_database(path))
    found = await again.load()
    await again.close()
    assert (found.accounts, found.tokens) == ([account(network=False)], [token()])
    assert (found.functions, found.versions, found.moves) == ([changed], [failed], [move(weights={4: 10})])


async def test_account_names_are_unique_among_the_living(store: SqliteStore) -> None:
    """A living account's name is taken, a removed one's is free, and an id never is."""
    await store.add_account(account(), None)
    assert await code_of(store.add_account(account(BOB), None)) is Code.CONFLICT
    await store.remove_account(ALICE, 9.0)
    assert await code_of(store.add_account(account(name="new"), None)) is Code.CONFLICT
    await store.add_account(account(BOB), None)
    assert (await store.load()).accounts == [account(BOB)]


async def test_refused_account_leaves_nothing(store: SqliteStore) -> None:
    """When an account's token cannot be kept, the account is not kept either."""
    await store.add_account(account(), token())
    assert await code_of(store.add_account(account(BOB, "bob"), token(owner=BOB))) is Code.CONFLICT
    assert (await store.load()).accounts == [account()]


async def test_revoked_tokens_are_not_loaded(store: SqliteStore) -> None:
    """A revoked token is gone after the next start; its digest stays taken."""
    await store.add_account(account(), token())
    await store.add_token(token("t2"))
    await store.revoke_token("t1", 9.0)
    assert (await store.load()).tokens == [token("t2")]
    assert await code_of(store.add_token(token("t1"))) is Code.CONFLICT


async def test_removing_an_account_removes_what_is_its(deployed: SqliteStore) -> None:
    """Tokens, functions, versions and pointers of a removed account are not loaded; another's stay."""
    await deployed.add_account(account(BOB, "bob"), token("t-bob", BOB))
    await deployed.remove_account(ALICE, 9.0)
    found = await deployed.load()
    assert (found.accounts, found.tokens) == ([account(BOB, "bob")], [token("t-bob", BOB)])
    assert (found.functions, found.versions, found.moves) == ([], [], [])


async def test_function_names_are_unique_among_the_living(deployed: SqliteStore) -> None:
    """A name is taken until its function is removed; the tombstone can never be published to again."""
    assert await code_of(deployed.publish(function("f-2"), None, None)) is Code.CONFLICT
    await deployed.remove_function(RESIZE, 9.0)
    await deployed.publish(function("f-2"), None, None)
    assert (await deployed.load()).functions == [function("f-2")]
    assert await code_of(deployed.publish(function(), version(2), None)) is Code.GONE


async def test_publish_is_all_or_nothing(deployed: SqliteStore) -> None:
    """A version whose number is taken changes neither the settings nor the pointer that came with it."""
    before = await deployed.load()
    assert await code_of(deployed.publish(function(concurrency=1), version(1, "c"), move(2))) is Code.CONFLICT
    assert await deployed.load() == before


async def test_the_same_revision_may_be_published_again(deployed: SqliteStore) -> None:
    """Going from a to b and back to a gives three versions, the first and the last with one code id."""
    await deployed.publish(function(), version(2, "b"), move(2, 2))
    await deployed.publish(function(), version(3, "a"), move(3, 3))
    found = await deployed.load()
    assert found.versions == [version(1), version(2, "b"), version(3, "a")]
    assert [m.version for m in found.moves] == [1, 2, 3]


async def test_settings_change_alone(deployed: SqliteStore) -> None:
    """A publication without a version replaces the settings only."""
    await deployed.publish(function(concurrency=7), None, None)
    found = await deployed.load()
    assert (found.functions, found.versions) == ([function(concurrency=7)], [version()])


async def test_set_version_replaces_the_mutable_part(deployed: SqliteStore) -> None:
    """State, probe findings and marks change; an unknown number is not found."""
    ready = version(state=VersionState.READY, handler="main:f", shape=Shape.TYPED, environment="e", deleted=True)
    await deployed.set_version(ready)
    assert (await deployed.load()).versions == [ready]
    await deployed.set_version(replace(ready, deleted=False))  # a preparation that ended after the removal
    assert (await deployed.load()).versions == [ready]
    assert await code_of(deployed.set_version(version(9))) is Code.NOT_FOUND


async def test_move_and_withdraw_in_one(deployed: SqliteStore) -> None:
    """A roll-back moves the pointer and marks the version left behind, or does neither."""
    await deployed.publish(function(), version(2, "b"), move(2, 2))
    left = version(2, "b", withdrawn=True)
    assert await code_of(deployed.move_pointer(move(2, 1), {2: True})) is Code.CONFLICT
    assert (await deployed.load()).versions[1] == version(2, "b")
    await deployed.move_pointer(move(3, 1), {2: True})
    found = await deployed.load()
    assert (found.versions[1], found.moves[-1]) == (left, move(3, 1))


async def test_a_pointer_cannot_name_an_unknown_version(deployed: SqliteStore) -> None:
    """The database itself refuses a pointer to a version that does not exist."""
    assert await code_of(deployed.move_pointer(move(2, 9))) is Code.INTERNAL


async def test_a_removed_pointer_may_be_made_again(deployed: SqliteStore) -> None:
    """A removed release alias is not loaded, and its name starts over."""
    await deployed.move_pointer(move(1, pointer="live"))
    await deployed.remove_pointer(RESIZE, "live")
    assert (await deployed.load()).moves == [move()]
    await deployed.move_pointer(move(1, pointer="live"))
    assert (await deployed.load()).moves == [move(), move(1, pointer="live")]


async def test_logs_are_read_in_order_from_a_cursor(store: SqliteStore) -> None:
    """Pages of a log follow each other by cursor, across batches, without a gap or a repetition."""
    await store.add_logs([line(f"{n}") for n in range(1200)])
    seen: list[str] = []
    cursor = 0
    while page := await store.logs(RESIZE, after=cursor, limit=500):
        seen += [entry.line for _, entry in page]
        cursor = page[-1][0]
    assert seen == [f"{n}" for n in range(1200)]


async def test_logs_are_filtered(store: SqliteStore) -> None:
    """Invocation, version, time and build each narrow what is read."""
    build = line("wheel", invocation=None, stream="build")
    other = replace(line("other"), invocation=InvocationId("i2"), version=2, at=8.0)
    await store.add_logs([line("a"), build, other])
    assert [x.line for _, x in await store.logs(RESIZE)] == ["a", "other"]
    assert [x for _, x in await store.logs(RESIZE, build=True)] == [build]
    assert [x for _, x in await store.logs(RESIZE, invocation=InvocationId("i2"))] == [other]
    assert [x for _, x in await store.logs(RESIZE, version=2)] == [other]
    assert [x for _, x in await store.logs(RESIZE, since=6.0)] == [other]


async def test_a_line_that_is_no_unicode_is_kept_readable(store: SqliteStore) -> None:
    """A lone surrogate in a guest's line neither fails the batch nor loses the line."""
    await store.add_logs([line("bad \ud800 end"), line("next")])
    assert [x.line for _, x in await store.logs(RESIZE)] == ["bad ? end", "next"]


async def test_usage_is_summed_by_day(store: SqliteStore) -> None:
    """Rows are summed per kind and day, outcomes apart, and only calls count as calls."""
    mib512 = 512 << 20
    await store.add_usage(
        [
            used(wall_us=2000, cpu_us=1000, memory_bytes=mib512, bytes_in=3, bytes_out=4),
            used(61.0, wall_us=4000, cpu_us=500, memory_bytes=mib512, bytes_in=1),
            used(62.0, outcome=Outcome.ERROR),
            used(63.0, "idle", None, wall_us=7000),
            used(86_400.0),
        ]
    )
    rows = {(row["day"], row["kind"]): row for row in await store.usage(ALICE, 0.0, 90_000.0)}
    assert set(rows) == {("1970-01-01", "call"), ("1970-01-01", "idle"), ("1970-01-02", "call")}
    first = rows["1970-01-01", "call"]
    assert (first["calls"], first["outcomes"]) == (3, {"ok": 2, "error": 1})
    assert (first["wall_ms"], first["cpu_ms"], first["gib_ms"]) == (6.0, 1.5, 3.0)
    assert (first["bytes_in"], first["bytes_out"]) == (4, 4)
    idle = rows["1970-01-01", "idle"]
    assert (idle["calls"], idle["outcomes"], idle["wall_ms"]) == (0, {}, 7.0)


async def test_usage_is_per_account_and_time(store: SqliteStore) -> None:
    """An account sees its own rows only, within the time asked for; None sees all."""
    await store.add_usage([used(60.0), used(600.0), msgspec.structs.replace(used(60.0), account=BOB, caller=BOB, owner=BOB)])
    assert [r["calls"] for r in await store.usage(ALICE, 0.0, 1000.0)] == [2]
    assert [r["calls"] for r in await store.usage(ALICE, 0.0, 600.0)] == [1]
    assert [r["calls"] for r in await store.usage(ALICE, 600.0, 1000.0)] == [1]
    assert [(r["account"], r["calls"]) for r in await store.usage(None, 0.0, 1000.0)] == [(ALICE, 2), (BOB, 1)]


async def test_trim_keeps_what_is_young_or_unfinished(store: SqliteStore, sqlite_queue: SqliteQueue) -> None:
    """Old lines and old finished jobs go, in however many batches; young and unfinished ones stay."""
    await store.add_logs([line(f"{n}", at=10.0) for n in range(1100)] + [line("young", at=100.0)])
    for n in range(130):
        await sqlite_queue.put(job(f"old{n:03}", state=JobState.SUCCEEDED, finished=20.0))
    await sqlite_queue.put(job("young", state=JobState.DEAD, finished=90.0))
    await sqlite_queue.put(job("queued", created=1.0))
    kinds: tuple[Kept, ...] = ("logs", "build_logs", "jobs", "usage")
    assert [[await store.trim(kind, 50.0) for _ in range(4)] for kind in kinds] == [[500, 500, 100, 0], [0] * 4, [100, 30, 0, 0], [0] * 4]
    assert [x.line for _, x in await store.logs(RESIZE)] == ["young"]
    assert [j.id for j in await sqlite_queue.list(ALICE)] == ["queued", "young"]


def canary(**more: object) -> Canary:
    """Make a canary of `resize` that runs."""
    defaults: dict[str, Any] = {"version": 1, "base": None, "state": CanaryState.RUNNING, "since": 5.0, "seq": 2, "reason": "é"}
    return Canary(function=RESIZE, pointer="live", **(defaults | more))


def event(kind: EventKind = EventKind.PREPARED, number: int = 1, at: float = 5.0, **detail: object) -> Event:
    """Make an event of `resize`."""
    return Event(at=at, function=RESIZE, version=number, kind=kind, detail=detail)


async def test_policies_survive(deployed: SqliteStore) -> None:
    """What an account and a pointer say of staleness is loaded as it was said; a removed account says nothing."""
    said = StalePolicy(stale="forbid", max_stale_time_ms=1500, max_stale_requests=0, stale_percent=50, min_version=1, max_wait_ms=0)
    await deployed.set_account(account(policy=said))
    await deployed.move_pointer(move(2, policy=said))
    found = await deployed.load()
    assert (found.accounts, found.moves) == ([account(policy=said)], [move(), move(2, policy=said)])
    await deployed.remove_account(ALICE, 9.0)
    assert await code_of(deployed.set_account(account())) is Code.NOT_FOUND


async def test_a_canary_moves_with_its_pointer(deployed: SqliteStore) -> None:
    """A move and the canary that made it are kept together or not at all; the next canary takes its place."""
    assert await code_of(deployed.move_pointer(move(1), {}, canary())) is Code.CONFLICT
    assert (await deployed.load()).canaries == []
    await deployed.move_pointer(move(2), {}, canary())
    assert (await deployed.load()).canaries == [canary()]
    after = canary(state=CanaryState.BACK, base=1, step=2, runs=50, faults=2, error_budget=0.5, percent=10, promote_after_ms=9)
    await deployed.set_canary(after)
    assert (await deployed.load()).canaries == [after]


async def test_a_canary_is_published_with_its_version(deployed: SqliteStore) -> None:
    """The order that came with a version is kept with it, or neither is."""
    waiting = canary(version=2, state=CanaryState.WAITING)
    assert await code_of(deployed.publish(function(), version(1, "c"), move(2), waiting)) is Code.CONFLICT
    assert (await deployed.load()).canaries == []
    await deployed.publish(function(), version(2, "b"), move(2, 2), waiting)
    assert (await deployed.load()).canaries == [waiting]


async def test_counts_are_of_the_step_that_they_were_counted_in(deployed: SqliteStore) -> None:
    """Counts are kept for a canary that runs and stands where it stood; for any other they are nobody's."""
    await deployed.set_canary(canary())
    await deployed.count_canaries([canary(runs=3, faults=1, reason="not kept")])
    assert (await deployed.load()).canaries == [canary(runs=3, faults=1)]
    for other in (canary(since=6.0, runs=9), canary(version=2, runs=9)):
        await deployed.count_canaries([other])
    await deployed.set_canary(canary(state=CanaryState.ENDED, runs=4))
    await deployed.count_canaries([canary(runs=9)])
    assert [c.runs for c in (await deployed.load()).canaries] == [4]


async def test_a_removed_pointer_takes_its_canary_along(deployed: SqliteStore) -> None:
    """Of a removed release alias, and of a removed function, no canary is loaded."""
    await deployed.set_canary(canary())
    await deployed.set_canary(replace(canary(), pointer="other"))
    await deployed.remove_pointer(RESIZE, "live")
    assert [c.pointer for c in (await deployed.load()).canaries] == ["other"]
    await deployed.remove_function(RESIZE, 9.0)
    assert (await deployed.load()).canaries == []


async def test_a_preparation_does_not_undo_a_withdrawal(deployed: SqliteStore) -> None:
    """What a preparation says of a version that was withdrawn meanwhile leaves it withdrawn."""
    await deployed.move_pointer(move(2), {1: True})
    await deployed.set_version(version(state=VersionState.READY))
    assert (await deployed.load()).versions == [version(state=VersionState.READY, withdrawn=True)]


async def test_events_are_read_from_a_cursor(store: SqliteStore) -> None:
    """Events come back in order after a cursor, of one version those that concern it; a second one of a cursor is none."""
    moved = event(EventKind.MOVED, 1, pointer="live", weights={"2": 10})
    told = [(7, event()), (9, event(EventKind.FAILED, 2, code="x", message="é")), (12, moved), (13, event(number=12))]
    assert await store.last_event() == 0
    await store.add_events(told)
    await store.add_events([(9, event(number=5))])
    assert list(await store.events(RESIZE, 0, None, 100)) == told
    assert list(await store.events(RESIZE, 7, None, 1)) == told[1:2]
    assert list(await store.events(RESIZE, 0, 2, 100)) == told[1:3]
    assert list(await store.events(FunctionId("f-other"), 0, None, 100)) == []
    assert await store.last_event() == 13


async def test_old_events_are_trimmed(store: SqliteStore) -> None:
    """Old events go in batches, young ones stay."""
    await store.add_events([(n, event(at=10.0)) for n in range(1, 702)] + [(800, event(at=100.0))])
    assert [await store.trim("events", 50.0) for _ in range(3)] == [500, 201, 0]
    assert [cursor for cursor, _ in await store.events(RESIZE, 0, None, 100)] == [800]
