"""The baselines, each as its users run it: bare aiohttp, functions-framework, a fresh interpreter, bubblewrap.

A baseline that cannot run here raises `Missing` with the reason, which every result names.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_REPOSITORY = Path(__file__).resolve().parents[1]
_STARTS_S = 30.0

# Both end with the harness, however it ends: standard input is a pipe that only the harness holds, and PDEATHSIG.
_AIOHTTP = """
import asyncio, os, socket, sys
import uvloop
from aiohttp import web
async def echo(request): return web.Response(body=await request.read(), content_type="application/json")
async def main():
    app = web.Application(client_max_size=16 << 20); app.router.add_post("/echo", echo)
    runner = web.AppRunner(app, access_log=None); await runner.setup()
    await web.SockSite(runner, socket.socket(fileno=int(sys.argv[1]))).start()
    left = asyncio.Event(); asyncio.get_running_loop().add_reader(0, left.set); await left.wait()
uvloop.run(main())
"""
_FRAMEWORK = """
import os, sys
sys.path.insert(0, sys.argv[1])
from sandbox import kernel
kernel.set_parent_death_signal(15)
os.execv(sys.executable, [sys.executable, "-m", "functions_framework", *sys.argv[2:]])
"""
_FUNCTION = """
def echo(request):
    return request.get_data(), 200, {"Content-Type": "application/json"}
"""
_SOCKET = """
import asyncio, socket, sys
import uvloop
ANSWER = b"HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\nContent-Length: %d\\r\\n\\r\\n"
class Echo(asyncio.Protocol):
    def connection_made(self, transport): self.transport = transport
    def data_received(self, data):
        body = data[data.find(b"\\r\\n\\r\\n") + 4:]
        self.transport.write(ANSWER % len(body) + body)
async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, sock=socket.socket(fileno=int(sys.argv[1])))
    left = asyncio.Event(); loop.add_reader(0, left.set); await left.wait()
uvloop.run(main())
"""
_LAUNCHERS_IMPORTS = """
import importlib, sys
sys.path.insert(0, sys.argv[1])
from sandbox.launcher import main
import pyfaas.runtime.container, pyfaas.runtime.warm
for name in main._PRELOADED: importlib.import_module(name)
print("ready", flush=True)
sys.stdin.read()
"""


class Missing(Exception):
    """A baseline that cannot run here, and why."""


@contextlib.contextmanager
def listening(program: str) -> Iterator[tuple[int, int]]:
    """Run a program that serves a socket handed to it, until its standard input ends; yields (pid, port)."""
    listen = socket.create_server(("127.0.0.1", 0), backlog=512)
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(listen.fileno())], pass_fds=[listen.fileno()], stdin=subprocess.PIPE, process_group=0
    )
    port = listen.getsockname()[1]
    listen.close()
    try:
        yield process.pid, port
    finally:
        end(process)


def aiohttp() -> contextlib.AbstractContextManager[tuple[int, int]]:
    """Run a bare aiohttp echo on uvloop; yields (pid, port)."""
    return listening(_AIOHTTP)


def bare_socket() -> contextlib.AbstractContextManager[tuple[int, int]]:
    """Run an echo that parses nothing, on uvloop: what any answer over TCP costs at least; yields (pid, port)."""
    return listening(_SOCKET)


@contextlib.contextmanager
def functions_framework() -> Iterator[tuple[int, int]]:
    """Run the same echo under functions-framework (gunicorn, its defaults); yields (pid, port). Raises Missing."""
    if importlib.util.find_spec("functions_framework") is None:
        raise Missing("functions-framework is not installed: pip install '.[bench]'")
    with tempfile.TemporaryDirectory(prefix="pyfaas-bench-") as folder:
        source = Path(folder) / "main.py"
        source.write_text(_FUNCTION)
        command = [sys.executable, "-c", _FRAMEWORK, str(_REPOSITORY), "--target", "echo", "--source", str(source)]
        log = Path(folder) / "log"
        with log.open("w") as errors:
            process = subprocess.Popen(
                [*command, "--host", "127.0.0.1", "--port", "0"],
                stderr=errors,
                stdout=errors,
                env={**os.environ, "GUNICORN_LOG_LEVEL": "info"},  # it tells its port only so
                process_group=0,
            )
        try:
            yield process.pid, _told_port(process, log)
        finally:
            end(process)


def _told_port(process: subprocess.Popen[bytes], log: Path) -> int:
    until = time.monotonic() + _STARTS_S
    while time.monotonic() < until and process.poll() is None:
        if found := re.search(r"Listening at: http://[\d.]+:(\d+)", log.read_text()):
            return int(found[1])
        time.sleep(0.05)
    raise Missing(f"functions-framework did not start: {log.read_text()[-300:].strip() or 'it says nothing'}")


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process that we started; what it holds open of us is closed first."""
    for opened in (process.stdin, process.stdout):
        if opened:
            opened.close()
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def fresh_interpreter() -> float:
    """Return the seconds of `python -I -S -c pass` as a fresh process."""
    return _seconds([sys.executable, "-I", "-S", "-c", "pass"])


def bubblewrap() -> float:
    """Return the seconds of the same in bubblewrap's namespaces; raises Missing."""
    program = shutil.which("bwrap")
    if program is None:
        raise Missing("bubblewrap is not installed: apt-get install bubblewrap")
    confined = [program, "--unshare-all", "--die-with-parent", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev"]
    try:
        return _seconds([*confined, sys.executable, "-I", "-S", "-c", "pass"])
    except subprocess.CalledProcessError as error:
        raise Missing(f"bubblewrap does not run here: exit status {error.returncode}") from None


def _seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


@contextlib.contextmanager
def launchers_imports() -> Iterator[int]:
    """Run a fresh interpreter that has imported what a launcher has; yields its pid."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _LAUNCHERS_IMPORTS, str(_REPOSITORY)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        process_group=0,
    )
    try:
        if process.stdout is None or process.stdout.readline() != b"ready\n":
            raise Missing("an interpreter with the launcher's imports did not start")
        yield process.pid
    finally:
        end(process)


def packet_hop(count: int) -> list[float]:
    """Return the seconds of packets to another process and back, when neither does anything with them."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    echo = "import socket, sys\ns = socket.socket(fileno=int(sys.argv[1]))\nwhile b := s.recv(4096): s.send(b)"
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", echo, str(theirs.fileno())], pass_fds=[theirs.fileno()], process_group=0)
    theirs.close()
    times = []
    with ours:
        for _ in range(count):
            began = time.perf_counter()
            ours.send(b"x" * 200)
            ours.recv(4096)
            times.append(time.perf_counter() - began)
    process.wait()
    return times
