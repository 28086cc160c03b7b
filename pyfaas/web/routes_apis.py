"""APIs: published and described, subscribed to, and called under their own paths."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from pyfaas.errors import Code, PyfaasError
from pyfaas.model import Caller
from pyfaas.service.service import Service
from pyfaas.sharing import ApiState
from pyfaas.web import asked, event, page, problems
from pyfaas.web.routes_calls import answer, read_event

_DEFINITION_BYTES = 1 << 20  # as sent: spaces and escapes; what counts is counted when it is read
_ORDER_BYTES = 256 << 10  # likewise; secrets count on their own


async def list_apis(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """List the APIs that the account may find."""
    items = service.apis.directory(asked.known(caller))
    return asked.paged(asked.page(request, asked.API_FORM), items, lambda api: f"{api['owner']}/{api['api']}")


async def own_api(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Show an API of the account's."""
    return service.apis.describe(asked.known(caller), None, request.match_info["api"])


async def describe_api(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Show an API of somebody's."""
    return service.apis.describe(asked.known(caller), request.match_info["owner"], request.match_info["api"])


async def publish_api(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Publish a version of an API."""
    table = await asked.document(request, _DEFINITION_BYTES)
    status, shown = await service.apis.publish(asked.known(caller), request.match_info["api"], table)
    return web.json_response(shown, status=status)


async def remove_api(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Remove an API."""
    await service.apis.remove(asked.known(caller), request.match_info["api"], stop=asked.is_stopping(request))
    return web.Response(status=204)


async def deprecate_api(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Deprecate a version of an API."""
    sunset = asked.time((await asked.body(request, "sunset")).get("sunset"), "sunset")
    return await _set(service, request, caller, ApiState.DEPRECATED, sunset)


async def retire_api(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Retire a version of an API."""
    await asked.body(request)
    return await _set(service, request, caller, ApiState.RETIRED, None)


async def _set(service: Service, request: web.Request, caller: Caller | None, state: ApiState, sunset: float | None) -> Any:
    name, version = request.match_info["api"], request.match_info["version"]
    return await service.apis.set_state(asked.known(caller), name, version, state, sunset)


async def list_approvals(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """List who asked for an API, and who has it."""
    items = service.subscriptions.approvals(asked.known(caller), request.match_info["api"])
    return asked.paged(asked.page(request, asked.NAME_FORM), items, lambda item: str(item["account"]))


async def approve(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Approve or refuse what an account asked for."""
    is_approved = asked.needed(bool, (await asked.body(request, "approve")).get("approve"), "approve")
    names = request.match_info
    return await service.subscriptions.decide(asked.known(caller), names["api"], names["account"], is_approved=is_approved)


async def end_approval(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """End an account's subscription of an API."""
    names, stop = request.match_info, asked.is_stopping(request)
    await service.subscriptions.revoke(asked.known(caller), names["api"], names["account"], stop=stop)
    return web.Response(status=204)


async def list_subscriptions(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """List the account's subscriptions."""
    items = [_located(service, request, item) for item in service.subscriptions.listed(asked.known(caller))]
    return asked.paged(asked.page(request, asked.NAME_FORM), items, lambda item: str(item["name"]))


async def subscription(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Show a subscription."""
    return _located(service, request, service.subscriptions.get(asked.known(caller), asked.name(request, "subscription")))


async def subscribe(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Subscribe to an API, or change what is stored with the subscription."""
    name, given = asked.name(request, "subscription"), await asked.document(request, _ORDER_BYTES)
    status, shown = await service.subscriptions.put(asked.known(caller), name, given)
    return web.json_response(_located(service, request, shown), status=status)


async def unsubscribe(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """End a subscription."""
    await service.subscriptions.remove(asked.known(caller), asked.name(request, "subscription"), stop=asked.is_stopping(request))
    return web.Response(status=204)


async def api_document(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Give an API version's OpenAPI document."""
    owner, name, version = _api_path(request)
    url = f"{_host(service, request)}/v1/apis/{owner}/{name}/{version}"
    return service.apis.document(asked.known(caller), owner, name, version, url)


async def call_api(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Call an operation of an API."""
    path = _api_path(request)
    prefix = f"/v1/apis/{'/'.join(path)}/"
    if not request.rel_url.raw_path.startswith(prefix):
        raise PyfaasError(Code.INVALID_NAME, "owner, API and version are written without percent signs")
    body = await read_event(service, request)
    query, is_json = list(request.query.items()), event.is_json(request.headers.get("Content-Type"))
    rest = request.rel_url.raw_path.removeprefix(prefix)
    try:
        prepared = service.operations.prepare(asked.known(caller), path, request.method, rest, query=query, body=body, is_json=is_json)
    except PyfaasError as error:
        if error.code is not Code.METHOD_NOT_ALLOWED:
            raise
        refused = problems.response(error)
        refused.headers["Allow"] = error.evidence["allowed"]
        return refused
    call = event.call_request(asked.known(caller), prepared.name, None, request.headers, prepared.body, wants_stream=True)
    call.api_version, call.is_bytes = prepared.version, prepared.is_bytes
    return await answer(service, request, call, prepared.headers)


def _api_path(request: web.Request) -> tuple[str, str, str]:
    names = request.match_info
    return names["owner"], names["api"], names["version"]


def _host(service: Service, request: web.Request) -> str:
    return f"{request.scheme}://{page.host_of(request.headers.get('Host', ''), service.config)}"


def _located(service: Service, request: web.Request, shown: dict[str, Any]) -> dict[str, Any]:
    """Return a subscription with its whole URL: that by which this client came."""
    return shown if shown["url"] is None else {**shown, "url": _host(service, request) + shown["url"]}
