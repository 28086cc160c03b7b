"""Calls: now, later, or under a function's own URL; and what they wrote to their log."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from aiohttp import web

from pyfaas.calls import Request
from pyfaas.errors import Code, PyfaasError
from pyfaas.model import Caller
from pyfaas.names import check_name, split_target
from pyfaas.service.service import Service
from pyfaas.web import asked, batch, event, problems, streams
from pyfaas.web.routes_versions import MAX_WAIT_S

_FOLLOW_S = 0.3
AT_ONCE = 20  # items of a map at once, as many runs as a function has at once unless it says otherwise


async def invoke(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Run a function now, or keep the call for later when the client prefers."""
    name, qualifier, body = asked.name(request), request.query.get("qualifier"), await read_event(service, request)
    call = event.call_request(asked.known(caller), name, qualifier, request.headers, body, wants_stream=True)
    return await answer(service, request, call)


async def invoke_operation(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Call an operation by its name, through a subscription."""
    me, name, body = asked.known(caller), _operation(request), await read_event(service, request)
    prepared = service.operations.checked(me, name, body, is_json=event.is_json(request.headers.get("Content-Type")))
    call = event.call_request(me, name, None, request.headers, body, wants_stream=True)
    call.api_version = prepared.version  # a call that is kept runs what it was checked by
    return await answer(service, request, call, prepared.headers)


async def read_event(service: Service, request: web.Request) -> bytes:
    """Read a call's body, which may be longer when the answer is waited for."""
    limit, key = (service.config.async_payload, "async_payload") if event.prefers_async(request.headers) else (service.config.sync_payload, "sync_payload")
    return await event.read_body(request, limit, key)


async def answer(service: Service, request: web.Request, call: Request, further: Mapping[str, str] = MappingProxyType({})) -> web.StreamResponse:
    """Run a call now, or keep it for later when the client prefers; the answer has these further headers, whatever it is."""
    try:
        if not event.prefers_async(request.headers):
            return await streams.answer(service, request, call, further=further)
        call.wants_stream = False
        return _queued(await service.enqueue(call), {"Preference-Applied": "respond-async", **further})
    except PyfaasError as error:
        refused = problems.response(error)
        refused.headers.update(further)
        return refused


async def map_(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Run a function once for each line."""
    me, name, headers = asked.known(caller), asked.name(request), request.headers
    at_once = min(asked.query_number(request, "concurrency", AT_ONCE, 1, 1000), service.config.account_concurrency)
    call = event.call_request(me, name, request.query.get("qualifier"), headers, b"", wants_stream=False)
    requested, executed = service.pin(call)
    if service.is_own(me, name):
        call.qualifier = str(executed)  # an account alias says itself which version
    call.stale, call.cancel_on_disconnect = None, True
    return await _mapped(request, batch.Batch(service, call, at_once), requested, executed)


async def map_operation(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Call an operation once for each line."""
    me, name = asked.known(caller), _operation(request)
    at_once = min(asked.query_number(request, "concurrency", AT_ONCE, 1, 1000), service.config.account_concurrency)
    call = event.call_request(me, name, None, request.headers, b"", wants_stream=False)
    call.api_version = version = service.operations.version_of(me, name)
    requested, executed = service.pin(call)
    call.stale, call.cancel_on_disconnect = None, True
    items = batch.Batch(service, call, at_once)
    items.checked = lambda line: service.operations.event_of(me, name, version, line)
    return await _mapped(request, items, requested, executed)


def _operation(request: web.Request) -> str:
    return f"{asked.name(request, 'subscription')}/{check_name(request.match_info['operation'], 'operation')}"


async def _mapped(request: web.Request, items: batch.Batch, requested: int, executed: int) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    response.headers.update({"Pyfaas-Requested-Version": str(requested), "Pyfaas-Executed-Version": str(executed)})
    with streams.noticed(request, items):
        try:
            await response.prepare(request)
            await items.run(request, response)
            await response.write_eof()
        except ConnectionResetError:
            items.left()
    return response


async def function_url(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Hand a request to a function as it came."""
    name, qualifier = split_target(request.match_info["target"])
    owner = request.match_info["account"]
    if not request.rel_url.raw_path.startswith(_root(request) + "/"):
        raise PyfaasError(Code.INVALID_NAME, "account and function are written without percent signs in a function's URL")
    service.check_url(caller, owner, name)
    timeout = {"Pyfaas-Timeout": text} if (text := request.headers.get("Pyfaas-Timeout")) is not None else {}
    body = await event.read_body(request, service.config.sync_payload, "sync_payload")
    call = event.call_request(caller, name, qualifier, timeout, b"", wants_stream=True)
    call.body, call.owner, call.is_bytes = body, owner, True
    call.traceparent = request.headers.get("traceparent")
    call.http = _head(request, owner, name)
    return await streams.answer(service, request, call, under_url=True)


def _root(request: web.Request) -> str:
    return f"/f/{request.match_info['account']}/{request.match_info['target']}"


def _head(request: web.Request, owner: str, name: str) -> dict[str, Any]:
    """Describe a request for the function; a token of ours is not part of it."""
    peer = request.transport.get_extra_info("peername") if request.transport else None
    host, _, port = request.host.rpartition(":") if request.host.rpartition(":")[2].isdigit() else (request.host, "", "")
    headers = [[str(k), v] for k, v in request.headers.items() if not (k.lower() == "authorization" and "pf_" in v)]
    return {
        "method": request.method,
        "path": request.path,
        "raw_path": request.rel_url.raw_path,
        "rest": "/" + request.match_info["rest"],
        "query": request.rel_url.raw_query_string,
        "headers": headers,
        "root_path": _root(request),
        "client": list(peer[:2]) if isinstance(peer, tuple) else None,
        "server": [host, int(port) if port else None],
        "scheme": request.scheme,
        "account": owner,
        "function": name,
    }


async def logs(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Give a function's log as lines of JSON, and with `follow` what is still to come."""
    query = request.query
    number = asked.number(query["version"], "version", 1, asked.MAX_VERSION) if "version" in query else None
    wanted = asked.check_id(query["id"], "invocation") if "id" in query else None
    return await _lines(service, request, asked.known(caller), asked.name(request), version=number, invocation=wanted)


async def job_logs(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Give the log of one asynchronous invocation."""
    me, job_id = asked.known(caller), asked.identifier(request, "invocation")
    shown = await service.job(me, job_id)
    return await _lines(service, request, me, shown["function"], version=None, invocation=job_id)


async def _lines(
    service: Service, request: web.Request, me: Caller, name: str, *, version: int | None, invocation: str | None
) -> web.StreamResponse:
    since, is_build = asked.query_time(request, "since", 0.0), asked.query_flag(request, "build")
    after, limit = asked.query_number(request, "after", 0, 0, 10**12), asked.query_number(request, "limit", 1000, 1, 10_000)
    follows = asked.query_flag(request, "follow") and request.method != "HEAD"
    found = await service.logs(me, name, version, invocation, since, is_build, after, limit)
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    while True:
        if found:
            after = found[-1][0]
            await response.write(b"".join([json.dumps(line).encode() + b"\n" for _, line in found]))
        if not follows or request.transport is None or request.transport.is_closing() or not service.ready()["ready"]:
            break
        if len(found) < limit:
            await asyncio.sleep(_FOLLOW_S)
        found = await service.logs(me, name, version, invocation, since, is_build, after, limit)
    await response.write_eof()
    return response


async def job(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Show an asynchronous invocation; with `wait`, once it ended."""
    wait = min(MAX_WAIT_S, asked.query_number(request, "wait", 0, 0, 3600))
    return await service.job(asked.known(caller), asked.identifier(request, "invocation"), wait)


async def list_jobs(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """List asynchronous invocations."""
    limit = asked.query_number(request, "limit", 100, 1, 1000)
    return await service.list_jobs(asked.known(caller), request.query.get("state"), limit, asked.query_cursor(request, asked.ID_FORM) or "")


async def cancel_job(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Cancel an asynchronous invocation."""
    return await service.cancel_job(asked.known(caller), asked.identifier(request, "invocation"))


async def replay_job(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Run an asynchronous invocation again, with its event or another."""
    body = await event.read_body(request, service.config.async_payload, "async_payload")
    return _queued(await service.replay_job(asked.known(caller), asked.identifier(request, "invocation"), body or None), {})


def _queued(shown: dict[str, Any], headers: dict[str, str]) -> web.Response:
    return web.json_response(shown, status=202, headers={"Location": f"/v1/invocations/{shown['id']}", **headers})
