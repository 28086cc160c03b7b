"""The demo's server: a process of its own, started as users start it, in a session of its own."""

from __future__ import annotations

import asyncio
import importlib
import signal
import sys
from pathlib import Path

from pyfaas.cli.demo.stage import Stage, StepFailed, check
from pyfaas.cli.demo.store import HOST

_READY_S, _STOP_S = 60.0, 45.0
# What is lost with a layer that one may go without.
COSTS = {
    "cgroups": "no function's memory, processes or processor time are limited",
    "proc": "a function sees what /proc tells of the whole machine",
    "seccomp": "a function may make every system call of the kernel",
    "landlock": "files are kept away by mounts and modes alone",
}


def missing_layers() -> list[str]:
    """Return the names of the layers that cannot be had here, and that a server has to be allowed to go without."""
    doctor = importlib.import_module("sandbox.doctor")
    return [layer.name for layer in doctor.layers() if not layer.live and layer.name not in doctor.EXTRA]


def has_network() -> bool:
    """Tell whether VMs can have a network here."""
    return all(layer.live for layer in importlib.import_module("sandbox.doctor").layers() if layer.name == "doors")


async def spawn(place: Path, weaker: list[str]) -> asyncio.subprocess.Process:
    """Start a server that keeps everything under `place`, without the layers that are named; it finds the demo's store on loopback."""
    hosts = place / "hosts"
    hosts.write_text(f"127.0.0.1 {HOST}\n")
    command = [sys.executable, "-m", "pyfaas", "serve", "--port", "0", "--data-dir", str(place / "data")]
    command += ["-s", "egress_private=127.0.0.1/32", "-s", f"egress_hosts={hosts}"]
    if weaker:
        command += ["--allow-weaker-isolation", ",".join(weaker)]
    with (place / "serve.log").open("wb") as log:
        # A session of its own: Ctrl-C is for the demo, which then stops the server in order.
        return await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=log, start_new_session=True
        )


async def ready(process: asyncio.subprocess.Process, stage: Stage) -> str:
    """Wait until the server is ready, and keep its URL; raises StepFailed when it ends, or takes too long."""
    assert process.stdout is not None  # it was asked for
    try:
        async with asyncio.timeout(_READY_S):
            line = (await process.stdout.readline()).decode().strip()
    except TimeoutError:
        raise StepFailed(f"it was not ready after {_READY_S:.0f} s") from None
    check(line.startswith("pyfaas ready "), line or "the server ended before it was ready")
    words = dict(word.split("=", 1) for word in line.split()[2:])
    stage.url = words["url"]
    return f"isolation {words['isolation']}, at {stage.url}"


async def stop(process: asyncio.subprocess.Process) -> str:
    """Stop the server in order; raises StepFailed when it does not, or ends otherwise than well."""
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(_STOP_S):
            status = await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise StepFailed(f"it had not stopped after {_STOP_S:.0f} s") from None
    check(status == 0, f"it ended with status {status}")
    return "drained, status 0"
