"""The front: every connection is ours, and only what is not hot goes through aiohttp.

Theory of operation. A complete small call of the invoke route is parsed here (`head`), written to its container in the
same callback, and answered from the reader callback (`connection`): no task and no future per call is worth a factor of
two. aiohttp stands behind: it gets whole messages, or whole connections, and a middleware gives them back.

Idle time, shutdown and write flow control are the front's. One beat a second closes what was silent for too long: a
connection between requests, or in the middle of a head; a body that stops coming is `event.read_body`'s to end.
Of aiohttp only public names are touched: `runner.server`, `RequestHandler` and its asyncio.Protocol methods and
`handle_error`, `request.protocol`, and `StreamResponse.prepare`, `write_eof`, `keep_alive`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from pyfaas.config import Config
from pyfaas.contract import STATUS
from pyfaas.errors import Code, PyfaasError
from pyfaas.service.service import Service
from pyfaas.web import problems
from pyfaas.web.app import build_app
from pyfaas.web.connection import Connection, Shared, State
from pyfaas.web.replies import Replies
from pyfaas.web.streams import CONNECTIONS, LENT

IDLE_S = 75  # a connection may be silent between requests, or take to send a head
_LINGER_S = 5.0  # what still comes after an early answer is thrown away: a reset would hide the answer
_BEGIN_S = 0.05  # for what aiohttp was given to reach its handler, where it is seen
_LOOK_AGAIN_S = 0.005  # at what an answer's last bytes wait for
_SHUTDOWN_S = 2.0  # for what aiohttp still serves when the grace is over
_UNREADABLE_HINT = "the connection is closed; send HTTP/1.1 with one length and no stray bytes"
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = logging.getLogger(__name__)


class Site:
    """A server's connections, and aiohttp behind them."""

    def __init__(self, service: Service, config: Config) -> None:
        """Prepare aiohttp behind the front."""
        self._replies = Replies(debug=config.debug)
        app = build_app(service, self._middleware())
        self.runner = web.AppRunner(app, shutdown_timeout=_SHUTDOWN_S)
        self.shared = Shared(service, self._replies, self._protocol)
        app[LENT] = self.shared.lent
        app[CONNECTIONS] = lambda: (self.shared.count(), self.shared.refusals)
        self._server: asyncio.Server
        self._timer: asyncio.TimerHandle
        self._take: Callable[[socket.socket, bytes], None]
        self._passed: list[Connection] = []  # our copies of what a successor may not read yet
        self._has_successor = False

    async def open(self, listen: socket.socket) -> None:
        """Listen on a bound socket."""
        await self.runner.setup()
        self._second()
        await self._listen(listen)

    async def _listen(self, listen: socket.socket) -> None:
        self._server = await asyncio.get_running_loop().create_server(lambda: Connection(self.shared), sock=listen)

    def beat(self) -> None:
        """Do what is due each second: a new date, and an end for connections that were silent for too long."""
        shared = self.shared
        shared.tick += 1
        self._replies.renew()
        old = shared.tick - IDLE_S
        for connection in [c for c in shared.connections if c.since < old and not c.is_busy]:
            connection.close()

    def stop_accepting(self) -> None:
        """Listen no more; idle connections are closed, the others after their answer."""
        self.shared.is_closing = True
        self._server.close()
        for connection in list(self.shared.connections):
            if not connection.is_busy and not connection.buffer:
                connection.close()

    # ---- an upgrade

    def pass_on(self, take: Callable[[socket.socket, bytes], None]) -> None:
        """Listen no more, and pass each connection on once it owes no answer.

        `take` gets a copy of its socket, and what was read of its next request.
        """
        self._take, self._passed, self._has_successor = take, [], False
        self.shared.is_closing = True
        self.shared.pass_on = self._pass
        self._server.close()
        for connection in list(self.shared.connections):
            if connection.state is State.BETWEEN:
                connection.pass_on()
        self._close_given(self.shared.tick - 1)  # one that has just been given may be in the middle of a head

    def _close_given(self, before: int) -> None:
        """Close what is aiohttp's and owes no answer: what aiohttp has read of a next request is not ours to pass on."""
        for connection in list(self.shared.connections):
            if connection.state is State.GIVEN and not connection.is_busy and connection.since < before:
                connection.close()

    async def settled(self, seconds: float) -> bool:
        """Wait until no request is served but reading ones and calls; False when some took longer."""
        until = asyncio.get_running_loop().time() + seconds
        await asyncio.sleep(_BEGIN_S)
        await self._wait(lambda: not self._changing(), until)
        return not self._changing()

    def _changing(self) -> bool:
        return any((c.changing and c.call is None) or (c.state is State.LENT and not c.working) for c in self.shared.connections)

    async def take_back(self, listen: socket.socket) -> None:
        """Serve again: there was no successor. What was passed on is read here again."""
        self.shared.pass_on, self.shared.is_closing = None, False
        await self._listen(listen)
        for connection in list(self.shared.connections):
            connection.take_back()

    def succeeded(self) -> None:
        """The successor reads what was passed on: let go of our copies."""
        self._has_successor = True
        for connection in self._passed:
            connection.abort()
        self._passed.clear()
        self._close_given(self.shared.tick + 1)

    def _pass(self, connection: Connection) -> None:
        """Pass a connection on when all that was written has gone out."""
        transport = connection.transport
        if transport is None or transport.is_closing() or connection.state is not State.PASSED:
            return
        if transport.get_write_buffer_size():
            asyncio.get_running_loop().call_later(_LOOK_AGAIN_S, self._pass, connection)
            return
        self._take(socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())), connection.buffer)
        if self._has_successor:
            connection.abort()
        else:
            self._passed.append(connection)

    async def adopt(self, passed: socket.socket, read: bytes) -> None:
        """Go on with a connection that a predecessor has passed on."""
        passed.setblocking(False)  # noqa: FBT003 - the call's shape
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: Connection(self.shared, read), passed)
        except OSError:  # the client left meanwhile
            passed.close()

    # ---- the end

    async def stop(self, grace_s: float) -> None:
        """Listen no more, wait at most `grace_s` seconds for answers to be made and sent, then close everything."""
        until = asyncio.get_running_loop().time() + grace_s
        self.stop_accepting()
        connections = self.shared.connections
        await self._wait(lambda: not any(c.is_busy for c in connections), until)
        self._timer.cancel()
        await self.runner.cleanup()
        for connection in list(connections):
            connection.close()
        await self._wait(lambda: not connections, until)
        for connection in list(connections):
            connection.abort()

    async def _wait(self, condition: Callable[[], bool], until: float) -> None:
        """Wait for a condition on the connections; what is not so by then is cut off."""
        try:
            async with asyncio.timeout_at(until):
                while not condition():
                    self.shared.changed.clear()
                    await self.shared.changed.wait()
        except TimeoutError:
            return

    def _second(self) -> None:
        self.beat()
        self._timer = asyncio.get_running_loop().call_later(1.0, self._second)

    def _protocol(self) -> Any:
        server = self.runner.server
        assert server is not None  # noqa: S101 - `open` has set it up
        return _Behind(
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type] # as AppRunner gives it
            keepalive_timeout=1e9,  # idle time is the front's; 0 is not "off"
            lingering_time=_LINGER_S,
        )

    def _middleware(self) -> Any:
        @web.middleware
        async def give_back(request: web.Request, handler: _Handler) -> web.StreamResponse:
            connection = self.shared.lent.get(request.protocol)
            if connection is None:
                return await handler(request)
            connection.working += 1
            connection.changing = request.method not in ("GET", "HEAD")
            try:
                response = await handler(request)
                if self.shared.is_closing and connection.state is State.GIVEN and not response.prepared:
                    response.force_close()
                if connection.state is State.LENT:
                    await response.prepare(request)
                    await response.write_eof()  # both are public, and nothing when aiohttp calls them again
            finally:
                connection.working -= 1
                connection.changing = False
            connection.given_back(is_kept=bool(response.keep_alive))
            return response

        return give_back


async def start(service: Service, config: Config, listen: socket.socket) -> Site:
    """Serve on a bound socket."""
    site = Site(service, config)
    await site.open(listen)
    return site


class _Behind(web.RequestHandler):
    """aiohttp's protocol, with our words for what it cannot read: one line in the log, and a problem document."""

    __slots__ = ()

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Answer what no handler answered; raises ConnectionError when an answer has begun, or nobody is there for one."""
        if isinstance(exc, ConnectionError):
            raise exc
        if status == STATUS[Code.INVALID_REQUEST]:
            reason = (message or str(exc)).strip().partition("\n")[0].rstrip(": ")[:200]
            log.warning("unreadable_request", extra={"reason": reason, "client": request.remote})
            error = PyfaasError(Code.INVALID_REQUEST, f"the request cannot be read: {reason}", hint=_UNREADABLE_HINT)
        else:
            log.error("request_failed", exc_info=exc, extra={"where": "aiohttp"})
            error = problems.internal()
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun; there is no room for another")
        response = problems.response(error)
        response.headers.update({"Server": "pyfaas", "X-Content-Type-Options": "nosniff", "Connection": "close"})
        response.force_close()
        return response
