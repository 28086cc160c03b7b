"""The server itself: what it uses, what it allows, whether it is well."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from aiohttp import web

from pyfaas import __version__
from pyfaas.errors import Code, PyfaasError
from pyfaas.model import Caller
from pyfaas.service.service import Service
from pyfaas.web import asked, page
from pyfaas.web.openapi import DOCUMENT

_DAY_S = 86_400
_USAGE_KEY = ("day", "account", "caller", "owner", "function", "alias", "api", "operation", "kind")  # what rows are sorted by
_USAGE_BY = ("function", "alias", "api", "caller")


async def usage(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Sum what was used from one time to another."""
    since, until = asked.query_time(request, "from", 0.0), asked.query_time(request, "to", time.time() + _DAY_S)
    wanted = asked.page(request, asked.USAGE_FORM, default=1000, most=10_000)
    by = request.query.get("by")
    if by is not None and by not in _USAGE_BY:
        raise PyfaasError(Code.INVALID_REQUEST, f"by must be one of {', '.join(_USAGE_BY)}")
    shown = await service.usage(asked.known(caller), since, until, by)
    seen: Counter[str] = Counter()
    marks: dict[int, str] = {}
    for row in shown:
        key = " ".join(str(row.get(name) or "-") for name in _USAGE_KEY)
        marks[id(row)] = f"{key} {seen[key]:06}"  # a name can have been that of several functions in a day
        seen[key] += 1
    return asked.paged(wanted, shown, lambda row: marks[id(row)])


async def fleets(service: Service, _request: web.Request, caller: Caller | None) -> Any:
    """Show VMs, containers and fleets."""
    return service.fleets(asked.known(caller))


async def limits(service: Service, _request: web.Request, caller: Caller | None) -> Any:
    """Show every limit."""
    return service.limits(asked.known(caller))


async def healthz(_service: Service, _request: web.Request, _caller: Caller | None) -> Any:
    """Tell that the server lives."""
    return {"live": True, "version": __version__}


async def readyz(service: Service, _request: web.Request, _caller: Caller | None) -> Any:
    """Tell whether calls are taken, and which layers of isolation are live."""
    shown = service.ready()
    return web.json_response(shown, status=200 if shown["ready"] else 503, headers={} if shown["ready"] else {"Retry-After": "1"})


async def openapi(_service: Service, request: web.Request, _caller: Caller | None) -> Any:
    """Give the OpenAPI document."""
    body, tag = request.app[DOCUMENT]
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    known = [each.strip().removeprefix("W/") for each in request.headers.get("If-None-Match", "").split(",")]
    if tag in known or "*" in known:
        return web.Response(status=304, headers=headers)
    return web.Response(body=body, content_type="application/json", headers=headers)


async def front_page(service: Service, request: web.Request, _caller: Caller | None) -> Any:
    """Say what this is and where things are: a page for a browser, JSON for anybody else."""
    ready = service.ready()
    headers = {"Vary": "Accept", "Cache-Control": "no-cache"}
    if not page.is_wanted(request.headers.get("Accept", "")):
        return web.json_response(page.home(ready), headers=headers)
    shown = page.render(f"{request.scheme}://{page.host_of(request.headers.get('Host', ''), service.config)}", ready)
    return web.Response(text=shown, content_type="text/html", charset="utf-8", headers={**headers, **page.POLICY})
