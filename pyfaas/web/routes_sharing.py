"""What is lent: grants, account aliases, and the audit trail."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from pyfaas.model import Caller
from pyfaas.service.service import Service
from pyfaas.web import asked, page

_TERMS_BYTES, _ORDER_BYTES = 64 << 10, 256 << 10  # as sent: a letter may take six, and secrets count on their own


async def list_grants(service: Service, _request: web.Request, caller: Caller | None) -> Any:
    """Show what the account lends, and what is lent to it."""
    return service.sharing.grants(asked.known(caller))


async def function_grants(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Show what is lent of one function or account alias."""
    return service.sharing.grants_of(asked.known(caller), asked.name(request))


async def grant(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Lend a function."""
    name, terms = asked.name(request), await asked.document(request, _TERMS_BYTES)
    status, shown = await service.sharing.grant(asked.known(caller), name, request.match_info["grantee"], terms)
    return web.json_response(shown, status=status)


async def revoke(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Take a grant back."""
    name, account = asked.name(request), request.match_info["grantee"]
    await service.sharing.revoke(asked.known(caller), name, account, is_stopping=asked.is_stopping(request))
    return web.Response(status=204)


async def list_account_aliases(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """List the account's aliases."""
    items = [_located(service, request, item) for item in service.sharing.aliases(asked.known(caller))]
    return asked.paged(asked.page(request, asked.NAME_FORM), items, lambda alias: str(alias["name"]))


async def account_alias(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Show an account alias."""
    return _located(service, request, service.sharing.alias(asked.known(caller), asked.name(request, "account alias")))


async def accept(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Make an account alias."""
    name, order = asked.name(request, "account alias"), await asked.document(request, _ORDER_BYTES)
    status, shown = await service.sharing.accept(asked.known(caller), name, order)
    return web.json_response(_located(service, request, shown), status=status)


async def remove_account_alias(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Remove an account alias."""
    name = asked.name(request, "account alias")
    await service.sharing.remove_alias(asked.known(caller), name, is_stopping=asked.is_stopping(request))
    return web.Response(status=204)


async def audit(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Show the account's side of what was lent, taken, called and refused."""
    after = asked.query_number(request, "after", 0, 0, asked.MAX_CURSOR)
    return await service.sharing.audit(asked.known(caller), after, asked.query_number(request, "limit", 100, 1, 1000))


def _located(service: Service, request: web.Request, alias: dict[str, Any]) -> dict[str, Any]:
    """Return an alias as it is shown, with whole URLs: those by which this client came."""
    host = f"{request.scheme}://{page.host_of(request.headers.get('Host', ''), service.config)}"
    return {**alias, "url": host + alias["url"], "invoke": host + alias["invoke"]}
