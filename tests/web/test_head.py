"""The head of a hot call: taken when nothing about it is unusual, left to aiohttp otherwise, and never a reason to fail."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser
from hypothesis import given, settings
from hypothesis import strategies as st

from pyfaas.web.event import is_json
from pyfaas.web.head import MAX_BODY, MAX_LINES, parse
from tests.web.wire import call

_LINES = st.sampled_from(
    [
        b"Content-Length: 8",
        b"Content-Length: +8",
        b"Content-Length:",
        b"Host: x",
        b"Authorization: Bearer pf_all",
        b"Transfer-Encoding: chunked",
        b"Connection: close",
        b"Connection: keep-alive, upgrade",
        b"Upgrade: h2c",
        b"Expect: 100-continue",
        b"Pyfaas-Timeout: 3s",
        b"Pyfaas-Timeout: \xff",
        b"Content-Type: \xe9",
        b"Accept: text/html",
        b" folded",
        b"X: \x00",
        b"no colon",
        b": nameless",
    ]
)


def head(further: bytes = b"", **changed: Any) -> bytes:
    """Return a head alone."""
    return call(b"", further, **{"length": b"8", **changed})


def test_what_a_head_says() -> None:
    """Name, length, token, qualifier, kind of body and timeout are read."""
    found = parse(head(b"Pyfaas-Timeout: 2s\r\n", path=b"/v1/functions/a-b_C9/invoke?qualifier=live"))
    assert found is not None
    assert (found.name, found.qualifier, found.length, found.authorization) == ("a-b_C9", "live", 8, b"Bearer pf_all")
    assert (found.is_bytes, found.timeout_ms, found.is_kept) == (False, 2000, True)


def test_bytes_are_bytes() -> None:
    """A content type that is no JSON makes the event bytes."""
    found = parse(head().replace(b"application/json", b"image/png"))
    assert found is not None
    assert found.is_bytes


def test_a_head_of_its_own_is_not_kept() -> None:
    """A traceparent makes each head different: keeping it would fill the cache."""
    found = parse(head(b"traceparent: 00-1-2-01\r\n"))
    assert found is not None
    assert not found.is_kept


_UNUSUAL = {
    "chunked": b"Transfer-Encoding: chunked\r\n",
    "expect": b"Expect: 100-continue\r\n",
    "upgrade": b"Connection: upgrade\r\nUpgrade: websocket\r\n",
    "close": b"Connection: close\r\n",
    "second length": b"Content-Length: 8\r\n",
    "second host": b"Host: y\r\n",
    "second token": b"Authorization: Bearer pf_other\r\n",
    "second type": b"Content-Type: image/png\r\n",
    "stream": b"Accept: text/event-stream\r\n",
    "async": b"Prefer: respond-async\r\n",
    "disconnect": b"Pyfaas-On-Disconnect: cancel\r\n",
    "stale": b"Pyfaas-Stale: forbid\r\n",
    "sticky": b"Pyfaas-Sticky-Key: a\r\n",
    "coding": b"Content-Encoding: gzip\r\n",
    "bad timeout": b"Pyfaas-Timeout: soon\r\n",
    "folded": b"X: a\r\n b\r\n",
    "space": b"X : a\r\n",
    "NUL": b"X: \0\r\n",
    "line feed": b"X: a\nY: b\r\n",
    "many": b"X: a\r\n" * MAX_LINES,
    "long": b"X: " + b"a" * 9000 + b"\r\n",
}


@pytest.mark.parametrize("further", _UNUSUAL.values(), ids=_UNUSUAL.keys())
def test_an_unusual_line(further: bytes) -> None:
    """One unusual line leaves the request to aiohttp; the same head without it is taken."""
    assert parse(head()) is not None
    assert parse(head(further)) is None


@pytest.mark.parametrize("length", [b"+8", b"-8", b"8, 8", b"0x8", b"", b"8 8", b"\xb2", b"1_0", b"9" * 10, b"%d" % (MAX_BODY + 1)], ids=repr)
def test_a_length_that_is_no_small_number(length: bytes) -> None:
    """Only digits are a length, and only a small one is hot."""
    assert parse(head(length=length)) is None


@pytest.mark.parametrize(
    "path",
    [
        b"/v1/functions/e%63ho/invoke",
        b"/v1/functions/a/../echo/invoke",
        b"/v1/functions//invoke",
        b"/v1/functions/echo/invoke/",
        b"/v1/functions/echo/invoke?",
        b"/v1/functions/echo/invoke?qualifier=",
        b"/v1/functions/echo/invoke?qualifier=1&qualifier=2",
        b"/v1/functions/echo/invoke#x",
        b"http://x/v1/functions/echo/invoke",
        b"/v1/functions/" + b"a" * 65 + b"/invoke",
        b"/v1/functions/echo/invoked",
    ],
    ids=repr,
)
def test_a_path_in_another_form(path: bytes) -> None:
    """There is one canonical form of the path; every other is left to aiohttp's router."""
    assert parse(head(path=path)) is None


def test_every_beginning_of_a_head() -> None:
    """A head that is cut off anywhere is no head."""
    whole = head()
    assert parse(whole) is not None
    assert [end for end in range(len(whole)) if parse(whole[:end]) is not None] == []


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    """No bytes make the parser raise, alone or behind a good beginning."""
    assert parse(data) is None
    parse(b"POST /v1/functions/echo/invoke HTTP/1.1\r\n" + data + b"\r\n\r\n")


@settings(deadline=None)
@given(st.lists(_LINES, max_size=12))
def test_any_lines(lines: list[bytes]) -> None:
    """Whatever lines a head has: when it is taken, it has one host, one token, one length, and nothing that changes the body."""
    found = parse(b"".join(line + b"\r\n" for line in [b"POST /v1/functions/echo/invoke HTTP/1.1", *lines]) + b"\r\n")
    if found is not None:
        assert [lines.count(line) for line in (b"Host: x", b"Authorization: Bearer pf_all", b"Content-Length: 8")] == [1, 1, 1]
        assert not {b"Transfer-Encoding: chunked", b"Content-Length: +8", b"Expect: 100-continue"} & set(lines)
        assert found.length == 8


@settings(deadline=None)
@given(st.binary(max_size=8), st.integers(0, 200))
def test_a_head_with_a_hole(inserted: bytes, at: int) -> None:
    """A good head with any bytes put in anywhere is still not a reason to fail, nor to run another function's call longer."""
    whole = head()
    at = min(at, len(whole))
    found = parse(whole[:at] + inserted + whole[at:])
    assert found is None or found.length <= MAX_BODY


_PIECES = st.sampled_from([b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b",", b"8", b"\xff", b"%", b"/", b"?", b"#", b"\x7f", b";", b"+", b"\r\n\r\n"])


@settings(deadline=None)
@given(st.lists(st.tuples(_PIECES, st.integers(0, 200), st.integers(0, 3)), max_size=3), st.lists(_LINES, max_size=2))
def test_aiohttp_reads_the_same(changes: list[tuple[bytes, int, int]], lines: list[bytes]) -> None:
    """Whatever head is taken for hot, aiohttp's parser takes too, and for the same: one message, its path, token and length."""
    whole = head(b"".join(line + b"\r\n" for line in lines))
    for piece, at, removed in changes:
        whole = whole[:at] + piece + whole[at + removed :]
    whole = whole[: whole.find(b"\r\n\r\n") + 4]  # as the front cuts it
    found = parse(whole)
    if found is None:
        return
    ((message, body),) = _as_aiohttp(whole + b"x" * found.length)
    assert message.path.split("?")[0] == f"/v1/functions/{found.name}/invoke"
    assert (message.method, message.version, message.should_close, message.chunked, message.upgrade) == ("POST", (1, 1), False, False, False)
    assert message.headers.getall("Authorization") == [found.authorization.decode("utf-8", "surrogateescape")]
    assert message.headers.getall("Content-Length") == [str(found.length)]
    assert is_json(message.headers.get("Content-Type")) is not found.is_bytes
    assert body.is_eof()


def _as_aiohttp(data: bytes) -> list[Any]:
    """Parse with aiohttp's parser; raises what it raises."""
    loop = asyncio.new_event_loop()
    try:
        messages, _, rest = HttpRequestParser(BaseProtocol(loop), loop, 2**16, max_line_size=8190, max_field_size=8190).feed_data(data)
        assert rest == b""
        return list(messages)
    finally:
        loop.close()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (None, True),
        ("", True),
        ("application/json", True),
        ("Application/JSON; charset=utf-8", True),
        ("application/problem+json", True),
        ("text/json", True),
        ("application/x-www-form-urlencoded", True),
        ("application/octet-stream", False),
        ("text/plain", False),
        ("multipart/form-data; boundary=json", False),
        ("image/png", False),
        ("application/x-ndjson-not", False),
    ],
)
def test_what_is_a_json_event(kind: str | None, expected: bool) -> None:
    """No type, every JSON type and curl's default are JSON events; all else is bytes."""
    assert is_json(kind) is expected
