"""Preparations over fake containers: what is joined, what is kept, who waits for whom, and what a container may say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import pytest

from pyfaas.adapters.clock import SystemClock
from pyfaas.config import Config
from pyfaas.errors import Code, PyfaasError
from pyfaas.model import EventKind, FunctionId, Reason, Revision, Version, VersionState
from pyfaas.service.dialogue import BuildVm, Dialogue, Order, PreparationFailed, is_starved, lost
from pyfaas.service.environments import Environments, environment_name, is_lock_kept, same_requirements
from pyfaas.service.happenings import Happenings
from pyfaas.service.journal import Journal
from pyfaas.service.preparing import Telling
from pyfaas.service.publishing import Publisher
from pyfaas.service.storage import as_stored
from sandbox.spec import Ending, Fate, Limits
from sandbox.wire import Kind, packet, parts
from tests.service.fake import A, B, Bench, FakeContainer, FakeWorkers, NoStore, version

pytestmark = pytest.mark.asyncio
LOCK = "part==1.0 --hash=sha256:00\n"


class Builder(FakeContainer):
    """A container that locks to LOCK and installs when the test lets it."""

    def send(self, packets: Any) -> None:
        """Take an order, and answer it."""
        order = json.loads(next(iter(packets))[1:])
        workers: Building = self.workers  # type: ignore[assignment]
        workers.orders.append(order)
        if order["step"] == "lock":
            self.on_packet(packet(Kind.LOADED, json.dumps({"lock_bytes": len(LOCK)}).encode()))
            for part in parts(LOCK.encode(), 0):
                self.on_packet(part)
        else:
            workers.installing.append(self)

    def finish(self) -> None:
        """Have installed it."""
        self.on_packet(packet(Kind.LOADED, b"{}"))


class Building(FakeWorkers):
    """Workers with builders; `there` are the environments that were committed."""

    def __init__(self) -> None:
        """Begin with none."""
        super().__init__()
        self.orders: list[dict[str, Any]] = []
        self.installing: list[Builder] = []
        self.there: set[str] = set()

    def _make(self, vm: str) -> FakeContainer:
        made = self.containers[vm] = Builder(self, vm, f"c{vm}")
        return made

    async def commit(self, staged: str, store: str, name: str) -> None:  # noqa: ARG002 - the port's shape
        """Keep its name."""
        self.there.add(name)


class Kept:
    """Locks and trees in memory."""

    def __init__(self, workers: Building) -> None:
        """Look at what was committed."""
        self.workers, self.locks, self.named = workers, dict[str, str](), list[tuple[str, int, str]]()

    async def keep(self, function: FunctionId, version: int, environment: str, lock: str) -> None:
        """Keep a lock."""
        self.locks[environment] = lock
        self.named.append((function, version, environment))

    async def text(self, environment: str) -> str | None:
        """Return a lock."""
        return self.locks.get(environment)

    async def trim(self) -> int:
        """Forget nothing."""
        return 0

    async def names(self, _store: str) -> Collection[str]:
        """Return the environments."""
        await asyncio.sleep(0)
        return set(self.workers.there)


class Place:
    """Environments over those, for two accounts that have a function `f` with a version that needs something."""

    def __init__(self) -> None:
        """Put the parts together."""
        bench = Bench()
        self.registry, self.workers = bench.registry, Building()
        self.kept = Kept(self.workers)
        self.environments = Environments(
            Config(data_dir="/nowhere"), self.registry, self.kept, self.kept, self.workers, Journal(NoStore()), SystemClock(), {}  # type: ignore[arg-type]
        )

    def version(self, account: str, number: int, *requirements: str) -> Version:
        """Publish a version that needs something."""
        made = replace(version(FunctionId(account), number, VersionState.PREPARING), revision=Revision(requirements=requirements))
        self.registry.entries[made.function].put(made)
        return made

    def provide(self, made: Version, told: Any = None) -> asyncio.Task[Version]:
        """Begin to provide a version's environment."""
        return asyncio.ensure_future(self.environments.provide(made, told or (lambda *_: None)))

    async def until_installing(self, count: int = 1) -> None:
        """Wait until so many installations have begun, and everybody else has come as far as possible."""
        async with asyncio.timeout(10):
            while len(self.workers.installing) < count:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)


async def test_one_installation_for_all() -> None:
    """Versions of two accounts with other words and the same lock wait for one installation, and are all told how far it is."""
    place, told = Place(), list[tuple[str, int, int]]()
    made = [place.version(A, 2, "part"), place.version(B, 2, "part>=1"), place.version(A, 3, "part")]
    tasks = [place.provide(one, lambda *step: told.append(step)) for one in made]
    await place.until_installing()
    place.workers.installing[0].on_packet(packet(Kind.ITEM, b'{"step": "install", "done": 1, "total": 2}'))
    place.workers.installing[0].finish()
    provided = await asyncio.gather(*tasks)
    assert {one.environment for one in provided} == {environment_name(LOCK)}
    assert len(place.workers.installing) == 1
    assert told.count(("install", 1, 2)) == 3
    assert sum(order["step"] == "lock" for order in place.workers.orders) == 2, "one for each account's words"


async def test_what_is_there_is_not_built() -> None:
    """A version whose lock has an environment uses it; with the same words in the same account it is not even locked."""
    place = Place()
    first = place.provide(place.version(A, 2, "part"))
    await place.until_installing()
    place.workers.installing[0].finish()
    await first
    await place.provide(place.version(A, 3, "part"))
    assert [order["step"] for order in place.workers.orders] == ["lock", "install"]
    await place.provide(place.version(B, 2, "part"))
    assert [order["step"] for order in place.workers.orders] == ["lock", "install", "lock"]


async def test_a_version_is_named_before_anybody_looks() -> None:
    """While something is being removed nobody decides that an environment need not be built; what was removed is built again."""
    place = Place()
    place.workers.there.add(environment_name(LOCK))
    async with place.environments.turn:
        task = place.provide(place.version(A, 2, "part"))
        await asyncio.sleep(0.3)
        assert place.kept.named == []
        place.workers.there.clear()
    await place.until_installing()
    assert place.kept.named == [(A, 2, environment_name(LOCK))]
    place.workers.installing[0].finish()
    await task


async def test_an_installation_ends_with_the_last_who_wants_it() -> None:
    """One of two who leaves changes nothing; when both have left it ends, and the next begins anew."""
    place = Place()
    one, two = place.provide(place.version(A, 2, "part")), place.provide(place.version(B, 2, "part"))
    await place.until_installing()
    one.cancel()
    await asyncio.sleep(0.05)
    assert not place.workers.installing[0].is_dead
    two.cancel()
    async with asyncio.timeout(10):
        while not place.workers.installing[0].is_dead:
            await asyncio.sleep(0.01)
    three = place.provide(place.version(A, 3, "part"))
    await place.until_installing(2)
    place.workers.installing[1].finish()
    assert (await three).environment == environment_name(LOCK)


async def test_a_lost_environment_is_built_from_its_own_lock() -> None:
    """A version that has a lock is never locked again, for this interpreter."""
    place = Place()
    made = replace(place.version(A, 2, "part"), environment=environment_name(LOCK))
    place.kept.locks[environment_name(LOCK)] = LOCK
    task = place.provide(made)
    await place.until_installing()
    assert [order["step"] for order in place.workers.orders] == ["install"]
    place.workers.installing[0].finish()
    assert (await task).environment == made.environment
    assert as_stored(made).environment == made.environment


async def test_which_locks_are_kept() -> None:
    """A version that is prepared again is locked anew only if that had failed and it never was ready."""
    failed = replace(version(FunctionId(A), 2), reason=Reason(code="requirements_failed", message="m"))
    assert not is_lock_kept(failed)
    assert is_lock_kept(replace(failed, handler="main:handler"))
    assert is_lock_kept(replace(failed, reason=Reason(code="index_unreachable", message="m")))
    assert is_lock_kept(replace(failed, reason=None))


async def test_whose_lock_is_taken() -> None:
    """The newest version of the account with the same words lends its lock; one that failed or was removed does not."""
    place = Place()
    have = [replace(place.version(A, n, "part"), environment=f"e{n}", created=float(n), state=VersionState.READY) for n in range(2, 6)]
    have[2], have[3] = replace(have[2], deleted=True), replace(have[3], state=VersionState.FAILED)
    for one in have:
        place.registry.entries[FunctionId(A)].put(one)
    wanted = place.version(A, 9, "part")
    assert [one.environment for one in same_requirements(place.registry, wanted, A)] == ["e3", "e2"]
    assert same_requirements(place.registry, wanted, B) == []


# ---- what a container says


class Asked:
    """A dialogue with a container that says what the test says."""

    def __init__(self, *, builds: bool) -> None:
        """Begin to ask."""
        workers = FakeWorkers()
        workers.is_slow = True
        self.box, self.told = FakeContainer(workers, "v1", "c1"), list[tuple[str, int, int]]()
        vm = BuildVm(workers, Limits())
        dialogue = Dialogue(vm, self.box, Journal(NoStore()), version(FunctionId(A), 1), SystemClock())  # type: ignore[arg-type]
        told = (lambda *step: self.told.append(step)) if builds else None
        self.task = asyncio.ensure_future(dialogue.ask(Order(fields={}, timeout_s=10.0, what=" to be tried", told=told)))


@pytest.mark.parametrize(
    "said",
    [
        [b""], [b"I{}"], [b"Inonsense"], [b"I[]"], [b"R[]"], [b"Rnonsense"], [b"P123"], [b"A" + bytes(60)],
        [b'R{"lock_bytes": 4}', b"P12345"], [b'R{"lock_bytes": 4}', b"P12", b"R{}"], [b'R{"lock_bytes": 99999999}'],
        [b'R{"lock_bytes": -1}', b"P1"], [b'I{"step": "x", "done": "y", "total": 1}'],
    ],
    ids=str,
)  # fmt: skip
async def test_a_builder_that_breaks_the_protocol(said: list[bytes]) -> None:
    """Whatever a builder says that is no answer ends its preparation, and nothing else."""
    asked = Asked(builds=True)
    await asyncio.sleep(0)
    for what in said:
        asked.box.on_packet(what)
    with pytest.raises(PreparationFailed) as failed:
        await asked.task
    assert failed.value.reason.code == "crashed"


@pytest.mark.parametrize("said", [b'I{"step": "probe", "done": 1, "total": 1}', b"P1", b'R{"lock_bytes": 9}'], ids=str)
async def test_a_tenants_code_has_nothing_to_tell(said: bytes) -> None:
    """What loads a tenant's code tells no progress and sends no lock: its first packet is its answer."""
    asked = Asked(builds=False)
    await asyncio.sleep(0)
    asked.box.on_packet(said)
    if said[:1] == b"R":
        assert await asked.task == ({"lock_bytes": 9}, "")
    else:
        with pytest.raises(PreparationFailed, match="broke the protocol"):
            await asked.task


@pytest.mark.parametrize(("fate", "code"), [(Fate.OOM, "oom"), (Fate.LOST, "lost"), (Fate.EXITED, "crashed")])
async def test_a_container_that_ends(fate: Fate, code: str) -> None:
    """A container that ends before it answers is told by how it ended; what was lost is tried again."""
    asked = Asked(builds=False)
    await asyncio.sleep(0)
    asked.box.on_end(Ending(fate=fate))
    with pytest.raises(PreparationFailed) as failed:
        await asked.task
    assert (failed.value.reason.code, failed.value.is_passing) == (code, code == "lost")


@pytest.mark.parametrize(
    ("error", "code", "passing"),
    [
        (PyfaasError(Code.NOT_READY, "m", evidence={"bundle": "unreachable"}), "bundle_unreachable", True),
        (PyfaasError(Code.INTERNAL, "m", evidence={"bundle": "corrupt"}), "bundle_corrupt", False),
        (PyfaasError(Code.NOT_FOUND, "m", evidence={"bundle": "missing"}), "bundle_missing", False),
        (PyfaasError(Code.STORAGE_FULL, "m"), "storage_full", True),
        (OSError(28, "full"), "storage_full", True),
        (PyfaasError(Code.NO_CAPACITY, "m"), "lost", True),
    ],
    ids=str,
)
async def test_what_the_platform_met(error: Exception, code: str, passing: bool) -> None:  # noqa: FBT001 - a case's value
    """What went wrong beside the code is told by its kind, and tried again when it may pass."""
    failed = lost("it could not be done", error)
    assert (failed.reason.code, failed.is_passing) == (code, passing)


async def test_steps_are_told_forward_and_seldom() -> None:
    """A step's beginning and end are told, what is between now and then, and neither unknown steps nor earlier ones."""
    happenings, made = Happenings(SystemClock()), version(FunctionId(A), 1)
    telling = Telling(happenings, SystemClock(), made)
    for said in [("lock", 0, 0), ("install", 0, 9), *[("install", n, 9) for n in range(1, 9)], ("install", 9, 9), ("fetch", 0, 0), ("x", 1, 1)]:
        telling.tell(*said)
    events = [event for _, event in happenings.since(made.function, 0)]
    assert {event.kind for event in events} == {EventKind.PREPARING}
    told = [(event.detail["step"], event.detail["done"]) for event in events]
    assert [told[0], told[1], told[-1]] == [("lock", 0), ("install", 0), ("install", 9)]
    assert len(told) < 6


async def test_when_something_is_starved() -> None:
    """Less than a twentieth of a processor is next to nothing."""
    assert is_starved(4_000, 0.1)
    assert not is_starved(6_000, 0.1)


async def test_a_defect_does_not_leave_a_version_preparing() -> None:
    """A preparation that our own mistake ends makes its version failed, in memory; published or started again it is tried again."""
    bench, told = Bench(), list[VersionState]()
    entry = bench.registry.entries[FunctionId(A)]
    entry.put(replace(version(FunctionId(A), 2), state=VersionState.STORED))
    parts: Any = Broken()
    publisher = Publisher(Config(data_dir="/nowhere"), bench.registry, parts, parts, parts, parts, SystemClock(), Happenings(SystemClock()))
    publisher.prepared = lambda _entry, made: told.append(made.state)
    publisher.prepare(entry, entry.versions[2])
    async with asyncio.timeout(10):
        while publisher.is_preparing:
            await asyncio.sleep(0.01)
    assert (entry.versions[2].state, told) == (VersionState.FAILED, [VersionState.FAILED])
    assert entry.versions[2].reason is not None
    assert entry.versions[2].reason.code == "internal"
    assert parts.written == [VersionState.PREPARING], "the next start goes on with it"


class Broken:
    """Store, bundles, environments and steps with a defect in the last."""

    def __init__(self) -> None:
        """Have written nothing."""
        self.written: list[VersionState] = []

    async def set_version(self, made: Version) -> None:
        """Keep a state."""
        self.written.append(made.state)

    async def settle(self) -> None:
        """Nothing is being removed."""

    async def prepare(self, *_arguments: Any) -> None:
        """Be wrong."""
        raise ZeroDivisionError


@pytest.mark.parametrize(("preload", "state", "waits"), [(False, "stored", True), (True, "stored", False), (False, "ready", False)])
async def test_what_waits_for_a_call(preload: bool, state: str, waits: bool) -> None:  # noqa: FBT001 - a case's values
    """Without preloading a stored version waits for its first call; resuming leaves it, and goes on with what was begun."""
    bench, parts = Bench(), Broken()
    entry = bench.registry.entries[FunctionId(A)]
    entry.put(replace(version(FunctionId(A), 2), state=VersionState(state)))
    given: Any = parts
    config = Config(data_dir="/nowhere", preload=preload)
    publisher = Publisher(config, bench.registry, given, given, given, given, SystemClock(), Happenings(SystemClock()))
    assert publisher.is_waiting_for_a_call(entry.versions[2]) is waits
    assert publisher.resume() == (1 if preload and state == "stored" else 0)
    entry.put(replace(version(FunctionId(A), 3), state=VersionState.PREPARING))
    assert publisher.resume() == 1
    await publisher.finish(10)
