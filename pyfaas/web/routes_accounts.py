"""Accounts, their tokens, and who a token speaks for."""

from __future__ import annotations

import math
from typing import Any

from aiohttp import web

from pyfaas.errors import Code, PyfaasError
from pyfaas.model import Caller
from pyfaas.service.service import Service
from pyfaas.web import asked
from pyfaas.web.routes_versions import POLICY

MAX_LABEL = 200


async def whoami(service: Service, _request: web.Request, caller: Caller | None) -> Any:
    """Tell who a token speaks for."""
    return service.whoami(asked.known(caller))


async def create_account(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Create an account."""
    body = await asked.body(request, "name", "network")
    name, network = asked.needed(str, body.get("name"), "name"), asked.typed(bool, body.get("network"), "network")
    shown = await service.create_account(asked.known(caller), name, network is not False)
    return web.json_response(shown, status=201)


async def list_accounts(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """List the accounts that the caller may see."""
    return asked.paged(asked.page(request, asked.NAME_FORM), service.list_accounts(asked.known(caller)), lambda account: str(account["account"]))


async def set_account(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Change what an account says of staleness, and, for an admin, what it may use."""
    body = await asked.body(request, *POLICY, "quota", "network")
    quota, network = asked.typed(dict, body.pop("quota", None), "quota"), asked.typed(bool, body.pop("network", None), "network")
    return await service.set_account(asked.known(caller), request.match_info["account"], asked.policy(body, POLICY), quota, network)


async def remove_account(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Remove an account."""
    await service.remove_account(asked.known(caller), request.match_info["account"])
    return web.Response(status=204)


async def create_token(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Create a token."""
    body = await asked.body(request, "scopes", "expires", "label", "account")
    scopes = asked.typed(list, body.get("scopes"), "scopes") or []
    if not all(isinstance(scope, str) for scope in scopes):
        raise PyfaasError(Code.INVALID_REQUEST, "scopes must be a list of strings")
    label = asked.typed(str, body.get("label"), "label") or ""
    if len(label) > MAX_LABEL:
        raise PyfaasError(Code.INVALID_REQUEST, f"label has {len(label)} characters; {MAX_LABEL} are allowed")
    shown = await service.create_token(
        asked.known(caller),
        scopes=scopes,
        expires=_time(body.get("expires")),
        label=label,
        account=asked.typed(str, body.get("account"), "account"),
    )
    return web.json_response(shown, status=201)


def _time(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and 0 < value < 1e12):
        raise PyfaasError(Code.INVALID_REQUEST, "expires must be seconds since the epoch")
    return float(value)


async def list_tokens(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """List the account's tokens."""
    wanted = asked.page(request, asked.TOKEN_FORM)
    return asked.paged(wanted, service.list_tokens(asked.known(caller)), lambda token: f"{token['created']:018.6f}-{token['id']}")


async def revoke_token(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Revoke a token."""
    await service.revoke_token(asked.known(caller), asked.identifier(request, "token"))
    return web.Response(status=204)


async def rotate_admin(service: Service, _request: web.Request, caller: Caller | None) -> Any:
    """Replace the admin's token."""
    return await service.rotate_admin(asked.known(caller))
