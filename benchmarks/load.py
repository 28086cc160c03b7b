"""The load: prepared requests over keep-alive connections, from a process of its own, so that it measures and does no more.

`Loader` starts the process (`python -m benchmarks.load`) and sends it orders, one JSON line each; it answers with what
it saw. One client is a blocking socket, which costs the least; several are asyncio protocols on uvloop: one `find` and
one `write` an answer. `cpu_s` is what the load itself took of a processor: on two cores that is not free, and is told.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

_REPOSITORY = Path(__file__).resolve().parents[1]
_PATIENCE_S = 30.0


class LoadError(Exception):
    """A server did not answer as it should; the load that met it is void."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to send where. `size` is the length of the answer's body; `calls` bounds one client, `seconds` several."""

    host: str
    port: int
    head: str
    body: str = ""
    body_bytes: int = 0  # instead of `body`: so many zero bytes
    size: int
    clients: int = 1
    calls: int = 0
    seconds: float = 0.0
    warm: int = 20  # calls before the measured ones

    @property
    def request(self) -> bytes:
        """The request's bytes."""
        return self.head.encode() + (self.body.encode() or bytes(self.body_bytes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a load saw: microseconds a call, in order, and over how long."""

    latencies_us: list[float]
    seconds: float
    cpu_s: float

    @property
    def per_second(self) -> float:
        """Calls a second."""
        return len(self.latencies_us) / self.seconds


def begun(module: str) -> subprocess.Popen[str]:
    """Start a module that is told what to do on its standard input, and ends with it; it answers on its standard output."""
    return subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=_REPOSITORY,
        process_group=0,  # Ctrl-C is ours
    )


def ended(process: subprocess.Popen[str]) -> None:
    """End what `begun` started: it ends with its standard input, else it is killed."""
    assert process.stdin
    assert process.stdout
    process.stdin.close()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


class Loader:
    """The load's process; a context manager."""

    def __init__(self) -> None:
        """Start it; it ends when its standard input does."""
        self._process = process = begun("benchmarks.load")
        assert process.stdin
        assert process.stdout
        self._down, self._up = process.stdin, process.stdout

    def run(self, order: Order) -> Seen:
        """Carry out an order; raises LoadError when an answer is not the expected one, or none comes."""
        self._down.write(json.dumps(asdict(order)) + "\n")
        self._down.flush()
        line = self._up.readline()
        told = json.loads(line) if line else {"error": "the load's process ended"}
        if "error" in told:
            raise LoadError(told["error"])
        return Seen(**told)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        ended(self._process)


# ---- in its process


def one(order: Order) -> dict[str, Any]:
    """Call one after the other over one connection."""
    latencies, request = [], order.request
    with socket.create_connection((order.host, order.port), timeout=_PATIENCE_S) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(order.warm):
            _call(line, request, order.size)
        cpu, start = time.process_time(), time.perf_counter()
        for _ in range(order.calls):
            began = time.perf_counter()
            _call(line, request, order.size)
            latencies.append(time.perf_counter() - began)
        return _told(latencies, time.perf_counter() - start, time.process_time() - cpu)


def _call(line: socket.socket, request: bytes, size: int) -> None:
    line.sendall(request)
    data = line.recv(1 << 20)
    end = data.find(b"\r\n\r\n") + 4
    pieces, got = [data], len(data)
    while end == 3 or got < end + size:
        piece = line.recv(1 << 20)
        if not piece:
            break
        pieces.append(piece)
        got += len(piece)
        if end == 3:
            data += piece
            end = data.find(b"\r\n\r\n") + 4
    if not data.startswith(b"HTTP/1.1 200") or got != end + size:
        raise LoadError(f"not the expected answer ({got} bytes): {data[:600].decode(errors='replace')}")


class _Client(asyncio.Protocol):
    """One of several clients: sends its next request when it has its answer."""

    def __init__(self, load: _Load) -> None:
        """Belong to a load."""
        self._load = load
        self._kept = b""
        self._began = 0.0
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        """Send the first request."""
        self._transport = transport
        self._began = time.perf_counter()
        transport.write(self._load.request)

    def data_received(self, data: bytes) -> None:
        """Take an answer, or a part of one."""
        if self._kept:
            data = self._kept + data
        end = data.find(b"\r\n\r\n") + 4
        if end == 3 or len(data) < end + self._load.size:
            self._kept = data
            return
        self._kept = b""
        now = time.perf_counter()
        load = self._load
        if not data.startswith(b"HTTP/1.1 200"):
            load.fail(data[:600].decode(errors="replace"))
            return
        if load.is_measuring:
            load.latencies.append(now - self._began)
        self._began = now
        if not load.is_over:
            self._transport.write(load.request)

    def connection_lost(self, exc: Exception | None) -> None:
        """Take note of a server that closed."""
        if not self._load.is_over:
            self._load.fail(f"a connection was closed: {exc}")


class _Load:
    """What the clients share."""

    def __init__(self, order: Order) -> None:
        """Begin with nothing seen."""
        self.request, self.size = order.request, order.size
        self.latencies: list[float] = []
        self.is_measuring = self.is_over = False
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def fail(self, why: str) -> None:
        """End the load."""
        if not self._failed.done():
            self._failed.set_exception(LoadError(why))

    async def wait(self, seconds: float) -> None:
        """Let the clients go on for a while; raises LoadError as soon as one met what it should not."""
        await asyncio.wait([self._failed], timeout=seconds)
        if self._failed.done():
            await self._failed


async def many(order: Order) -> dict[str, Any]:
    """Call from several connections at once."""
    loop, load = asyncio.get_running_loop(), _Load(order)
    made = [await loop.create_connection(lambda: _Client(load), order.host, order.port) for _ in range(order.clients)]
    try:
        await load.wait(min(0.3, order.seconds / 2))  # until all are under way
        load.is_measuring, start, cpu = True, time.perf_counter(), time.process_time()
        await load.wait(order.seconds)
        load.is_measuring, took, cpu = False, time.perf_counter() - start, time.process_time() - cpu
    finally:
        load.is_over = True
        for transport, _ in made:
            transport.abort()
    if not load.latencies:
        raise LoadError("no answer came")
    return _told(load.latencies, took, cpu)


def _told(latencies: list[float], seconds: float, cpu: float) -> dict[str, Any]:
    return {"latencies_us": [round(s * 1e6, 1) for s in latencies], "seconds": seconds, "cpu_s": cpu}


def main() -> None:
    """Carry out orders until standard input ends."""
    import uvloop  # noqa: PLC0415 - the load's process only

    # Not sys.stdout: where PYTHONUNBUFFERED is set it drops what one write(2) does not take.
    with open(1, "w", closefd=False) as out:
        for line in sys.stdin:
            order = Order(**json.loads(line))
            try:
                told = one(order) if order.calls else uvloop.run(many(order))
            except (LoadError, OSError) as error:
                told = {"error": f"{type(error).__name__}: {error}"}
            out.write(json.dumps(told) + "\n")
            out.flush()


if __name__ == "__main__":
    main()
