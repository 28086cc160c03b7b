"""Secrets of functions: set, listed by name, removed, and sealed anew with a new key. No answer has a value in it."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from pyfaas.errors import Code, PyfaasError
from pyfaas.model import Caller
from pyfaas.service.service import Service
from pyfaas.web import asked, event

KEY_FORM = "[A-Za-z_][A-Za-z0-9_.-]{0,127}"
_ESCAPED = 6  # JSON may write a byte as \u00XX
_AROUND = 64  # {"value": "…"}


async def set_secret(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Keep a secret for a function."""
    name, value = asked.name(request), await _value(request, service.config.secret_bytes)
    return await service.secrets.put(asked.known(caller), name, request.match_info["key"], value)


async def list_secrets(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """List the names of a function's secrets."""
    wanted = asked.page(request, KEY_FORM)
    return asked.paged(wanted, service.secrets.listed(asked.known(caller), asked.name(request)), lambda secret: str(secret["key"]))


async def remove_secret(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Remove a function's secret."""
    await service.secrets.take_away(asked.known(caller), asked.name(request), request.match_info["key"])
    return web.Response(status=204)


async def rotate(service: Service, _request: web.Request, caller: Caller | None) -> Any:
    """Make a new key, and seal all secrets anew with it."""
    return await service.secrets.rotate(asked.known(caller))


async def _value(request: web.Request, limit: int) -> str:
    """Read a value: JSON `{"value": "…"}`, or the body as it is with any other type. Raises without a word of what came."""
    if event.is_json(request.headers.get("Content-Type")):
        return _of_json(await event.read_body(request, _ESCAPED * limit + _AROUND, "secret_bytes"))
    try:
        return (await event.read_body(request, limit, "secret_bytes")).decode()
    except UnicodeDecodeError:
        raise PyfaasError(Code.INVALID_REQUEST, "a secret is text in UTF-8; this is none", hint="send bytes as base64") from None


def _of_json(body: bytes) -> str:
    hint = 'send {"value": "…"}, or the value itself as text/plain'
    try:
        found = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise PyfaasError(Code.INVALID_REQUEST, "the body is no JSON", hint=hint) from None
    if not isinstance(found, dict):
        raise PyfaasError(Code.INVALID_REQUEST, "the body must be a JSON object", hint=hint)
    if set(found) - {"value"}:
        raise PyfaasError(Code.UNKNOWN_KEY, "the body has another key than value", hint=hint)  # which may be the secret
    return str(asked.needed(str, found.get("value"), "value"))
