"""Deploys under random events: calls, publications, failures, moves back and forth, deaths, slow loads and downloads.

What must hold at every moment, whatever the order: a version is brought into a VM once, no process is given two versions' code, no
request is answered by a version outside its policy, limits of old answers are never passed, and everything ends.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, replace

import pytest

from pyfaas.decisions.downloads import Target
from pyfaas.model import FunctionId, Outcome, PointerMove, Settings, StalePolicy, VersionState
from pyfaas.ports import Container, Mounted
from pyfaas.service.registry import Entry
from sandbox.errors import SandboxError
from sandbox.spec import Fate
from sandbox.wire import Kind, packet
from tests.service.fake import A, Bench, FakeContainer, FakeWorkers, Sink, version

LIMIT = 3


class Copying(FakeContainer):
    """A container that may be ordered to copy, and does so when it is told to; it keeps what it was given to run."""

    is_copying = False
    given: tuple[str, ...] = ()

    def send(self, packets: Iterable[bytes]) -> None:
        """Take packets; an order to copy is answered later."""
        kept = list(packets)
        if kept and kept[0][0] == Kind.LOAD and b'"copy"' in kept[0]:
            self.is_copying = True
            return
        super().send(kept)

    def copied(self, *, is_whole: bool) -> None:
        """Tell how copying ended."""
        self.is_copying = False
        self.on_packet(packet(Kind.LOADED, b'{"bytes": 1000}') if is_whole else packet(Kind.FAILED, b'{"code": "corrupt"}'))

    def attach_nowait(self, mounts: Sequence[Mounted], done: object) -> None:
        """Take code: once in a process's life."""
        assert self.given == (), "a process was given code twice"
        self.given = tuple(mount.name for mount in mounts)
        for mount in mounts:
            if mount.store == "vm":
                assert (self.vm, mount.name.split("/")[0]) in self.workers.kept, "what is not whole was attached"  # type: ignore[attr-defined]
        super().attach_nowait(mounts, done)  # type: ignore[arg-type]


class Files(FakeWorkers):
    """Workers whose VMs keep files; everything that can fail does, now and then."""

    def __init__(self, rng: random.Random) -> None:
        """Keep nothing yet."""
        super().__init__()
        self.rng = rng
        self.kept: set[tuple[str, str]] = set()
        self.brought: Counter[tuple[str, str]] = Counter()

    def _make(self, vm: str) -> Copying:
        made = Copying(self, vm, f"c{next(self._names)}")
        self.containers[made.id] = made
        return made

    async def stage(self, vm: str, name: str, *, inside: bool = False) -> None:  # noqa: ARG002 - the port's shape
        """Make a directory, or fail."""
        await asyncio.sleep(0)
        if self.rng.random() < 0.1:
            raise SandboxError("no directory")

    async def keep(self, vm: str, staged: str, name: str) -> None:  # noqa: ARG002 - the port's shape
        """Give it its name: one that nobody has."""
        await asyncio.sleep(0)
        assert (vm, name) not in self.kept, "a version was brought twice"
        self.kept.add((vm, name))
        self.brought[(vm, name)] += 1

    async def forget(self, vm: str, name: str) -> None:
        """Remove it, unless somebody uses it."""
        await asyncio.sleep(0)
        if any(c.vm == vm and not c.is_dead and any(g.startswith(name) for g in getattr(c, "given", ())) for c in self.containers.values()):
            raise SandboxError("in use")
        self.kept.discard((vm, name))

    async def replace(self, vm: str, container: str) -> Container:
        """End a process, and make another with the same name."""
        await asyncio.sleep(0)
        old = self.containers[container]
        old.end(Fate.KILLED)
        if self.rng.random() < 0.2:
            raise SandboxError("not replaced")
        made = Copying(self, vm, container)
        self.containers[container] = made
        return made


@dataclass(slots=True)
class Asked:
    """A request, and what may answer it."""

    sink: Sink
    qualifier: str | None
    stale: str | None
    allowed: set[int]  # versions whose answer is within its policy


class Story:
    """One function's life under random events."""

    def __init__(self, seed: int, target: Target) -> None:
        """Begin with version 1, ready and cut over."""
        self.rng = random.Random(seed)
        self.bench = Bench(Settings(concurrency=8, max_stale_requests=LIMIT if seed % 3 == 0 else None), max_containers=12, download_to=target.value)
        self.bench.workers = self.bench.fleet.workers = self.workers = Files(self.rng)
        self.bench.fleet.downloads._workers = self.workers  # noqa: SLF001 - the bench was made with others
        self.workers.on_lost, self.workers.on_vm_lost = self.bench.fleet._all_lost, self.bench.fleet._vm_lost  # noqa: SLF001 - as above
        self.bench.dispatcher.prepare = self._prepare
        self.entry: Entry = self.bench.registry.entries[FunctionId(A)]
        self.asked: list[Asked] = []
        self.preparations: Counter[int] = Counter()

    def _prepare(self, entry: Entry, wanted: object) -> None:
        number = wanted.number  # type: ignore[attr-defined]
        if entry.versions[number].state is VersionState.STORED:  # who asks again joins
            self.preparations[number] += 1
            entry.put(replace(entry.versions[number], state=VersionState.PREPARING))

    def step(self) -> None:
        """Let one thing happen."""
        event = self.rng.choices(
            (self.call, self.answer, self.publish, self.settle, self.move, self.load, self.copy, self.die, self.leave, self.lose_vm, self.tick),
            (30, 30, 3, 6, 3, 15, 8, 2, 2, 0.4, 10),
        )[0]
        event()

    def tick(self) -> None:
        """Let the time come for what time alone decides; no clock decides when that is."""
        self.bench.dispatcher.open()
        assert self.bench.dispatcher._ticker is not None  # noqa: SLF001 - the next one comes when the story says so
        self.bench.dispatcher._ticker.cancel()  # noqa: SLF001 - as above

    def call(self) -> None:
        """Ask for latest, a number or a code id, with or without a word about staleness."""
        entry, rng = self.entry, self.rng
        number = rng.choice(list(entry.versions))
        qualifier = rng.choice((None, None, None, str(number), entry.versions[number].code_id))
        stale = rng.choice((None, None, "allow", "forbid"))
        requested = entry.current("latest") if qualifier is None else number
        is_allowed = stale != "forbid" if qualifier is None else stale == "allow"
        allowed = {requested} | (set(entry.versions) if is_allowed else set())
        sink = self.bench.call(qualifier=qualifier, stale=stale)
        assert requested is not None
        self.asked.append(Asked(sink, qualifier, stale, {n for n in allowed if n is not None}))

    def _of(self, what: str) -> list[Copying]:
        return [c for c in self.workers.containers.values() if isinstance(c, Copying) and not c.is_dead and getattr(c, what)]

    def answer(self) -> None:
        """End a run."""
        if running := [c for c in self._of("calls") if not c.is_loading]:
            self.rng.choice(running).answer()

    def load(self) -> None:
        """End a load, well or not."""
        if loading := self._of("is_loading"):
            self.rng.choice(loading).load()

    def copy(self) -> None:
        """End a download, well or not."""
        if copying := self._of("is_copying"):
            self.rng.choice(copying).copied(is_whole=self.rng.random() < 0.8)

    def die(self) -> None:
        """End a container, whatever it does."""
        if living := [c for c in self.workers.containers.values() if not c.is_dead]:
            self.rng.choice(living).end(self.rng.choice((Fate.SIGNALLED, Fate.KILLED)))

    def leave(self) -> None:
        """Let a caller go."""
        if self.asked and not self.asked[-1].sink.results:
            self.bench.last.left()

    def lose_vm(self) -> None:
        """Lose a VM with all that is in it."""
        vms = {c.vm for c in self.workers.containers.values() if not c.is_dead}
        if vms:
            vm = self.rng.choice(sorted(vms))
            for container in [c for c in self.workers.containers.values() if c.vm == vm]:
                container.end(Fate.LOST)
            self.workers.kept = {(v, name) for v, name in self.workers.kept if v != vm}
            self.workers.on_vm_lost(vm)

    def publish(self) -> None:
        """Publish another version; its preparation begins at once, or when it is called."""
        number = self.entry.highest + 1
        self.entry.put(version(self.entry.function.id, number, VersionState.STORED))
        self._move(number)
        if self.rng.random() < 0.5:
            self._prepare(self.entry, self.entry.versions[number])

    def settle(self) -> None:
        """End a preparation, well or not."""
        if preparing := [v for v in self.entry.versions.values() if v.state is VersionState.PREPARING]:
            chosen = self.rng.choice(preparing)
            state = VersionState.READY if self.rng.random() < 0.8 else VersionState.FAILED
            self.entry.put(replace(chosen, state=state))
            self.bench.dispatcher.prepared(self.entry, self.entry.versions[chosen.number])

    def move(self) -> None:
        """Point latest at another ready version, older or newer, perhaps with a weight."""
        ready = [n for n, v in self.entry.versions.items() if v.state is VersionState.READY]
        target = self.rng.choice(ready)
        self._move(target)
        self.bench.dispatcher.advance(self.entry, self.entry.versions[target])

    def _move(self, number: int) -> None:
        seq = len(self.entry.moves["latest"]) + 1
        self.entry.move(PointerMove(function=self.entry.function.id, pointer="latest", seq=seq, version=number, at=1.0, policy=StalePolicy()))
        for asked in self.asked:  # whoever waits may be decided again, by what holds then
            if not asked.sink.results and (asked.qualifier is None or asked.stale == "allow"):
                asked.allowed.add(number)

    def check(self) -> None:
        """Hold everything that must hold at any moment."""
        assert all(count == 1 for count in self.preparations.values())
        for lane in self.bench.fleet.lanes.values():
            assert min(lane.coming, lane.loading, lane.promised, lane.ahead, lane.busy, lane.containers) >= 0, vars(lane)
        limit = self.entry.function.settings.max_stale_requests
        if limit is not None:
            assert all(tally.stale <= limit for tally in self.entry.tallies.values())
        for asked in self.asked:
            for result in asked.sink.results:
                if result.outcome is Outcome.OK:
                    assert result.executed in asked.allowed, (asked, result)

    async def finish(self) -> None:
        """Let everything end that can."""
        for _ in range(3000):
            for version_ in list(self.entry.versions.values()):
                if version_.state is VersionState.PREPARING:
                    self.entry.put(replace(version_, state=VersionState.READY))
                    self.bench.dispatcher.prepared(self.entry, self.entry.versions[version_.number])
            for container in self._of("is_copying"):
                container.copied(is_whole=True)
            for container in self._of("is_loading"):
                container.load()
            for container in [c for c in self._of("calls") if not c.is_loading]:
                container.answer()
            self.tick()
            for _turn in range(4):
                await asyncio.sleep(0)
            if not self.bench.dispatcher.calls_now():
                return


@pytest.fixture
async def stories() -> AsyncIterator[list[Story]]:
    """Return a list of stories whose parts are stopped after the test."""
    made: list[Story] = []
    yield made
    for story in made:
        await story.bench.dispatcher.close()


@pytest.mark.parametrize("target", list(Target))
@pytest.mark.parametrize("seed", range(9))
async def test_whatever_happens(stories: list[Story], seed: int, target: Target) -> None:
    """Under 600 random events the invariants hold at every moment, and then every call has ended exactly once."""
    story = Story(seed, target)
    stories.append(story)
    story.workers.is_slow = True
    for _ in range(600):
        story.step()
        story.check()
        if story.rng.random() < 0.7:
            for _turn in range(story.rng.randrange(6)):
                await asyncio.sleep(0)
    await story.finish()
    story.check()
    assert [len(asked.sink.results) for asked in story.asked] == [1] * len(story.asked)
    assert story.bench.dispatcher.calls_now() == 0
    assert story.entry.running == 0
    outcomes = Counter(asked.sink.result.outcome for asked in story.asked)
    assert outcomes[Outcome.OK] > len(story.asked) / 3, outcomes
    assert len({asked.sink.result.executed for asked in story.asked}) > 2  # noqa: PLR2004 - deploys took place
