"""The way of a call through admission, routing and the fleet, over containers that answer when told to."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from pyfaas.errors import Code, PyfaasError
from pyfaas.model import FunctionId, Outcome, PointerMove, Settings, VersionState
from sandbox.spec import Fate
from tests.service.fake import A, B, Bench, Sink, version


@pytest.fixture
async def benches() -> AsyncIterator[list[Bench]]:
    """Return a list of benches that are closed after the test."""
    made: list[Bench] = []
    yield made
    for bench in made:
        await bench.dispatcher.close()


async def opened(benches: list[Bench], settings: Settings | None = None, **options: object) -> Bench:
    """Return a bench whose warming pool is full."""
    bench = Bench(settings, **options)
    benches.append(bench)
    bench.dispatcher.open()
    await settle(bench)
    return bench


async def settle(_bench: Bench, turns: int = 12) -> None:
    """Let everything that can happen now happen."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def test_call_runs_in_a_warm_vm_and_its_container_is_used_again(benches: list[Bench]) -> None:
    """The first call assigns a warm VM; the second finds its container idle, before submit returns."""
    bench = await opened(benches)
    first = bench.call()
    await settle(bench)
    (box,) = bench.workers.running()
    box.answer(b'"one"')
    assert (first.result.outcome, first.result.body, first.result.why) == (Outcome.OK, b'"one"', "warm")
    second = bench.call()
    assert bench.workers.running() == [box]
    box.answer()
    assert second.result.why == "idle"
    assert bench.workers.loads == 1


async def test_every_call_beyond_the_concurrency_waits_its_turn(benches: list[Bench]) -> None:
    """No more than `concurrency` run at once; as one ends the next begins; all end once."""
    bench = await opened(benches, Settings(concurrency=3))
    sinks = [bench.call() for _ in range(10)]
    seen = 0
    for _ in range(10):
        await settle(bench)
        running = bench.workers.running()
        seen = max(seen, len(running))
        running[0].answer()
    await settle(bench)
    assert seen == 3
    assert [sink.result.outcome for sink in sinks] == [Outcome.OK] * 10


async def test_full_queue_is_429(benches: list[Bench]) -> None:
    """Beyond the account's queue a call is refused at once, and another account's is not."""
    bench = await opened(benches, Settings(concurrency=1), queue_limit=2)
    for _ in range(3):
        bench.call()
    with pytest.raises(PyfaasError) as caught:
        bench.call()
    assert (caught.value.code, caught.value.retry_after) == (Code.THROTTLED, 1.0)
    other = bench.call(B)
    await settle(bench)
    next(box for box in bench.workers.running() if box.calls[0].decode() == bench.last.id).answer()
    assert other.result.outcome is Outcome.OK


async def test_accounts_are_in_different_vms(benches: list[Bench]) -> None:
    """Two accounts' calls run in two VMs."""
    bench = await opened(benches)
    bench.call(A)
    bench.call(B)
    await settle(bench)
    assert len({box.vm for box in bench.workers.running()}) == 2


async def test_waiting_call_of_a_client_that_left_never_starts(benches: list[Bench]) -> None:
    """What has not begun when its client leaves is ended, and its place is free."""
    bench = await opened(benches, Settings(concurrency=1))
    running, waiting = bench.call(), bench.call()
    bench.last.left()
    await settle(bench)
    assert waiting.result.outcome is Outcome.CANCELLED
    (box,) = bench.workers.running()
    box.answer()
    await settle(bench)
    assert running.result.outcome is Outcome.OK
    assert bench.workers.running() == []
    assert bench.dispatcher.calls_now() == 0


async def test_deadline_passes_while_waiting(benches: list[Bench]) -> None:
    """A call whose deadline passes before it could start is a timeout, and its code does not run."""
    bench = await opened(benches, Settings(concurrency=1))
    bench.call()
    late = bench.call(timeout_ms=1)
    await settle(bench)
    (box,) = bench.workers.running()
    await asyncio.sleep(0.01)
    box.answer()
    await settle(bench)
    assert late.result.outcome is Outcome.TIMEOUT
    assert late.result.executed is None or not box.calls


async def test_container_that_dies_ends_its_call_only(benches: list[Bench]) -> None:
    """One crashed answer, and the call beside it goes on."""
    bench = await opened(benches)
    first, second = bench.call(), bench.call()
    await settle(bench)
    boxes = bench.workers.running()
    boxes[0].end()
    assert first.result.outcome is Outcome.CRASHED
    assert first.result.evidence["signal"] == 9
    boxes[1].answer()
    assert second.result.outcome is Outcome.OK


async def test_forged_and_doubled_answers_end_the_container(benches: list[Bench]) -> None:
    """An answer for another call's id ends the container; nobody is given its bytes."""
    bench = await opened(benches)
    sink = bench.call()
    await settle(bench)
    (box,) = bench.workers.running()
    box.calls.insert(0, b"f" * 36)
    box.answer(b'"forged"')
    assert sink.result.outcome is Outcome.CRASHED
    assert "protocol" in sink.result.message
    assert box.is_dead


async def test_lost_launcher_ends_running_calls_as_lost(benches: list[Bench]) -> None:
    """When the launcher is gone the calls in its VMs are lost, and later calls are served by new VMs."""
    bench = await opened(benches)
    sink = bench.call()
    await settle(bench)
    for box in list(bench.workers.containers.values()):
        box.end(Fate.LOST)
    bench.workers.on_lost()
    assert sink.result.outcome is Outcome.LOST
    again = bench.call()
    await asyncio.sleep(0.05)
    bench.workers.running()[-1].answer()
    assert again.result.outcome is Outcome.OK


async def test_no_container_can_be_made(benches: list[Bench]) -> None:
    """Where nothing can be made a call is 503 `no_capacity`, and nothing is counted as running afterwards."""
    bench = await opened(benches, warm_vms=0)
    bench.workers.is_refusing = True
    sink = bench.call()
    await settle(bench)
    assert (sink.result.outcome, sink.result.code) == (Outcome.REJECTED, Code.NO_CAPACITY)
    assert bench.dispatcher.calls_now() == 0


async def test_code_that_cannot_be_loaded_is_init_error(benches: list[Bench]) -> None:
    """Each call of broken code gets init_error; no container of it stays."""
    bench = await opened(benches)
    bench.workers.is_broken = True
    sinks = [bench.call() for _ in range(3)]
    await settle(bench, 40)
    assert [sink.result.outcome for sink in sinks] == [Outcome.INIT_ERROR] * 3
    assert bench.fleet.sessions == {}


async def test_full_pool_evicts_an_idle_container_for_a_call(benches: list[Bench]) -> None:
    """At the bound of containers an idle one of another account makes room."""
    bench = await opened(benches, warm_vms=0, max_containers=1)
    first = bench.call(A)
    await settle(bench)
    bench.workers.running()[0].answer()
    assert first.result.outcome is Outcome.OK
    second = bench.call(B)
    await settle(bench, 40)
    bench.workers.running()[0].answer()
    assert second.result.outcome is Outcome.OK


def publish(bench: Bench, state: VersionState) -> None:
    """Publish version 2 of A's function."""
    entry = bench.registry.entries[FunctionId(A)]
    entry.put(version(entry.function.id, 2, state))
    entry.move(PointerMove(function=entry.function.id, pointer="latest", seq=2, version=2, at=1.0))


async def run(bench: Bench) -> Sink:
    """Call A's function and answer it."""
    sink = bench.call()
    await settle(bench)
    bench.workers.running()[-1].answer()
    return sink


async def test_old_version_answers_until_the_new_one_is_loaded_beside_it(benches: list[Bench]) -> None:
    """While version 2 is prepared version 1 answers; once loaded beside it, version 2 does, and never 1 again."""
    bench = await opened(benches)
    await run(bench)
    publish(bench, VersionState.PREPARING)
    stale = await run(bench)
    assert (stale.result.requested, stale.result.executed) == (2, 1)
    entry = bench.registry.entries[FunctionId(A)]
    entry.put(replace(entry.versions[2], state=VersionState.READY))
    bench.dispatcher.prepared(entry, entry.versions[2])
    await settle(bench, 40)
    assert entry.is_cut("latest", 2)
    assert bench.workers.loads == 2
    assert [(await run(bench)).result.executed for _ in range(5)] == [2] * 5


async def test_request_that_forbids_stale_waits_for_the_preparation(benches: list[Bench]) -> None:
    """A call that forbids another version waits, and runs when the named one is ready."""
    bench = await opened(benches)
    await run(bench)
    publish(bench, VersionState.PREPARING)
    sink = bench.call(stale="forbid")
    await settle(bench)
    assert sink.results == []
    entry = bench.registry.entries[FunctionId(A)]
    entry.put(replace(entry.versions[2], state=VersionState.READY))
    bench.dispatcher.prepared(entry, entry.versions[2])
    await settle(bench, 40)
    bench.workers.running()[-1].answer()
    assert sink.result.executed == 2


async def test_unprepared_version_is_prepared_by_the_request_that_names_it(benches: list[Bench]) -> None:
    """The request may be the first sign of a version: it starts the preparation, once."""
    bench = await opened(benches)
    asked: list[int] = []
    bench.dispatcher.prepare = lambda _entry, wanted: asked.append(wanted.number)
    publish(bench, VersionState.STORED)
    bench.call(qualifier="2")
    assert asked == [2]


@pytest.mark.parametrize("seed", range(12))
async def test_every_call_ends_once_whatever_happens(benches: list[Bench], seed: int) -> None:
    """Under random calls, answers, deaths and departures every call ends exactly once and no count is left over."""
    rng = random.Random(seed)
    bench = await opened(benches, Settings(concurrency=4), max_containers=6, account_concurrency=5)
    sinks, open_calls = [], []
    bench.workers.is_slow = bool(seed % 2)
    for _ in range(300):
        event = rng.randrange(10)
        loading = [box for box in bench.workers.containers.values() if box.is_loading and not box.is_dead]
        running = [box for box in bench.workers.running() if box not in loading]
        if loading and rng.random() < 0.4:
            rng.choice(loading).load() if rng.random() < 0.8 else rng.choice(loading).end(rng.choice((Fate.SIGNALLED, Fate.KILLED)))
        if event < 4:
            sinks.append(bench.call(rng.choice((A, B)), timeout_ms=rng.choice((None, None, 5))))
            open_calls.append(bench.last)
        elif event < 8 and running:
            rng.choice(running).answer()
        elif event == 8 and running:
            rng.choice(running).end()
        elif event == 9 and open_calls:
            rng.choice(open_calls).left()
        assert len({c.id for c in running}) == len(running)
        if rng.random() < 0.5:
            await settle(bench, rng.randrange(4))
    bench.workers.is_slow = False
    for _ in range(2000):
        for box in [box for box in bench.workers.containers.values() if box.is_loading and not box.is_dead]:
            box.load()
        for box in bench.workers.running():
            box.answer()
        await asyncio.sleep(0)
        if not bench.dispatcher.calls_now():
            break
        await asyncio.sleep(0.001)
    assert [len(sink.results) for sink in sinks] == [1] * len(sinks)
    assert bench.dispatcher.calls_now() == 0
    assert all(entry.running == 0 for entry in bench.registry.entries.values())
    assert all(len({box.code for box in [c]}) <= 1 for c in bench.workers.containers.values())


async def test_cut_over_completes_without_further_calls(benches: list[Bench]) -> None:
    """What the old version keeps busy may end after the new one was loaded: the cut-over then completes by itself."""
    bench = await opened(benches, max_containers=5)
    old = [bench.call() for _ in range(3)]
    await settle(bench)
    publish(bench, VersionState.READY)
    entry = bench.registry.entries[FunctionId(A)]
    bench.dispatcher.prepared(entry, entry.versions[2])
    newer = bench.call(qualifier="2")
    await settle(bench, 40)
    for _ in range(8):
        for box in bench.workers.running():
            box.answer()
        await settle(bench)
    await asyncio.sleep(0.1)
    assert [sink.result.executed for sink in old] == [1] * 3
    assert newer.result.executed == 2
    assert entry.is_cut("latest", 2)


async def test_the_warming_pool_is_refilled_behind_forks_that_calls_wait_for(benches: list[Bench]) -> None:
    """While a fork for a call is under way and a warm VM is left no other is made; with none left it is."""
    bench = await opened(benches)
    bench.workers.is_stuck = True
    for _ in range(3):
        bench.call()
    await settle(bench)
    before = bench.fleet.pool.opening
    bench.fleet.upkeep(bench.clock.monotonic())
    assert bench.fleet.pool.warm
    assert bench.fleet.pool.opening == before
    bench.fleet.pool.warm.clear()
    bench.fleet.upkeep(bench.clock.monotonic())
    assert bench.fleet.pool.opening > before
