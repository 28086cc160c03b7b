"""Staleness in the dispatcher: limits that concurrent requests cannot pass, and who takes a call that waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from pyfaas.errors import Code
from pyfaas.model import FunctionId, Outcome, PointerMove, Settings, StalePolicy, VersionState
from pyfaas.service.registry import Entry
from tests.service.fake import A, Bench, Sink, version

STATES = (VersionState.STORED, VersionState.PREPARING)


@pytest.fixture
async def benches() -> AsyncIterator[list[Bench]]:
    """Return a list of benches that are closed after the test."""
    made: list[Bench] = []
    yield made
    for bench in made:
        await bench.dispatcher.close()


async def settle(turns: int = 40) -> None:
    """Let everything that can happen now happen."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def warm(benches: list[Bench], settings: Settings | None = None, **options: object) -> tuple[Bench, Entry]:
    """Return a bench whose version 1 has an idle container, and A's function."""
    bench = Bench(settings, **options)
    benches.append(bench)
    bench.dispatcher.open()
    await settle()
    bench.call()
    await settle()
    bench.workers.running()[0].answer()
    return bench, bench.registry.entries[FunctionId(A)]


def publish(entry: Entry, state: VersionState, number: int = 2, policy: StalePolicy | None = None) -> None:
    """Publish a version, and move `latest` there."""
    entry.put(version(entry.function.id, number, state))
    seq = len(entry.moves["latest"]) + 1
    entry.move(PointerMove(function=entry.function.id, pointer="latest", seq=seq, version=number, at=1.0, policy=policy or StalePolicy()))


def become(bench: Bench, entry: Entry, state: VersionState, number: int = 2) -> None:
    """End a version's preparation."""
    entry.put(replace(entry.versions[number], state=state))
    bench.dispatcher.prepared(entry, entry.versions[number])


async def answer_all(bench: Bench, sinks: list[Sink]) -> None:
    """Answer whatever runs until every call has ended."""
    while not all(sink.results for sink in sinks):
        for box in bench.workers.running():
            box.answer()
        await asyncio.sleep(0)


@pytest.mark.parametrize("level", ["alias", "function", "account"])
@pytest.mark.parametrize("state", STATES)
async def test_three_of_a_hundred_at_once(benches: list[Bench], level: str, state: VersionState) -> None:
    """A limit of 3 old answers under 100 requests at once gives exactly 3, whichever level says it."""
    limit = StalePolicy(max_stale_requests=3)
    settings = Settings(max_stale_requests=3, concurrency=100) if level == "function" else Settings(concurrency=100)
    bench, entry = await warm(benches, settings)
    if level == "account":
        bench.registry.accounts[A] = replace(bench.registry.accounts[A], policy=limit)
    publish(entry, state, policy=limit if level == "alias" else None)
    sinks = [bench.call() for _ in range(100)]
    await settle()
    for _ in range(3):
        for box in bench.workers.running():
            box.answer()
        await settle()
    assert [sink.result.executed for sink in sinks if sink.results] == [1] * 3
    become(bench, entry, VersionState.READY)
    await answer_all(bench, sinks)
    executed = [sink.result.executed for sink in sinks]
    assert (executed.count(1), executed.count(2)) == (3, 97)
    assert all(sink.result.requested == 2 for sink in sinks)


async def test_a_call_that_waits_for_the_old_version_is_taken_by_the_new_one(benches: list[Bench]) -> None:
    """All containers of the old version are busy: the first of either version that is free takes the call, and the count is given back."""
    bench, entry = await warm(benches)
    held = bench.call()
    publish(entry, VersionState.PREPARING)
    bench.workers.is_stuck = True  # no fork for the old version comes
    waiting = [bench.call() for _ in range(3)]
    await settle()
    assert entry.tallies["latest"].stale == 3
    bench.workers.is_stuck = False
    become(bench, entry, VersionState.READY)
    await settle(200)
    newer = [box for box in bench.workers.running() if not box.code[0].endswith("1")]
    assert newer
    for box in newer:
        box.answer()
    await settle()
    assert 2 in [sink.result.executed for sink in waiting if sink.results]
    await answer_all(bench, [held, *waiting])
    executed = [sink.result.executed for sink in waiting]
    assert entry.tallies["latest"].stale == executed.count(1)


async def test_a_wait_ends_with_503(benches: list[Bench]) -> None:
    """After `max_wait` a call that forbids old answers is not_ready, and the platform's refusal says when to come again."""
    bench, entry = await warm(benches, Settings(max_wait_ms=30))
    publish(entry, VersionState.PREPARING)
    refused = bench.call(stale="forbid")
    while not refused.results:
        await asyncio.sleep(0.005)
    assert (refused.result.code, refused.result.outcome, refused.result.retry_after) == (Code.NOT_READY, Outcome.REJECTED, 1.0)


async def test_a_wait_ends_with_a_substitute_that_is_allowed_by_then(benches: list[Bench]) -> None:
    """What may not be stale when it comes may be when its wait is over: it is decided again, and counted once."""
    bench, entry = await warm(benches, Settings(max_wait_ms=30, stale="forbid"))
    publish(entry, VersionState.PREPARING)
    waits = bench.call()
    await settle()
    assert waits.results == []
    entry.function = replace(entry.function, settings=Settings(max_wait_ms=30))
    while not bench.workers.running():
        await asyncio.sleep(0.005)
    await answer_all(bench, [waits])
    assert (waits.result.requested, waits.result.executed) == (2, 1)
    assert (entry.tallies["latest"].total, entry.tallies["latest"].stale) == (1, 1)


async def test_a_share_counts_what_waits(benches: list[Bench]) -> None:
    """With half of the answers at most, every second request is answered at once, though none of the others has been."""
    bench, entry = await warm(benches, Settings(stale_percent=50))
    publish(entry, VersionState.PREPARING)
    sinks = [bench.call() for _ in range(10)]
    await answer_all(bench, sinks[1::2])
    assert [bool(sink.results) for sink in sinks] == [False, True] * 5


async def test_failed_version_is_stood_in_for_until_the_limit(benches: list[Bench]) -> None:
    """A failed version's calls go to the old one as far as the policy allows, and then tell the reason."""
    bench, entry = await warm(benches, Settings(max_stale_requests=2))
    publish(entry, VersionState.PREPARING)
    become(bench, entry, VersionState.FAILED)
    outcomes = []
    for _ in range(4):
        sink = bench.call()
        await answer_all(bench, [sink]) if bench.workers.running() else await settle()
        outcomes.append((sink.result.outcome, sink.result.executed))
    assert outcomes == [(Outcome.OK, 1)] * 2 + [(Outcome.INIT_ERROR, 2)] * 2


@pytest.mark.parametrize(("stale", "executed"), [(None, 3), ("allow", 1)])
async def test_a_number_is_stood_in_for_only_where_the_request_says_so(benches: list[Bench], stale: str | None, executed: int) -> None:
    """A request that names a number gets that number; with `allow` another, the one that has a container, while it is not ready."""
    bench, entry = await warm(benches)
    publish(entry, VersionState.READY, 2)
    publish(entry, VersionState.PREPARING, 3)
    sink = bench.call(qualifier="3", stale=stale)
    await settle()
    if stale is None:
        assert sink.results == []
        become(bench, entry, VersionState.READY, 3)
    await answer_all(bench, [sink])
    assert (sink.result.requested, sink.result.executed) == (3, executed)


async def test_a_number_that_is_stood_in_for_is_loaded_meanwhile(benches: list[Bench]) -> None:
    """The request that is answered by another version starts the loading of the one it named, which answers the next ones."""
    bench, entry = await warm(benches)
    entry.put(version(entry.function.id, 2, VersionState.READY))  # named by no pointer
    first = bench.call(qualifier="2", stale="allow")
    await answer_all(bench, [first])
    await settle(200)
    second = bench.call(qualifier="2", stale="allow")
    await answer_all(bench, [second])
    assert (first.result.executed, second.result.executed) == (1, 2)
    assert entry.is_cut("latest", 1)


async def test_a_minimum_leaves_no_older_one(benches: list[Bench]) -> None:
    """Below `min_version` nothing answers: the call waits for the named version."""
    bench, entry = await warm(benches, Settings(min_version=2))
    publish(entry, VersionState.PREPARING)
    sink = bench.call()
    await settle()
    assert sink.results == []
    become(bench, entry, VersionState.READY)
    await answer_all(bench, [sink])
    assert sink.result.executed == 2


@pytest.mark.parametrize(
    ("state", "settings", "streams", "is_whole"),
    [
        (VersionState.READY, Settings(), False, True),
        (VersionState.READY, Settings(max_stale_requests=3), False, True),
        (VersionState.READY, Settings(), True, False),
        (VersionState.PREPARING, Settings(), False, True),
        (VersionState.FAILED, Settings(), False, True),
        (VersionState.PREPARING, Settings(max_stale_requests=3), False, False),
        (VersionState.PREPARING, Settings(stale="forbid"), False, False),
        (VersionState.PREPARING, Settings(min_version=2), False, False),
    ],
)
async def test_the_short_way_is_taken_during_a_deploy(
    benches: list[Bench], state: VersionState, settings: Settings, streams: bool, is_whole: bool  # noqa: FBT001 - a table
) -> None:
    """A call goes the short way unless a ready version streams, or it may have to wait for one that could."""
    bench, entry = await warm(benches, settings)
    publish(entry, state)
    entry.put(replace(entry.versions[2], generator=streams))
    assert bench.dispatcher.is_whole(entry, "latest") is is_whole
    assert not bench.dispatcher.is_whole(entry, "nowhere")


async def test_a_held_call_finds_the_version_that_became_ready(benches: list[Bench]) -> None:
    """A call that waits for a limit while its version is prepared runs when its turn comes, and does not wait for the preparation again."""
    bench, entry = await warm(benches, Settings(concurrency=1))
    running = bench.call()
    publish(entry, VersionState.PREPARING)
    held = bench.call(stale="forbid")
    become(bench, entry, VersionState.READY)
    await settle(200)
    await answer_all(bench, [running, held])
    assert (running.result.executed, held.result.executed) == (1, 2)


async def test_a_held_call_is_not_the_old_version_s_after_the_cut_over(benches: list[Bench]) -> None:
    """A call that was to be an old answer when it came, and waited for a limit, is the new version's once that has taken over."""
    bench, entry = await warm(benches, Settings(concurrency=1))
    running = bench.call()
    publish(entry, VersionState.PREPARING)
    held = bench.call()
    assert entry.tallies["latest"].stale == 1
    become(bench, entry, VersionState.READY)
    while not entry.is_cut("latest", 2):
        await asyncio.sleep(0.005)
    await answer_all(bench, [running, held])
    assert (running.result.executed, held.result.executed) == (1, 2)
    assert entry.tallies["latest"].stale == 0


async def test_what_waits_for_the_old_version_goes_along_at_the_cut_over(benches: list[Bench]) -> None:
    """A call that waits in the old version's lane when the new one takes over is answered by the new one: never an old answer from then on."""
    bench, entry = await warm(benches)
    running = bench.call()
    publish(entry, VersionState.PREPARING)
    bench.workers.is_stuck = True
    waiting = bench.call()
    await settle()
    bench.workers.is_stuck = False
    become(bench, entry, VersionState.READY)
    while not entry.is_cut("latest", 2):
        await asyncio.sleep(0.005)
    await answer_all(bench, [running, waiting])
    assert (running.result.executed, waiting.result.executed) == (1, 2)
