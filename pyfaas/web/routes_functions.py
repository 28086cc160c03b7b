"""Functions, their versions and their release aliases."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from pyfaas.errors import Code, PyfaasError
from pyfaas.model import Caller
from pyfaas.service.service import Service
from pyfaas.web import asked
from pyfaas.web.upload import read_upload

MAX_WAIT_S = 60


async def publish(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Publish a version."""
    name = asked.name(request)
    config, packed = await read_upload(request, service.config.bundle_packed)
    status, shown = await service.publish(asked.known(caller), name, config, packed)
    return web.json_response(shown, status=status)


async def list_functions(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """List the account's functions."""
    limit = asked.query_number(request, "limit", 100, 1, 1000)
    return service.list_functions(asked.known(caller), limit, asked.query_cursor(request, asked.NAME_FORM))


async def describe(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Show a function."""
    return service.describe(asked.known(caller), asked.name(request))


async def remove_function(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Remove a function."""
    await service.remove_function(asked.known(caller), asked.name(request))
    return web.Response(status=204)


async def rollback(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Move a pointer back."""
    name = asked.name(request)
    body = await asked.body(request, "pointer")
    return await service.rollback(asked.known(caller), name, asked.typed(str, body.get("pointer"), "pointer") or "latest")


async def list_versions(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """List a function's versions."""
    limit, after = asked.query_number(request, "limit", 100, 1, 1000), asked.query_number(request, "after", asked.MAX_VERSION + 1, 1, asked.MAX_VERSION + 1)
    shown = service.list_versions(asked.known(caller), asked.name(request))
    rest = [version for version in shown if version["version"] < after]  # newest first: the next page is of lower numbers
    return {"items": rest[:limit], "next": str(rest[limit - 1]["version"]) if len(rest) > limit else None}


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
    """Point a release alias at a version, or at several."""
    name = asked.name(request)
    body = await asked.body(request, "version", "weights")
    number = asked.needed(int, body.get("version"), "version")
    weights = asked.typed(dict, body.get("weights"), "weights") or {}
    read = {
        asked.number(str(key), "weights", 1, asked.MAX_VERSION): asked.needed(int, value, "a weight")
        for key, value in weights.items()
    }
    return await service.set_alias(asked.known(caller), name, request.match_info["alias"], number, read)


async def remove_alias(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Remove a release alias."""
    await service.remove_alias(asked.known(caller), asked.name(request), request.match_info["alias"])
    return web.Response(status=204)
