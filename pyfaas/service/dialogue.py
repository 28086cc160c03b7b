"""One order to one container of a VM made for it, and its one answer: how everything of a preparation is asked for.

A container that builds may say how far it is, in ITEM packets, and send a lock in PARTs after its LOADED. One that loads a
tenant's code may not: whatever it sends but its one answer ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyfaas.errors import PyfaasError
from pyfaas.model import Outcome, Reason, Version
from pyfaas.network import NetworkPlan
from pyfaas.ports import Clock, Container, Mounted, Workers
from pyfaas.service.journal import Journal
from pyfaas.service.metering import Build
from sandbox.errors import SandboxError
from sandbox.spec import Ending, Fate, Limits
from sandbox.wire import Kind, packet, parts

PASSING = frozenset({"index_unreachable", "bundle_unreachable", "storage_full", "lost"})
_BUNDLE = {word: f"bundle_{word}" for word in ("unreachable", "corrupt", "missing")}
_TAIL = 4000  # characters of the log that a reason carries
_LOOK_S = 0.1  # between two looks at what it prints, and at what it got of the processors
_STARVED = 0.05  # of a processor
_LOCK_BYTES = 4 << 20


class PreparationFailed(Exception):
    """A version cannot be prepared; `is_passing` when trying again may help."""

    def __init__(self, code: str, message: str, log_tail: str = "") -> None:
        """Name the reason."""
        self.reason = Reason(code=code, message=message, log_tail=log_tail[-_TAIL:])
        self.is_passing = code in PASSING
        super().__init__(message)


def lost(what: str, error: Exception) -> PreparationFailed:
    """Return the failure for something of the platform's that went wrong: a full disk and an unreachable store told as such."""
    if isinstance(error, PyfaasError):
        if code := _BUNDLE.get(str(error.evidence.get("bundle"))):
            return PreparationFailed(code, error.message)
        if error.code.value == "storage_full":
            return PreparationFailed("storage_full", error.message)
    is_full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    return PreparationFailed("storage_full", "the server's disk is full") if is_full else PreparationFailed("lost", f"{what}: {error}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a container is asked: LOAD's fields, and the lock that follows; `told` hears of (step, done, total).

    `what` names the limits in a failure that met one.
    """

    fields: Mapping[str, Any]
    timeout_s: float
    what: str
    lock: bytes = b""
    told: Callable[[str, int, int], None] | None = None  # None: it runs a tenant's code, and has nothing to tell


class BuildVm:
    """A VM that lives for one step of a preparation, and the directory that is made in it.

    The directory is under its final name when the step is over, or gone: it is removed after the VM's last process has ended, and
    by the next launcher when this one ended.
    """

    def __init__(self, workers: Workers, limits: Limits, *, network: NetworkPlan | None = None, bill: Build | None = None) -> None:
        """Make nothing yet; what it uses goes on `bill`."""
        self._workers, self._limits, self._network, self.bill = workers, limits, network, bill
        self._boxes: dict[str, Container] = {}
        self.id, self._staged = "", ""
        self.first: Container

    async def __aenter__(self) -> BuildVm:
        """Make it; raises PreparationFailed."""
        with _translated("no VM could be made to prepare it"):
            self.id, self.first = await self._workers.open_vm(network=self._network, limits=self._limits)
        if self.bill is not None:
            self.bill.began(self.id)
        return self

    async def __aexit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """End it, everything in it, and what it has half made."""
        if self.bill is not None:
            for box in self._boxes.values():
                self.bill.saw(box.id, box.usage())
            self.bill.over(self.id, self._limits.memory_bytes, _outcome(error))
        with contextlib.suppress(SandboxError, PyfaasError):  # it is gone already, which is what was wanted
            await self._workers.close_vm(self.id)
        if self._staged:
            with contextlib.suppress(SandboxError, PyfaasError):
                await self._workers.discard("staging", self._staged)

    async def stage(self) -> Mounted:
        """Make the directory; returns how it is attached. Raises PreparationFailed."""
        name = "s" + uuid.uuid4().hex
        with _translated("nothing could be staged for it"):
            await self._workers.stage(self.id, name)
        self._staged = name
        return Mounted(slot="out", store="staging", name=name, writable=True)

    async def give(self, box: Container, limits: Limits, mounts: Sequence[Mounted]) -> None:
        """Set a blank's limits and attach what it needs; raises PreparationFailed."""
        self._boxes[box.id] = box
        if self.bill is not None:
            self.bill.given(box)
        with _translated("its code could not be attached"):
            box.limit(limits)
            await box.attach(mounts)

    async def weigh(self, *, is_background: bool) -> None:
        """Let it run when nobody else wants the processors, or as any other VM."""
        with contextlib.suppress(SandboxError, PyfaasError):  # it has just ended, which is told otherwise
            await self._workers.weigh(self.id, is_background=is_background)

    async def fork(self) -> Container:
        """Make another blank in it; raises PreparationFailed."""
        with _translated("no container could be made to prepare it"):
            return await self._workers.fork(self.id)

    async def commit(self, store: str, name: str) -> None:
        """Move the directory to its final name, once nobody can write it any more; raises PreparationFailed."""
        with _translated("what was prepared could not be kept"):
            await self._workers.commit(self._staged, store, name)
        self._staged = ""


def _outcome(error: BaseException | None) -> Outcome:
    """Return how a step of a preparation ended, in the words for runs."""
    if error is None:
        return Outcome.OK
    if not isinstance(error, PreparationFailed):
        return Outcome.CANCELLED if isinstance(error, asyncio.CancelledError) else Outcome.ERROR
    return Outcome(error.reason.code) if error.reason.code in set(Outcome) else Outcome.ERROR


@contextlib.contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except (SandboxError, PyfaasError) as error:
        raise lost(what, error) from None


class Dialogue:
    """One order to one container; its output becomes the version's build log."""

    def __init__(self, vm: BuildVm, box: Container, journal: Journal, version: Version, clock: Clock) -> None:
        """Listen to a blank of a VM."""
        self._vm, self._box, self._journal, self._version, self._clock = vm, box, journal, version, clock
        self._answer: asyncio.Future[bytes | Ending] = asyncio.get_running_loop().create_future()
        self._told: Callable[[str, int, int], None] | None = None
        self._log: list[bytes] = []
        self._first = b""  # a LOADED whose lock is on its way
        self._lock, self._length = bytearray(), 0
        box.on_packet, box.on_end = self._said, self._end

    async def ask(self, order: Order) -> tuple[Mapping[str, Any], str]:
        """Send the order; returns what LOADED carries, and a lock. Raises PreparationFailed."""
        self._told = order.told
        fields = {**order.fields, "lock_bytes": len(order.lock)} if order.lock else order.fields
        self._box.send((packet(Kind.LOAD, json.dumps(fields).encode()), *parts(order.lock, 0)))
        await self._wait(self._clock.monotonic() + order.timeout_s)
        tail = b"".join(self._log)[-_TAIL:].decode("utf-8", "replace")
        if not self._answer.done():
            self._box.kill()
            raise PreparationFailed("timeout", f"it took longer than {order.timeout_s:g} s{order.what}", tail)
        return read_answer(self._answer.result(), tail, order.what), self._lock.decode("utf-8", "replace")

    async def _wait(self, until: float) -> None:
        """Wait for the answer; what takes longer than a look goes on in the background, as long as that leaves it some processor.

        Where others want all there is it would get nothing there, and fail by its timeout: so it takes turns, a look in the background
        and, when it got nothing, one among the others.
        """
        is_background, at, used = False, self._clock.monotonic(), self._box.usage().cpu_us
        while not self._answer.done() and at < until:
            await asyncio.wait({self._answer}, timeout=_LOOK_S)
            self._read_log()
            now, usage = self._clock.monotonic(), self._box.usage()
            cpu_us = usage.cpu_us
            if self._vm.bill is not None:
                self._vm.bill.saw(self._box.id, usage)
            if not self._answer.done() and is_background is is_starved(cpu_us - used, now - at):
                is_background = not is_background
                await self._vm.weigh(is_background=is_background)
            at, used = now, cpu_us
        if is_background:
            await self._vm.weigh(is_background=False)  # what comes next in this VM, the making of a container say, is short

    def _said(self, what: bytes) -> None:
        if self._answer.done():
            return
        if self._told is not None and what[:1] == b"I" and not self._first:
            self._progress(what)
        elif self._first and what[:1] == b"P":
            self._lock += what[1:]
            self._settle()
        elif self._told is not None and what[:1] == b"R" and not self._first:
            self._first, self._length = what, _lock_bytes(what)
            self._settle()
        else:
            self._answer.set_result(b"" if self._first else what)

    def _settle(self) -> None:
        if len(self._lock) == self._length:
            self._answer.set_result(self._first)
        elif len(self._lock) > self._length or self._length > _LOCK_BYTES:
            self._answer.set_result(b"")  # which breaks the protocol

    def _progress(self, what: bytes) -> None:
        try:
            said = json.loads(what[1:])
            step, done, total = str(said["step"]), int(said["done"]), int(said["total"])
        except (ValueError, KeyError, TypeError, RecursionError):
            self._answer.set_result(b"")
            return
        if self._told is not None:
            self._told(step, done, total)

    def _end(self, ending: Ending) -> None:
        if self._vm.bill is not None:
            self._vm.bill.ended(self._box.id, ending)
        if not self._answer.done():
            self._answer.set_result(ending)

    def _read_log(self) -> None:
        out, err = self._box.read_logs()
        for text in (out, err):
            if text:
                self._log.append(text)
                self._journal.text(self._clock.now(), self._version.function, self._version.number, None, "build", text)


def is_starved(cpu_us: int, seconds: float) -> bool:
    """Tell whether something had next to nothing of a processor for so long."""
    return cpu_us < seconds * _STARVED * 1_000_000


def _lock_bytes(loaded: bytes) -> int:
    try:
        return int(json.loads(loaded[1:]).get("lock_bytes") or 0)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return 0  # read again as what it is: `read_answer` refuses it


def read_answer(answer: bytes | Ending, tail: str, what: str) -> Mapping[str, Any]:
    """Return what LOADED carries; raises PreparationFailed. `what` ends the sentence of a container that ran out of memory."""
    if isinstance(answer, Ending):
        raise _ended(answer, tail, what)
    try:
        value = json.loads(answer[1:])
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or not answer or answer[0] not in (Kind.LOADED, Kind.FAILED):
        raise PreparationFailed("crashed", "the container broke the protocol", tail)
    if answer[0] == Kind.FAILED:
        raise _failure(value, tail)
    return value


def _ended(ending: Ending, tail: str, what: str) -> PreparationFailed:
    if ending.fate is Fate.OOM:
        return PreparationFailed("oom", f"it needed more memory than there is{what}", tail)
    if ending.fate in (Fate.LOST, Fate.KILLED):
        return PreparationFailed("lost", "the platform lost the container", tail)
    return PreparationFailed("crashed", f"the process ended by itself: {ending.fate} {ending.signal or ending.status}", tail)


def _failure(value: Mapping[str, Any], tail: str) -> PreparationFailed:
    if "errorType" in value and "code" not in value:
        stack = "\n".join(str(line) for line in value.get("stackTrace", []))
        message = f"{value['errorType']}: {value.get('errorMessage', '')}"
        return PreparationFailed("init_error", message, tail + stack)
    return PreparationFailed(str(value.get("code", "failed")), str(value.get("errorMessage", "")), str(value.get("log_tail") or tail))
