"""Results as HTTP: status, headers and body of a call that ended, and streams as they are produced."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from pyfaas.calls import Request, Result, Running
from pyfaas.contract import STATUS
from pyfaas.model import Outcome
from pyfaas.service.service import Service
from pyfaas.web import problems

_HIGH, _LOW = 64, 16  # items kept for a slow client before the function is paused, and when it goes on
_COMMENT_S = 15.0
_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "upgrade", "content-length", "server", "date", "te", "trailer"})


def headers_of(result: Result, *, debug: bool = False) -> dict[str, str]:
    """Return the headers that tell of a call."""
    timing = [f"queue;dur={result.queue_s * 1000:.1f}", f"exec;dur={result.exec_s * 1000:.1f}"]
    if result.init_s:
        timing.insert(1, f"init;dur={result.init_s * 1000:.1f}")
    headers = {"Pyfaas-Invocation-Id": result.id, "Pyfaas-Outcome": result.outcome.value, "Server-Timing": ", ".join(timing)}
    if result.requested is not None:
        headers["Pyfaas-Requested-Version"] = str(result.requested)
    if result.executed is not None:
        headers["Pyfaas-Executed-Version"] = str(result.executed)
    if debug:
        headers["Pyfaas-Placement"] = f"vm={result.vm}; container={result.container}; why={result.why}"
    return headers


def plain(result: Result) -> tuple[int, str, bytes, dict[str, str]]:
    """Return status, content type, body and further headers of a whole answer."""
    if result.kind == "json":
        return 200, "application/json", result.body, {}
    if result.kind == "bytes":
        return 200, "application/octet-stream", result.body, {}
    if result.kind == "error":
        return (500 if result.outcome is Outcome.ERROR else 502), "application/json", result.body, {}
    if result.code is not None:
        status = STATUS[result.code]
        shown = problems.document(
            result.code.value,
            status,
            result.message,
            fault=result.code.fault.value,
            hint=result.hint,
            evidence=result.evidence,
            invocationId=result.id,
        )
    else:
        status, shown = problems.of_outcome(result.outcome, result.message, result.hint, result.evidence, invocationId=result.id)
    return status, problems.CONTENT_TYPE, json.dumps(shown).encode(), problems.retry_after(status, result.retry_after)


def whole(result: Result, *, debug: bool = False, under_url: bool = False) -> web.Response:
    """Return a call's result as one answer; `under_url` is for /f/, where the function shapes it itself."""
    headers = headers_of(result, debug=debug)
    if result.kind == "http" and result.http is not None and under_url:
        response = web.Response(status=int(result.http["status"]), body=result.body)
        for name, value in _own_headers(result.http):
            response.headers.add(name, value)
        response.headers.update(headers)
        return response
    status, kind, body, further = plain(result)
    return web.Response(status=status, body=body, content_type=kind, headers={**headers, **further})


def _own_headers(head: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the headers that a function gave, without those that belong to the connection."""
    pairs = [(str(k), str(v)) for k, v in head.get("headers", [])]
    return [(k, v) for k, v in pairs if k.lower() not in _HOP and not k.lower().startswith("pyfaas-") and "\n" not in v and "\r" not in v]


class Stream:
    """A sink that hands a streamed answer to one task, pausing the function while the client is slow."""

    def __init__(self) -> None:
        """Begin with nothing to hand on."""
        self.running: Running | None = None
        self.first: Mapping[str, Any] | None = None
        self.result: Result | None = None
        self._items: list[bytes] = []
        self._wake = asyncio.Event()
        self._is_paused = False

    def head(self, call: Running, head: Mapping[str, Any]) -> None:
        """Take the start of the answer."""
        self.first = head
        self._wake.set()

    def item(self, item: bytes) -> None:
        """Take a piece."""
        self._items.append(item)
        if len(self._items) >= _HIGH and not self._is_paused and self.running is not None:
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
        items, self._items = self._items, []
        if self._is_paused and self.running is not None:
            self._is_paused = False
            self.running.resume()
        return items


async def answer(service: Service, web_request: web.Request, request: Request, *, under_url: bool = False) -> web.StreamResponse:
    """Run a call and answer it, whole or as a stream; a client that leaves ends what it alone waits for."""
    sink = Stream()
    running = sink.running = service.submit(request, sink)
    try:
        if not await sink.wait_head():
            assert sink.result is not None  # noqa: S101 - wait_head said so
            return whole(sink.result, debug=service.config.debug, under_url=under_url)
        return await _stream(web_request, running, sink)
    except asyncio.CancelledError:
        running.left()
        raise


async def _stream(web_request: web.Request, running: Running, sink: Stream) -> web.StreamResponse:
    head = sink.first or {}
    framing = _framing(head, web_request.headers.get("Accept", ""))
    response = web.StreamResponse(status=int(head.get("status", 200)))
    response.headers["Pyfaas-Invocation-Id"] = running.id
    if running.requested is not None:
        response.headers["Pyfaas-Requested-Version"] = str(running.requested)
    if running.executed is not None:
        response.headers["Pyfaas-Executed-Version"] = str(running.executed)
    if framing == "http":
        for name, value in _own_headers(head):
            response.headers.add(name, value)
    else:
        response.content_type = {"ndjson": "application/x-ndjson", "sse": "text/event-stream", "raw": "application/octet-stream"}[framing]
    try:
        await response.prepare(web_request)
        while (items := await sink.next()) is not None:
            if not items and framing == "sse":
                await response.write(b": still running\n\n")
            elif items:
                await response.write(b"".join(_framed(item, framing) for item in items))
        await _end(web_request, response, sink, framing)
    except ConnectionResetError:
        running.left()
    return response


async def _end(web_request: web.Request, response: web.StreamResponse, sink: Stream, framing: str) -> None:
    result = sink.result
    if result is not None and result.outcome is not Outcome.OK:
        shown = json.loads(result.body) if result.kind == "error" else json.loads(plain(result)[2])
        if framing == "ndjson":
            await response.write(json.dumps({"$error": shown}).encode() + b"\n")
        elif framing == "sse":
            await response.write(b"event: error\ndata: " + json.dumps(shown).encode() + b"\n\n")
        elif web_request.transport is not None:
            web_request.transport.abort()  # a broken chunked body: the only way to say it in the middle of bytes
            return
    await response.write_eof()


def _framing(head: Mapping[str, Any], accept: str) -> str:
    if head.get("kind") == "http":
        return "http"
    if head.get("kind") == "bytes" or accept in ("application/octet-stream", "text/plain"):
        return "raw"
    return "sse" if "text/event-stream" in accept else "ndjson"


def _framed(item: bytes, framing: str) -> bytes:
    if framing == "ndjson":
        return item + b"\n"
    if framing == "sse":
        return b"data: " + item + b"\n\n"
    return item
