"""What a request says of its call: body, kind of event, and the headers that shape it. Parsed once, here."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from aiohttp import web

from pyfaas.calls import Request
from pyfaas.errors import Code, PyfaasError
from pyfaas.model import Caller
from pyfaas.names import check_qualifier, parse_duration

_DISCARD_S = 5.0  # a reset would hide the answer
_CURLS_DEFAULT = "application/x-www-form-urlencoded"


def is_json(content_type: str | None) -> bool:
    """Tell whether a body is a JSON event: no type, any JSON type, or what curl sends when told nothing."""
    if content_type is None:
        return True
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "" or kind.endswith("json") or kind == _CURLS_DEFAULT


async def read_body(request: web.Request, limit: int, key: str) -> bytes:
    """Read a body up to a limit; raises payload_too_large early, after throwing away what still comes for a while."""
    if request.content_length is not None and request.content_length > limit:
        await _discard(request)
        raise too_large(limit, request.content_length, key)
    chunks, size = [], 0
    async for chunk in request.content.iter_any():
        size += len(chunk)
        if size > limit:
            await _discard(request)
            raise too_large(limit, size, key)
        chunks.append(chunk)
    return b"".join(chunks)


def too_large(limit: int, observed: int, key: str) -> PyfaasError:
    """Return the error of a body over a limit."""
    evidence = {"limit": key, "value": limit, "observed": observed, "unit": "bytes"}
    return PyfaasError(
        Code.PAYLOAD_TOO_LARGE, f"the body has {observed} bytes or more; {limit} are allowed", hint=f"the operator can raise {key}", evidence=evidence
    )


async def _discard(request: web.Request) -> None:
    try:
        async with asyncio.timeout(_DISCARD_S):
            async for _ in request.content.iter_any():
                continue
    except TimeoutError:
        return


def call_request(
    caller: Caller | None, name: str, qualifier: str | None, headers: Mapping[str, str], body: bytes, *, wants_stream: bool
) -> Request:
    """Make a call's request from a POST …/invoke; raises invalid_header, invalid_name or invalid_request."""
    if "Idempotency-Key" in headers:
        raise PyfaasError(Code.INVALID_HEADER, "Idempotency-Key is not available on this server yet", hint="leave the header out")
    stale = headers.get("Pyfaas-Stale")
    if stale not in (None, "allow", "forbid"):
        raise PyfaasError(Code.INVALID_HEADER, f"Pyfaas-Stale: {stale!r} is neither allow nor forbid")
    leaving = headers.get("Pyfaas-On-Disconnect", "finish")
    if leaving not in ("finish", "cancel"):
        raise PyfaasError(Code.INVALID_HEADER, f"Pyfaas-On-Disconnect: {leaving!r} is neither finish nor cancel")
    return Request(
        caller=caller,
        name=name,
        qualifier=check_qualifier(qualifier) if qualifier is not None else None,
        body=body or b"{}",
        is_bytes=not is_json(headers.get("Content-Type")),
        wants_stream=wants_stream,
        timeout_ms=timeout_of(headers),
        stale=stale,
        sticky_key=headers.get("Pyfaas-Sticky-Key"),
        traceparent=headers.get("traceparent"),
        cancel_on_disconnect=leaving == "cancel",
    )


def timeout_of(headers: Mapping[str, str]) -> int | None:
    """Read Pyfaas-Timeout as milliseconds; raises invalid_header."""
    text = headers.get("Pyfaas-Timeout")
    if text is None:
        return None
    try:
        millis = parse_duration(text, "Pyfaas-Timeout")
    except PyfaasError as error:
        raise PyfaasError(Code.INVALID_HEADER, error.message, hint=error.hint) from None
    if millis <= 0:
        raise PyfaasError(Code.INVALID_HEADER, "Pyfaas-Timeout must be above 0")
    return millis
