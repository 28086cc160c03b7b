"""A first call is sent along with the order to load its version: it begins once, or another container gets it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from pyfaas.model import Outcome
from sandbox.spec import Fate
from sandbox.wire import Status
from tests.service.fake import Bench, FakeContainer
from tests.service.test_dispatch import settle


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """Return a bench with a full warming pool, whose containers load when they are told to."""
    made = Bench()
    made.dispatcher.open()
    await settle(made)
    made.workers.is_slow = True
    yield made
    await made.dispatcher.close()


def loading(bench: Bench) -> FakeContainer:
    """Return the one container that has an order."""
    (box,) = [box for box in bench.workers.containers.values() if box.code and not box.is_dead]
    return box


async def test_call_travels_with_the_order(bench: Bench) -> None:
    """The container has the call while it loads, and answers right behind LOADED; the next one finds it idle."""
    sink = bench.call()
    box = loading(bench)
    assert box.calls == [bench.last.id.encode()]
    assert bench.last.started == 0.0
    box.load()
    assert bench.last.started > 0.0
    box.answer(b"7")
    assert (sink.result.outcome, sink.result.body, sink.result.why) == (Outcome.OK, b"7", "warm")
    assert sink.result.init_s > 0.0
    again = bench.call()
    box.answer(b"8")
    assert again.result.why == "idle"


@pytest.mark.parametrize("fields", [{"body": b"x" * 40_000}, {"is_bytes": True}, {"timeout_ms": 60_000}], ids=str)
async def test_what_is_not_plain_waits_for_the_load(bench: Bench, fields: dict[str, object]) -> None:
    """Large bodies, flags or a caller's deadline: sent when the code is there."""
    sink = bench.call(**fields)
    box = loading(bench)
    assert box.calls == []
    box.load()
    assert box.calls == [bench.last.id.encode()]
    box.answer()
    assert sink.result.outcome is Outcome.OK


async def test_call_waits_for_whichever_container_is_first(bench: Bench) -> None:
    """While a container has the code, no call is bound to one that loads: the busy one frees, and takes it."""
    first = bench.call()
    box = loading(bench)
    box.load()
    second = bench.call()
    await settle(bench)
    assert [other.calls for other in bench.workers.containers.values() if other.code and other is not box] == [[]]
    box.answer(b"1")
    box.answer(b"2")
    assert (first.result.body, second.result.body) == (b"1", b"2")


async def test_answer_before_the_load_ends_the_container(bench: Bench) -> None:
    """A container that answers a call which it cannot have begun has broken the protocol."""
    sink = bench.call()
    loading(bench).answer(b"forged")
    assert sink.result.outcome is not Outcome.OK
    assert sink.result.body != b"forged"


async def test_failed_load_ends_the_promised_call_only(bench: Bench) -> None:
    """It is init_error; a second call gets its own container, and its own try."""
    first, second = bench.call(), bench.call()
    await settle(bench)
    bench.workers.is_broken = True
    box = next(box for box in bench.workers.containers.values() if box.calls)
    box.load()
    assert first.result.outcome is Outcome.INIT_ERROR
    await settle(bench)
    assert not second.results
    bench.workers.is_broken = False
    other = next(box for box in bench.workers.containers.values() if box.calls and not box.is_dead)
    other.load()
    other.answer(b"2")
    assert second.result.body == b"2"


async def test_call_of_a_container_that_was_lost_is_given_to_another(bench: Bench) -> None:
    """It had not begun, so it can: the caller sees one answer."""
    sink = bench.call()
    box = loading(bench)
    box.end(Fate.KILLED)
    await settle(bench)
    other = loading(bench)
    assert other is not box
    other.load()
    other.answer(b"3")
    assert sink.result.body == b"3"


async def test_container_that_dies_while_it_loads_ends_its_call(bench: Bench) -> None:
    """A crash of the import is the version's: init_error, and nobody else's."""
    sink = bench.call()
    loading(bench).end(Fate.SIGNALLED)
    assert sink.result.outcome is Outcome.INIT_ERROR


@pytest.mark.parametrize("leave", ["left", "cancel"])
async def test_withdrawn_call_does_not_end_the_load(bench: Bench, leave: str) -> None:
    """Its caller has gone: the container is told, loads on, and serves the next caller."""
    sink = bench.call()
    box = loading(bench)
    getattr(bench.last, leave)()
    assert sink.result.outcome is Outcome.CANCELLED
    assert box.withdrawn == [bench.last.id.encode()]
    assert not box.is_dead
    box.load()
    box.answer(b"", Status.CANCELLED)
    again = bench.call()
    assert box.calls == [bench.last.id.encode()]
    box.answer(b"5")
    assert again.result.body == b"5"
    assert len(sink.results) == 1


async def test_lost_launcher_gives_promised_calls_back(bench: Bench) -> None:
    """What had not begun when all containers were lost is begun in new ones."""
    sink = bench.call()
    bench.workers.on_lost()
    await settle(bench)
    for box in bench.workers.containers.values():
        box.is_dead = box.is_dead or box.id not in bench.fleet.sessions
    (box,) = [box for box in bench.workers.containers.values() if box.code and not box.is_dead]
    box.load()
    box.answer(b"9")
    assert sink.result.body == b"9"
