"""The server itself: what it uses, what it allows, whether it is well."""

from __future__ import annotations

import time
from typing import Any

from aiohttp import web

from pyfaas import __version__
from pyfaas.model import Caller
from pyfaas.service.service import Service
from pyfaas.web import asked

_DAY_S = 86_400


async def usage(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Sum what was used from one time to another."""
    since, until = asked.query_time(request, "from", 0.0), asked.query_time(request, "to", time.time() + _DAY_S)
    return asked.listed(await service.usage(asked.known(caller), since, until))


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


async def front_page(_service: Service, _request: web.Request, _caller: Caller | None) -> Any:
    """Say what this is and where things are, to whoever opens it in a browser."""
    policy = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
    return web.Response(text=_PAGE, content_type="text/html", headers=policy)


_PAGE = f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>pyfaas</title>
<style>body{{font:16px/1.5 system-ui;max-width:40em;margin:4em auto;padding:0 1em}}code{{background:#eee;padding:.1em .3em}}</style>
<h1>pyfaas {__version__}</h1>
<p>A serverless server for one Linux box. This is its HTTP interface; calls need <code>Authorization: Bearer pf_…</code>.</p>
<ul>
<li><code>PUT /v1/functions/NAME</code> publishes a function, <code>POST /v1/functions/NAME/invoke</code> runs it</li>
<li><code>/f/ACCOUNT/NAME/</code> is a function's own URL</li>
<li><code>GET /readyz</code> tells which layers of isolation are live, <code>GET /healthz</code> whether the server is</li>
<li><code>pyfaas --help</code> lists what the command line does</li>
</ul></html>
"""
