"""Workers whose containers answer when the test says so: for decisions only; real processes are tested in tests/e2e."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pyfaas.adapters.clock import SystemClock
from pyfaas.calls import Request, Result, Running
from pyfaas.config import Config
from pyfaas.errors import Code, PyfaasError
from pyfaas.model import (
    Account,
    AccountId,
    Caller,
    Function,
    FunctionId,
    PointerMove,
    Revision,
    Scope,
    Settings,
    Token,
    Version,
    VersionState,
)
from pyfaas.network import NetworkPlan
from pyfaas.ports import Container, Mounted, Snapshot
from pyfaas.service.dispatch import Dispatcher
from pyfaas.service.finish import Finisher
from pyfaas.service.fleet import Fleet
from pyfaas.service.journal import Journal
from pyfaas.service.registry import Registry
from pyfaas.service.shares import Lent, Shares
from pyfaas.service.ways import Ways
from sandbox.errors import SetupError
from sandbox.spec import Ending, Fate, Layer, Limits, Usage
from sandbox.wire import Kind, Status, answer_packets, packet, parse_call

A, B = AccountId("000000000001"), AccountId("000000000002")


class FakeContainer:
    """A container that loads at once and keeps its calls until the test answers them."""

    def __init__(self, workers: FakeWorkers, vm: str, key: str) -> None:
        """Belong to a VM."""
        self.workers, self.vm, self.id = workers, vm, key
        self.on_packet: Callable[[bytes], None] = lambda _packet: None
        self.on_end: Callable[[Ending], None] = lambda _ending: None
        self.calls: list[bytes] = []
        self.withdrawn: list[bytes] = []
        self.code: tuple[str, ...] = ()
        self.is_dead = self.is_loading = False
        self.used, self.clock_ns = Usage(cpu_us=10_000), 10_000_000  # what its making took

    def send(self, packets: Iterable[bytes]) -> None:
        """Take packets."""
        for sent in packets:
            if sent[0] == Kind.LOAD and b'"do": "copy"' in sent:
                self.workers.copies += 1
                self.on_packet(packet(Kind.LOADED, b'{"files": 1, "bytes": 4096, "sha256": ""}'))
            elif sent[0] == Kind.LOAD:
                self.workers.loads += 1
                self.is_loading = True
                if not self.workers.is_slow:
                    self.load()
            elif sent[0] == Kind.CALL:
                self.calls.append(parse_call(sent).id)
            elif sent[0] == Kind.CANCEL:
                self.withdrawn.append(sent[1:])

    def load(self) -> None:
        """Tell how loading ended."""
        self.is_loading = False
        kind = Kind.FAILED if self.workers.is_broken else Kind.LOADED
        self.on_packet(packet(kind, b'{"errorType": "E", "errorMessage": "m"}' if self.workers.is_broken else b"{}"))

    def answer(self, body: bytes = b"1", status: Status = Status.OK_JSON) -> None:
        """Answer the call that runs."""
        for sent in answer_packets(status, self.calls.pop(0), 5, b"", b"", body):
            self.on_packet(sent)

    def end(self, fate: Fate = Fate.SIGNALLED) -> None:
        """End by itself."""
        if not self.is_dead:
            self.is_dead = True
            counters = {"cpu_us": self.used.cpu_us, "memory_peak_bytes": self.used.memory_peak_bytes}
            self.on_end(Ending(fate=fate, signal=9, evidence={} if fate is Fate.LOST else counters))

    def limit(self, limits: Limits) -> None:
        """Take limits."""

    def usage(self) -> Usage:
        """Tell what the test says that its leaf counted."""
        return self.used

    def cpu_ns(self) -> int:
        """Tell what the test says that its process used."""
        return self.clock_ns

    def burn(self, own_us: int, children_us: int = 0) -> None:
        """Use processor time."""
        self.clock_ns += own_us * 1000
        self.used = replace(self.used, cpu_us=self.used.cpu_us + own_us + children_us)

    def read_logs(self) -> tuple[bytes, bytes]:
        """Have written nothing."""
        return b"", b""

    def pause(self) -> None:
        """Nothing streams here."""

    def resume(self) -> None:
        """Nothing streams here."""

    def kill(self) -> None:
        """End, as the kernel would."""
        self.end(Fate.KILLED)

    async def attach(self, mounts: Sequence[Mounted]) -> None:
        """Take code."""
        self.code = tuple(mount.name for mount in mounts)

    def attach_nowait(self, mounts: Sequence[Mounted], done: Callable[[Exception | None], None]) -> None:
        """Take code."""
        self.code = tuple(mount.name for mount in mounts)
        done(None)


class FakeWorkers:
    """Makes containers at once, or refuses to."""

    def __init__(self) -> None:
        """Begin with none."""
        self.on_lost: Callable[[], None] = lambda: None
        self.on_vm_lost: Callable[[str], None] = lambda _vm: None
        self.containers: dict[str, FakeContainer] = {}
        self.tenants: dict[str, set[str]] = {}
        self.files: dict[tuple[str, str], bool] = {}  # (VM, name) → whether it is kept
        self.loads = self.copies = 0
        self.is_broken = self.is_refusing = self.is_slow = self.is_stuck = False
        self._names = itertools.count(1)

    async def open_vm(self, *, network: NetworkPlan | None = None, limits: Limits | None = None) -> tuple[str, Container]:  # noqa: ARG002 - the port's shape
        """Make a VM with a blank."""
        if self.is_refusing:
            raise PyfaasError(Code.NO_CAPACITY, "refused")
        vm = f"v{next(self._names)}"
        return vm, self._make(vm)

    async def fork(self, vm: str, *, is_hurried: bool = False) -> Container:  # noqa: ARG002 - the port's shape
        """Make a blank; stuck ones never come."""
        if self.is_stuck:
            await asyncio.Event().wait()
        if self.is_refusing:
            raise PyfaasError(Code.NO_CAPACITY, "refused")
        return self._make(vm)

    def _make(self, vm: str) -> FakeContainer:
        made = FakeContainer(self, vm, f"c{next(self._names)}")
        self.containers[made.id] = made
        return made

    def running(self) -> list[FakeContainer]:
        """Return the containers that run a call."""
        return [c for c in self.containers.values() if c.calls and not c.is_dead]

    async def weigh(self, vm: str, *, is_background: bool) -> None:
        """Have all processors."""

    async def close_vm(self, vm: str) -> None:
        """End a VM."""
        for container in [c for c in self.containers.values() if c.vm == vm]:
            container.kill()
        self.files = {(where, name): is_kept for (where, name), is_kept in self.files.items() if where != vm}

    async def replace(self, vm: str, container: str) -> Container:
        """End a container, and make a blank of the same id."""
        old = self.containers.get(container)
        if old is None or old.is_dead or old.vm != vm:
            raise SetupError("container", 3, f"the container {container} has ended")
        old.kill()
        if self.is_refusing:
            raise SetupError("child", 0, "refused")
        self.containers[container] = FakeContainer(self, vm, container)
        return self.containers[container]

    async def stage(self, vm: str, name: str, *, inside: bool = False) -> None:
        """Note a directory of the VM's own; nothing else is staged here."""
        if inside:
            self.files[vm, name] = False

    async def keep(self, vm: str, staged: str, name: str) -> None:
        """Give it its final name; who wrote it ends."""
        if self.files.pop((vm, staged), None) is None:
            raise SetupError("vm", 2, "the VM has no such files")
        self.files[vm, name] = True
        for container in self._users(vm, staged):
            container.kill()

    async def forget(self, vm: str, name: str) -> None:
        """Remove it, unless a living container has it attached."""
        if self.files.get((vm, name)) and self._users(vm, name):
            raise SetupError("vm", 16, "a container of the VM has it attached")
        self.files.pop((vm, name), None)

    def _users(self, vm: str, entry: str) -> list[FakeContainer]:
        living = [c for c in self.containers.values() if c.vm == vm and not c.is_dead]
        return [c for c in living if any(name.partition("/")[0] == entry for name in c.code)]

    async def commit(self, staged: str, store: str, name: str) -> None:
        """Nothing is staged here."""

    async def discard(self, store: str, name: str) -> None:
        """Nothing is staged here."""

    def layers(self) -> Sequence[Layer]:
        """Isolate nothing."""
        return ()


class Sink:
    """Keeps a call's result."""

    def __init__(self) -> None:
        """Begin without one."""
        self.results: list[Result] = []

    def head(self, call: Running, head: Mapping[str, Any]) -> None:
        """Take the start of a stream."""

    def item(self, item: bytes) -> None:
        """Take a piece."""

    def done(self, result: Result) -> None:
        """Take the end."""
        self.results.append(result)

    @property
    def result(self) -> Result:
        """The one result."""
        assert len(self.results) == 1, self.results
        return self.results[0]


class NoStore:
    """A store for journals that are never flushed."""


class Bench:
    """A dispatcher over fake workers, with two accounts that have a function `f` each."""

    def __init__(self, settings: Settings | None = None, **options: Any) -> None:
        """Put the parts together."""
        self.clock = SystemClock()
        self.workers = FakeWorkers()
        config = Config(**{"data_dir": "/nowhere", "warm_vms": 2, **options})
        functions = [Function(id=FunctionId(a), account=a, name="f", settings=settings or Settings(), created=0.0) for a in (A, B)]
        accounts = [Account(id=a, name=f"n{a[-1]}", created=0.0) for a in (A, B)]
        versions = [version(f.id, 1) for f in functions]
        moves = [PointerMove(function=f.id, pointer="latest", seq=1, version=1, at=0.0) for f in functions]
        self.registry = Registry(Snapshot(accounts=accounts, tokens=[], functions=functions, versions=versions, moves=moves))
        for entry in self.registry.entries.values():
            entry.cut_over("latest", 1)
        self.journal = Journal(NoStore())  # type: ignore[arg-type]
        finisher = Finisher(self.journal, self.clock)
        self.fleet = Fleet(config, self.workers, self.clock, finisher)
        self.shares = Shares(Lent())
        self.ways = Ways(self.registry, self.shares)
        self.dispatcher = Dispatcher(config, self.registry, self.ways, self.fleet, finisher, self.clock)

    def call(self, account: AccountId = A, name: str = "f", **fields: Any) -> Sink:
        """Submit a call of an account."""
        token = Token(id="t", account=account, digest=b"", scopes=frozenset({Scope.INVOKE}), created=0.0)
        sink = Sink()
        caller = Caller(account=self.registry.accounts[account], token=token)
        self.last = self.dispatcher.submit(Request(caller=caller, name=name, **fields), sink)
        return sink


def version(function: FunctionId, number: int, state: VersionState = VersionState.READY) -> Version:
    """Return a version."""
    return Version(
        function=function,
        number=number,
        code_id=f"sha256-{number:064x}",
        bundle="sha256-" + "0" * 64,
        size_bytes=1,
        revision=Revision(),
        state=state,
        created=0.0,
    )
