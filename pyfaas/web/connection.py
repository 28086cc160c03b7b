"""One connection, and who has it: what is hot is done here, everything else is aiohttp's.

Theory of operation. A connection is always in one of five states:

    BETWEEN   no request is being served: what comes next is looked at. A body is never taken for a head, since heads
              are only sought here
    HOT       a call runs; what comes is kept, and reading pauses when that is much
    LENT      aiohttp got exactly one complete message, and gives the connection back when it has answered
    GIVEN     anything unusual (chunked, Expect, Upgrade, uploads, a head that cannot be parsed): aiohttp's until it closes
    PASSED    a successor serves what comes next; nothing is read here any more

A message leaves the buffer before anything is done with it, and `_look` is one loop that is never entered twice: an
answer that comes before `submit` returns, a refusal, or a hundred pipelined requests take no stack and cannot be
answered again. Of aiohttp only public names are touched: the protocol's asyncio.Protocol methods.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import Any

from pyfaas.calls import Request, Result, Running
from pyfaas.config import Config
from pyfaas.errors import Code, PyfaasError
from pyfaas.service.service import Service
from pyfaas.web.head import MAX_HEAD, PREFIX, Head, parse
from pyfaas.web.problems import Defects
from pyfaas.web.replies import Replies

_MAX_KEPT_HEAD, _MAX_HEADS = 2048, 4096
_TURNED_AWAY_S = 0.5  # for the answer to be read
_MAX_BACKLOG = 64 << 10  # bytes kept behind a running call before reading pauses
_END = b"\r\n\r\n"
_BODILESS = (b"GET /", b"HEAD /", b"DELETE /")
_UNSURE = (b"\ncontent-length", b"\ntransfer-encoding", b"\nupgrade", b"\nconnection", b"\nexpect", b"\n ", b"\n\t", b"http/1.0")
_DEFECTS = Defects("front")


class State(Enum):
    """Who has the connection; see the module."""

    BETWEEN = auto()
    HOT = auto()
    LENT = auto()
    GIVEN = auto()
    PASSED = auto()


_BETWEEN, _HOT, _LENT, _GIVEN, _PASSED = State  # an attribute of an Enum is a look-up too many for each call


class Shared:
    """What all connections of a server share."""

    def __init__(self, service: Service, replies: Replies, protocol: Callable[[], Any]) -> None:
        """Begin without connections; `protocol` makes one of aiohttp's."""
        self.service, self.replies, self.protocol = service, replies, protocol
        self.heads: dict[bytes, Head] = {}  # by their bytes; never a permission
        self.connections: set[Connection] = set()
        self.lent: dict[Any, Connection] = {}  # by aiohttp's protocol
        self.tick = 0  # seconds
        self.most = most_connections(service.config)
        self.turned_away = 0  # connections over the limit that are still open
        self.refusals = 0  # since the start
        self.is_closing = False
        self.pass_on: Callable[[Connection], None] | None = None  # to a successor, once no answer is owed
        self.changed = asyncio.Event()  # while closing: a connection owes less than before

    def count(self) -> int:
        """Count the connections that are served."""
        return len(self.connections) - self.turned_away

    def keep(self, head_bytes: bytes, head: Head) -> None:
        """Keep the head of a call that was accepted."""
        if head.is_kept and len(head_bytes) <= _MAX_KEPT_HEAD:
            if len(self.heads) >= _MAX_HEADS:
                self.heads.clear()
            self.heads[head_bytes] = head


class Connection(asyncio.Protocol):
    """One connection; also the sink of its hot call. `since` is the second in which it began to owe us a request."""

    __slots__ = (
        *("_aiohttp", "_is_looking", "_need", "buffer", "call", "changing"),
        *("is_full", "shared", "since", "state", "transport", "working"),
    )

    def __init__(self, shared: Shared, read: bytes = b"") -> None:
        """Begin between requests; `read` is what a predecessor has read of the next one."""
        self.shared = shared
        self.transport: Any = None
        self.state = _BETWEEN
        self.buffer = read
        self.call: Running | None = None  # the hot one, or the one that aiohttp serves
        self.working = 0  # requests of this connection that aiohttp serves
        self.changing = False  # one of them may change what is kept
        self.since = shared.tick
        self.is_full = False
        self._aiohttp: Any = None  # its protocol, once it was needed
        self._need = 0  # bytes of a message whose head is known
        self._is_looking = False

    @property
    def is_busy(self) -> bool:
        """Whether an answer is owed."""
        return self.state in (_HOT, _LENT) or self.working > 0

    # ---- from the transport

    def connection_made(self, transport: Any) -> None:
        """Take the connection."""
        self.transport = transport
        self.shared.connections.add(self)
        if self.shared.count() > self.shared.most:
            self._turn_away()
        elif self.shared.pass_on is not None or self.buffer:
            # Not at once: uvloop begins to read behind this call, so a pause in it is none, and what came then would be lost.
            asyncio.get_running_loop().call_soon(self._begin_on)

    def _begin_on(self) -> None:
        if self.state is _BETWEEN:
            self._go_on()

    def _turn_away(self) -> None:
        """Say that there are too many, and take what comes for a while: a reset would hide the answer."""
        shared = self.shared
        shared.turned_away, shared.refusals = shared.turned_away + 1, shared.refusals + 1
        self._aiohttp, self.state, self.buffer = _Deaf(shared), _GIVEN, b""
        evidence = {"limit": "max_connections", "value": shared.most}
        error = PyfaasError(Code.NO_CAPACITY, "too many connections", hint="connect again later, or close idle ones", evidence=evidence)
        self.transport.write(shared.replies.problem(error, {"Connection": "close"}))
        asyncio.get_running_loop().call_later(_TURNED_AWAY_S, self.close)

    def data_received(self, data: bytes) -> None:
        """Take bytes: the usual request is one find and one look-up away from its container."""
        state = self.state
        if state is _GIVEN:
            self._aiohttp.data_received(data)
            return
        if self.buffer:
            self.buffer += data
        else:
            if state is _BETWEEN:
                self.since = self.shared.tick  # not renewed by the next bytes: half a request may not take for ever
                if not self.is_full:
                    end = data.find(_END) + 4
                    head = self.shared.heads.get(data[:end])
                    if head is not None and len(data) == end + head.length:
                        if not self._begin(head, data[end:]):
                            self._lend(data)
                        return
            self.buffer = data
        if state is _BETWEEN:
            self._look()
        if len(self.buffer) > _MAX_BACKLOG and (self.is_full or self.state in (_HOT, _LENT)):
            self.transport.pause_reading()

    def eof_received(self) -> bool | None:
        """Take an end of stream as a client that has left, as aiohttp does."""
        if self.state in (_LENT, _GIVEN):
            kept: bool | None = self._aiohttp.eof_received()
            return kept
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        """Take the connection's end: whoever works for the client is told."""
        self.shared.connections.discard(self)
        self.transport = None
        self.buffer = b""
        if self._aiohttp is not None:
            self.shared.lent.pop(self._aiohttp, None)
            self._aiohttp.connection_lost(exc)
        if self.call is not None:
            self.call.left()
        self.shared.changed.set()

    def pause_writing(self) -> None:
        """Take note that the client does not read."""
        self.is_full = True
        if self._aiohttp is not None:
            self._aiohttp.pause_writing()

    def resume_writing(self) -> None:
        """Take note that the client reads again."""
        self.is_full = False
        if self._aiohttp is not None:
            self._aiohttp.resume_writing()
        if self.state is _BETWEEN:
            self._go_on()

    def close(self) -> None:
        """Close the connection once what was written has gone out."""
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Close the connection now, whatever has not gone out."""
        if self.transport is not None:
            self.transport.abort()

    # ---- between requests

    def _look(self) -> None:
        """Look at what stands at the start of the buffer, message by message."""
        if self._is_looking:
            return
        self._is_looking = True
        try:
            while self.buffer and self.state is _BETWEEN and not self.is_full and self._step():
                self.since = self.shared.tick
        finally:
            self._is_looking = False

    def _step(self) -> bool:
        """Handle one message; False when it has not come yet."""
        data = self.buffer
        if len(data) < self._need:
            return False
        end = data.find(_END) + 4
        if not (data.startswith(PREFIX) or PREFIX.startswith(data[: len(PREFIX)])):
            if _is_plain(data, end):
                self._lend(self._cut(end))
            else:
                self._give()
            return True
        if end == 3:
            if len(data) > MAX_HEAD or data.count(b"\n") != data.count(b"\r\n"):
                self._give()  # too long, or a bare line feed: aiohttp says what is wrong
                return True
            return False
        return self._take(data[:end])

    def _take(self, head_bytes: bytes) -> bool:
        """Handle a complete head of the hot route; False when its body has not come yet."""
        head = self.shared.heads.get(head_bytes) or parse(head_bytes)
        if head is None:
            self._give()
            return True
        whole = len(head_bytes) + head.length
        if len(self.buffer) < whole:
            self._need = whole
            return False
        message = self._cut(whole)
        if not self._begin(head, message[len(head_bytes) :], head_bytes):
            self._lend(message)
        return True

    def _cut(self, length: int) -> bytes:
        message, self.buffer, self._need = self.buffer[:length], self.buffer[length:], 0
        return message

    def _begin(self, head: Head, body: bytes, head_bytes: bytes = b"") -> bool:
        """Start a hot call, or answer why not; False when the general way should take it."""
        shared = self.shared
        service = shared.service
        try:
            with _DEFECTS:
                caller = service.authenticate(head.authorization)
                if not service.is_plain(caller, head.name, head.qualifier):
                    return False
                request = Request(
                    caller=caller,
                    name=head.name,
                    qualifier=head.qualifier,
                    body=body or b"{}",
                    is_bytes=head.is_bytes and bool(body),
                    timeout_ms=head.timeout_ms,
                    traceparent=head.traceparent,
                )
                self.state = _HOT
                call = service.submit(request, self)
        except PyfaasError as error:
            self._write(shared.replies.problem(error))
            return True
        if self.state is _HOT:
            self.call = call  # otherwise it was answered before submit returned
        if head_bytes:
            shared.keep(head_bytes, head)
        return True

    # ---- aiohttp's turn

    def _slow(self) -> Any:
        if self._aiohttp is None:
            self._aiohttp = self.shared.protocol()
            self.shared.lent[self._aiohttp] = self
            self._aiohttp.connection_made(self.transport)
            if self.is_full:
                self._aiohttp.pause_writing()
        return self._aiohttp

    def _lend(self, message: bytes) -> None:
        """Give aiohttp exactly one complete message; `given_back` is called when it has answered."""
        slow = self._slow()
        self.state = _LENT
        slow.data_received(message)

    def _give(self) -> None:
        """Give the connection to aiohttp until it closes."""
        slow = self._slow()
        data, self.buffer, self.state = self.buffer, b"", _GIVEN
        if not self.transport.is_reading():
            self.transport.resume_reading()
        slow.data_received(data)

    def given_back(self, *, is_kept: bool) -> None:
        """Take the connection back after aiohttp's answer; one that is not kept aiohttp closes."""
        self.since = self.shared.tick
        if self.state is _LENT:
            self.state = _BETWEEN if is_kept else _GIVEN
            if is_kept:
                self._go_on()
        self.shared.changed.set()

    # ---- the hot call's sink

    def head(self, call: Running, head: Mapping[str, Any]) -> None:
        """A hot call asks for no stream."""

    def item(self, item: bytes) -> None:
        """A hot call asks for no stream."""

    def done(self, result: Result) -> None:
        """Answer, and look at what came meanwhile."""
        self._write(self.shared.replies.result(result))

    def _write(self, data: bytes) -> None:
        self.call, self.state = None, _BETWEEN
        if self.transport is None:
            return  # the client left; the outcome is recorded all the same
        self.since = self.shared.tick
        self.transport.write(data)
        if self.buffer or self.shared.is_closing:
            self._go_on()

    def _go_on(self) -> None:
        if self.transport is None or self.transport.is_closing():
            return
        if self.shared.pass_on is not None and self.state is _BETWEEN:
            self.pass_on()
            return
        self._look()
        if self.state is _GIVEN:
            return
        if len(self.buffer) <= _MAX_BACKLOG and not self.transport.is_reading():
            self.transport.resume_reading()
        if self.shared.is_closing and self.state is _BETWEEN and not self.buffer:
            self.transport.close()
            self.shared.changed.set()


    def pass_on(self) -> None:
        """Read no more: what comes next is the successor's."""
        self.state = _PASSED
        self.transport.pause_reading()
        if self.shared.pass_on is not None:
            self.shared.pass_on(self)
        self.shared.changed.set()

    def take_back(self) -> None:
        """Go on where `pass_on` stopped."""
        if self.state is _PASSED and self.transport is not None:
            self.state, self.since = _BETWEEN, self.shared.tick
            self._go_on()


class _Deaf:
    """What a connection over the limit is given to in aiohttp's place: nothing of it is heard."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    def data_received(self, data: bytes) -> None:
        pass

    def eof_received(self) -> None:
        pass

    def pause_writing(self) -> None:
        pass

    def resume_writing(self) -> None:
        pass

    def connection_lost(self, _error: Exception | None) -> None:
        self._shared.turned_away -= 1


def most_connections(config: Config) -> int:
    """Return how many connections may be open: containers and the database need open files too."""
    return min(config.max_connections, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)


def _is_plain(data: bytes, end: int) -> bool:
    """Tell whether a buffer starts with a complete request that surely has no body."""
    if end == 3 or not data.startswith(_BODILESS):
        return False
    head = data[:end].lower()
    return not any(mark in head for mark in _UNSURE)
