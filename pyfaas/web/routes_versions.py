"""Versions, the pointers that name them, and what happens to them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any

from aiohttp import web

from pyfaas.errors import Code, PyfaasError
from pyfaas.model import Caller
from pyfaas.service.service import Service
from pyfaas.web import asked, streams

MAX_WAIT_S = 60
POLICY = ("stale", "max_stale_time", "max_stale_requests", "stale_percent", "min_version", "max_wait")
_COMMENT_S = 15.0
_Found = tuple[list[dict[str, Any]], int]  # events, and the cursor to go on from
_AT_ONCE = 100  # events of one write: a reader that is slow is not given more before it took these


async def list_versions(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """List a function's versions."""
    limit, after = asked.query_number(request, "limit", 100, 1, 1000), asked.query_number(request, "after", asked.MAX_VERSION + 1, 1, asked.MAX_VERSION + 1)
    return service.list_versions(asked.known(caller), asked.name(request), limit, after)  # newest first: `after` is above the next page


async def version(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Show a version; with `wait`, once it is settled."""
    name, number = asked.name(request), asked.version(request)
    wait = min(MAX_WAIT_S, asked.query_number(request, "wait", 0, 0, 3600))
    if wait:
        return await service.wait_version(asked.known(caller), name, number, wait)
    return service.version(asked.known(caller), name, number)


async def remove_version(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Remove a version."""
    await service.remove_version(asked.known(caller), asked.name(request), asked.version(request))
    return web.Response(status=204)


async def rollback(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Move a pointer back."""
    name = asked.name(request)
    body = await asked.body(request, "pointer")
    return await service.rollback(asked.known(caller), name, asked.typed(str, body.get("pointer"), "pointer") or "latest")


async def list_aliases(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Show a function's release aliases."""
    return service.get_aliases(asked.known(caller), asked.name(request))


async def get_alias(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Show a release alias."""
    alias = request.match_info["alias"]
    found = service.get_aliases(asked.known(caller), asked.name(request))
    if alias not in found:
        raise PyfaasError(Code.NOT_FOUND, f"no release alias {alias[:80]!r}")
    return found[alias]


async def set_alias(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Point a release alias at a version, or at two, and say what it allows."""
    name = asked.name(request)
    body = await asked.body(request, "version", "weights", *POLICY)
    number = asked.needed(int, body.get("version"), "version")
    weights = asked.typed(dict, body.get("weights"), "weights") or {}
    read = {
        asked.number(str(key), "weights", 1, asked.MAX_VERSION): asked.needed(int, value, "a weight")
        for key, value in weights.items()
    }
    return await service.set_alias(asked.known(caller), name, request.match_info["alias"], number, read, asked.policy(body, POLICY))


async def remove_alias(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Remove a release alias."""
    await service.remove_alias(asked.known(caller), asked.name(request), request.match_info["alias"])
    return web.Response(status=204)


# ---- events


async def events(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Tell what happened to a function's versions, waiting for it; as server-sent events when asked for."""
    me, name = asked.known(caller), asked.name(request)
    number = asked.number(request.query["version"], "version", 1, asked.MAX_VERSION) if "version" in request.query else None
    after, limit = _resumed(request, asked.query_number(request, "after", 0, 0, asked.MAX_CURSOR)), asked.query_number(request, "limit", 100, 1, 1000)
    wait = min(MAX_WAIT_S, asked.query_number(request, "wait", 0, 0, 3600))
    if "text/event-stream" in request.headers.get("Accept", ""):
        return await _follow(service, request, me, name, after, number=number)
    reader, is_head = _Reader(), request.method == "HEAD"
    with streams.noticed(request, reader):
        found = await reader.take(service.events(me, name, after=after, version=number, wait_s=0 if is_head else wait, limit=limit))
    items, cursor = found or ([], after)
    return {"items": items, "next": cursor}


def _resumed(request: web.Request, after: int) -> int:
    """Return where to go on: where a client that comes again says that it stopped, else where it asks."""
    last = request.headers.get("Last-Event-ID")
    try:
        return after if last is None else asked.number(last, "Last-Event-ID", 0, asked.MAX_CURSOR)
    except PyfaasError as error:
        raise PyfaasError(Code.INVALID_HEADER, error.message, hint="it is the id of an event") from None


class _Reader:
    """Whoever waits for events, as the connection knows it."""

    def __init__(self) -> None:
        """Be there."""
        self.is_gone = False
        self._waiting: asyncio.Future[_Found] | None = None

    async def take(self, found: Coroutine[Any, Any, _Found]) -> _Found | None:
        """Wait for events; None when the client left meanwhile."""
        self._waiting = asyncio.ensure_future(found)
        try:
            return await self._waiting
        except asyncio.CancelledError:
            if not self.is_gone:
                raise
            return None

    def left(self) -> None:
        """Take note that it has gone: nobody waits any more."""
        self.is_gone = True
        if self._waiting is not None:
            self._waiting.cancel()


async def _follow(service: Service, request: web.Request, me: Caller, name: str, after: int, *, number: int | None) -> web.StreamResponse:
    """Stream events until the client leaves, the function is removed, or the server stops."""
    found: _Found | None = await service.events(me, name, after=after, version=number, limit=_AT_ONCE)
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
    reader = _Reader()
    with streams.noticed(request, reader):
        try:
            await response.prepare(request)
            while found is not None and service.is_told and request.method != "HEAD":
                items, after = found
                await response.write(b"".join(map(_framed, items)) or b": nothing new\n\n")
                found = await reader.take(service.events(me, name, after=after, version=number, wait_s=_COMMENT_S, limit=_AT_ONCE))
        except PyfaasError:
            pass  # the function is gone: so is its stream
        except ConnectionResetError:
            return response
        if not reader.is_gone:
            await response.write_eof()
    return response


def _framed(item: dict[str, Any]) -> bytes:
    return f"id: {item['cursor']}\nevent: {item['kind']}\ndata: {json.dumps(item)}\n\n".encode()
