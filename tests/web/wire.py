"""A client that sends bytes as they are given, in pieces when asked, and reads whole answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass, field
from typing import Any, ClassVar

ANSWER_S = 5.0  # how long an answer that must come may take


@dataclass
class Answer:
    """A whole answer; header names are lower case."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    was_continued: bool = False  # a 100 came before it

    @property
    def json(self) -> Any:
        """Return the body's value."""
        return json.loads(self.body)


def call(
    body: bytes = b'{"a": 1}',
    extra: bytes = b"",
    *,
    token: bytes = b"pf_all",
    version: bytes = b"1.1",
    path: bytes = b"/v1/functions/echo/invoke",
    has_length: bool = True,
    length: bytes | None = None,
    host: bytes = b"Host: x\r\n",
) -> bytes:
    """Return the bytes of a call; `extra` are whole lines of its head, `length` is what it says of its body."""
    sized = (b"Content-Length: %b\r\n" % (length if length is not None else b"%d" % len(body))) if has_length else b""
    head = b"POST %b HTTP/%b\r\n%bAuthorization: Bearer %b\r\nContent-Type: application/json\r\n%b%b\r\n"
    return head % (path, version, host, token, extra, sized) + body


def get(path: bytes, extra: bytes = b"", *, token: bytes = b"pf_all") -> bytes:
    """Return the bytes of a GET."""
    return b"GET %b HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\n%b\r\n" % (path, token, extra)


def other(method: bytes, path: bytes, body: bytes = b"", extra: bytes = b"", *, token: bytes | None = b"pf_all") -> bytes:
    """Return the bytes of any request."""
    authorization = b"Authorization: Bearer %b\r\n" % token if token is not None else b""
    return b"%b %b HTTP/1.1\r\nHost: x\r\n%b%bContent-Length: %d\r\n\r\n%b" % (method, path, authorization, extra, len(body), body)


class Wire:
    """A connection; `opened` are those of the running test, which closes them at its end."""

    opened: ClassVar[list[Wire]] = []

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take a pair of streams."""
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, port: int) -> Wire:
        """Connect."""
        made = cls(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 24))
        cls.opened.append(made)
        return made

    async def send(self, *parts: bytes) -> None:
        """Send each part so that it arrives by itself: server and client are in one loop."""
        for part in parts:
            self.writer.write(part)
            for _ in range(4):
                await asyncio.sleep(0)

    async def answer(self, *, has_body: bool = True) -> Answer:
        """Read one answer, after any 100, of a HEAD without its body; raises EOFError when the connection ends instead."""
        async with asyncio.timeout(ANSWER_S):
            was_continued = False
            while (answer := await self.head()).status == 100:
                was_continued = True
            answer.was_continued = was_continued
            if answer.headers.get("transfer-encoding") == "chunked":
                answer.body = b"".join([piece async for piece in self.chunks()])
            elif has_body and answer.status not in (204, 304):
                answer.body = await self.reader.readexactly(int(answer.headers.get("content-length", "0")))
            return answer

    async def head(self) -> Answer:
        """Read the head of an answer."""
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers: dict[str, str] = {}
        for line in lines[1:-2]:
            name, _, value = line.partition(": ")
            headers[name.lower()] = headers[name.lower()] + ", " + value if name.lower() in headers else value
        return Answer(int(lines[0].split()[1]), headers)

    async def chunk(self) -> bytes:
        """Read one chunk of a chunked body; empty is the last."""
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        return (await self.reader.readexactly(size + 2))[:-2]

    async def chunks(self) -> Any:
        """Read a chunked body."""
        while piece := await self.chunk():
            yield piece

    async def is_closed(self) -> bool:
        """Wait for the connection's end; False when there is more to read, or it stays open."""
        try:
            async with asyncio.timeout(ANSWER_S):
                return await self.reader.read(1) == b""
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False

    def close(self) -> None:
        """Leave."""
        self.writer.close()

    async def gone(self) -> None:
        """Leave, and wait until that is done."""
        self.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


async def ask(port: int, *parts: bytes) -> Answer:
    """Send one request on a connection of its own and read its answer."""
    wire = await Wire.to(port)
    try:
        await wire.send(*parts)
        return await wire.answer(has_body=not parts[0].startswith(b"HEAD"))
    finally:
        wire.close()
