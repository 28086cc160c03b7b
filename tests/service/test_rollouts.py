"""Canaries over a real database, with a clock that the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from pyfaas.adapters.sqlite.schema import open_database
from pyfaas.adapters.sqlite.store import SqliteStore
from pyfaas.errors import Code, PyfaasError
from pyfaas.model import (
    Account,
    AccountId,
    Caller,
    Canary,
    CanaryOrder,
    CanaryState,
    EventKind,
    Function,
    FunctionId,
    Outcome,
    PointerMove,
    Reason,
    Scope,
    Settings,
    StalePolicy,
    Token,
    Version,
    VersionState,
)
from pyfaas.service.aliases import Aliases
from pyfaas.service.happenings import Happenings, opened
from pyfaas.service.journal import Journal
from pyfaas.service.pointers import Pointers
from pyfaas.service.registry import Entry, Registry
from pyfaas.service.rollouts import Rollouts
from tests.service.fake import version

pytestmark = pytest.mark.asyncio
A, F = AccountId("000000000001"), FunctionId("f")
ME = Caller(
    account=Account(id=A, name="ada", created=0.0),
    token=Token(id="t", account=A, digest=b"", scopes=frozenset({Scope.DEPLOY, Scope.READ}), created=0.0),
)
ORDER = CanaryOrder(pointer="live", percent=10, promote_after_ms=240_000, error_budget=1.0)


class Clock:
    """Time as the test says it."""

    def __init__(self) -> None:
        """Begin somewhere."""
        self.at = 1_700_000_000.0

    def now(self) -> float:
        """Return the time."""
        return self.at

    def monotonic(self) -> float:
        """Return the time."""
        return self.at


class Wheel:
    """What moves pointers, over one file: `again` is a new process over it."""

    clock: Clock
    path: str
    store: SqliteStore
    happenings: Happenings
    pointers: Pointers
    rollouts: Rollouts
    aliases: Aliases
    entry: Entry

    def __init__(self, path: Path) -> None:
        """Begin without anything."""
        self.clock, self.path = Clock(), str(path)
        self.advanced: list[int] = []
        self.prepared: list[int] = []

    async def open(self) -> None:
        """Take in what the file holds."""
        self.store = SqliteStore(open_database(self.path))
        snapshot = await self.store.load()
        registry = Registry(snapshot)
        self.journal = Journal(self.store)
        self.happenings = await opened(self.clock, self.journal, self.store)
        self.pointers = Pointers(self.store, self.clock, self.happenings, lambda _entry, v: self.advanced.append(v.number))
        self.pointers.load(registry.entries, snapshot.canaries)
        self.rollouts = Rollouts(registry, self.pointers, lambda _entry, v: self.prepared.append(v.number))
        self.aliases = Aliases(registry, self.pointers)
        if registry.entries:
            self.entry = registry.entries[F]

    async def publish(self) -> None:
        """Publish version 1, ready and named by `live`, and version 2, ready."""
        function = Function(id=F, account=A, name="f", settings=Settings(), created=0.0)
        await self.store.add_account(ME.account, None)
        for number in (1, 2):
            made = replace(version(F, number), created=1.0)
            await self.store.publish(function, made, PointerMove(function=F, pointer="latest", seq=number, version=number, at=0.0))
        await self.store.move_pointer(PointerMove(function=F, pointer="live", seq=1, version=1, at=0.0, policy=StalePolicy(stale="allow")))
        await self.again()

    async def again(self) -> None:
        """Be a new process; the old one ended without a word."""
        await self.store.close()
        await self.open()

    async def begin(self, **changed: Any) -> Canary:
        """Order a canary of version 2."""
        canary = await self.rollouts.begin(self.entry, 2, replace(ORDER, **changed))
        assert canary is not None
        return canary

    @property
    def canary(self) -> Canary:
        """How it stands."""
        canary = self.pointers.canary(self.entry, "live")
        assert canary is not None
        return canary

    def live(self) -> tuple[int, dict[int, int]]:
        """Return what `live` names."""
        move = self.entry.moves["live"][-1]
        return move.version, dict(move.weights)

    def state(self, state: VersionState, number: int = 2) -> Version:
        """Let a version be in a state."""
        reason = Reason(code="import_failed", message="no module named x") if state is VersionState.FAILED else None
        self.entry.put(replace(self.entry.versions[number], state=state, reason=reason))
        return self.entry.versions[number]

    def ran(self, count: int, outcome: Outcome = Outcome.OK, number: int = 2) -> None:
        """End so many runs of a version."""
        for _ in range(count):
            assert self.entry.counted is not None
            self.entry.counted(number, outcome)

    def told(self) -> list[tuple[str, int]]:
        """Return what was told, without details."""
        return [(event.kind.value, event.version) for _, event in self.happenings.since(F, 0)]


@pytest_asyncio.fixture
async def wheel(tmp_path: Path) -> AsyncIterator[Wheel]:
    """Return one with two versions."""
    made = Wheel(tmp_path / "pyfaas.db")
    await made.open()
    await made.publish()
    yield made
    await made.store.close()


async def test_a_canary_goes_step_by_step(wheel: Wheel) -> None:
    """Each quarter of the time doubles the weight, until everything goes to the new version; all of it is told."""
    await wheel.begin()
    seen = [wheel.live()]
    for _ in range(4):
        wheel.clock.at += 60
        await wheel.rollouts.tick()
        seen.append(wheel.live())
    assert seen == [(1, {2: 10}), (1, {2: 20}), (1, {2: 40}), (1, {2: 80}), (2, {})]
    assert (wheel.canary.state, wheel.entry.counted) == (CanaryState.PROMOTED, None)
    assert wheel.told() == [*[("moved", 1)] * 4, ("moved", 2), ("promoted", 2)]


async def test_a_move_keeps_the_policy(wheel: Wheel) -> None:
    """What an alias says of staleness stays through a canary's moves, and a roll-back."""
    await wheel.begin()
    await wheel.aliases.rollback(ME, "f", "live")
    assert [move.policy.stale for move in wheel.entry.moves["live"]] == ["allow"] * 3


async def test_it_stands_at_the_same_step_after_a_kill(wheel: Wheel) -> None:
    """A process that ended without a word is followed by one that stands at the same step, since the same time, with the same counts."""
    await wheel.begin()
    for _ in range(2):
        wheel.clock.at += 60
        await wheel.rollouts.tick()
    wheel.ran(20)
    wheel.ran(1, Outcome.OOM)
    await wheel.rollouts.tick()
    before = wheel.canary
    assert (before.step, before.since, before.runs, before.faults) == (2, 1_700_000_120.0, 21, 1)
    await wheel.again()
    assert wheel.canary == before
    assert wheel.live() == (1, {2: 40})
    wheel.ran(1)
    assert wheel.canary.runs == 22


async def test_counts_that_are_not_written_yet_do_not_undo_a_step(wheel: Wheel) -> None:
    """Counts of a step that is over, or of a canary that has ended, change nothing in the store."""
    await wheel.begin()
    stale = replace(wheel.canary, runs=7)
    wheel.clock.at += 60
    await wheel.rollouts.tick()
    await wheel.store.count_canaries([stale])
    assert [c.runs for c in (await wheel.store.load()).canaries] == [0]
    await wheel.aliases.set(ME, "f", "live", 1, {}, {})
    await wheel.store.count_canaries([replace(stale, since=wheel.clock.at)])
    assert [(c.runs, c.state) for c in (await wheel.store.load()).canaries] == [(0, CanaryState.ENDED)]


async def test_a_broken_budget_goes_back_and_withdraws(wheel: Wheel) -> None:
    """The run that breaks the budget wakes the rollouts; the alias goes back, the version is withdrawn, and it is told why."""
    await wheel.begin()
    wheel.ran(49, Outcome.ERROR)
    assert not wheel.pointers.woken.is_set()
    wheel.ran(1)
    assert wheel.pointers.woken.is_set()
    await wheel.rollouts.tick()
    assert (wheel.live(), wheel.canary.state) == ((1, {}), CanaryState.BACK)
    assert "49 of 50" in wheel.canary.reason
    assert wheel.told()[-3:] == [("moved", 1), ("withdrawn", 2), ("rolled_back", 1)]
    await wheel.again()
    assert (wheel.entry.versions[2].withdrawn, wheel.live()) == (True, (1, {}))


async def test_only_runs_of_the_new_version_count(wheel: Wheel) -> None:
    """What another version does, what was cancelled and what was lost is not counted."""
    await wheel.begin()
    wheel.ran(100, Outcome.ERROR, number=1)
    wheel.ran(100, Outcome.CANCELLED)
    wheel.ran(100, Outcome.LOST)
    assert (wheel.canary.runs, wheel.canary.faults) == (0, 0)


async def test_few_runs_with_a_fault_hold_it(wheel: Wheel) -> None:
    """With few runs and a fault among them nothing is raised; with enough good ones it goes on."""
    await wheel.begin()
    wheel.ran(1, Outcome.TIMEOUT)
    wheel.clock.at += 61
    await wheel.rollouts.tick()
    assert wheel.live() == (1, {2: 10})
    assert "1 of 1 runs failed" in wheel.aliases.view(wheel.entry, "live")["canary"]["reason"]
    wheel.ran(199)
    await wheel.rollouts.tick()
    assert wheel.live() == (1, {2: 20})


async def test_it_waits_for_its_version(wheel: Wheel) -> None:
    """A version that is not ready is waited for, across a restart, and prepared when nothing else would."""
    await wheel.store.set_version(wheel.state(VersionState.STORED))
    assert (await wheel.begin()).state is CanaryState.WAITING
    assert (wheel.live(), wheel.prepared) == ((1, {}), [2])
    await wheel.again()
    wheel.rollouts.resume()
    assert (wheel.canary.state, wheel.prepared) == (CanaryState.WAITING, [2, 2])
    wheel.rollouts.prepared(wheel.entry, wheel.state(VersionState.READY))
    await wheel.rollouts.tick()
    assert (wheel.live(), wheel.canary.state) == ((1, {2: 10}), CanaryState.RUNNING)
    assert wheel.canary.since == wheel.clock.at


async def test_a_version_that_fails_leaves_the_alias(wheel: Wheel) -> None:
    """When the version fails the canary ends with the reason and the alias stays, also when it failed before a restart."""
    wheel.state(VersionState.PREPARING)
    await wheel.begin()
    failed = wheel.state(VersionState.FAILED)
    await wheel.rollouts.tick()
    assert wheel.canary.state is CanaryState.WAITING  # it may be about to be prepared again
    await wheel.store.set_version(failed)
    await wheel.again()
    wheel.rollouts.resume()
    await wheel.rollouts.tick()
    assert (wheel.live(), wheel.canary.state) == ((1, {}), CanaryState.ENDED)
    assert "no module named x" in wheel.aliases.view(wheel.entry, "live")["canary"]["reason"]


@pytest.mark.parametrize("percent", [10, 100])
async def test_an_alias_that_named_nothing_goes_there_at_once(wheel: Wheel, percent: int) -> None:
    """There is nobody to compare with: the new alias names the version, all of it."""
    canary = await wheel.begin(pointer="fresh", percent=percent)
    assert (canary.state, canary.base, wheel.entry.current("fresh")) == (CanaryState.PROMOTED, None, 2)


async def test_an_alias_alone_moves_all_of_it(wheel: Wheel) -> None:
    """Without a percent the alias moves at once; where it is already nothing moves."""
    await wheel.begin(percent=100, promote_after_ms=0)
    assert (wheel.live(), wheel.canary.state) == ((2, {}), CanaryState.PROMOTED)
    moves = len(wheel.entry.moves["live"])
    assert (await wheel.begin(percent=10)).state is CanaryState.PROMOTED
    assert len(wheel.entry.moves["live"]) == moves


async def test_a_hand_ends_it(wheel: Wheel) -> None:
    """Any move by hand ends a canary, durably, and a later move by hand hides what it said."""
    await wheel.begin()
    shown = await wheel.aliases.set(ME, "f", "live", 2, {1: 30}, {})
    assert (shown["canary"]["state"], shown["canary"]["reason"]) == ("ended", "moved by hand")
    wheel.clock.at += 1000
    await wheel.rollouts.tick()
    assert wheel.live() == (2, {1: 30})
    await wheel.again()
    assert (wheel.canary.state, wheel.entry.counted) == (CanaryState.ENDED, None)
    assert (await wheel.aliases.set(ME, "f", "live", 1, {}, {}))["canary"] is None


async def test_rollback_of_a_canary_goes_to_its_base(wheel: Wheel) -> None:
    """A pointer with a canary, or with two versions, goes back to its main version, and the other is withdrawn."""
    await wheel.begin()
    assert await wheel.aliases.rollback(ME, "f", "live") == {"function": "f", "pointer": "live", "version": 1, "withdrawn": 2}
    assert (wheel.live(), wheel.canary.state, wheel.entry.versions[2].withdrawn) == ((1, {}), CanaryState.ENDED, True)
    await wheel.aliases.set(ME, "f", "live", 1, {2: 5}, {})
    assert not wheel.entry.versions[2].withdrawn  # it was named again
    await wheel.aliases.rollback(ME, "f", "live")
    await wheel.again()
    assert (wheel.live(), wheel.entry.versions[2].withdrawn) == ((1, {}), True)


async def test_rollback_of_one_that_waits_ends_it(wheel: Wheel) -> None:
    """A canary whose version is not ready is ended by a roll-back, and its version withdrawn before it ever ran."""
    wheel.state(VersionState.PREPARING)
    await wheel.begin()
    assert (await wheel.aliases.rollback(ME, "f", "live"))["withdrawn"] == 2
    wheel.rollouts.prepared(wheel.entry, wheel.state(VersionState.READY))
    await wheel.rollouts.tick()
    assert (wheel.live(), wheel.canary.state) == ((1, {}), CanaryState.ENDED)


async def test_rollback_skips_what_was_withdrawn(wheel: Wheel) -> None:
    """Going back twice does not come back to what was withdrawn; with nothing left it is a conflict."""
    assert (await wheel.aliases.rollback(ME, "f", "latest"))["version"] == 1
    with pytest.raises(PyfaasError) as refused:
        await wheel.aliases.rollback(ME, "f", "latest")
    assert refused.value.code is Code.CONFLICT
    with pytest.raises(PyfaasError) as refused:
        await wheel.aliases.rollback(ME, "f", "nothing")
    assert refused.value.code is Code.NOT_FOUND


async def test_a_new_order_replaces_the_old(wheel: Wheel) -> None:
    """A later publication's order takes the place of a canary that runs; its base is what the alias mainly names."""
    await wheel.begin()
    await wheel.store.publish(wheel.entry.function, replace(version(F, 3), created=2.0), None)
    await wheel.again()
    canary = await wheel.rollouts.begin(wheel.entry, 3, replace(ORDER, percent=50))
    assert canary is not None
    assert (canary.base, wheel.live()) == (1, (1, {3: 50}))
    wheel.ran(60, Outcome.ERROR, number=2)
    assert wheel.canary.runs == 0


async def test_removing_the_alias_or_the_version_ends_it(wheel: Wheel) -> None:
    """A removed alias has no canary, after a restart neither; a removed version is waited for by none."""
    wheel.state(VersionState.PREPARING)
    await wheel.begin(pointer="fresh")
    await wheel.aliases.remove(ME, "f", "fresh")
    assert wheel.pointers.canary(wheel.entry, "fresh") is None
    await wheel.begin()
    await wheel.rollouts.removed(wheel.entry, 2)
    assert wheel.canary.state is CanaryState.ENDED
    await wheel.again()
    assert [c.pointer for c in (await wheel.store.load()).canaries] == ["live"]


async def test_a_full_store_puts_it_off(wheel: Wheel, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the store refuses, the alias stays where it is, and it is tried less and less often; then it goes on."""
    await wheel.begin()
    tries: list[float] = []

    async def full(*_: Any, **__: Any) -> None:
        tries.append(wheel.clock.at)
        raise PyfaasError(Code.STORAGE_FULL, "the server's disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(wheel.store, "move_pointer", full)
        wheel.clock.at += 60
        for _ in range(31):
            await wheel.rollouts.tick()
            wheel.clock.at += 1
        assert wheel.live() == (1, {2: 10})
        assert [round(at - tries[0]) for at in tries] == [0, 1, 3, 7, 15]
    wheel.clock.at += 30
    await wheel.rollouts.tick()
    assert wheel.live() == (1, {2: 20})


async def test_two_hands_at_once_are_one_after_the_other(wheel: Wheel) -> None:
    """Moves of one pointer that are asked for together are all made, in some order, and none is refused."""
    await asyncio.gather(*(wheel.aliases.set(ME, "f", "live", 1 + n % 2, {}, {}) for n in range(20)), wheel.rollouts.tick())
    seqs = [move.seq for move in wheel.entry.moves["live"]]
    assert (len(seqs), len(set(seqs))) == (21, 21)
    before = wheel.live()
    await wheel.again()
    assert wheel.live() == before


async def test_events_go_on_after_a_restart(wheel: Wheel) -> None:
    """A cursor from before a kill finds what happened since, also what only the store remembers, and none is given twice."""
    tell = wheel.happenings.tell
    for step in range(150):
        tell(F, 1, EventKind.PREPARING, step=f"{step}")
    tell(F, 2, EventKind.PREPARED)
    first = await wheel.happenings.read(F, 0, limit=1000)
    assert [e.detail.get("step") for _, e in first if e.version == 1] == [f"{n}" for n in range(150)]
    await wheel.journal.flush()
    wheel.happenings.tell(F, 2, EventKind.FAILED)  # it dies with the process, and somebody has seen its cursor
    lost = wheel.happenings.last(F)
    wheel.clock.at += 0.5
    await wheel.again()
    wheel.happenings.tell(F, 3, EventKind.STORED)
    after = await wheel.happenings.read(F, lost)
    assert [e.version for _, e in after] == [3]
    assert after[0][0] > lost
    everything = await wheel.happenings.read(F, 0, limit=1000)
    assert [c for c, _ in everything] == [*[c for c, _ in first], after[0][0]]
    assert [e.version for _, e in await wheel.happenings.read(F, 0, version=2)] == [2]


async def test_pages_of_events_have_no_gap(wheel: Wheel) -> None:
    """Small pages, over what is in memory and what is not, give every event once, in order."""
    for step in range(130):
        wheel.happenings.tell(F, 1, EventKind.PREPARING, step=f"{step}")
        wheel.clock.at += 0.01
    seen: list[str] = []
    after = 0
    while page := await wheel.happenings.read(F, after, limit=7):
        seen += [event.detail["step"] for _, event in page]
        after = page[-1][0]
    assert seen == [f"{n}" for n in range(130)]
