"""A real launcher with an event loop of its own, asked synchronously, so that one serves a module of tests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from sandbox import filters
from sandbox.host.container import Container
from sandbox.host.launcher import Launcher
from sandbox.host.spawn import ENVIRONMENT, memory_file
from sandbox.host.vm import Vm
from sandbox.launcher import cgroups
from sandbox.launcher.options import LauncherOptions
from sandbox.spec import Ending, Network, VmSpec
from sandbox.wire import Kind, packet

T = TypeVar("T")
PROJECT = Path(__file__).resolve().parents[2]
ENTRY = "tests.sandbox.probe:serve"
SYSTEM_PYTHON = "/usr/bin/python3"  # readable by every user, wherever the tests' own interpreter lives
STORES = ("code", "kept", "staging")
_PATIENCE_S = 20.0


class Refused(Exception):
    """What a probe met instead of a result."""

    def __init__(self, error: str, errno: int | None, text: str) -> None:
        """Keep the error's type, number and text."""
        self.error, self.errno, self.text = error, errno, text
        super().__init__(f"{error} {errno}: {text}")


class Rig:
    """A launcher, its stores, and the loop that its handles live on."""

    def __init__(self, directory: Path, *, user: int = 0, **options: Any) -> None:
        """Start a launcher; with `user` one that an ordinary user started, in an interpreter that everybody can read."""
        self.runner = asyncio.Runner()
        self.directory = directory
        self.instance = os.urandom(4).hex()
        for name in (*STORES, "root"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        base = LauncherOptions(
            instance=self.instance,
            root=str(directory / "root"),
            entry=ENTRY,
            stores={name: str(directory / name) for name in STORES},
        )
        self.options = replace(base, **options)
        self.process: subprocess.Popen[bytes] | None = None
        if user:
            self.launcher = self.run(self._start_as(user))
        else:
            self.launcher = self.run(Launcher.start(self.options))
            self.process = self.launcher._process

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something on the loop; a test that would wait for ever fails instead."""

        async def bounded() -> T:
            async with asyncio.timeout(_PATIENCE_S):
                return await work

        return self.runner.run(bounded())

    def close(self) -> None:
        """End the launcher and the loop."""
        self.run(self.launcher.close())
        if self.process is not None:
            self.process.wait(_PATIENCE_S)
        cgroups.detect().sweep(f"pyfaas-{self.instance}-")  # what a launcher that a test killed could not remove
        self.runner.close()

    def vm(self, **spec: Any) -> Vm:
        """Make a VM."""
        return self.run(self.launcher.create_vm(VmSpec(**spec)))

    def blank(self) -> Container:
        """Make a VM and return its first container."""
        return self.vm().first

    def ask(self, box: Container, source: str) -> Any:
        """Run source in a container and return its `result`; raises Refused with what it met."""
        return self.run(self._ask(box, source))

    async def _ask(self, box: Container, source: str) -> Any:
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        box.on_packet = answer.set_result
        box.on_end = lambda ending: answer.set_exception(Refused("Ended", None, repr(ending))) if not answer.done() else None
        box.send(packet(Kind.LOAD, json.dumps({"source": source}).encode()))
        told = json.loads((raw := await answer)[1:])
        if raw[:1] == bytes((Kind.FAILED,)):
            raise Refused(**told)
        return told["got"]

    def tell(self, box: Container, source: str) -> None:
        """Run source in a container without waiting for an answer."""
        box.send(packet(Kind.LOAD, json.dumps({"source": source}).encode()))

    def attach(self, box: Container, *mounts: tuple[str, str, str, bool]) -> None:
        """Attach entries of stores: (slot, store, name, writable) each."""
        self.run(box.attach(list(mounts)))

    def ending(self, box: Container) -> Ending:
        """Wait for a container's end."""
        return self.run(self._ending(box))

    async def _ending(self, box: Container) -> Ending:
        if box.ending is not None:
            return box.ending
        ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        box.on_end = ended.set_result
        return await ended

    async def _start_as(self, user: int) -> Launcher:
        """Execute a launcher as an ordinary user would: an own copy of the code, the system's interpreter."""
        project = Path(tempfile.mkdtemp(prefix="pyfaas-project-"))
        shutil.copytree(PROJECT / "sandbox", project / "sandbox", ignore=shutil.ignore_patterns("__pycache__"))
        (project / "tests" / "sandbox").mkdir(parents=True)
        shutil.copy(PROJECT / "tests" / "sandbox" / "probe.py", project / "tests" / "sandbox")
        subprocess.run(["chmod", "-R", "a+rX", str(project)], check=True)
        for name in (*STORES, "root"):
            os.chown(self.directory / name, user, user)
        for parent in (self.directory, *self.directory.parents):
            if parent.stat().st_uid == os.getuid() and parent.is_relative_to(tempfile.gettempdir()) and parent != Path(tempfile.gettempdir()):
                parent.chmod(0o755)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        programs = {network.value: memory_file(filters.build(network)) for network in Network}
        told = replace(self.options, control=theirs.fileno(), filters=programs)
        descriptor = memory_file(told.encode())
        boot = f"import sys; sys.path.insert(0, {str(project)!r}); from sandbox.launcher.main import main; main({descriptor}, {str(project)!r})"
        self.process = subprocess.Popen(
            [SYSTEM_PYTHON, "-I", "-S", "-c", boot],
            pass_fds=[theirs.fileno(), descriptor, *programs.values()],
            stdin=subprocess.DEVNULL,
            user=user,
            group=user,
            extra_groups=[],
            cwd="/",
            env=ENVIRONMENT,
        )
        theirs.close()
        for opened in (descriptor, *programs.values()):
            os.close(opened)
        try:
            return await Launcher.adopt(ours, self.options.without)
        finally:
            shutil.rmtree(project)

    # ---- what the host can see

    def wait_until(self, holds: Callable[[], bool], told: Callable[[], object] = lambda: None) -> None:
        """Wait for what the kernel and the launcher do in their own time; fails with what `told` says when they do not."""
        until = time.monotonic() + _PATIENCE_S
        while not holds():
            assert time.monotonic() < until, told()
            self.run(asyncio.sleep(0.005))

    def wait_for_rest(self) -> None:
        """Wait until the launcher is alone: no VM, no process, no cgroup."""
        assert self.process is not None
        pid = self.process.pid
        self.wait_until(lambda: descendants(pid) == [pid] and self.groups() == [], lambda: (descendants(pid), self.groups()))

    def groups(self) -> list[str]:
        """Return the cgroups that this launcher has now."""
        prefix = f"pyfaas-{self.instance}-"
        return [f"{base}/{name}" for base in cgroups.detect().bases() for name in os.listdir(base) if name.startswith(prefix)]

    def mounts(self) -> list[str]:
        """Return the mounts of the host's own namespace below this rig's directory."""
        return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(self.directory) in line]


def is_alive(pid: int) -> bool:
    """Tell whether a process of the host lives; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def descendants(pid: int) -> list[int]:
    """Return the living processes below one, itself included."""
    found, queue = [], [pid]
    while queue:
        at = queue.pop()
        found.append(at)
        try:
            queue += map(int, Path(f"/proc/{at}/task/{at}/children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def sockets_of(pid: int) -> set[str]:
    """Return the sockets that a process has open, as /proc names them; a process that has gone has none."""
    found = set()
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                found.add(os.readlink(f"/proc/{pid}/fd/{name}"))
    except (FileNotFoundError, ProcessLookupError):
        return set()
    return {link for link in found if link.startswith("socket:")}
