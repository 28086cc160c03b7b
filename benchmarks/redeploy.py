"""What a deploy is without a platform, as the control: an aiohttp server in a venv, redeployed by stop, `pip install`, start.

The same handlers, the same host, the same package index (pip's own configuration); no confinement, no authentication.
The server's port is its own each time, as a service manager starts it, so whoever calls meanwhile is refused.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.baselines import Missing, end

_STARTS_S = 60.0
_INSTALLS_S = 600.0
_APP = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from aiohttp import web
import main
async def invoke(request): return web.json_response(main.handler(await request.json(), None))
async def serve():
    app = web.Application(); app.router.add_post("/invoke", invoke)
    runner = web.AppRunner(app, access_log=None); await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(sys.argv[2])).start()
    print("ready", flush=True)
    left = asyncio.Event(); asyncio.get_running_loop().add_reader(0, left.set); await left.wait()
    await runner.cleanup()
asyncio.run(serve())
"""


class Service:
    """One function behind aiohttp; a context manager."""

    def __init__(self, folder: Path, source: str, *, own_venv: bool) -> None:
        """Install and start it: in a venv of its own, or, when nothing is to be installed, with this interpreter. Raises Missing."""
        self._folder = folder
        folder.mkdir(parents=True)
        self._python = sys.executable
        self._process: subprocess.Popen[bytes] | None = None
        if own_venv:
            venv.create(folder / "venv", with_pip=True)
            self._python = str(folder / "venv" / "bin" / "python")
            self.install(["aiohttp"])
        with socket.create_server(("127.0.0.1", 0)) as found:
            self.port: int = found.getsockname()[1]
        self.start(source)

    def install(self, requirements: Sequence[str]) -> None:
        """Install requirements with pip; raises Missing with its last line."""
        command = [self._python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_INSTALLS_S)
        if done.returncode:
            raise Missing(f"pip install {' '.join(requirements)}: {(done.stderr.strip().splitlines() or ['it failed'])[-1]}")

    def start(self, source: str) -> None:
        """Start it with a source; returns when it listens. Raises Missing."""
        (self._folder / "main.py").write_text(source)
        command = [self._python, "-c", _APP, str(self._folder), str(self.port)]
        self._process = process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0)
        assert process.stdout
        if process.stdout.readline() != b"ready\n":
            raise Missing("the redeployed server did not start")

    def stop(self) -> None:
        """Stop it; what it is asked meanwhile is refused by the kernel."""
        if self._process is not None:
            end(self._process)
            self._process = None

    def redeploy(self, source: str, requirements: Sequence[str]) -> tuple[float, float]:
        """Stop, install, start; returns when (CLOCK_MONOTONIC) it was begun and when it was done."""
        began = time.monotonic()
        self.stop()
        if requirements:
            self.install(requirements)
        self.start(source)
        return began, time.monotonic()


@contextlib.contextmanager
def served(folder: Path, source: str, *, own_venv: bool) -> Iterator[Service]:
    """Run such a service; it stops with the context."""
    service = Service(folder, source, own_venv=own_venv)
    try:
        yield service
    finally:
        service.stop()
