"""Functions: published, listed, shown, removed."""

from __future__ import annotations

import re
from typing import Any

from aiohttp import web

from pyfaas.errors import Code, PyfaasError
from pyfaas.model import Caller, CanaryOrder
from pyfaas.names import check_alias_name, parse_duration
from pyfaas.service.service import Service
from pyfaas.web import asked
from pyfaas.web.upload import read_upload

_CANARY = ("canary", "promote_after", "error_budget")
_SHORTEST_MS, _LONGEST_MS = 1000, 720 * 3_600_000
_ALL = 100
_BUDGET = re.compile(asked.BUDGET_FORM)


async def publish(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Publish a version."""
    name, order = asked.name(request), _order(request)
    config, packed = await read_upload(request, service.config.bundle_packed)
    status, shown = await service.publish(asked.known(caller), name, config, packed, order)
    return web.json_response(shown, status=status)


def _order(request: web.Request) -> CanaryOrder | None:
    """Read which release alias moves to the new version, and how; raises invalid_request, invalid_name."""
    query = request.query
    if "alias" not in query:
        if further := [key for key in _CANARY if key in query]:
            raise PyfaasError(Code.INVALID_REQUEST, f"{further[0]} is of a release alias", hint="say which one with alias")
        return None
    alias = check_alias_name(query["alias"])
    if "canary" not in query:
        if further := [key for key in _CANARY if key in query]:
            raise PyfaasError(Code.INVALID_REQUEST, f"{further[0]} is of a canary", hint="say its first percent with canary")
        return CanaryOrder(pointer=alias, promote_after_ms=0)
    default = CanaryOrder(pointer=alias)
    after = parse_duration(query["promote_after"], "promote_after") if "promote_after" in query else default.promote_after_ms
    if not _SHORTEST_MS <= after <= _LONGEST_MS:
        raise PyfaasError(Code.INVALID_REQUEST, "promote_after must be from 1s to 720h")
    budget = query.get("error_budget", f"{default.error_budget:g}")
    if not _BUDGET.fullmatch(budget) or float(budget) > _ALL:
        raise PyfaasError(Code.INVALID_REQUEST, "error_budget must be a percent from 0 to 100", hint="write 1 or 0.5")
    percent = asked.number(query["canary"], "canary", 1, _ALL)
    return CanaryOrder(pointer=alias, percent=percent, promote_after_ms=after, error_budget=float(budget))


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
