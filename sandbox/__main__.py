"""The sandbox on its own: `python -m sandbox doctor`, `python -m sandbox run script.py`.

`run` starts a launcher, makes one VM with one container, runs the script there with the standard library and nothing
else of the host's, passes on what it prints while it prints it, and ends with its status: 124 when its time was up, 128
and the signal when it was ended by one, 3 when the machine lacks a layer.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence

from sandbox import doctor
from sandbox.errors import SandboxError
from sandbox.host.container import Container
from sandbox.host.launcher import Launcher
from sandbox.host.spawn import temporary_root
from sandbox.launcher.options import LauncherOptions
from sandbox.spec import MIB, Ending, Fate, Limits, Network, VmSpec
from sandbox.wire import Kind, packet, parts

_TIME_IS_UP, _REFUSED, _SIGNALLED = 124, 3, 128
_PIPE_BYTES = 65_536


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; returns the exit status."""
    told = _parser().parse_args(arguments)
    try:
        if told.verb == "doctor":
            return _show_layers()
        with open(told.script, "rb") as file:
            source = file.read()
        return asyncio.run(_run(told, source))
    except (SandboxError, ValueError, OSError) as error:
        sys.stderr.write(f"sandbox: {error}\n")
        return _REFUSED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sandbox", description=(__doc__ or "").partition("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("doctor", help="what this machine can isolate, and what mends what it cannot; 3 when a layer is missing")
    run = verbs.add_parser("run", help="run a script, confined, with the standard library")
    run.add_argument("--memory", type=int, default=256, metavar="MIB", help="default: 256")
    run.add_argument("--cpu", type=float, default=1.0, metavar="PROCESSORS", help="default: 1.0")
    run.add_argument("--pids", type=int, default=64, metavar="N", help="processes and threads; default: 64")
    run.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS", help="default: 60")
    run.add_argument("--allow-weaker-isolation", default="", metavar="LAYER[,…]", help=f"may be missing: {', '.join(doctor.OPTIONAL)}")
    run.add_argument("script")
    run.add_argument("arguments", nargs=argparse.REMAINDER, help="what the script finds in sys.argv")
    return parser


def _show_layers() -> int:
    found = doctor.layers()
    for layer in found:
        sys.stdout.write(f"{layer.name:18} {'live   ' if layer.live else 'MISSING'} {layer.detail}\n")
        if not layer.live:
            sys.stdout.write(f"{'':18} to mend it: {layer.mend}\n")
    return 0 if all(layer.live for layer in found if layer.name not in doctor.EXTRA) else _REFUSED


async def _run(told: argparse.Namespace, source: bytes) -> int:
    weaker = doctor.require(doctor.layers(), [name for name in told.allow_weaker_isolation.split(",") if name])
    root = temporary_root()
    entry = "sandbox.guest.script:serve"
    options = LauncherOptions(instance=os.urandom(4).hex(), root=root, entry=entry, networks=(Network.NONE,), without=tuple(weaker))
    try:
        launcher = await Launcher.start(options)
        try:
            limits = Limits(memory_bytes=told.memory * MIB, pids=told.pids, cpu=told.cpu, tmp_bytes=told.memory * MIB // 2)
            box = (await launcher.create_vm(VmSpec(limits=limits))).first
            return await _watch(box, told, source)
        finally:
            await launcher.close()
    finally:
        os.rmdir(root)


async def _watch(box: Container, told: argparse.Namespace, source: bytes) -> int:
    """Hand over the script, pass on what it prints, and wait for its end."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Ending] = loop.create_future()
    pipes = ((box.out_fd, sys.stdout.fileno()), (box.err_fd, sys.stderr.fileno()))

    def end(ending: Ending) -> None:
        for pipe, ours in pipes:
            loop.remove_reader(pipe)
            _pass_on(pipe, ours)
        ended.set_result(ending)

    box.on_end = end
    for pipe, ours in pipes:
        loop.add_reader(pipe, _pass_on, pipe, ours)
    order = {"name": told.script, "arguments": told.arguments, "bytes": len(source)}
    for piece in (packet(Kind.LOAD, json.dumps(order).encode()), *parts(source, 0)):
        box.send(piece)
    try:
        async with asyncio.timeout(told.timeout):
            ending = await asyncio.shield(ended)
    except TimeoutError:
        box.kill()
        await ended
        sys.stderr.write(f"sandbox: the script did not end within {told.timeout:g} s\n")
        return _TIME_IS_UP
    return _status(ending, told)


def _pass_on(pipe: int, ours: int) -> None:
    with contextlib.suppress(BlockingIOError, BrokenPipeError):  # nothing more there; nobody reads ours
        while text := os.read(pipe, _PIPE_BYTES):
            while text:
                text = text[os.write(ours, text) :]


def _status(ending: Ending, told: argparse.Namespace) -> int:
    if ending.fate is Fate.EXITED:
        return ending.status
    reasons = {Fate.OOM: f"used more than {told.memory} MiB", Fate.FORBIDDEN_SYSCALL: "made a system call that has no innocent use"}
    sys.stderr.write(f"sandbox: the script {reasons.get(ending.fate, f'was ended by signal {ending.signal}')}\n")
    return _SIGNALLED + (ending.signal or signal.SIGKILL)  # out of memory, the kernel may have chosen a child


if __name__ == "__main__":
    raise SystemExit(main())
