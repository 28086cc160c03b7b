"""Every route of HTTP version 1, in one table that tests and the authorisation matrix walk.

A handler takes (service, request, caller) and returns a JSON value, or a response. `scope` None means that no token is
needed (`public` routes decide themselves).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from pyfaas import __version__
from pyfaas.errors import Code, PyfaasError
from pyfaas.model import Caller, Scope
from pyfaas.names import check_name, split_target
from pyfaas.service.service import Service
from pyfaas.web import answers, event
from pyfaas.web.upload import read_upload

Handler = Callable[[Service, web.Request, Caller | None], Awaitable[Any]]
_FOLLOW_S = 0.3
_MAX_WAIT_S = 60.0
_SMALL = 64 * 1024


@dataclass(frozen=True, slots=True)
class Route:
    """One row: a method and a path of the table, what answers it, and the scope that it needs."""

    method: str
    path: str
    handler: Handler
    scope: Scope | None


def _me(caller: Caller | None) -> Caller:
    if caller is None:
        raise PyfaasError(Code.UNAUTHENTICATED, "a token is needed", hint="send Authorization: Bearer pf_…")
    return caller


def _name(request: web.Request) -> str:
    return check_name(request.match_info["name"])


def _number(text: str, key: str, low: int, high: int) -> int:
    if not text.isdigit() or len(text) > 12 or not low <= int(text) <= high:
        raise PyfaasError(Code.INVALID_REQUEST, f"{key} must be a number from {low} to {high}")
    return int(text)


def _query_number(request: web.Request, key: str, default: int, low: int, high: int) -> int:
    return _number(request.query.get(key, str(default)), key, low, high)


def _query_time(request: web.Request, key: str, default: float) -> float:
    try:
        return float(request.query.get(key, default))
    except ValueError:
        raise PyfaasError(Code.INVALID_REQUEST, f"{key} must be seconds since the epoch") from None


async def _json(request: web.Request) -> dict[str, Any]:
    body = await event.read_body(request, _SMALL, "request body")
    try:
        value = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise PyfaasError(Code.INVALID_REQUEST, "the body is no JSON") from None
    if not isinstance(value, dict):
        raise PyfaasError(Code.INVALID_REQUEST, "the body must be a JSON object")
    return value


def _known(body: dict[str, Any], *keys: str) -> dict[str, Any]:
    for key in body:
        if key not in keys:
            raise PyfaasError(Code.UNKNOWN_KEY, f"unknown key {key!r}", hint="known are " + ", ".join(keys))
    return body


def _as(kind: type, value: Any, key: str) -> Any:
    if value is not None and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
        raise PyfaasError(Code.INVALID_REQUEST, f"{key} must be a {kind.__name__}")
    return value


def _listed(items: list[dict[str, Any]]) -> dict[str, Any]:
    return {"items": items, "next": None}


# ---- functions


async def publish(service: Service, request: web.Request, caller: Caller | None) -> Any:
    config, packed = await read_upload(request, service.config.bundle_packed)
    status, shown = await service.publish(_me(caller), _name(request), config, packed)
    return web.json_response(shown, status=status)


async def list_functions(service: Service, request: web.Request, caller: Caller | None) -> Any:
    limit = _query_number(request, "limit", 100, 1, 1000)
    return service.list_functions(_me(caller), limit, request.query.get("after"))


async def describe(service: Service, request: web.Request, caller: Caller | None) -> Any:
    return service.describe(_me(caller), _name(request))


async def remove_function(service: Service, request: web.Request, caller: Caller | None) -> Any:
    await service.remove_function(_me(caller), _name(request))
    return web.Response(status=204)


async def rollback(service: Service, request: web.Request, caller: Caller | None) -> Any:
    body = _known(await _json(request), "pointer")
    return await service.rollback(_me(caller), _name(request), _as(str, body.get("pointer"), "pointer") or "latest")


async def list_versions(service: Service, request: web.Request, caller: Caller | None) -> Any:
    return _listed(service.list_versions(_me(caller), _name(request)))


async def version(service: Service, request: web.Request, caller: Caller | None) -> Any:
    number = _number(request.match_info["number"], "version", 1, 10**9)
    wait = min(_MAX_WAIT_S, _query_number(request, "wait", 0, 0, 3600))
    if wait:
        return await service.wait_version(_me(caller), _name(request), number, wait)
    return service.version(_me(caller), _name(request), number)


async def remove_version(service: Service, request: web.Request, caller: Caller | None) -> Any:
    await service.remove_version(_me(caller), _name(request), _number(request.match_info["number"], "version", 1, 10**9))
    return web.Response(status=204)


async def list_aliases(service: Service, request: web.Request, caller: Caller | None) -> Any:
    return service.get_aliases(_me(caller), _name(request))


async def get_alias(service: Service, request: web.Request, caller: Caller | None) -> Any:
    alias = request.match_info["alias"]
    found = service.get_aliases(_me(caller), _name(request))
    if alias not in found:
        raise PyfaasError(Code.NOT_FOUND, f"no release alias {alias!r}")
    return found[alias]


async def set_alias(service: Service, request: web.Request, caller: Caller | None) -> Any:
    body = _known(await _json(request), "version", "weights")
    number, weights = _as(int, body.get("version"), "version"), _as(dict, body.get("weights"), "weights") or {}
    if number is None:
        raise PyfaasError(Code.INVALID_REQUEST, "version is missing")
    read = {_number(str(key), "weights", 1, 10**9): _as(int, value, "a weight") for key, value in weights.items()}
    return await service.set_alias(_me(caller), _name(request), request.match_info["alias"], number, read)


async def remove_alias(service: Service, request: web.Request, caller: Caller | None) -> Any:
    await service.remove_alias(_me(caller), _name(request), request.match_info["alias"])
    return web.Response(status=204)


# ---- running


async def invoke(service: Service, request: web.Request, caller: Caller | None) -> Any:
    prefer = request.headers.get("Prefer", "")
    is_async = "respond-async" in prefer
    limit, key = (service.config.async_payload, "async_payload") if is_async else (service.config.sync_payload, "sync_payload")
    body = await event.read_body(request, limit, key)
    wants_stream = not is_async
    call = event.call_request(_me(caller), _name(request), request.query.get("qualifier"), request.headers, body, wants_stream=wants_stream)
    if not is_async:
        return await answers.answer(service, request, call)
    shown = await service.enqueue(call)
    return web.json_response(shown, status=202, headers={"Location": f"/v1/invocations/{shown['id']}"})


async def function_url(service: Service, request: web.Request, caller: Caller | None) -> Any:
    name, qualifier = split_target(request.match_info["target"])
    owner, rest = request.match_info["account"], "/" + request.match_info["rest"]
    service.check_url(caller, owner, name)
    body = await event.read_body(request, service.config.sync_payload, "sync_payload")
    call = event.call_request(caller, name, qualifier, {k: v for k, v in request.headers.items() if k == "Pyfaas-Timeout"}, b"", wants_stream=True)
    call.body, call.owner, call.is_bytes = body, owner, True
    peer = request.transport.get_extra_info("peername") if request.transport else None
    host, _, port = request.host.partition(":")
    call.http = {
        "method": request.method,
        "path": request.path,
        "raw_path": request.rel_url.raw_path,
        "rest": rest,
        "query": request.rel_url.raw_query_string,
        "headers": [[str(k), v] for k, v in request.headers.items() if not (k.lower() == "authorization" and "pf_" in v)],
        "root_path": f"/f/{owner}/{request.match_info['target']}",
        "client": list(peer[:2]) if peer else None,
        "server": [host, int(port) if port.isdigit() else None],
        "scheme": request.scheme,
        "account": owner,
        "function": name,
    }
    return await answers.answer(service, request, call, under_url=True)


async def logs(service: Service, request: web.Request, caller: Caller | None) -> Any:
    me, name, query = _me(caller), _name(request), request.query
    number = _number(query["version"], "version", 1, 10**9) if "version" in query else None
    since, is_build, limit = _query_time(request, "since", 0.0), "build" in query, _query_number(request, "limit", 1000, 1, 10_000)
    after = _query_number(request, "after", 0, 0, 10**12)
    lines = await service.logs(me, name, number, query.get("id"), since, is_build, after, limit)
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    while True:
        for cursor, line in lines:
            after = cursor
            await response.write(json.dumps(line).encode() + b"\n")
        if "follow" not in query or service.dispatcher.is_draining:
            break
        await asyncio.sleep(_FOLLOW_S)
        lines = await service.logs(me, name, number, query.get("id"), since, is_build, after, limit)
    await response.write_eof()
    return response


async def job(service: Service, request: web.Request, caller: Caller | None) -> Any:
    wait = min(_MAX_WAIT_S, _query_number(request, "wait", 0, 0, 3600))
    return await service.job(_me(caller), request.match_info["id"], wait)


async def list_jobs(service: Service, request: web.Request, caller: Caller | None) -> Any:
    limit = _query_number(request, "limit", 100, 1, 1000)
    return await service.list_jobs(_me(caller), request.query.get("state"), limit, request.query.get("after", ""))


async def cancel_job(service: Service, request: web.Request, caller: Caller | None) -> Any:
    return await service.cancel_job(_me(caller), request.match_info["id"])


async def replay_job(service: Service, request: web.Request, caller: Caller | None) -> Any:
    body = await event.read_body(request, service.config.async_payload, "async_payload")
    shown = await service.replay_job(_me(caller), request.match_info["id"], body or None)
    return web.json_response(shown, status=202, headers={"Location": f"/v1/invocations/{shown['id']}"})


# ---- accounts


async def whoami(service: Service, _request: web.Request, caller: Caller | None) -> Any:
    return service.whoami(_me(caller))


async def create_account(service: Service, request: web.Request, caller: Caller | None) -> Any:
    body = _known(await _json(request), "name", "network")
    name = _as(str, body.get("name"), "name")
    if name is None:
        raise PyfaasError(Code.INVALID_REQUEST, "name is missing")
    shown = await service.create_account(_me(caller), name, _as(bool, body.get("network", True), "network"))
    return web.json_response(shown, status=201)


async def list_accounts(service: Service, _request: web.Request, caller: Caller | None) -> Any:
    return _listed(service.list_accounts(_me(caller)))


async def remove_account(service: Service, request: web.Request, caller: Caller | None) -> Any:
    await service.remove_account(_me(caller), request.match_info["account"])
    return web.Response(status=204)


async def create_token(service: Service, request: web.Request, caller: Caller | None) -> Any:
    body = _known(await _json(request), "scopes", "expires", "label", "account")
    expires = body.get("expires")
    if expires is not None and (isinstance(expires, bool) or not isinstance(expires, (int, float))):
        raise PyfaasError(Code.INVALID_REQUEST, "expires must be seconds since the epoch")
    scopes = _as(list, body.get("scopes"), "scopes") or []
    if not all(isinstance(scope, str) for scope in scopes):
        raise PyfaasError(Code.INVALID_REQUEST, "scopes must be a list of strings")
    shown = await service.create_token(
        _me(caller),
        scopes=scopes,
        expires=expires,
        label=_as(str, body.get("label"), "label") or "",
        account=_as(str, body.get("account"), "account"),
    )
    return web.json_response(shown, status=201)


async def list_tokens(service: Service, _request: web.Request, caller: Caller | None) -> Any:
    return _listed(service.list_tokens(_me(caller)))


async def revoke_token(service: Service, request: web.Request, caller: Caller | None) -> Any:
    await service.revoke_token(_me(caller), request.match_info["id"])
    return web.Response(status=204)


async def rotate_admin(service: Service, _request: web.Request, caller: Caller | None) -> Any:
    return await service.rotate_admin(_me(caller))


# ---- looking


async def usage(service: Service, request: web.Request, caller: Caller | None) -> Any:
    since, until = _query_time(request, "from", 0.0), _query_time(request, "to", time.time() + 86_400)
    return _listed(await service.usage(_me(caller), since, until))


async def fleets(service: Service, _request: web.Request, caller: Caller | None) -> Any:
    return service.fleets(_me(caller))


async def limits(service: Service, _request: web.Request, caller: Caller | None) -> Any:
    return service.limits(_me(caller))


async def healthz(_service: Service, _request: web.Request, _caller: Caller | None) -> Any:
    return {"live": True, "version": __version__}


async def readyz(service: Service, _request: web.Request, _caller: Caller | None) -> Any:
    shown = service.ready()
    return web.json_response(shown, status=200 if shown["ready"] else 503)


async def front_page(_service: Service, _request: web.Request, _caller: Caller | None) -> Any:
    return web.Response(text=_PAGE, content_type="text/html", headers={"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"})


ROUTES = (
    Route("GET", "/", front_page, None),
    Route("GET", "/healthz", healthz, None),
    Route("GET", "/readyz", readyz, None),
    Route("GET", "/v1/whoami", whoami, Scope.INVOKE),
    Route("GET", "/v1/functions", list_functions, Scope.READ),
    Route("PUT", "/v1/functions/{name}", publish, Scope.DEPLOY),
    Route("GET", "/v1/functions/{name}", describe, Scope.READ),
    Route("DELETE", "/v1/functions/{name}", remove_function, Scope.DEPLOY),
    Route("POST", "/v1/functions/{name}/invoke", invoke, Scope.INVOKE),
    Route("POST", "/v1/functions/{name}/rollback", rollback, Scope.DEPLOY),
    Route("GET", "/v1/functions/{name}/logs", logs, Scope.READ),
    Route("GET", "/v1/functions/{name}/versions", list_versions, Scope.READ),
    Route("GET", "/v1/functions/{name}/versions/{number}", version, Scope.READ),
    Route("DELETE", "/v1/functions/{name}/versions/{number}", remove_version, Scope.DEPLOY),
    Route("GET", "/v1/functions/{name}/aliases", list_aliases, Scope.READ),
    Route("GET", "/v1/functions/{name}/aliases/{alias}", get_alias, Scope.READ),
    Route("PUT", "/v1/functions/{name}/aliases/{alias}", set_alias, Scope.DEPLOY),
    Route("DELETE", "/v1/functions/{name}/aliases/{alias}", remove_alias, Scope.DEPLOY),
    Route("GET", "/v1/invocations", list_jobs, Scope.READ),
    Route("GET", "/v1/invocations/{id}", job, Scope.INVOKE),
    Route("DELETE", "/v1/invocations/{id}", cancel_job, Scope.INVOKE),
    Route("POST", "/v1/invocations/{id}/replay", replay_job, Scope.INVOKE),
    Route("GET", "/v1/accounts", list_accounts, Scope.READ),
    Route("POST", "/v1/accounts", create_account, Scope.ADMIN),
    Route("DELETE", "/v1/accounts/{account}", remove_account, Scope.ADMIN),
    Route("GET", "/v1/tokens", list_tokens, Scope.READ),
    Route("POST", "/v1/tokens", create_token, Scope.INVOKE),
    Route("POST", "/v1/tokens/rotate-admin", rotate_admin, Scope.ADMIN),
    Route("DELETE", "/v1/tokens/{id}", revoke_token, Scope.INVOKE),
    Route("GET", "/v1/usage", usage, Scope.READ),
    Route("GET", "/v1/limits", limits, Scope.INVOKE),
    Route("GET", "/v1/fleets", fleets, Scope.READ),
    Route("*", "/f/{account}/{target}/{rest:.*}", function_url, None),
)

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
