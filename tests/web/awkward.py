"""Awkward requests: whatever bytes come, the front must answer them as plain aiohttp does, and run the same calls.

One table for everything that is held against both ways; `talk` sends a case and tells what became of it.
"""

from __future__ import annotations

import asyncio
import gzip
from dataclasses import dataclass, field

from tests.web.wire import Answer, Wire, call, get, other

N = b'{"n": 1}'
INVOKE = b"/v1/functions/echo/invoke"
CHUNKED = call(b"", b"Transfer-Encoding: chunked\r\n", has_length=False)
_LIVES = get(b"/healthz")


def put(body: bytes) -> bytes:
    """Return an upload of one file."""
    framed = b'--B\r\nContent-Disposition: form-data; name="code"; filename="code"\r\n\r\n' + body + b"\r\n--B--\r\n"
    return other(b"PUT", b"/v1/functions/echo", framed, b"Content-Type: multipart/form-data; boundary=B\r\n")


def _chunked(*chunks: bytes) -> list[bytes]:
    return [CHUNKED, *(b"%x\r\n" % len(chunk) + chunk + b"\r\n" for chunk in chunks), b"0\r\n\r\n"]


@dataclass(frozen=True, slots=True)
class Case:
    """Segments to send, how many answers they are owed at most, and how many calls must have run."""

    segments: tuple[bytes, ...]
    answers: int = 1
    runs: int | None = None  # None: whatever aiohttp ran
    ends_input: bool = False


def _one(data: bytes, answers: int = 1, runs: int | None = None) -> Case:
    return Case((data,), answers, runs)


_NO_HOST = call(N).replace(b"Host: x\r\n", b"")

CASES: dict[str, Case] = {
    "plain": _one(call(N), runs=1),
    "pipelined": _one(b"".join(call(b'{"n": %d}' % i) for i in range(5)), 5, 5),
    "get between": _one(call(b"1") + get(b"/healthz") + call(b"2") + get(b"/healthz") + call(b"3"), 5, 3),
    "upload that looks like a call": _one(put(call(b"666")), runs=0),
    "upload that looks like a call, in two": Case((put(call(b"666"))[:-120], put(call(b"666"))[-120:]), runs=0),
    "upload that is a call after its head": Case(
        (put(call(b"666")).partition(b"\r\n\r\n")[0] + b"\r\n\r\n", put(call(b"666")).partition(b"\r\n\r\n")[2]), runs=0
    ),
    "get with a body that looks like a call": _one(
        get(b"/healthz", b"Content-Length: %d\r\n" % len(call(b"666"))) + call(b"666"), runs=0
    ),
    "upload then call": _one(put(call(b"666")) + call(b"1"), 2, 1),
    "length and chunked": _one(call(N, b"Transfer-Encoding: chunked\r\n"), runs=0),
    "chunked and length": _one(call(b"0\r\n\r\n", b"Transfer-Encoding: chunked\r\n"), runs=0),
    "two equal lengths": _one(call(N, b"Content-Length: 8\r\n"), runs=0),
    "two lengths": _one(call(N, b"Content-Length: 3\r\n"), runs=0),
    "length +8": _one(call(N, length=b"+8"), runs=0),
    "length 8, 8": _one(call(N, length=b"8, 8"), runs=0),
    "length 0x8": _one(call(N, length=b"0x8"), runs=0),
    "length -8": _one(call(N, length=b"-8"), runs=0),
    "length 1_0": _one(call(b'{"n": 100}', length=b"1_0"), runs=0),
    "length ²": _one(call(N, length="²".encode()), runs=0),
    "length empty": _one(call(N, length=b""), runs=0),
    "length tab": _one(call(N, length=b"\t8 "), runs=1),
    "length 008": _one(call(N, length=b"008")),
    "length huge": _one(call(N, length=b"9" * 30), runs=0),
    "space before colon": _one(call(N, b"X-A : b\r\n"), runs=0),
    "folded line": _one(call(N, b"X-A: b\r\n c\r\n"), runs=0),
    "line feeds only": _one(call(N).replace(b"\r\n", b"\n"), runs=0),
    "one line feed": _one(call(N, b"X-A: b\nX-C: d\r\n"), runs=0),
    "NUL in a value": _one(call(N, b"X-A: b\0c\r\n"), runs=0),
    "CR in a value": _one(call(N, b"X-A: b\rc\r\n"), runs=0),
    "bell in a value": _one(call(N, b"X-A: b\x07c\r\n")),
    "latin-1 in a value": _one(call(N, b"X-A: \xe9\r\n"), runs=1),
    "space behind a token": _one(call(N, token=b"pf_all \t"), runs=1),
    "space behind a type": _one(call(N).replace(b"application/json", b"application/json "), runs=1),
    "request without a version": _one(b"GET /healthz\r\n\r\n", runs=0),
    "no host": _one(_NO_HOST),
    "two hosts": _one(call(N, b"Host: y\r\n")),
    "two authorizations": _one(call(N, b"Authorization: Bearer wrong\r\n")),
    "two authorizations, bad first": _one(call(N, b"Authorization: Bearer pf_all\r\n", token=b"wrong")),
    "absolute form": _one(call(N, path=b"http://x/v1/functions/echo/invoke")),
    "percent in the name": _one(call(N, path=b"/v1/functions/e%63ho/invoke")),
    "percent slash": _one(call(N, path=b"/v1/functions/echo%2Finvoke"), runs=0),
    "dots": _one(call(N, path=b"/v1/functions/x/../echo/invoke")),
    "double slash": _one(call(N, path=b"/v1/functions//echo/invoke"), runs=0),
    "slash at the end": _one(call(N, path=b"/v1/functions/echo/invoke/"), runs=0),
    "fragment": _one(call(N, path=b"/v1/functions/echo/invoke#x")),
    "question mark": _one(call(N, path=b"/v1/functions/echo/invoke?")),
    "unknown query": _one(call(N, path=b"/v1/functions/echo/invoke?x=1")),
    "bad qualifier": _one(call(N, path=b"/v1/functions/echo/invoke?qualifier=a.b"), runs=0),
    "bad name": _one(call(N, path=b"/v1/functions/a.b/invoke"), runs=0),
    "long name": _one(call(N, path=b"/v1/functions/" + b"a" * 65 + b"/invoke"), runs=0),
    "method in small letters": _one(call(N).replace(b"POST", b"post")),
    "unknown method": _one(call(N).replace(b"POST", b"BREW")),
    "wrong method": _one(call(N).replace(b"POST", b"PUT")),
    "http 1.0": _one(call(N, version=b"1.0"), runs=1),
    "http 1.0 kept": _one(call(N, b"Connection: keep-alive\r\n", version=b"1.0"), runs=1),
    "http 1.2": _one(call(N, version=b"1.2")),
    "http 2": _one(call(N, version=b"2.0")),
    "http 2 preface": _one(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", runs=0),
    "tls hello": _one(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200) + b"\r\n\r\n", runs=0),
    "no http at all": _one(b"hello\r\n\r\n", runs=0),
    "long header": _one(call(N, b"X-A: " + b"a" * 9000 + b"\r\n"), runs=0),
    "long line": _one(call(N, path=b"/v1/functions/echo/invoke?x=" + b"a" * 9000), runs=0),
    "long head of short lines": _one(call(N, b"".join(b"X-%d: %b\r\n" % (i, b"a" * 100) for i in range(90)))),
    "200 headers": _one(call(N, b"".join(b"X-%d: 1\r\n" % i for i in range(200)))),
    "100 headers": _one(call(N, b"".join(b"X-%d: 1\r\n" % i for i in range(100))), runs=1),
    "empty lines first": _one(b"\r\n\r\n" + call(N), runs=1),
    "empty line between": _one(call(N) + b"\r\n" + call(N), 2, 2),
    "expect": Case((call(N, b"Expect: 100-continue\r\n")[:-8], N), 1, 1),
    "expect the impossible": _one(call(N, b"Expect: cake\r\n"), runs=0),
    "chunked": _one(b"".join(_chunked(b'{"n"', b": 4}")), runs=1),
    "chunked in pieces": Case(tuple(_chunked(b'{"n"', b": 4}")), runs=1),
    "chunked then call": _one(b"".join(_chunked(b'{"n"', b": 4}")) + call(N), 2, 2),
    "chunk size is no number": _one(_chunked()[0] + b"zz\r\n12\r\n0\r\n\r\n"),
    "half closed while it runs": Case((call(b'{"sleep": 9}'),), ends_input=True, runs=1),
    "connection: close": _one(call(N, b"Connection: close\r\n"), 2, 1),
    "call behind connection: close": _one(call(N, b"Connection: close\r\n") + call(N), 2, 0),
    "get, connection: close": _one(get(b"/healthz", b"Connection: close\r\n") + call(N), 2, 0),
    "garbage after the body": _one(call(N) + b"garbage\r\n\r\n", 2, 1),
    "bad header name": _one(call(N, b"X(A): b\r\n"), runs=0),
    "empty header name": _one(call(N, b": b\r\n"), runs=0),
    "header without a colon": _one(call(N, b"X-A\r\n"), runs=0),
    "upgrade": _one(call(N, b"Connection: upgrade\r\nUpgrade: websocket\r\n")),
    "identity": _one(call(N, b"Transfer-Encoding: identity\r\n")),
    "gzip that is none": _one(call(N, b"Content-Encoding: gzip\r\n")),
    "empty body": _one(call(b""), runs=1),
    "no length": _one(call(b"").replace(b"Content-Length: 0\r\n", b""), runs=1),
    "two spaces": _one(call(N).replace(b"POST ", b"POST  ")),
    "tab in the first line": _one(call(N).replace(b"POST ", b"POST\t"), runs=0),
    "two timeouts": _one(call(N, b"Pyfaas-Timeout: 1s\r\nPyfaas-Timeout: 2s\r\n")),
    "bad timeout": _one(call(N, b"Pyfaas-Timeout: soon\r\n"), runs=0),
    "timeout 0": _one(call(N, b"Pyfaas-Timeout: 0s\r\n"), runs=0),
    "options *": _one(b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", runs=0),
    "connect": _one(b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", runs=0),
    "head": _one(get(b"/healthz").replace(b"GET", b"HEAD"), runs=0),
    "too large a body": _one(call(b'"' + b"a" * 300_000 + b'"'), runs=0),
    "medium body": _one(call(b'"' + b"a" * 80_000 + b'"'), runs=1),
    "nothing at that path": _one(get(b"/nowhere"), runs=0),
    # what a request may ask for, and what no request may
    "nothing": _one(call(b"")),
    "wrong token": _one(call(N, token=b"pf_wrong")),
    "no token": _one(other(b"POST", INVOKE, N, token=None)),
    "basic": _one(other(b"POST", INVOKE, N, b"Authorization: Basic eDp5\r\n", token=None)),
    "wrong scope": _one(call(N, token=b"pf_read")),
    "unknown function": _one(call(N, path=b"/v1/functions/unknown/invoke")),
    "no JSON": _one(call(b"{broken")),
    "bytes": _one(other(b"POST", INVOKE, b"\x00\xff", b"Content-Type: image/png\r\n")),
    "no bytes": _one(other(b"POST", INVOKE, b"", b"Content-Type: image/png\r\n")),
    "curl's type": _one(other(b"POST", INVOKE, N, b"Content-Type: application/x-www-form-urlencoded\r\n")),
    "JSON of a kind": _one(other(b"POST", INVOKE, N, b"Content-Type: application/problem+json; charset=utf-8\r\n")),
    "no type": _one(other(b"POST", INVOKE, N)),
    "query": _one(call(N, path=INVOKE + b"?qualifier=live")),
    "query of an unknown version": _one(call(N, path=INVOKE + b"?qualifier=99")),
    "query empty": _one(call(N, path=INVOKE + b"?qualifier=")),
    "query code id": _one(call(N, path=INVOKE + b"?qualifier=sha256-" + b"0" * 64)),
    "query outside the grammar": _one(call(N, path=INVOKE + b"?qualifier=a%20b")),
    "query further": _one(call(N, path=INVOKE + b"?qualifier=live&x=1")),
    "timeout": _one(call(N, b"Pyfaas-Timeout: 5s\r\n")),
    "timeout wrong": _one(call(N, b"Pyfaas-Timeout: soon\r\n")),
    "timeout zero": _one(call(N, b"Pyfaas-Timeout: 0s\r\n")),
    "timeout twice": _one(call(N, b"Pyfaas-Timeout: 5s\r\nPyfaas-Timeout: 6s\r\n")),
    "stale": _one(call(N, b"Pyfaas-Stale: forbid\r\n")),
    "stale wrong": _one(call(N, b"Pyfaas-Stale: maybe\r\n")),
    "sticky": _one(call(N, b"Pyfaas-Sticky-Key: me\r\n")),
    "sticky empty": _one(call(N, b"Pyfaas-Sticky-Key: \r\n")),
    "on disconnect": _one(call(N, b"Pyfaas-On-Disconnect: cancel\r\n")),
    "on disconnect wrong": _one(call(N, b"Pyfaas-On-Disconnect: stay\r\n")),
    "idempotency": _one(call(N, b"Idempotency-Key: k\r\n")),
    "async": _one(call(N, b"Prefer: respond-async\r\n")),
    "async among others": _one(call(N, b"Prefer: wait=5, Respond-Async\r\n")),
    "prefers something else": _one(call(N, b"Prefer: return=minimal\r\n")),
    "traceparent": _one(call(N, b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n")),
    "accept": _one(call(N, b"Accept: text/html, */*\r\n")),
    "tab before the version": _one(call(N).replace(b"invoke HTTP", b"invoke\tHTTP")),
    "upgrade to h2c": _one(call(N, b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n")),
    "chunked with a trailer": _one(CHUNKED + b"8\r\n" + N + b"\r\n0\r\nX-A: b\r\n\r\n"),
    "chunked with an extension": _one(CHUNKED + b"8;x=y\r\n" + N + b"\r\n0\r\n\r\n"),
    "chunk size -8": _one(CHUNKED + b"-8\r\n" + N + b"\r\n0\r\n\r\n"),
    "chunk longer than said": _one(CHUNKED + b"4\r\n" + N + b"\r\n0\r\n\r\n"),
    "gzip, then chunked": _one(call(b"", b"Transfer-Encoding: gzip, chunked\r\n", has_length=False) + b"0\r\n\r\n"),
    "gzip": _one(call(gzip.compress(N, mtime=0), b"Content-Encoding: gzip\r\n")),
    "unknown coding": _one(call(N, b"Content-Encoding: rot13\r\n")),
    "too large": _one(call(b'"' + b"x" * (256 << 10) + b'"')),
    "too large for an async call": _one(call(b'"' + b"x" * (64 << 10) + b'"', b"Prefer: respond-async\r\n")),
    "just not too large": _one(call(b'"' + b"x" * ((256 << 10) - 2) + b'"')),
    "64 KiB": _one(call(b'"' + b"x" * ((64 << 10) - 2) + b'"')),
    "GET of the route": _one(get(INVOKE)),
    "GET with a body": _one(other(b"GET", INVOKE, N)),
    "HEAD": _one(other(b"HEAD", b"/healthz").replace(b"Content-Length: 0\r\n", b"")),
    "OPTIONS": _one(other(b"OPTIONS", INVOKE)),
    "OPTIONS *": _one(other(b"OPTIONS", b"*")),
    "CONNECT": _one(b"CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n"),
    "unknown route": _one(get(b"/v2/nothing")),
    "wrong method for a function": _one(other(b"PATCH", b"/v1/functions/echo")),
    "defect": _one(call(N, path=b"/v1/functions/defect/invoke")),
    "refused at once": _one(call(N, path=b"/v1/functions/refused-throttled/invoke")),
    "answered at once": _one(call(N, path=b"/v1/functions/at-once/invoke")),
    "ended badly": _one(call(N, path=b"/v1/functions/ends-oom/invoke")),
    "error": _one(call(N, path=b"/v1/functions/ends-error/invoke")),
    "stream": _one(call(b'{"n": 2}', path=b"/v1/functions/counted/invoke")),
    "health": _one(get(b"/healthz")),
}


@dataclass(slots=True)
class Talk:
    """What became of a case: its answers, and whether the server closed the connection behind them."""

    answers: list[Answer] = field(default_factory=list)
    is_closed: bool = False
    rest: object = None


async def talk(port: int, case: Case) -> Talk:
    """Send a case and collect what comes back; a connection that answers one more request was not closed."""
    wire, found = await Wire.to(port), Talk()
    is_head = case.segments[0].startswith(b"HEAD")
    try:
        await wire.send(*case.segments)
        if case.ends_input:
            await asyncio.sleep(0.05)
            wire.writer.write_eof()
        while len(found.answers) < case.answers:
            found.answers.append(await wire.answer(has_body=not is_head))
        if not case.ends_input:
            await wire.send(_LIVES)
        after = await wire.answer()
        found.rest = None if after.body.startswith(b'{"live": true') else after
    except (EOFError, ConnectionError):
        found.is_closed = True
    except TimeoutError:
        found.rest = "nothing came"
    finally:
        wire.close()
    return found
