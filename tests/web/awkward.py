"""Awkward requests, and a client that sends bytes as they are: one corpus for the front and for plain aiohttp."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

GOOD = b"Bearer pf_all"  # of the fake service
EVENT = b'{"n": 1}'


def call(
    event: bytes = EVENT,
    further: bytes = b"",
    *,
    name: bytes = b"echo",
    path: bytes | None = None,
    version: bytes = b"1.1",
    token: bytes = GOOD,
    length: bytes | None = None,
) -> bytes:
    """Return the bytes of a call; `further` are whole lines of its head."""
    path = path if path is not None else b"/v1/functions/" + name + b"/invoke"
    sized = b"Content-Length: " + (length if length is not None else b"%d" % len(event)) + b"\r\n"
    head = b"POST " + path + b" HTTP/" + version + b"\r\nHost: x\r\nAuthorization: " + token + b"\r\nContent-Type: application/json\r\n"
    return head + further + sized + b"\r\n" + event


def get(path: bytes = b"/healthz", further: bytes = b"") -> bytes:
    """Return the bytes of a GET."""
    return b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nAuthorization: " + GOOD + b"\r\n" + further + b"\r\n"


def put(body: bytes) -> bytes:
    """Return an upload of one file."""
    framed = b'--B\r\nContent-Disposition: form-data; name="code"; filename="code"\r\n\r\n' + body + b"\r\n--B--\r\n"
    head = b"PUT /v1/functions/echo HTTP/1.1\r\nHost: x\r\nAuthorization: " + GOOD + b"\r\nContent-Type: multipart/form-data; boundary=B\r\n"
    return head + b"Content-Length: %d\r\n\r\n" % len(framed) + framed


def _chunked(*chunks: bytes) -> list[bytes]:
    head = call(b"", b"Transfer-Encoding: chunked\r\n").replace(b"Content-Length: 0\r\n", b"")
    return [head, *(b"%x\r\n" % len(chunk) + chunk + b"\r\n" for chunk in chunks), b"0\r\n\r\n"]


@dataclass(frozen=True, slots=True)
class Case:
    """Segments to send, how many answers they are owed at most, and how many calls must have run."""

    segments: tuple[bytes, ...]
    answers: int = 1
    runs: int | None = None  # None: whatever aiohttp ran
    ends_input: bool = False


def _one(data: bytes, answers: int = 1, runs: int | None = None) -> Case:
    return Case((data,), answers, runs)


_NO_HOST = call().replace(b"Host: x\r\n", b"")
_LINE = b"POST /v1/functions/echo/invoke HTTP/1.1\r\n"

CASES: dict[str, Case] = {
    "plain": _one(call(), runs=1),
    "pipelined": _one(b"".join(call(b'{"n": %d}' % i) for i in range(5)), 5, 5),
    "get between": _one(call(b"1") + get() + call(b"2") + get() + call(b"3"), 5, 3),
    "upload that looks like a call": _one(put(call(b"666")), runs=0),
    "upload that looks like a call, in two": Case((put(call(b"666"))[:-120], put(call(b"666"))[-120:]), runs=0),
    "upload that is a call after its head": Case(
        (put(call(b"666")).partition(b"\r\n\r\n")[0] + b"\r\n\r\n", put(call(b"666")).partition(b"\r\n\r\n")[2]), runs=0
    ),
    "get with a body that looks like a call": _one(
        get(b"/healthz", b"Content-Length: %d\r\n" % len(call(b"666"))) + call(b"666"), runs=0
    ),
    "upload then call": _one(put(call(b"666")) + call(b"1"), 2, 1),
    "length and chunked": _one(call(EVENT, b"Transfer-Encoding: chunked\r\n"), runs=0),
    "chunked and length": _one(call(b"0\r\n\r\n", b"Transfer-Encoding: chunked\r\n"), runs=0),
    "two equal lengths": _one(call(EVENT, b"Content-Length: 8\r\n"), runs=0),
    "two lengths": _one(call(EVENT, b"Content-Length: 3\r\n"), runs=0),
    "length +8": _one(call(length=b"+8"), runs=0),
    "length 8, 8": _one(call(length=b"8, 8"), runs=0),
    "length 0x8": _one(call(length=b"0x8"), runs=0),
    "length -8": _one(call(length=b"-8"), runs=0),
    "length 1_0": _one(call(b'{"n": 100}', length=b"1_0"), runs=0),
    "length ²": _one(call(length="²".encode()), runs=0),
    "length empty": _one(call(length=b""), runs=0),
    "length tab": _one(call(length=b"\t8 "), runs=1),
    "length 008": _one(call(length=b"008")),
    "length huge": _one(call(length=b"9" * 30), runs=0),
    "space before colon": _one(call(EVENT, b"X-A : b\r\n"), runs=0),
    "folded line": _one(call(EVENT, b"X-A: b\r\n c\r\n"), runs=0),
    "line feeds only": _one(call().replace(b"\r\n", b"\n"), runs=0),
    "one line feed": _one(call(EVENT, b"X-A: b\nX-C: d\r\n"), runs=0),
    "NUL in a value": _one(call(EVENT, b"X-A: b\0c\r\n"), runs=0),
    "CR in a value": _one(call(EVENT, b"X-A: b\rc\r\n"), runs=0),
    "bell in a value": _one(call(EVENT, b"X-A: b\x07c\r\n")),
    "latin-1 in a value": _one(call(EVENT, b"X-A: \xe9\r\n"), runs=1),
    "space behind a token": _one(call(token=GOOD + b" \t"), runs=1),
    "space behind a type": _one(call().replace(b"application/json", b"application/json "), runs=1),
    "request without a version": _one(b"GET /healthz\r\n\r\n", runs=0),
    "no host": _one(_NO_HOST),
    "two hosts": _one(call(EVENT, b"Host: y\r\n")),
    "two authorizations": _one(call(EVENT, b"Authorization: Bearer wrong\r\n")),
    "two authorizations, bad first": _one(call(EVENT, b"Authorization: " + GOOD + b"\r\n", token=b"Bearer wrong")),
    "absolute form": _one(call(path=b"http://x/v1/functions/echo/invoke")),
    "percent in the name": _one(call(path=b"/v1/functions/e%63ho/invoke")),
    "percent slash": _one(call(path=b"/v1/functions/echo%2Finvoke"), runs=0),
    "dots": _one(call(path=b"/v1/functions/x/../echo/invoke")),
    "double slash": _one(call(path=b"/v1/functions//echo/invoke"), runs=0),
    "slash at the end": _one(call(path=b"/v1/functions/echo/invoke/"), runs=0),
    "fragment": _one(call(path=b"/v1/functions/echo/invoke#x")),
    "question mark": _one(call(path=b"/v1/functions/echo/invoke?")),
    "unknown query": _one(call(path=b"/v1/functions/echo/invoke?x=1")),
    "bad qualifier": _one(call(path=b"/v1/functions/echo/invoke?qualifier=a.b"), runs=0),
    "bad name": _one(call(name=b"a.b"), runs=0),
    "long name": _one(call(name=b"a" * 65), runs=0),
    "method in small letters": _one(call().replace(b"POST", b"post")),
    "unknown method": _one(call().replace(b"POST", b"BREW")),
    "wrong method": _one(call().replace(b"POST", b"PUT")),
    "http 1.0": _one(call(version=b"1.0"), runs=1),
    "http 1.0 kept": _one(call(EVENT, b"Connection: keep-alive\r\n", version=b"1.0"), runs=1),
    "http 1.2": _one(call(version=b"1.2")),
    "http 2": _one(call(version=b"2.0")),
    "http 2 preface": _one(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", runs=0),
    "tls hello": _one(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200) + b"\r\n\r\n", runs=0),
    "no http at all": _one(b"hello\r\n\r\n", runs=0),
    "long header": _one(call(EVENT, b"X-A: " + b"a" * 9000 + b"\r\n"), runs=0),
    "long line": _one(call(path=b"/v1/functions/echo/invoke?x=" + b"a" * 9000), runs=0),
    "long head of short lines": _one(call(EVENT, b"".join(b"X-%d: %b\r\n" % (i, b"a" * 100) for i in range(90)))),
    "200 headers": _one(call(EVENT, b"".join(b"X-%d: 1\r\n" % i for i in range(200)))),
    "100 headers": _one(call(EVENT, b"".join(b"X-%d: 1\r\n" % i for i in range(100))), runs=1),
    "empty lines first": _one(b"\r\n\r\n" + call(), runs=1),
    "empty line between": _one(call() + b"\r\n" + call(), 2, 2),
    "expect": Case((call(EVENT, b"Expect: 100-continue\r\n")[:-8], EVENT), 2, 1),
    "expect the impossible": _one(call(EVENT, b"Expect: cake\r\n"), runs=0),
    "chunked": _one(b"".join(_chunked(b'{"n"', b": 4}")), runs=1),
    "chunked in pieces": Case(tuple(_chunked(b'{"n"', b": 4}")), runs=1),
    "chunked then call": _one(b"".join(_chunked(b'{"n"', b": 4}")) + call(), 2, 2),
    "chunk size is no number": _one(_chunked()[0] + b"zz\r\n12\r\n0\r\n\r\n"),
    "half closed while it runs": Case((call(b'{"sleep": 9}'),), ends_input=True, runs=1),
    "connection: close": _one(call(EVENT, b"Connection: close\r\n"), 2, 1),
    "call behind connection: close": _one(call(EVENT, b"Connection: close\r\n") + call(), 2, 0),
    "get, connection: close": _one(get(b"/healthz", b"Connection: close\r\n") + call(), 2, 0),
    "garbage after the body": _one(call() + b"garbage\r\n\r\n", 2, 1),
    "bad header name": _one(call(EVENT, b"X(A): b\r\n"), runs=0),
    "empty header name": _one(call(EVENT, b": b\r\n"), runs=0),
    "header without a colon": _one(call(EVENT, b"X-A\r\n"), runs=0),
    "upgrade": _one(call(EVENT, b"Connection: upgrade\r\nUpgrade: websocket\r\n")),
    "identity": _one(call(EVENT, b"Transfer-Encoding: identity\r\n")),
    "gzip that is none": _one(call(EVENT, b"Content-Encoding: gzip\r\n")),
    "empty body": _one(call(b""), runs=1),
    "no length": _one(call(b"").replace(b"Content-Length: 0\r\n", b""), runs=1),
    "two spaces": _one(call().replace(b"POST ", b"POST  ")),
    "tab in the first line": _one(call().replace(b"POST ", b"POST\t"), runs=0),
    "two timeouts": _one(call(EVENT, b"Pyfaas-Timeout: 1s\r\nPyfaas-Timeout: 2s\r\n")),
    "bad timeout": _one(call(EVENT, b"Pyfaas-Timeout: soon\r\n"), runs=0),
    "timeout 0": _one(call(EVENT, b"Pyfaas-Timeout: 0s\r\n"), runs=0),
    "options *": _one(b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", runs=0),
    "connect": _one(b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", runs=0),
    "head": _one(get().replace(b"GET", b"HEAD"), runs=0),
    "too large a body": _one(call(b'"' + b"a" * 200_000 + b'"'), runs=0),
    "medium body": _one(call(b'"' + b"a" * 80_000 + b'"'), runs=1),
    "nothing at that path": _one(get(b"/nowhere"), runs=0),
}


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer as it came."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(slots=True)
class Talk:
    """What became of a case: its answers, and whether the server closed the connection."""

    replies: list[Reply] = field(default_factory=list)
    is_closed: bool = False
    rest: bytes = b""


def split_reply(data: bytes, *, is_head: bool = False) -> tuple[Reply, bytes] | None:
    """Take one answer from the front of what came; None when it is not complete."""
    head, end, rest = data.partition(b"\r\n\r\n")
    if not end:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    status = int(first.split()[1])
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = 0 if is_head or status == 100 else int(headers.get("content-length", "0"))
    return (Reply(status, headers, rest[:length]), rest[length:]) if len(rest) >= length else None


class Client:
    """A connection that sends what it is told."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Keep both ends."""
        self.reader, self.writer, self.kept = reader, writer, b""

    @classmethod
    async def open(cls, port: int) -> Client:
        """Connect to a port of this machine."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def send(self, *segments: bytes, gap: float = 0.01) -> None:
        """Send segments, each as a packet of its own."""
        for number, segment in enumerate(segments):
            if number:
                await asyncio.sleep(gap)
            self.writer.write(segment)

    async def reply(self, seconds: float = 5.0, *, is_head: bool = False) -> Reply | None:
        """Read one answer; None when the server closed first. Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while (found := split_reply(self.kept, is_head=is_head)) is None:
                more = await self._read()
                if not more:
                    return None
                self.kept += more
        reply, self.kept = found
        return reply

    async def is_closed(self, seconds: float = 0.15) -> bool:
        """Tell whether the server closes the connection within a while; what still comes is kept."""
        try:
            async with asyncio.timeout(seconds):
                while more := await self._read():
                    self.kept += more
        except TimeoutError:
            return False
        return True

    async def _read(self) -> bytes:
        try:
            return await self.reader.read(1 << 16)
        except ConnectionError:
            return b""

    async def close(self) -> None:
        """Leave."""
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            pass  # the server was faster


async def talk(port: int, case: Case) -> Talk:
    """Send a case and collect what comes back."""
    client, found = await Client.open(port), Talk()
    try:
        await client.send(*case.segments)
        if case.ends_input:
            await asyncio.sleep(0.05)
            client.writer.write_eof()
        is_head = case.segments[0].startswith(b"HEAD")
        while len(found.replies) < case.answers and (reply := await client.reply(is_head=is_head)) is not None:
            found.replies.append(reply)
        found.is_closed = await client.is_closed()
        found.rest = client.kept
    except TimeoutError:
        found.rest = b"nothing came; " + client.kept
    finally:
        await client.close()
    return found
