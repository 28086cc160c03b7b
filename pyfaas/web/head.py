"""The head of a hot request: a small call of the one route that matters, when nothing about it is unusual.

A head that is not sure to be one is None, and aiohttp takes the request. Parsed strictly by llhttp (httptools), as
uvicorn does. What is kept of a head by its bytes holds nothing that can be revoked: token and function are looked up
on every call.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import httptools

from pyfaas.errors import PyfaasError
from pyfaas.web.event import is_json, timeout_of

MAX_HEAD, MAX_BODY, MAX_LINES = 8190, 64 << 10, 64
PREFIX = b"POST /v1/functions/"
_ROUTE = re.compile(rb"/v1/functions/([A-Za-z0-9_-]{1,64})/invoke(?:\?qualifier=([A-Za-z0-9_-]{1,64}))?")
_RAW = (b"application/octet-stream", b"text/plain")  # like text/event-stream: Accepts that say how a stream is framed
# One of these, or one of `_ONCE` twice, makes a head unusual.
_UNUSUAL = frozenset(
    b"transfer-encoding expect upgrade content-encoding trailer te http2-settings prefer idempotency-key range "
    b"content-location keep-alive proxy-connection pyfaas-stale pyfaas-sticky-key pyfaas-on-disconnect".split()
)
_ONCE = frozenset(b"host authorization content-length content-type pyfaas-timeout traceparent accept connection".split())


@dataclass(frozen=True, slots=True)
class Head:
    """What a head means."""

    name: str
    qualifier: str | None
    authorization: bytes
    length: int
    is_bytes: bool
    timeout_ms: int | None
    traceparent: str | None

    @property
    def is_kept(self) -> bool:
        """Whether its bytes can come again: a traceparent makes each head its own."""
        return self.traceparent is None


class _Collector:
    """What llhttp calls back with."""

    def __init__(self) -> None:
        self.headers: dict[bytes, bytes] = {}
        self.url = b""
        self.is_unusual = False
        self.is_complete = False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in _UNUSUAL or (name in self.headers and name in _ONCE):
            self.is_unusual = True
        self.headers[name] = value.strip(b" \t")

    def on_headers_complete(self) -> None:
        self.is_complete = True


def parse(head: bytes) -> Head | None:
    """Read the bytes of exactly one head; None when it is not sure to be a hot one."""
    if b"\0" in head or len(head) > MAX_HEAD or head.count(b"\n") > MAX_LINES:
        return None
    found = _Collector()
    parser = httptools.HttpRequestParser(found)
    try:
        parser.feed_data(head)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return None
    if found.is_unusual or not found.is_complete or parser.get_http_version() != "1.1" or not parser.should_keep_alive():
        return None
    return _meaning(found)


def _meaning(found: _Collector) -> Head | None:
    headers = found.headers
    route, length = _ROUTE.fullmatch(found.url), headers.get(b"content-length")
    if route is None or length is None or not length.isdigit() or len(length) > 9:
        return None
    if b"host" not in headers or b"authorization" not in headers:
        return None
    accept = headers.get(b"accept", b"").lower()
    if b"event-stream" in accept or any(accept.startswith(kind) for kind in _RAW):
        return None
    if headers.get(b"connection", b"keep-alive").lower() != b"keep-alive" or int(length) > MAX_BODY:
        return None
    timeout = headers.get(b"pyfaas-timeout")
    kind, trace = headers.get(b"content-type"), headers.get(b"traceparent")
    try:
        return Head(
            name=route[1].decode(),
            qualifier=route[2].decode() if route[2] else None,
            authorization=headers[b"authorization"],
            length=int(length),
            is_bytes=not is_json(kind.decode("latin-1") if kind is not None else None),
            timeout_ms=timeout_of({"Pyfaas-Timeout": timeout.decode("latin-1")}) if timeout is not None else None,
            traceparent=trace.decode("latin-1") if trace is not None else None,
        )
    except PyfaasError:
        return None  # aiohttp's way tells what is wrong
