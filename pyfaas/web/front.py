"""The front: every connection is ours, and only what is not hot goes through aiohttp.

Theory of operation. A complete small call of the invoke route is parsed here, written to its container in the same
callback, and answered from the reader callback: no task and no future per call is worth a factor of two. A connection
is always in one of four states:

    between requests   what comes next is looked at; a body is never taken for a head, since heads are only sought here
    hot                a call runs; what comes is kept, and reading pauses at 64 KiB
    lent               aiohttp got exactly one complete message, and gives the connection back when it has answered
    given              anything unusual (chunked, Expect, Upgrade, uploads, a broken head): aiohttp's until it closes

Of aiohttp only public names are touched: `runner.server`, that protocol's asyncio.Protocol methods, `request.protocol`,
and `StreamResponse.prepare`, `write_eof`, `keep_alive`. Idle time, shutdown and write flow control are the front's.
"""

from __future__ import annotations

import asyncio
import http
import socket
from collections.abc import Awaitable, Callable, Mapping
from email.utils import formatdate
from typing import Any

from aiohttp import web

from pyfaas.calls import Request, Result, Running
from pyfaas.config import Config
from pyfaas.errors import PyfaasError
from pyfaas.service.service import Service
from pyfaas.web import answers, problems
from pyfaas.web.app import build_app
from pyfaas.web.head import MAX_BODY, MAX_HEAD, PREFIX, Head, parse

_MAX_KEPT_HEAD, _MAX_HEADS = 2048, 4096
_IDLE_TICKS = 75  # seconds a connection may be silent between requests, or in the middle of one
_END = b"\r\n\r\n"
_TENTHS = [f"{i // 10}.{i % 10}".encode() for i in range(2000)]
_UNSURE = (b"\ncontent-length", b"\ntransfer-encoding", b"\nupgrade", b"\nconnection", b"\nexpect", b"\n ", b"\n\t", b"http/1.0")


class Site:
    """What all connections share."""

    def __init__(self, service: Service, config: Config) -> None:
        """Prepare aiohttp behind the front."""
        self.service, self.config = service, config
        self.heads: dict[bytes, Head] = {}
        self.connections: set[Front] = set()
        self.lent: dict[Any, Front] = {}
        self.tick = 0
        self.is_closing = False
        self.date = ""
        self._templates: dict[tuple[int | None, int | None], bytes] = {}
        self.runner = web.AppRunner(build_app(service, self._give_back), access_log=None, keepalive_timeout=1e9)
        self._server: asyncio.Server
        self._timer: asyncio.TimerHandle

    async def open(self, listen: socket.socket) -> None:
        """Listen on a bound socket."""
        await self.runner.setup()
        loop = asyncio.get_running_loop()
        self._second()
        self._server = await loop.create_server(lambda: Front(self), sock=listen)

    def template(self, result: Result) -> bytes:
        """Return the constant part of a good answer for its versions, renewed each second for the date."""
        key = (result.requested, result.executed)
        found = self._templates.get(key)
        if found is None:
            found = self._templates[key] = (
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nServer: pyfaas\r\nX-Content-Type-Options: nosniff\r\n"
                f"Date: {self.date}\r\nPyfaas-Requested-Version: {result.requested}\r\nPyfaas-Executed-Version: {result.executed}\r\n"
                "Pyfaas-Outcome: ok\r\nPyfaas-Invocation-Id: "
            ).encode() + b"%b\r\nServer-Timing: queue;dur=%b, exec;dur=%b\r\nContent-Length: %d\r\n\r\n%b"
        return found

    def _second(self) -> None:
        """Each second: a new date, and an end for connections that were silent for too long."""
        self.tick += 1
        self.date = formatdate(usegmt=True)
        self._templates.clear()
        old = self.tick - _IDLE_TICKS
        for connection in [c for c in self.connections if c.tick < old and not c.is_busy]:
            connection.close()
        self._timer = asyncio.get_running_loop().call_later(1.0, self._second)

    def stop_accepting(self) -> None:
        """Listen no more; idle connections are closed, the others after their answer."""
        self.is_closing = True
        self._server.close()
        for connection in list(self.connections):
            if not connection.is_busy and not connection.buffer:
                connection.close()

    async def stop(self, seconds: float) -> None:
        """Wait a little for answers that are being written, then close everything."""
        self._timer.cancel()
        until = asyncio.get_running_loop().time() + seconds
        while any(c.is_busy for c in self.connections) and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0.01)
        await self.runner.cleanup()
        for connection in list(self.connections):
            connection.close()

    @property
    def _give_back(self) -> Any:
        @web.middleware
        async def give_back(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            front = self.lent.get(request.protocol)
            if front is None:
                return await handler(request)
            front.working += 1
            try:
                response = await handler(request)
                if not front.is_given:
                    await response.prepare(request)
                    await response.write_eof()  # both are public, and nothing when aiohttp calls them again
            finally:
                front.working -= 1
                front.tick = self.tick
            front.given_back(is_kept=bool(response.keep_alive))
            return response

        return give_back


async def start(service: Service, config: Config, listen: socket.socket) -> Site:
    """Serve on a bound socket."""
    site = Site(service, config)
    await site.open(listen)
    return site


class Front(asyncio.Protocol):
    """One connection; also the sink of its hot call."""

    __slots__ = ("_need", "_slow", "buffer", "call", "is_full", "is_given", "is_lent", "site", "tick", "transport", "working")

    def __init__(self, site: Site) -> None:
        """Begin between requests."""
        self.site = site
        self.transport: Any = None
        self.buffer = b""
        self.call: Running | None = None
        self._slow: Any = None  # aiohttp's protocol, once it was needed
        self._need = 0
        self.working = 0
        self.is_given = self.is_lent = self.is_full = False
        self.tick = site.tick

    @property
    def is_busy(self) -> bool:
        """Whether an answer is owed."""
        return self.call is not None or self.is_lent or self.working > 0

    # ---- from the transport

    def connection_made(self, transport: Any) -> None:
        """Take the connection."""
        self.transport = transport
        self.site.connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Take bytes: the usual request is one find and one look-up away from its container."""
        if self.is_given:
            self.tick = self.site.tick
            self._slow.data_received(data)
            return
        if self.call is None and not self.is_lent and not self.buffer:
            end = data.find(_END) + 4
            head = self.site.heads.get(data[:end])
            if head is not None and len(data) == end + head.length and self._begin(head, data[end:]):
                return
        self.buffer = self.buffer + data if self.buffer else data
        if self.call is None and not self.is_lent:
            self._next()
        elif len(self.buffer) > MAX_BODY:
            self.transport.pause_reading()  # pipelined behind a call that runs

    def eof_received(self) -> bool | None:
        """Take an end of stream as a client that has left, as aiohttp does."""
        if self._slow is not None and (self.is_given or self.is_lent):
            kept: bool | None = self._slow.eof_received()
            return kept
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        """Take the connection's end."""
        self.site.connections.discard(self)
        self.transport = None
        self.buffer = b""
        if self._slow is not None:
            self.site.lent.pop(self._slow, None)
            self._slow.connection_lost(exc)
        if self.call is not None:
            self.call.left()

    def pause_writing(self) -> None:
        """Take note that the client does not read."""
        self.is_full = True
        if self._slow is not None:
            self._slow.pause_writing()

    def resume_writing(self) -> None:
        """Take note that the client reads again."""
        self.is_full = False
        if self._slow is not None:
            self._slow.resume_writing()
        if not self.is_busy and self.buffer:
            self._next()

    def close(self) -> None:
        """Close the connection."""
        if self.transport is not None:
            self.transport.close()

    # ---- between requests

    def _next(self) -> None:
        """Look at what stands at the start of the buffer."""
        while self.buffer and self.call is None and not (self.is_lent or self.is_given or self.is_full):
            data = self.buffer
            self.tick = self.site.tick
            if len(data) < self._need:
                return
            end = data.find(_END) + 4
            if not (data.startswith(PREFIX) or PREFIX.startswith(data[: len(PREFIX)])):
                if not self._lend_plain(data, end):
                    self._give()
                continue
            if end == 3:
                if len(data) > MAX_HEAD or data.count(b"\n") != data.count(b"\r\n"):
                    self._give()  # too long, or a bare line feed: aiohttp says what is wrong
                    continue
                return
            if not self._take(data, end):
                return

    def _take(self, data: bytes, end: int) -> bool:
        """Handle a complete head of the hot route; False when its body has not come yet."""
        head = self.site.heads.get(data[:end])
        is_new = head is None
        head = head or parse(data[:end])
        if head is None:
            self._give()
            return True
        if len(data) < end + head.length:
            self._need = end + head.length
            return False
        self._need = 0
        if not self._begin(head, data[end : end + head.length]):
            self._lend(end + head.length)
            return True
        self.buffer = data[end + head.length :]
        if is_new and head.is_kept and end <= _MAX_KEPT_HEAD:
            if len(self.site.heads) >= _MAX_HEADS:
                self.site.heads.clear()
            self.site.heads[data[:end]] = head  # only of calls that were accepted
        return True

    def _begin(self, head: Head, body: bytes) -> bool:
        """Start a hot call; False when the general way should take it, or tell what is wrong with it."""
        service = self.site.service
        self.tick = self.site.tick
        try:
            caller = service.authenticate(head.authorization)
            if not service.is_plain(caller, head.name, head.qualifier):
                return False
            request = Request(
                caller=caller,
                name=head.name,
                qualifier=head.qualifier,
                body=body or b"{}",
                is_bytes=head.is_bytes,
                timeout_ms=head.timeout_ms,
            )
            self.is_lent = True  # an answer that comes before submit returns finds the connection taken
            call = service.submit(request, self)
        except PyfaasError as error:
            self._write_problem(error)
            return True
        if self.is_lent:
            self.is_lent, self.call = False, call
        return True

    def _lend_plain(self, data: bytes, end: int) -> bool:
        """Lend a complete request without a body; False when it is not sure to be one."""
        if end == 3 or not data.startswith((b"GET /", b"HEAD /", b"DELETE /")):
            return False
        head = data[:end].lower()
        if any(mark in head for mark in _UNSURE):
            return False
        self._lend(end)
        return True

    # ---- aiohttp's turn

    def _aiohttp(self) -> Any:
        if self._slow is None:
            self._slow = self.site.runner.server()  # type: ignore[misc]
            self.site.lent[self._slow] = self
            self._slow.connection_made(self.transport)
            if self.is_full:
                self._slow.pause_writing()
        return self._slow

    def _lend(self, length: int) -> None:
        """Give aiohttp exactly one complete message; the middleware gives the connection back."""
        slow = self._aiohttp()
        one, self.buffer, self._need, self.is_lent = self.buffer[:length], self.buffer[length:], 0, True
        slow.data_received(one)

    def _give(self) -> None:
        """Give the connection to aiohttp until it closes."""
        slow = self._aiohttp()
        data, self.buffer, self.is_given = self.buffer, b"", True
        slow.data_received(data)

    def given_back(self, *, is_kept: bool) -> None:
        """Take the connection back after aiohttp's answer."""
        if self.is_given:
            return
        self.is_lent = False
        if not is_kept:
            self.is_given = True  # aiohttp closes it
            return
        self._resume()

    def _resume(self) -> None:
        if self.transport is None or self.transport.is_closing():
            return
        if not self.transport.is_reading():
            self.transport.resume_reading()
        if self.buffer:
            self._next()
        elif self.site.is_closing:
            self.transport.close()

    # ---- the hot call's sink

    def head(self, call: Running, head: Mapping[str, Any]) -> None:
        """A hot call asks for no stream."""

    def item(self, item: bytes) -> None:
        """A hot call asks for no stream."""

    def done(self, result: Result) -> None:
        """Answer, and look at what came meanwhile."""
        if result.kind == "json" and not result.init_s and not self.site.config.debug:
            queue, run = _tenths(result.queue_s), _tenths(result.exec_s)
            body = result.body
            self._write(self.site.template(result) % (result.id.encode(), queue, run, len(body), body))
            return
        status, kind, body, further = answers.plain(result)
        self._write(self._whole(status, kind, body, {**answers.headers_of(result, debug=self.site.config.debug), **further}))

    def _write_problem(self, error: PyfaasError) -> None:
        response = problems.response(error)
        body = response.body
        headers = {k: v for k, v in response.headers.items() if k not in ("Content-Type", "Content-Length")}
        self._write(self._whole(response.status, problems.CONTENT_TYPE, body if isinstance(body, bytes) else b"", headers))

    def _whole(self, status: int, kind: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        phrase = http.HTTPStatus(status).phrase
        lines = [f"HTTP/1.1 {status} {phrase}", f"Content-Type: {kind}", "Server: pyfaas", "X-Content-Type-Options: nosniff", f"Date: {self.site.date}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body

    def _write(self, data: bytes) -> None:
        self.call, self.is_lent = None, False
        if self.transport is None:
            return  # the client left; the outcome is recorded all the same
        self.transport.write(data)
        if self.buffer or self.site.is_closing or not self.transport.is_reading():
            self._resume()


def _tenths(seconds: float) -> bytes:
    """Format a duration in milliseconds with one digit."""
    index = int(seconds * 1e4)
    return _TENTHS[index] if 0 <= index < 2000 else b"%.1f" % (seconds * 1e3)
