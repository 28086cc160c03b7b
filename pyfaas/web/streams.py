"""Calls as aiohttp answers them: whole, or as a stream while it is produced.

A `Stream` is the sink; one handler takes from it what it can write. The function is paused while too much waits for a
slow client. A client that leaves is told by the connection (aiohttp lets its handlers run on), or by a write that fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from aiohttp import web

from pyfaas.calls import Request, Result, Running
from pyfaas.model import Outcome
from pyfaas.service.service import Service
from pyfaas.web import answers

# Where the front tells which connection a request came by, by aiohttp's protocol: each has a `call` to be told of a client that left.
LENT: web.AppKey[dict[Any, Any]] = web.AppKey("lent", dict)
CONNECTIONS: web.AppKey[Callable[[], tuple[int, int]]] = web.AppKey("connections")  # where it tells how many there are, and were refused
_HIGH_BYTES, _LOW_BYTES = 256 << 10, 64 << 10  # kept for a slow client before the function is paused, and when it goes on
_COMMENT_S = 15.0
_TYPES = {"ndjson": "application/x-ndjson", "sse": "text/event-stream"}


class Stream:
    """A sink that hands a streamed answer to one task, pausing the function while the client is slow."""

    def __init__(self) -> None:
        """Begin with nothing to hand on."""
        self.running: Running | None = None
        self.first: Mapping[str, Any] | None = None
        self.result: Result | None = None
        self._items: list[bytes] = []
        self._bytes = 0
        self._wake = asyncio.Event()
        self._is_paused = False

    def head(self, call: Running, head: Mapping[str, Any]) -> None:
        """Take the start of the answer."""
        self.first = head
        self._wake.set()

    def item(self, item: bytes) -> None:
        """Take a piece."""
        self._items.append(item)
        self._bytes += len(item) + 64  # an empty item is kept too
        if self._bytes >= _HIGH_BYTES and not self._is_paused and self.running is not None:
            self._is_paused = True
            self.running.pause()
        self._wake.set()

    def done(self, result: Result) -> None:
        """Take the end."""
        self.result = result
        self._wake.set()

    async def wait_head(self) -> bool:
        """Wait until the answer has begun (True) or ended without streaming (False)."""
        while self.first is None and self.result is None:
            await self._wake.wait()
            self._wake.clear()
        return self.first is not None

    async def next(self) -> list[bytes] | None:
        """Wait for pieces; None after the last one; an empty list after some quiet seconds."""
        while not self._items:
            if self.result is not None:
                return None
            self._wake.clear()
            try:
                async with asyncio.timeout(_COMMENT_S):
                    await self._wake.wait()
            except TimeoutError:
                return []
        items = self._take()
        if self._is_paused and self._bytes <= _LOW_BYTES and self.running is not None and self.result is None:
            self._is_paused = False
            self.running.resume()
        return items

    def _take(self) -> list[bytes]:
        """Take as much as one write should carry: the rest waits until the client has taken that."""
        size = count = 0
        for item in self._items:
            size, count = size + len(item) + 64, count + 1
            if size >= _LOW_BYTES:
                break
        taken, self._items = self._items[:count], self._items[count:]
        self._bytes -= size
        return taken


@contextlib.contextmanager
def noticed(request: web.Request, running: Any) -> Iterator[None]:
    """Let the connection tell the call, or whatever else has a `left`, when its client leaves."""
    connection = request.app.get(LENT, {}).get(request.protocol)
    if connection is None:
        yield
        return
    connection.call = running
    try:
        yield
    finally:
        connection.call = None


async def answer(
    service: Service, web_request: web.Request, request: Request, *, under_url: bool = False, further: Mapping[str, str] = MappingProxyType({})
) -> web.StreamResponse:
    """Run a call and answer it, whole or as a stream, with these further headers; a client that leaves ends what it alone waits for."""
    sink = Stream()
    running = sink.running = service.submit(request, sink)
    debug = service.config.debug
    try:
        with noticed(web_request, running):
            if web_request.transport is None:
                running.left()  # it left before the call was known to the connection
            if await sink.wait_head():
                return await _stream(web_request, running, sink, further)
    except asyncio.CancelledError:
        running.left()
        raise
    assert sink.result is not None  # noqa: S101 - wait_head said so
    response = answers.whole(sink.result, debug=debug, under_url=under_url)
    response.headers.update(further)
    return response


async def _stream(web_request: web.Request, running: Running, sink: Stream, further: Mapping[str, str]) -> web.StreamResponse:
    head = sink.first or {}
    framing = _framing(head, web_request.headers.get("Accept", ""))
    own = answers.own_head(head) if framing == "http" else (200, [])
    if own is None:
        running.cancel()
        return answers.not_http({"Pyfaas-Invocation-Id": running.id})
    response = web.StreamResponse(status=own[0])
    if framing != "http":
        response.content_type = _TYPES.get(framing) or _raw_type(web_request)
    answers.put_headers(response, own[1])
    response.headers.update(further)
    response.headers["Pyfaas-Invocation-Id"] = running.id
    if running.requested is not None:
        response.headers["Pyfaas-Requested-Version"] = str(running.requested)
    if running.executed is not None:
        response.headers["Pyfaas-Executed-Version"] = str(running.executed)
    try:
        await response.prepare(web_request)
        while (items := await sink.next()) is not None:
            if items:
                await response.write(b"".join([_framed(item, framing) for item in items]))
            elif framing == "sse":
                await response.write(b": still running\n\n")
        await _end(web_request, response, sink.result, framing)
    except ConnectionResetError:
        running.left()
    return response


async def _end(web_request: web.Request, response: web.StreamResponse, result: Result | None, framing: str) -> None:
    if result is not None and result.outcome is not Outcome.OK:
        shown = json.dumps(answers.problem_of(result)[1]).encode()
        if framing == "ndjson":
            await response.write(b'{"$error": ' + shown + b"}\n")
        elif framing == "sse":
            await response.write(b"event: error\ndata: " + shown + b"\n\n")
        elif web_request.transport is not None:
            web_request.transport.abort()  # a broken chunked body: the only way to say it in the middle of bytes
            return
    await response.write_eof()


def _framing(head: Mapping[str, Any], accept: str) -> str:
    if head.get("kind") == "http":
        return "http"
    if head.get("kind") == "bytes" or _media(accept) in ("application/octet-stream", "text/plain"):
        return "raw"
    return "sse" if "text/event-stream" in accept else "ndjson"


def _media(accept: str) -> str:
    return accept.partition(";")[0].strip().lower()


def _raw_type(web_request: web.Request) -> str:
    return "text/plain" if _media(web_request.headers.get("Accept", "")) == "text/plain" else "application/octet-stream"


def _framed(item: bytes, framing: str) -> bytes:
    """Frame an item; inside JSON a raw line break can only be space, and must not end our line."""
    if framing not in ("ndjson", "sse"):
        return item
    if b"\n" in item or b"\r" in item:
        item = item.replace(b"\n", b" ").replace(b"\r", b" ")
    return item + b"\n" if framing == "ndjson" else b"data: " + item + b"\n\n"
