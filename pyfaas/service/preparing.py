"""One preparation's steps, each in a confined container of a VM made for it.

    install   bundle-independent: resolve and install requirements → staging → environments/<hash>
    compile   unpack and byte-compile the bundle → staging → prepared/<code id>
    probe     load the version as a call would, with its limits → handler and shape

The VM's code writes only to its own staging directory; the launcher moves that to its final name when the VM is gone
from it, so nothing half-written is ever seen under a final name.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import sys
import sysconfig
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from pyfaas.config import Config
from pyfaas.errors import PyfaasError
from pyfaas.model import Reason, Version
from pyfaas.ports import Bundles, Clock, Container, Mounted, Workers
from pyfaas.service.journal import Journal
from pyfaas.service.lane import load_order, mounts_of
from sandbox.errors import SandboxError
from sandbox.spec import MIB, Ending, Fate, Limits
from sandbox.wire import Kind, packet

_BUILD_LIMITS = Limits(memory_bytes=2048 * MIB, pids=128, cpu=2.0, tmp_bytes=1024 * MIB)
OUT = "/app/build/out"  # where a launcher attaches what may be written
_COMPILE_S, _INSTALL_S = 120.0, 900.0
_PASSING = frozenset({"index_unreachable", "storage_full", "lost"})
_TAIL = 4000


class PreparationFailed(Exception):
    """A version cannot be prepared; `is_passing` when trying again may help."""

    def __init__(self, code: str, message: str, log_tail: str = "") -> None:
        """Name the reason."""
        self.reason = Reason(code=code, message=message, log_tail=log_tail[-_TAIL:])
        self.is_passing = code in _PASSING
        super().__init__(message)


class Preparing:
    """The steps, over the workers."""

    def __init__(
        self, config: Config, workers: Workers, bundles: Bundles, journal: Journal, clock: Clock, tool: Mapping[str, Any]
    ) -> None:
        """`tool` tells the build container which installer there is and what indexes the host is set up for."""
        self._config, self._workers, self._bundles = config, workers, bundles
        self._journal, self._clock, self._tool = journal, clock, tool

    async def install(self, version: Version) -> str:
        """Install a version's requirements; returns the environment's name. Raises PreparationFailed."""
        staged = "s" + uuid.uuid4().hex
        async with _Vm(self._workers, network=True) as vm:
            await self._workers.stage(vm.id, staged)
            order = {
                "do": "build",
                "out": OUT,
                "environment_only": True,
                "requirements": list(version.revision.requirements),
                "tool": dict(self._tool),
                "limits": {"bytes": self._config.environment_size},
            }
            mounts = [Mounted(slot="out", store="staging", name=staged, writable=True)]
            done = await self._order(vm.first, version, mounts, order, _INSTALL_S, staged)
        name = environment_name(str(done.get("lock", "")))
        await self._workers.commit(staged, "environments", name)
        return name

    async def compile_and_probe(self, version: Version, function: str, account: str) -> Mapping[str, Any]:
        """Unpack, compile and import a version's code; returns what the import found. Raises PreparationFailed."""
        staged = "s" + uuid.uuid4().hex
        async with _Vm(self._workers, network=False) as vm:
            await self._workers.stage(vm.id, staged)
            bundle = await self._bundles.path_name(version.bundle)
            order = {
                "do": "build",
                "bundle": "/app/bundle",
                "out": OUT,
                "environment_only": False,
                "requirements": None,
                "tool": {},
                "limits": {"bytes": self._config.bundle_unpacked},
            }
            mounts = [
                Mounted(slot="bundle", store="bundles", name=bundle),
                Mounted(slot="out", store="staging", name=staged, writable=True),
            ]
            await self._order(vm.first, version, mounts, order, _COMPILE_S, staged)
            await self._workers.commit(staged, "prepared", version.code_id)
            probe = await self._workers.fork(vm.id)
            limits = Limits(memory_bytes=version.revision.memory_bytes, tmp_bytes=version.revision.memory_bytes // 2)
            timeout = version.revision.init_timeout_ms / 1000
            load = load_order(version, function, account, self._config)
            return await self._order(probe, version, mounts_of(version), load, timeout, None, limits)

    async def _order(
        self,
        box: Container,
        version: Version,
        mounts: Sequence[Mounted],
        order: Mapping[str, Any],
        timeout_s: float,
        staged: str | None,
        limits: Limits = _BUILD_LIMITS,
    ) -> Mapping[str, Any]:
        """Give a blank one order and wait for what it says; its output becomes the build log."""
        try:
            box.limit(limits)
            await box.attach(mounts)
            return await _Dialogue(box, self._journal, version, self._clock).ask(order, timeout_s)
        except PreparationFailed:
            if staged is not None:
                box.kill()
                await self._workers.discard("staging", staged)
            raise
        except (SandboxError, PyfaasError) as error:
            raise lost("the platform could not prepare it", error) from None


class _Vm:
    """A VM that lives for one preparation."""

    def __init__(self, workers: Workers, *, network: bool) -> None:
        self._workers, self._network = workers, network
        self.id = ""
        self.first: Container

    async def __aenter__(self) -> _Vm:
        try:
            self.id, self.first = await self._workers.open_vm(network=self._network, limits=_BUILD_LIMITS)
        except (SandboxError, PyfaasError) as error:
            raise lost("no VM could be made to prepare it", error) from None
        return self

    async def __aexit__(self, *_exc: object) -> None:
        try:
            await self._workers.close_vm(self.id)
        except SandboxError:
            pass  # it is gone already, which is what was wanted


class _Dialogue:
    """One order to one container, and its one answer."""

    def __init__(self, box: Container, journal: Journal, version: Version, clock: Clock) -> None:
        self._box, self._journal, self._version, self._clock = box, journal, version, clock
        self._answer: asyncio.Future[bytes | Ending] = asyncio.get_running_loop().create_future()
        self._log: list[bytes] = []
        box.on_packet, box.on_end = self._told, self._told

    def _told(self, what: bytes | Ending) -> None:
        if not self._answer.done():
            self._answer.set_result(what)

    async def ask(self, order: Mapping[str, Any], timeout_s: float) -> Mapping[str, Any]:
        """Send the order; returns what LOADED carries. Raises PreparationFailed."""
        self._box.send((packet(Kind.LOAD, json.dumps(order).encode()),))
        until = self._clock.monotonic() + timeout_s
        while not self._answer.done() and self._clock.monotonic() < until:
            await asyncio.wait({self._answer}, timeout=0.1)
            self._read_log()
        self._read_log()
        tail = b"".join(self._log)[-_TAIL:].decode("utf-8", "replace")
        if not self._answer.done():
            self._box.kill()
            raise PreparationFailed("timeout", f"it took longer than {timeout_s:g} s", tail)
        return _read(self._answer.result(), tail)

    def _read_log(self) -> None:
        out, err = self._box.read_logs()
        for text in (out, err):
            if text:
                self._log.append(text)
                self._journal.text(self._clock.now(), self._version.function, self._version.number, None, "build", text)


def _read(answer: bytes | Ending, tail: str) -> Mapping[str, Any]:
    if isinstance(answer, Ending):
        if answer.fate is Fate.OOM:
            raise PreparationFailed("oom", "it needed more memory than the version has", tail)
        if answer.fate in (Fate.LOST, Fate.KILLED):
            raise PreparationFailed("lost", "the platform lost the container", tail)
        raise PreparationFailed("crashed", f"the process ended by itself: {answer.fate} {answer.signal or answer.status}", tail)
    try:
        value = json.loads(answer[1:])
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or not answer or answer[0] not in (Kind.LOADED, Kind.FAILED):
        raise PreparationFailed("crashed", "the container broke the protocol", tail)
    if answer[0] == Kind.FAILED:
        raise _failure(value, tail)
    return value


def _failure(value: Mapping[str, Any], tail: str) -> PreparationFailed:
    if "errorType" in value and "code" not in value:
        stack = "\n".join(str(line) for line in value.get("stackTrace", []))
        message = f"{value['errorType']}: {value.get('errorMessage', '')}"
        return PreparationFailed("init_error", message, tail + stack)
    return PreparationFailed(str(value.get("code", "failed")), str(value.get("errorMessage", "")), str(value.get("log_tail") or tail))


def lost(what: str, error: Exception) -> PreparationFailed:
    """Return the failure for something of the platform's that went wrong, a full disk told as such; trying again may help."""
    is_full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    return PreparationFailed("storage_full" if is_full else "lost", f"{what}: {error}")


def environment_name(lock: str) -> str:
    """Name an environment by its lock, the interpreter and the platform."""
    text = f"{lock}\n{sys.implementation.cache_tag}\n{sysconfig.get_platform()}"
    return "sha256-" + hashlib.sha256(text.encode()).hexdigest()
