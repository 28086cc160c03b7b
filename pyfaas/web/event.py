"""What a request says of its call: body, kind of event, and the headers that shape it. Parsed once, here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from aiohttp import web

from pyfaas.calls import Request
from pyfaas.errors import Code, PyfaasError
from pyfaas.model import Caller
from pyfaas.names import check_qualifier, parse_duration

_STALL_S = 30.0  # a body that stops coming for this long is given up
_MAX_STICKY_KEY = 256
_CURLS_DEFAULT = "application/x-www-form-urlencoded"


def is_json(content_type: str | None) -> bool:
    """Tell whether a body is a JSON event: no type, any JSON type, or what curl sends when told nothing."""
    if content_type is None:
        return True
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "" or kind.endswith("json") or kind == _CURLS_DEFAULT


async def chunks(read: Callable[[], Awaitable[bytes]]) -> AsyncIterator[bytes]:
    """Yield what `read` gives until it gives nothing; raises invalid_request when nothing comes for long."""
    while True:
        try:
            async with asyncio.timeout(_STALL_S):
                chunk = await read()
        except TimeoutError:
            raise PyfaasError(Code.INVALID_REQUEST, f"nothing of the body came for {_STALL_S:.0f} s") from None
        if not chunk:
            return
        yield chunk


async def read_body(request: web.Request, limit: int, key: str) -> bytes:
    """Read a body up to a limit; raises payload_too_large as soon as that is clear.

    What still comes is thrown away after the answer, for a while (`lingering_time`): a reset would hide the answer.
    """
    check_length(request, limit, key)
    pieces, size = [], 0
    async for chunk in chunks(request.content.readany):
        size += len(chunk)
        if size > limit:
            raise too_large(limit, size, key)
        pieces.append(chunk)
    return b"".join(pieces)


def check_length(request: web.Request, limit: int, key: str) -> None:
    """Raise payload_too_large when a body's announced length is over a limit."""
    if request.content_length is not None and request.content_length > limit:
        raise too_large(limit, request.content_length, key)


def too_large(limit: int, observed: int, key: str) -> PyfaasError:
    """Return the error of a body over a limit."""
    evidence = {"limit": key, "value": limit, "observed": observed, "unit": "bytes"}
    return PyfaasError(
        Code.PAYLOAD_TOO_LARGE, f"the body has {observed} bytes or more; {limit} are allowed", hint=f"the operator can raise {key}", evidence=evidence
    )


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
    sticky = headers.get("Pyfaas-Sticky-Key")
    if sticky is not None and not 0 < len(sticky) <= _MAX_STICKY_KEY:
        raise PyfaasError(Code.INVALID_HEADER, f"Pyfaas-Sticky-Key must have 1 to {_MAX_STICKY_KEY} characters")
    return Request(
        caller=caller,
        name=name,
        qualifier=check_qualifier(qualifier) if qualifier is not None else None,
        body=body or b"{}",
        is_bytes=bool(body) and not is_json(headers.get("Content-Type")),
        wants_stream=wants_stream,
        timeout_ms=timeout_of(headers),
        stale=stale,
        sticky_key=sticky,
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


def prefers_async(headers: Mapping[str, str]) -> bool:
    """Tell whether Prefer (RFC 7240) asks to be answered before the call has run."""
    preferences = headers.get("Prefer", "").lower().split(",")
    return any(preference.partition(";")[0].strip() == "respond-async" for preference in preferences)
