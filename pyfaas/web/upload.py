"""The two parts of a publication: `config` (JSON) and `code` (a zip)."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import BodyPartReader, web

from pyfaas.errors import Code, PyfaasError
from pyfaas.web import event

_CONFIG_BYTES = 256 * 1024
FURTHER_BYTES = _CONFIG_BYTES + 64 * 1024  # of a publication beside its code: the configuration, and what multipart adds


async def read_upload(request: web.Request, limit: int) -> tuple[dict[str, Any], bytes]:
    """Read a multipart publication; raises invalid_request, or payload_too_large as soon as that is clear."""
    if not request.content_type.startswith("multipart/"):
        raise PyfaasError(Code.INVALID_REQUEST, "a publication is multipart/form-data with the parts config and code")
    event.check_length(request, limit + FURTHER_BYTES, "bundle_packed")
    try:
        parts = await _parts(request, limit)
    except (ValueError, AssertionError) as error:
        raise PyfaasError(Code.INVALID_REQUEST, f"the multipart body is broken: {error}") from None
    if "code" not in parts:
        raise PyfaasError(Code.INVALID_REQUEST, "the part `code` is missing: a zip of the function's files")
    try:
        config = json.loads(parts.get("config") or b"{}")
    except (ValueError, RecursionError):
        raise PyfaasError(Code.INVALID_REQUEST, "the part `config` is no JSON") from None
    if not isinstance(config, dict):
        raise PyfaasError(Code.INVALID_REQUEST, "the part `config` must be a JSON object")
    return config, parts["code"]


async def _parts(request: web.Request, limit: int) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    async for part in await request.multipart():
        name = part.name if isinstance(part, BodyPartReader) else None
        if not isinstance(part, BodyPartReader) or name not in ("config", "code"):
            raise PyfaasError(Code.UNKNOWN_KEY, f"unknown part {name!r}", hint="the parts are config and code")
        if name in found:
            raise PyfaasError(Code.INVALID_REQUEST, f"the part `{name}` is there twice")
        most, size, pieces = limit if name == "code" else _CONFIG_BYTES, 0, []
        async for chunk in event.chunks(part.read_chunk):
            size += len(chunk)
            if size > most:
                raise event.too_large(most, size, "bundle_packed" if name == "code" else "config")
            pieces.append(chunk)
        found[name] = b"".join(pieces)
    return found
