"""What a request may ask for, and what no request may: the front answers each as aiohttp alone does."""

from __future__ import annotations

import asyncio
import gzip

import pytest

from tests.web.conftest import Served
from tests.web.wire import call, get, other, outcome

N = b'{"n": 1}'
CHUNKED = call(b"", b"Transfer-Encoding: chunked\r\n", has_length=False)
INVOKE = b"/v1/functions/echo/invoke"


CORPUS = {
    "nothing": call(b""),
    "wrong token": call(N, token=b"pf_wrong"),
    "no token": other(b"POST", INVOKE, N, token=None),
    "basic": other(b"POST", INVOKE, N, b"Authorization: Basic eDp5\r\n", token=None),
    "wrong scope": call(N, token=b"pf_read"),
    "unknown function": call(N, path=b"/v1/functions/unknown/invoke"),
    "no JSON": call(b"{broken"),
    "bytes": other(b"POST", INVOKE, b"\x00\xff", b"Content-Type: image/png\r\n"),
    "no bytes": other(b"POST", INVOKE, b"", b"Content-Type: image/png\r\n"),
    "curl's type": other(b"POST", INVOKE, N, b"Content-Type: application/x-www-form-urlencoded\r\n"),
    "JSON of a kind": other(b"POST", INVOKE, N, b"Content-Type: application/problem+json; charset=utf-8\r\n"),
    "no type": other(b"POST", INVOKE, N),
    "query": call(N, path=INVOKE + b"?qualifier=live"),
    "query of an unknown version": call(N, path=INVOKE + b"?qualifier=99"),
    "query empty": call(N, path=INVOKE + b"?qualifier="),
    "query code id": call(N, path=INVOKE + b"?qualifier=sha256-" + b"0" * 64),
    "query outside the grammar": call(N, path=INVOKE + b"?qualifier=a%20b"),
    "query further": call(N, path=INVOKE + b"?qualifier=live&x=1"),
    "timeout": call(N, b"Pyfaas-Timeout: 5s\r\n"),
    "timeout wrong": call(N, b"Pyfaas-Timeout: soon\r\n"),
    "timeout zero": call(N, b"Pyfaas-Timeout: 0s\r\n"),
    "timeout twice": call(N, b"Pyfaas-Timeout: 5s\r\nPyfaas-Timeout: 6s\r\n"),
    "stale": call(N, b"Pyfaas-Stale: forbid\r\n"),
    "stale wrong": call(N, b"Pyfaas-Stale: maybe\r\n"),
    "sticky": call(N, b"Pyfaas-Sticky-Key: me\r\n"),
    "sticky empty": call(N, b"Pyfaas-Sticky-Key: \r\n"),
    "on disconnect": call(N, b"Pyfaas-On-Disconnect: cancel\r\n"),
    "on disconnect wrong": call(N, b"Pyfaas-On-Disconnect: stay\r\n"),
    "idempotency": call(N, b"Idempotency-Key: k\r\n"),
    "async": call(N, b"Prefer: respond-async\r\n"),
    "async among others": call(N, b"Prefer: wait=5, Respond-Async\r\n"),
    "prefers something else": call(N, b"Prefer: return=minimal\r\n"),
    "traceparent": call(N, b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n"),
    "accept": call(N, b"Accept: text/html, */*\r\n"),
    "tab in the first line": call(N).replace(b"invoke HTTP", b"invoke\tHTTP"),
    "upgrade": call(N, b"Connection: upgrade\r\nUpgrade: websocket\r\n"),
    "upgrade to h2c": call(N, b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"),
    "chunked with a trailer": CHUNKED + b"8\r\n" + N + b"\r\n0\r\nX-A: b\r\n\r\n",
    "chunked with an extension": CHUNKED + b"8;x=y\r\n" + N + b"\r\n0\r\n\r\n",
    "chunk size -8": CHUNKED + b"-8\r\n" + N + b"\r\n0\r\n\r\n",
    "chunk longer than said": CHUNKED + b"4\r\n" + N + b"\r\n0\r\n\r\n",
    "gzip, then chunked": call(b"", b"Transfer-Encoding: gzip, chunked\r\n", has_length=False) + b"0\r\n\r\n",
    "gzip": call(gzip.compress(N, mtime=0), b"Content-Encoding: gzip\r\n"),
    "unknown coding": call(N, b"Content-Encoding: rot13\r\n"),
    "too large": call(b'"' + b"x" * (256 << 10) + b'"'),
    "too large for an async call": call(b'"' + b"x" * (64 << 10) + b'"', b"Prefer: respond-async\r\n"),
    "just not too large": call(b'"' + b"x" * ((256 << 10) - 2) + b'"'),
    "64 KiB": call(b'"' + b"x" * ((64 << 10) - 2) + b'"'),
    "GET of the route": get(INVOKE),
    "GET with a body": other(b"GET", INVOKE, N),
    "HEAD": other(b"HEAD", b"/healthz").replace(b"Content-Length: 0\r\n", b""),
    "OPTIONS": other(b"OPTIONS", INVOKE),
    "OPTIONS *": other(b"OPTIONS", b"*"),
    "CONNECT": b"CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n",
    "unknown route": get(b"/v2/nothing"),
    "wrong method": other(b"PATCH", b"/v1/functions/echo"),
    "defect": call(N, path=b"/v1/functions/defect/invoke"),
    "refused at once": call(N, path=b"/v1/functions/refused-throttled/invoke"),
    "answered at once": call(N, path=b"/v1/functions/at-once/invoke"),
    "ended badly": call(N, path=b"/v1/functions/ends-oom/invoke"),
    "error": call(N, path=b"/v1/functions/ends-error/invoke"),
    "stream": call(b'{"n": 2}', path=b"/v1/functions/counted/invoke"),
    "health": get(b"/healthz"),
}


@pytest.mark.parametrize("name", CORPUS)
async def test_both_ways_answer_alike(front: Served, plain: int, name: str) -> None:
    """Status, headers and body are the same through the front and through aiohttp alone."""
    through, alone = await asyncio.gather(outcome(front.port, CORPUS[name]), outcome(plain, CORPUS[name]))
    assert through == alone
