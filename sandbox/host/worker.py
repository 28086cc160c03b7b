"""One worker of an executor as its pool holds it: a container that is loading, idle, busy with one task, or over.

What a container sends is hostile: it may answer once, to the call that is running, with as many bytes as are allowed.
Anything else ends it. Its end fails the task that it has, and only that one.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import time
from collections.abc import Callable
from concurrent.futures.process import _RemoteTraceback
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sandbox import remote, values
from sandbox.errors import RemoteWireError
from sandbox.host.container import Container
from sandbox.host.output import Output
from sandbox.limits import Limits
from sandbox.spec import Ending, Usage
from sandbox.wire import Answer, Kind, Status, call_packets, packet, parse_answer, parts

_STREAMS = (1, 2)
_NO_DEADLINE = 0.0
_LOADING_S = 30.0  # at least, however short the calls are to be: the machine may be busy


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What every worker of an executor is told, and how it is held to it."""

    limits: Limits
    code: bytes
    initializer: bytes
    paths: tuple[str, ...]
    sources: set[str]
    is_trusted: bool
    is_heard: bool

    def packets(self) -> list[bytes]:
        """Lay out the LOAD."""
        told = {
            "trusted": self.is_trusted,
            "payload": self.limits.payload_bytes,
            "code": len(self.code),
            "initializer": len(self.initializer),
            "paths": self.paths,
        }
        return [packet(Kind.LOAD, json.dumps(told).encode()), *parts(self.code + self.initializer, 0)]


@dataclass(slots=True)
class Task:
    """A call that was submitted, and who waits for it."""

    future: remote.SandboxFuture
    body: bytes


class State(StrEnum):
    """What a worker does."""

    LOADING = "loading"
    IDLE = "idle"
    BUSY = "busy"
    OVER = "over"


class Worker:
    """A container with its state. `on_change` is called when it became idle or over."""

    def __init__(self, box: Container, order: Order, on_change: Callable[[Worker], None]) -> None:
        """Take a blank, and begin to load it."""
        self.state, self.done = State.LOADING, 0
        self.problem: Exception | None = None  # why loading failed
        self.is_refused = False  # the initializer raised
        self.pid = box.pid
        self._box, self._order, self._on_change = box, order, on_change
        self._loop = asyncio.get_running_loop()
        targets = _STREAMS if order.is_heard else (-1, -1)
        self._outputs = [Output(self._loop, pipe, to) for pipe, to in zip((box.out_fd, box.err_fd), targets, strict=True)]
        self._task: Task | None = None
        self._id, self._began, self._before = b"", 0.0, Usage()
        self._answer: Answer | None = None
        self._pieces: list[bytes] = []
        self._missing = 0
        self._overrun = ""
        box.on_packet, box.on_end = self._receive, self._ended
        self._timer = self._watch(_LOADING_S)
        for piece in order.packets():
            box.send(piece)

    def begin(self, task: Task) -> None:
        """Give it a task; it must be idle."""
        self.state, self._task = State.BUSY, task
        self._id = os.urandom(18).hex().encode()  # nobody can answer ahead of it
        self._began = time.perf_counter()
        self._timer = self._watch()
        for piece in call_packets(0, self._id, _NO_DEADLINE, b"", task.body):
            self._box.send(piece)
        task.body = b""  # a large one is not kept while it is worked on

    def end(self) -> None:
        """Let the container go."""
        self._box.kill()

    # ---- inside

    def _watch(self, least_s: float = 0.0) -> asyncio.TimerHandle | None:
        seconds = self._order.limits.timeout_s
        return self._loop.call_later(max(seconds, least_s), self._stop, "timeout") if seconds is not None else None

    def _stop(self, reason: str) -> None:
        self._overrun = self._overrun or reason
        self._box.kill()

    def _receive(self, piece: bytes) -> None:
        if self.state is State.OVER or self._overrun:
            return
        try:
            if self._missing:
                self._gather(piece)
            elif self.state is State.LOADING:
                self._loaded(piece)
            elif self.state is State.BUSY and piece[0] == Kind.ANSWER and self._answer is None:
                self._answered(parse_answer(piece))
            else:
                raise RemoteWireError("unasked")
        except (RemoteWireError, values.BrokenValue):
            self._stop("protocol")

    def _loaded(self, piece: bytes) -> None:
        if piece[0] == Kind.LOADED:
            self._before = self._box.usage()
            self._rest(State.IDLE)
        elif piece[0] == Kind.FAILED:
            self.is_refused = True
            self._await(_announced(piece), b"")
        else:
            raise RemoteWireError("unasked")

    def _answered(self, answer: Answer) -> None:
        if answer.id != self._id or answer.out_length or answer.err_length:
            raise RemoteWireError("an answer to nothing")
        self._answer = answer
        self._await(answer.result_length, answer.rest)

    def _await(self, length: int, first: bytes) -> None:
        if length > self._order.limits.payload_bytes + _ENVELOPE_BYTES:
            self._stop("payload")
            return
        self._pieces, self._missing = [first], length - len(first)
        if not self._missing:
            self._complete()

    def _gather(self, piece: bytes) -> None:
        if piece[0] != Kind.PART or not 1 < len(piece) <= self._missing + 1:
            raise RemoteWireError("no part of the answer")
        self._pieces.append(piece[1:])
        self._missing -= len(piece) - 1
        if not self._missing:
            self._complete()

    def _complete(self) -> None:
        body = b"".join(self._pieces)
        self._pieces = []
        if self.is_refused:
            self.problem = remote.failure(body, self._order.sources)
            self._rest(State.OVER)
            self._box.kill()
            return
        answer, self._answer = self._answer, None
        after = self._box.usage()
        if after.oom_kills > self._before.oom_kills:
            self._stop("memory")  # one of its processes was killed; whatever it answers, it is not whole
        elif answer is not None:
            self._settle(answer.status, body, after)

    def _settle(self, status: int, body: bytes, after: Usage) -> None:
        """Take what it answered as the task's outcome; raises BrokenValue for nonsense."""
        result, error = self._outcome(status, body)
        if error is not None and after.pids_refused > self._before.pids_refused:
            told = f"the call may have {self._order.limits.pids} processes and threads, and was refused another: {error}"
            error, cause = remote.LimitExceeded("pids", told), error.__cause__
            error.__cause__ = cause
        future = self._taken(after)
        self.done += 1
        self._before = after
        self._rest(State.IDLE)
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    def _outcome(self, status: int, body: bytes) -> tuple[Any, Exception | None]:
        if status == Status.OK_JSON:
            return values.decode(body), None
        if status == Status.OK_BYTES and self._order.is_trusted:
            return _unpickled(body)
        if status == Status.LIMIT:
            size = values.decode(body)
            told = f"the result has {size} bytes, and {self._order.limits.payload_bytes} are allowed"
            return None, remote.LimitExceeded("payload", told)
        if status != Status.ERROR:
            raise RemoteWireError("no such status")
        error = remote.failure(body, self._order.sources)
        return None, (_pickled_error(body, error) if self._order.is_trusted else error)

    def _taken(self, after: Usage) -> remote.SandboxFuture:
        """Let go of the task: its future knows what it used, and is about to be done."""
        task, self._task = self._task, None
        if task is None:
            raise RemoteWireError("an answer to nothing")
        cpu_us = max(after.cpu_us - self._before.cpu_us, 0)
        task.future.usage = remote.TaskUsage(
            wall_s=time.perf_counter() - self._began, cpu_s=cpu_us / 1e6, memory_peak_bytes=after.memory_peak_bytes
        )
        return task.future

    def _rest(self, state: State) -> None:
        """Have nothing to do any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for output in self._outputs:
            output.drain()
        self.state = state
        if state is State.IDLE:
            self._on_change(self)

    def _ended(self, ending: Ending) -> None:
        for output in self._outputs:
            output.close()
        self._rest(State.OVER)
        limits = self._order.limits
        told = {"timeout": limits.timeout_s, "payload": limits.payload_bytes, "memory": limits.memory_bytes}
        error = remote.died(ending, told, self._overrun)
        if self._task is not None:
            counted = {name: int(ending.evidence.get(name, 0)) for name in ("memory_peak_bytes", "cpu_us")}
            self._taken(Usage(**counted)).set_exception(error)
        elif not self.done and self.problem is None:
            self.problem = error
        self._on_change(self)


_ENVELOPE_BYTES = 64 << 10  # an exception's own text may be sent where the result was too large


def _announced(piece: bytes) -> int:
    try:
        length = json.loads(piece[1:])["bytes"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise RemoteWireError(f"no length: {error}") from None
    if not isinstance(length, int) or length <= 0:
        raise RemoteWireError("no length")
    return length


def _unpickled(body: bytes) -> tuple[Any, Exception | None]:
    """Unpickle what the caller said is to be trusted."""
    try:
        return pickle.loads(body), None  # noqa: S301 - asked for by trust_results=True
    except BaseException as error:  # noqa: BLE001 - whatever its classes do must not end the loop
        return None, remote.RemoteError(type(error).__name__, f"the result cannot be unpickled: {error}")


def _pickled_error(body: bytes, plain: Exception) -> Exception:
    """Return the exception itself where it came as a pickle that the caller trusts, with the plain one's traceback."""
    pickled = values.decode(body).get("pickle")
    error, failed = _unpickled(pickled) if isinstance(pickled, bytes) else (None, None)
    if failed is not None or not isinstance(error, Exception):
        return plain
    error.__cause__ = plain.__cause__ if isinstance(plain.__cause__, _RemoteTraceback) else None
    return error
