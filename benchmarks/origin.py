"""What functions reach in the page `egress`, and the client that reaches it: the same source inside of a container and outside.

`python -m benchmarks.origin` serves HTTP on a free port of 127.0.0.1, which it prints, until its standard input ends: `GET /small` is
answered with 22 bytes, `GET /bytes/N` with N zero bytes, `PUT` with 22 bytes when its body is there. Connections are kept. It does as little as it
can, in a process of its own, so that what is measured is the way to it.

`CLIENT` is a function's code. Its event says what to do how often; it answers with the seconds that each took, so that the call that asks is
in no figure. `Outside` runs the same source in a plain process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Self

from benchmarks.load import begun, ended

CLIENT = '''
import http.client, socket, time


def handler(event, context):
    return globals()[event["what"]](event["host"], event["port"], event["count"], event.get("size", 0))


def timed(act):
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def request(connection):
    connection.request("GET", "/small")
    assert len(connection.getresponse().read()) == 22


def kept(host, port, count, size):
    """Small requests over one connection."""
    connection = http.client.HTTPConnection(host, port, timeout=30)
    request(connection)
    took = [timed(lambda: request(connection)) for _ in range(count)]
    connection.close()
    return took


def anew(host, port):
    connection = http.client.HTTPConnection(host, port, timeout=30)
    request(connection)
    connection.close()


def named(host, port, count, size):
    """A connection for each small request, its name looked up."""
    return [timed(lambda: anew(host, port)) for _ in range(count)]


def known(host, port, count, size):
    """A connection for each small request, to an address that was looked up before."""
    return named(socket.gethostbyname(host), port, count, size)


def fetch(connection, size):
    connection.request("GET", "/bytes/%d" % size)
    answer, room, got = connection.getresponse(), bytearray(256 << 10), 0
    while more := answer.readinto(room):
        got += more
    assert got == size, got


def received(host, port, count, size):
    """Large answers over one connection."""
    connection = http.client.HTTPConnection(host, port, timeout=30)
    request(connection)
    took = [timed(lambda: fetch(connection, size)) for _ in range(count)]
    connection.close()
    return took


def send(connection, body):
    connection.request("PUT", "/", body)
    assert len(connection.getresponse().read()) == 22


def sent(host, port, count, size):
    """Large requests over one connection."""
    connection, body = http.client.HTTPConnection(host, port, timeout=30), bytes(size)
    request(connection)
    took = [timed(lambda: send(connection, body)) for _ in range(count)]
    connection.close()
    return took
'''
_TOLD = b'{"a":1,"text":"hello"}'
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"


@contextlib.contextmanager
def served() -> Iterator[int]:
    """Run the server in a process of its own; yields its port. It ends with the context."""
    process = begun("benchmarks.origin")
    assert process.stdout
    try:
        yield int(process.stdout.readline())
    finally:
        ended(process)


class Outside:
    """The client in a plain process of the same Python; a context manager."""

    def __init__(self) -> None:
        """Start it; it ends when its standard input does."""
        program = f"import json, sys\n{CLIENT}\nfor line in sys.stdin:\n    print(json.dumps(handler(json.loads(line), None)), flush=True)"
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0
        )

    def ask(self, event: Mapping[str, Any]) -> list[float]:
        """Return the seconds that each of what the event asks for took; raises RuntimeError when the client failed."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(event) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the client outside failed: what it met stands above")
        took: list[float] = json.loads(line)
        return took

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        ended(self._process)


# ---- in its process


class _Connection(asyncio.Protocol):
    """Answers what one client asks."""

    def __init__(self) -> None:
        """Wait for a request."""
        self._head = b""
        self._left = 0  # of a request's body
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        """Keep the way back."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Take a request, or a part of one."""
        if self._left:
            self._left -= len(data)
        else:
            self._head += data
            end = self._head.find(b"\r\n\r\n") + 4
            if end == 3:
                return
            head, body, self._head = self._head[:end], len(self._head) - end, b""
            method, path = head.split(b" ", 2)[:2]
            if method == b"GET":
                self._transport.write(_answer(path))
                return
            self._left = length(head) - body
        if self._left == 0:
            self._transport.write(_answer(b"/small"))


def length(head: bytes) -> int:
    """Return the Content-Length of a request's head; 0 without one."""
    found = head.lower().partition(b"content-length:")[2]
    return int(found.split(None, 1)[0]) if found else 0


@lru_cache(maxsize=4)
def _answer(path: bytes) -> bytes:
    """Return an answer; large ones are made once, so that making them is in no figure but the first's."""
    body = bytes(int(path[7:])) if path.startswith(b"/bytes/") else _TOLD
    return _HEAD % len(body) + body


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Connection, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    over = asyncio.Event()
    loop.add_reader(0, over.set)
    await over.wait()


def main() -> None:
    """Serve until standard input ends."""
    import uvloop  # noqa: PLC0415 - the server's process only

    uvloop.run(_serve())


if __name__ == "__main__":
    main()
