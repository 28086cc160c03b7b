"""Whatever hands, clocks, failures and kills do to release aliases: what is in the store is what is known, and canaries keep their word."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from pyfaas.decisions.canary import JUDGED, is_beyond, weight
from pyfaas.errors import Code, PyfaasError
from pyfaas.model import CanaryState, Outcome
from tests.service.fake import version
from tests.service.test_rollouts import ME, ORDER, F, Wheel

pytestmark = pytest.mark.asyncio
VERSIONS, STEPS = 4, 60
POINTERS = ("live", "fresh")


@pytest_asyncio.fixture
async def wheel(tmp_path: Path) -> AsyncIterator[Wheel]:
    """Return one with four versions."""
    made = Wheel(tmp_path / "pyfaas.db")
    await made.open()
    await made.publish()
    for number in range(3, VERSIONS + 1):
        await made.store.publish(made.entry.function, replace(version(F, number), created=1.0), None)
    await made.again()
    yield made
    await made.store.close()


async def act(wheel: Wheel, chance: random.Random) -> None:
    """Do one thing that may happen."""
    pointer, number, other = chance.choice(POINTERS), *chance.sample(range(1, VERSIONS + 1), 2)
    match chance.randrange(9):
        case 0:
            percent = chance.choice((1, 10, 50, 100))
            await wheel.rollouts.begin(wheel.entry, number, replace(ORDER, pointer=pointer, percent=percent))
        case 1:
            await wheel.aliases.set(ME, "f", pointer, number, {other: 30} if chance.random() < 0.5 else {}, {"stale": chance.choice(("allow", None))})
        case 2:
            await wheel.aliases.rollback(ME, "f", pointer)
        case 3:
            await wheel.aliases.remove(ME, "f", pointer)
        case 4:
            await wheel.rollouts.tick()
            await wheel.again()
        case 5 if wheel.entry.counted is not None:
            for _ in range(chance.choice((1, JUDGED))):
                wheel.entry.counted(number, chance.choice((Outcome.OK, Outcome.OK, Outcome.CRASHED)))
            await wheel.rollouts.tick()
        case _:
            wheel.clock.at += chance.choice((0.5, 30, 90))
            await wheel.rollouts.tick()


def check(wheel: Wheel) -> None:
    """Hold what is known against itself."""
    running = []
    for pointer in POINTERS:
        canary, history = wheel.pointers.canary(wheel.entry, pointer), wheel.entry.moves.get(pointer)
        if canary is None or canary.state is not CanaryState.RUNNING:
            continue
        running.append(canary)
        assert history is not None
        assert (history[-1].version, dict(history[-1].weights)) == (canary.base, {canary.version: weight(canary)})
        assert not (canary.runs >= JUDGED and is_beyond(canary.runs, canary.faults, canary.error_budget))
    assert (wheel.entry.counted is not None) == bool(running)
    for moves in wheel.entry.moves.values():
        assert [m.seq for m in moves] == sorted({m.seq for m in moves})
        assert all(len(m.weights) <= 1 and m.version not in m.weights for m in moves)


async def known(wheel: Wheel) -> tuple[object, ...]:
    """Return what is known of pointers, canaries and versions, counts left out."""
    canaries = [wheel.pointers.canary(wheel.entry, pointer) for pointer in POINTERS]
    return (
        {pointer: moves[-1] for pointer, moves in wheel.entry.moves.items() if moves},
        [replace(canary, runs=0, faults=0) if canary else None for canary in canaries],
        {number: one.withdrawn for number, one in wheel.entry.versions.items()},
    )


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_happens(wheel: Wheel, seed: int) -> None:
    """After every event what is known fits together, and a new process over the same file knows the same."""
    chance = random.Random(seed)
    refused = 0
    for _ in range(STEPS):
        try:
            await act(wheel, chance)
        except PyfaasError as error:
            assert error.code in (Code.NOT_FOUND, Code.CONFLICT)  # nothing there to go back to, or to remove
            refused += 1
        check(wheel)
        if chance.random() < 0.2:
            before = await known(wheel)
            await wheel.again()
            assert await known(wheel) == before
            check(wheel)
    assert refused < STEPS / 2
