"""Run an ASGI app for the HTTP calls of a container.

Theory of operation. One kept event loop. The lifespan task is started when the code is loaded and
lives as long as the container; it only makes progress while a call runs. A call is one request: its body
is whole when the app starts. The answer is held back until the app's second body event: an answer in one
piece leaves as OK_HTTP, a longer one as HEAD and ITEMs when the caller takes a stream (else it is
collected). While the app runs the channel is watched: the caller's CANCEL becomes `http.disconnect`, sending
raises OSError from then on (ASGI 2.4), and an app that still does not end is cancelled after a second.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pyfaas.runtime import http_answer, outcome, report
from pyfaas.runtime.aio import Aio
from pyfaas.runtime.context import Context
from pyfaas.runtime.inbox import Inbox
from pyfaas.runtime.outcome import Ended
from pyfaas.runtime.streams import Sender
from sandbox.wire import Call, Flag, Status

if TYPE_CHECKING:
    import asyncio

App = Callable[..., Any]
Message = dict[str, Any]
_VERSIONS = {"version": "3.0", "spec_version": "2.4"}
_GRACE = 1.0  # seconds from http.disconnect to cancellation


class CallerLeft(OSError):
    """Raised in the app when it sends after the caller has left."""


class Lifespan:
    """The app's lifespan: started once, kept for as long as the container lives."""

    def __init__(self, app: App, aio: Aio) -> None:
        """Start nothing yet."""
        self._app, self._aio = app, aio
        self.state: dict[str, Any] = {}
        self._task: asyncio.Task[Any] | None = None

    def start(self) -> dict[str, Any] | None:
        """Run the app's start-up; returns an error document when the app says that it failed."""
        failure: str | None = self._aio.run(self._start())
        if failure is None:
            return None
        return {"errorType": "LifespanFailed", "errorMessage": failure or "the app's start-up failed", "stackTrace": []}

    async def _start(self) -> str | None:
        import asyncio  # noqa: PLC0415 -- see aio.py

        started: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        asked = False

        async def receive() -> Message:
            nonlocal asked
            if asked:
                await asyncio.get_running_loop().create_future()  # for good: shutdown is the container's end
            asked = True
            return {"type": "lifespan.startup"}

        async def send(message: Message) -> None:
            if not started.done() and message["type"] == "lifespan.startup.complete":
                started.set_result(None)
            elif not started.done() and message["type"] == "lifespan.startup.failed":
                started.set_result(str(message.get("message") or ""))

        async def run() -> None:
            try:
                await self._app({"type": "lifespan", "asgi": _VERSIONS, "state": self.state}, receive, send)
            except Exception:  # noqa: BLE001 -- ASGI: an app that raises here does not support lifespan
                self.state.clear()
            finally:
                if not started.done():
                    started.set_result(None)

        self._task = asyncio.get_running_loop().create_task(run())
        return await started


class Asgi:
    """An app with its lifespan; `answer` runs one request."""

    def __init__(self, app: App, aio: Aio, inbox: Inbox, output_bytes: int) -> None:
        """Take what a request needs."""
        self._app, self._aio, self._inbox, self._output_bytes = app, aio, inbox, output_bytes
        self.lifespan = Lifespan(app, aio)

    def answer(self, call: Call, http: Mapping[str, Any], body: bytes, context: Context) -> Ended:
        """Run the app for one request; raises what the app raises."""
        ended: Ended = self._aio.run(self._answer(call, http, body, context))
        return ended

    async def _answer(self, call: Call, http: Mapping[str, Any], body: bytes, context: Context) -> Ended:
        import asyncio  # noqa: PLC0415 -- see aio.py

        loop = asyncio.get_running_loop()
        exchange = Exchange(self._inbox, body, stream=bool(call.flags & Flag.STREAM), room=self._output_bytes)
        scope = _scope(http, copy.copy(self.lifespan.state), context)
        task = loop.create_task(_awaited(self._app(scope, exchange.receive, exchange.send)))
        descriptor = self._inbox.channel.fileno()

        def readable() -> None:
            if self._inbox.is_cancelled(call.id):
                loop.remove_reader(descriptor)
                exchange.leave()
                loop.call_later(_GRACE, task.cancel)

        loop.add_reader(descriptor, readable)
        try:
            await asyncio.wait([task])
        finally:
            loop.remove_reader(descriptor)
        if exchange.left.is_set():
            return Ended(Status.CANCELLED, b"")
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        return outcome.raised(error) if error is not None else exchange.end()


class Exchange:
    """One request and its answer, as the app sees them."""

    def __init__(self, inbox: Inbox, body: bytes, *, stream: bool, room: int) -> None:
        """Hold the request's body until the app asks for it."""
        import asyncio  # noqa: PLC0415 -- see aio.py

        self.left = asyncio.Event()
        self._over = asyncio.Event()
        self._body: bytes | None = body
        self._stream, self._room = stream, room
        self._sender = Sender(inbox)
        self._head: tuple[int, list[tuple[str, str]]] | None = None
        self._held: list[bytes] = []
        self._size = 0
        self._finished = False

    def leave(self) -> None:
        """Note that the caller has left."""
        self.left.set()
        self._over.set()

    async def receive(self) -> Message:
        """Give the app the body once, then wait for the end."""
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._over.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Take the app's answer; raises CallerLeft once the caller has left, RuntimeError out of order."""
        if self.left.is_set():
            raise CallerLeft("the caller has left")
        kind = message["type"]
        if kind == "http.response.start" and self._head is None:
            status = http_answer.checked_status(message["status"])
            self._head = (status, http_answer.checked_headers(message.get("headers") or ()))
        elif kind == "http.response.body" and self._head is not None and not self._finished:
            await self._piece(bytes(message.get("body") or b""), more=bool(message.get("more_body")))
        else:
            raise RuntimeError(f"{kind!r} cannot be sent now")

    async def _piece(self, piece: bytes, *, more: bool) -> None:
        import asyncio  # noqa: PLC0415 -- see aio.py

        self._size += len(piece)
        if self._stream and (more or self._sender.begun) and self._head is not None:
            if not self._sender.begun:
                status, headers = self._head
                self._sender.head({"kind": "http", "status": status, "headers": headers})
            self._sender.raw(piece)
        elif self._size <= self._room:
            self._held.append(piece)
        if more:
            await asyncio.sleep(0)  # let the watcher of the channel have its turn
        else:
            self._finished = True
            self._over.set()

    def end(self) -> Ended:
        """Say what the exchange came to once the app has returned."""
        if self._head is None or not self._finished:
            what = "without an answer" if self._head is None else "in the middle of its answer"
            return Ended(Status.ERROR, report.document("IncompleteAnswer", f"the app returned {what}", stackTrace=[]))
        if self._sender.begun:
            return Ended(Status.OK_STREAM, b"")
        if self._size > self._room:
            return Ended(Status.LIMIT, report.output_limit(self._size, self._room))
        status, headers = self._head
        return http_answer.whole(status, headers, b"".join(self._held))


async def _awaited(result: Any) -> Any:
    return await result


def _scope(http: Mapping[str, Any], state: dict[str, Any], context: Context) -> dict[str, Any]:
    path = str(http.get("path") or "/")
    return {
        "type": "http",
        "asgi": _VERSIONS,
        "http_version": "1.1",
        "method": str(http.get("method") or "GET").upper(),
        "scheme": str(http.get("scheme") or "http"),
        "path": path,
        "raw_path": str(http.get("raw_path") or path).encode("utf-8", "replace"),
        "query_string": str(http.get("query") or "").removeprefix("?").encode("latin-1", "replace"),
        "root_path": str(http.get("root_path") or ""),
        "headers": [(str(k).lower().encode("latin-1", "replace"), _value(v)) for k, v in http.get("headers") or ()],
        "client": _address(http.get("client")),
        "server": _address(http.get("server")),
        "state": state,
        "pyfaas": {"params": context.params, "secrets": context.secrets, "caller": context.caller, "alias": context.alias},
    }


def _value(value: Any) -> bytes:
    text = str(value)
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape")


def _address(value: Any) -> tuple[str, int] | None:
    if isinstance(value, list | tuple) and len(value) == 2:  # noqa: PLR2004 -- host, port
        return str(value[0]), int(value[1] or 0)
    return (value, 0) if isinstance(value, str) and value else None
