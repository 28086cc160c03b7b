"""A call for each line of a request: lines of JSON in, lines of JSON out, both as they come.

Theory of operation. One task reads lines and starts calls; the handler's own writes what ended, in the order in which it
did. So many items at once are read and not yet written, and no further one is started while these hold much: a client that
is slow to read holds back the reading of its own request. A line is never parsed here; what is wrong with one is found
where any event's fault is found, and is that item's error. A client that leaves cancels what runs.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import replace
from typing import Any

from aiohttp import web
from aiohttp.http import HttpProcessingError

from pyfaas.calls import Request, Result, Running
from pyfaas.errors import Code, PyfaasError
from pyfaas.model import Outcome
from pyfaas.service.service import Service
from pyfaas.web import answers, event, problems

_HELD_BYTES = 16 << 20  # of events that run and of results that wait for the client, before another item is begun
_WRITE_BYTES = 64 << 10
_PAUSE_S = 0.2  # before another try when the account has too much waiting
_STALL_S = 300.0  # lines may be made slowly, and a connection on which nothing happens is not kept for ever


class Batch:
    """The items of one request. `template` is the call that all have in common."""

    def __init__(self, service: Service, template: Request, at_once: int) -> None:
        """Begin without items."""
        self._service, self._template, self._at_once = service, template, at_once
        self.checked: Callable[[bytes], bytes] = lambda line: line  # returns the event of a line, or raises what refuses it
        self._limit = service.config.sync_payload
        self._running: dict[int, Running | None] = {}  # by place; None until it is accepted
        self._sizes: dict[int, int] = {}  # bytes of the events of these
        self._lines: list[bytes] = []  # what ended and was not written
        self._held = 0
        self._error: PyfaasError | None = None  # why the request broke off
        self._is_read = self._is_left = False
        self._ended, self._freed = asyncio.Event(), asyncio.Event()

    async def run(self, request: web.Request, response: web.StreamResponse) -> None:
        """Read every line and write every result; returns early when the client leaves."""
        reading = asyncio.get_running_loop().create_task(self._read(request))
        try:
            while not (self._is_left or (self._is_read and not self._running and not self._lines)):
                self._ended.clear()
                if not self._lines:
                    await self._ended.wait()
                while self._lines and not self._is_left:
                    await response.write(self._take())
                    self._freed.set()
            if self._error is not None and not self._is_left:
                await response.write(b'{"$error": ' + json.dumps(problems.of_error(self._error)[1]).encode() + b"}\n")
        except ConnectionError:
            self.left()
        finally:
            if not self._is_read:
                reading.cancel()
            self._cancel()
            await asyncio.gather(reading, return_exceptions=True)

    def left(self) -> None:
        """Take note that the client has gone: what runs is cancelled, and nothing else is begun."""
        self._is_left = True
        self._cancel()
        self._ended.set()
        self._freed.set()

    def _cancel(self) -> None:
        for running in [each for each in self._running.values() if each is not None]:
            running.cancel()

    # ---- in

    async def _read(self, request: web.Request) -> None:
        try:
            place = 0
            async with contextlib.aclosing(lines(self._chunks(request), self._limit)) as found:
                async for line, size in found:
                    await self._room()
                    if self._is_left:
                        return
                    await self._begin(place, line, size)
                    place += 1
        except PyfaasError as error:
            self._error = error
        except (HttpProcessingError, web.RequestPayloadError) as error:
            self._error = PyfaasError(Code.INVALID_REQUEST, f"the body cannot be read: {str(error).partition(chr(10))[0][:200]}")
        except ConnectionError:
            self.left()
        finally:
            self._is_read = True
            self._ended.set()

    async def _chunks(self, request: web.Request) -> AsyncGenerator[bytes]:
        """Yield the body; raises invalid_request when nothing of it comes for long while nothing runs."""
        while True:
            try:
                async with asyncio.timeout(_STALL_S):
                    chunk = await request.content.readany()
            except TimeoutError:
                if self._running or self._lines:
                    continue
                raise PyfaasError(Code.INVALID_REQUEST, f"nothing of the body came for {_STALL_S:.0f} s") from None
            if not chunk:
                return
            yield chunk

    async def _room(self) -> None:
        """Wait until another item may be begun."""
        while not self._is_left and (
            len(self._running) + len(self._lines) >= self._at_once or (self._held >= _HELD_BYTES and (self._running or self._lines))
        ):
            self._freed.clear()
            await self._freed.wait()

    async def _begin(self, place: int, line: bytes | None, size: int) -> None:
        """Start an item, or end it at once; raises not_ready when the server stops."""
        if line is None:
            self._end(place, _failed(event.too_large(self._limit, size, "sync_payload")))
            return
        self._running[place], self._sizes[place] = None, size
        self._held += size
        request = replace(self._template, body=line)
        while not self._is_left:
            try:
                request.body = self.checked(line)
                running = self._service.submit(request, _Item(self, place))
            except PyfaasError as error:
                if error.code is Code.NOT_READY:
                    self._drop(place)
                    raise
                if error.code is not Code.THROTTLED:
                    self._end(place, _failed(error))
                    return
            else:
                if place in self._running:
                    self._running[place] = running
                return
            self._freed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PAUSE_S):
                    await self._freed.wait()
        self._drop(place)

    # ---- out

    def _drop(self, place: int) -> None:
        self._running.pop(place, None)
        self._held -= self._sizes.pop(place, 0)

    def _end(self, place: int, shown: bytes) -> None:
        self._drop(place)
        line = b'{"i": %d, %b}\n' % (place, shown)
        self._lines.append(line)
        self._held += len(line)
        self._ended.set()
        self._freed.set()

    def done(self, place: int, result: Result) -> None:
        """Take an item's end."""
        if result.outcome is Outcome.OK and result.kind in ("json", "bytes"):
            self._end(place, _succeeded(result))
        else:
            self._end(place, b'"error": ' + json.dumps(answers.problem_of(result)[1]).encode())

    def _take(self) -> bytes:
        """Take what one write should carry."""
        count = size = 0
        while count < len(self._lines) and size < _WRITE_BYTES:
            size += len(self._lines[count])
            count += 1
        taken, self._lines = b"".join(self._lines[:count]), self._lines[count:]
        self._held -= size
        return taken


class _Item:
    """The sink of one item."""

    __slots__ = ("_batch", "_place")

    def __init__(self, batch: Batch, place: int) -> None:
        self._batch, self._place = batch, place

    def head(self, call: Running, head: Mapping[str, Any]) -> None:
        """Nobody asked for a stream."""

    def item(self, item: bytes) -> None:
        """Nobody asked for a stream."""

    def done(self, result: Result) -> None:
        self._batch.done(self._place, result)


async def lines(chunks: AsyncIterator[bytes], limit: int) -> AsyncGenerator[tuple[bytes | None, int]]:
    """Yield the lines of a body that are not empty, with their sizes; None for one that is longer than `limit`."""
    kept: list[bytes] = []
    size = 0
    async for chunk in chunks:
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            line, size = _line(kept, end, size + len(end), limit)
            if line is None or line:
                yield line, size
            kept, size = [], 0
        size += len(rest)
        if size <= limit:
            kept.append(rest)
        else:
            kept.clear()
    line, size = _line(kept, b"", size, limit)
    if line is None or line:
        yield line, size


def _line(kept: list[bytes], end: bytes, size: int, limit: int) -> tuple[bytes | None, int]:
    if size > limit:
        return None, size
    line = b"".join([*kept, end]).strip(b" \t\r")
    return line, len(line)


def _succeeded(result: Result) -> bytes:
    if result.kind == "bytes":
        return b'"ok": {"$bytes": "%b"}' % base64.b64encode(result.body)
    body = result.body or b"null"
    if b"\n" in body or b"\r" in body:  # inside JSON a raw line break can only be space
        body = body.replace(b"\n", b" ").replace(b"\r", b" ")
    return b'"ok": ' + body


def _failed(error: PyfaasError) -> bytes:
    return b'"error": ' + json.dumps(problems.of_error(error)[1]).encode()
