"""What every page of the benchmarks needs: a server, baselines beside it, the host's state, and medians of ratios.

Absolute times wander with the machine, so a figure here is always a ratio against a baseline taken in the same run,
in turns (A B A B). Every result carries the host check and a refused system call as proof that confinement was on.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from tests.e2e.house import House, started  # noqa: E402 - the path is set above

ECHO = "def handler(event, context):\n    return event"
BODY = b'{"a": 1, "text": "hello"}'
_AIOHTTP = """
import asyncio, socket, sys
import uvloop
from aiohttp import web
async def echo(request): return web.Response(body=await request.read(), content_type="application/json")
async def main():
    app = web.Application(); app.router.add_post("/echo", echo)
    runner = web.AppRunner(app, access_log=None); await runner.setup()
    await web.SockSite(runner, socket.socket(fileno=int(sys.argv[1]))).start()
    await asyncio.Event().wait()
uvloop.run(main())
"""


@contextlib.contextmanager
def server() -> Iterator[House]:
    """Run a server of the benchmark's own."""
    with tempfile.TemporaryDirectory(prefix="pyfaas-bench-") as directory, started(Path(directory) / "data") as house:
        yield house


@contextlib.contextmanager
def bare_aiohttp() -> Iterator[tuple[str, int]]:
    """Run a bare aiohttp echo on uvloop, in its own process; yields its address."""
    listen = socket.socket()
    listen.bind(("127.0.0.1", 0))
    listen.listen(128)
    process = subprocess.Popen([sys.executable, "-c", _AIOHTTP, str(listen.fileno())], pass_fds=[listen.fileno()])
    try:
        yield listen.getsockname()
    finally:
        process.terminate()
        process.wait()
        listen.close()


def process_hop(count: int = 2000) -> float:
    """Return the median seconds of a packet to another process and back, when neither does anything with it.

    What a call costs beyond bare aiohttp cannot be less than this: its code runs in a process of its own.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    echo = "import socket, sys\ns = socket.socket(fileno=int(sys.argv[1]))\nwhile b := s.recv(4096): s.send(b)"
    process = subprocess.Popen([sys.executable, "-c", echo, str(theirs.fileno())], pass_fds=[theirs.fileno()])
    theirs.close()
    times = []
    with ours:
        for _ in range(count):
            began = time.perf_counter()
            ours.send(BODY)
            ours.recv(4096)
            times.append(time.perf_counter() - began)
    process.wait()
    return statistics.median(times)


class Line:
    """One keep-alive connection that sends prepared requests and times the answers."""

    def __init__(self, host: str, port: int) -> None:
        """Connect."""
        self._socket = socket.create_connection((host, port), timeout=30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.timing: dict[str, float] = {}  # the last answer's Server-Timing, in milliseconds

    def call(self, request: bytes) -> float:
        """Send a request; returns the seconds until its answer, which must be 200."""
        began = time.perf_counter()
        self._socket.sendall(request)
        answer = self._socket.recv(65536)
        took = time.perf_counter() - began
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(answer[:500].decode(errors="replace"))
        found = re.search(rb"Server-Timing: (.*)\r\n", answer)
        parts = found[1].decode().split(", ") if found else []
        self.timing = {name: float(value) for name, _, value in (part.partition(";dur=") for part in parts)}
        return took

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


def request(path: str, token: str = "", body: bytes = BODY) -> bytes:
    """Return the bytes of a POST."""
    authorization = f"Authorization: Bearer {token}\r\n" if token else ""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{authorization}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def address(house: House) -> tuple[str, int]:
    """Return the server's host and port."""
    parts = urlsplit(house.url)
    return str(parts.hostname), int(parts.port or 0)


def fresh_interpreter() -> float:
    """Return the seconds of baseline E: `python -I -S -c pass` as a fresh process."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-I", "-S", "-c", "pass"], check=True)
    return time.perf_counter() - began


def host_check(house: House) -> dict[str, Any]:
    """Return what the figures depend on, and the proof that calls were confined."""
    probe = "import ctypes\ndef handler(e, c):\n    l = ctypes.CDLL(None, use_errno=True)\n    return [l.syscall(272, 0x10000000), ctypes.get_errno()]"
    house.deploy("confined", probe)
    refused = house.invoke("confined").json
    if refused != [-1, 1]:
        raise RuntimeError(f"unshare(CLONE_NEWUSER) was not refused inside a container: {refused}")
    return {
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "kernel": platform.release(),
        "python": platform.python_version(),
        "isolation": house.isolation,
        "layers": {layer["name"]: layer["detail"] for layer in house.call("GET", "/readyz", token=None).json["layers"]},
        "refused": "unshare(CLONE_NEWUSER): EPERM",
    }


def spread(values: list[float]) -> dict[str, float]:
    """Return median, least and greatest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def write(name: str, result: Mapping[str, Any]) -> Path:
    """Write a page's result as JSON beside the others."""
    out = Path(__file__).with_name("out")
    out.mkdir(exist_ok=True)
    path = out / f"{name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    return path
