"""Bringing a version's code into a VM, beside the code that runs there: copied by a container of the VM that does nothing else.

Theory of operation. A fetcher is a blank of the VM; the near store's trees are attached to it read-only, a staged directory of
the VM's own files writable. It copies, reads the copy back and says how many bytes there are; then it is ended, and the
launcher gives the directory its final name, which no container can write any more. What cannot be brought is loaded from the
near store instead: a download is never a reason to fail. One in progress is joined. `decisions/downloads.py` says what is kept.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from pyfaas.decisions.downloads import Kept, Target, VmFiles, trees
from pyfaas.errors import PyfaasError
from pyfaas.model import EventKind, Version
from pyfaas.ports import Clock, Container, Mounted, Workers
from pyfaas.service.dialogue import PreparationFailed, read_answer
from sandbox.errors import SandboxError
from sandbox.spec import MIB, Ending, Limits
from sandbox.wire import Kind, packet

log = logging.getLogger(__name__)
STORE = "vm"  # a VM's own files, as a launcher knows them
_OUT = "/app/build/out"
_HELD = "held"  # a user that is no container: what was brought is about to be used
_TIMEOUT_S = 120.0
_ABOUT_ROOM = frozenset({"too_large", "storage_full"})  # forgetting something else may help
_BESIDE = 64 * MIB  # memory of a fetcher beside the bytes that it writes
_COMPILED = 4  # a prepared tree's size, in those of its bundle, at most: a first guess of the room to make


class Downloads:
    """What lies where, by VM; `told` hears of each that ended."""

    def __init__(self, workers: Workers, clock: Clock, room_bytes: int) -> None:
        """Begin with empty VMs, each of which may keep so many bytes."""
        self._workers, self._clock, self._room = workers, clock, room_bytes
        self._vms: dict[str, VmFiles] = {}
        self._running: dict[tuple[str, str], asyncio.Task[None]] = {}
        self.told: Callable[..., None] = lambda *_args, **_detail: None  # (function, version, EventKind, **detail)
        self.transfers: Counter[Target] = Counter()
        self.bytes: Counter[Target] = Counter()

    def mounts(self, vm: str, version: Version, near: tuple[Mounted, ...], container: str) -> tuple[Mounted, ...]:
        """Return what a container of the version is to have attached: what lies in its VM, else the near store's (`near`)."""
        files = self._vms.get(vm)
        kept = files.use(entry_name(version), container, self._clock.monotonic()) if files is not None else None
        if kept is None:
            return near
        return tuple(replace(m, store=STORE, name=f"{kept.name}/{m.slot}") if m.slot in kept.slots else m for m in near)

    def has(self, vm: str, version: Version) -> bool:
        """Whether a version's code lies in a VM, whole."""
        files = self._vms.get(vm)
        return files is not None and files.find(entry_name(version)) is not None

    def places(self, version: Version) -> list[Mapping[str, Any]]:
        """Return where a version's code lies beside the near store: {vm, target, bytes} each."""
        found = ((vm, files.find(entry_name(version))) for vm, files in self._vms.items())
        return [{"vm": vm, "target": kept.target.value, "bytes": kept.size_bytes} for vm, kept in found if kept is not None]

    async def bring(self, vm: str, version: Version, near: tuple[Mounted, ...], target: Target) -> None:
        """See that a version's code lies in a VM; joins who brings it already. What goes wrong is logged, and the near store serves."""
        if target is Target.NEAR_STORE or self.has(vm, version):
            return
        key = (vm, entry_name(version))
        task = self._running.get(key)
        if task is None:
            task = self._running[key] = asyncio.get_running_loop().create_task(self._bring(vm, version, near, target))
            task.add_done_callback(lambda _done: self._running.pop(key, None))
        await asyncio.shield(task)

    async def _bring(self, vm: str, version: Version, near: tuple[Mounted, ...], target: Target) -> None:
        name, now = entry_name(version), self._clock.monotonic()
        files = self._vms.setdefault(vm, VmFiles(self._room))
        try:
            await self._forget(vm, files, version.size_bytes * _COMPILED)
            kept = files.begin(name, target, trees(target, tuple(mount.slot for mount in near)), now)
            kept.size_bytes = await self._copy(vm, files, kept, tuple(mount for mount in near if mount.slot in kept.slots))
        except (SandboxError, PyfaasError, PreparationFailed) as error:
            files.entries.pop(name, None)
            log.warning("download_failed", extra={"vm": vm, "target": target.value, "error": str(error)})
            return
        kept.is_whole = True
        kept.users.add(_HELD)
        self.transfers[target] += 1
        self.bytes[target] += kept.size_bytes
        took = round((self._clock.monotonic() - now) * 1000, 3)
        self.told(version.function, version.number, EventKind.DOWNLOADED, target=target.value, vm=vm, bytes=kept.size_bytes, ms=took)

    async def _copy(self, vm: str, files: VmFiles, kept: Kept, near: tuple[Mounted, ...]) -> int:
        """Have the trees copied; makes all the room there is when the first guess was too little. Returns the bytes."""
        try:
            return await self._fetch(vm, kept.name, near, files.free_bytes)
        except PreparationFailed as error:
            if error.reason.code not in _ABOUT_ROOM or not await self._forget(vm, files, files.room_bytes):
                raise
        return await self._fetch(vm, kept.name, near, files.free_bytes)

    async def _fetch(self, vm: str, name: str, near: tuple[Mounted, ...], room: int) -> int:
        staged = "s" + uuid.uuid4().hex
        await self._workers.stage(vm, staged, inside=True)
        try:
            box = await self._workers.fork(vm)
            try:
                box.limit(Limits(memory_bytes=room + _BESIDE, pids=4))
                await box.attach([*near, Mounted(slot="out", store=STORE, name=staged, writable=True)])
                order = {"do": "copy", "from": {m.slot: f"/app/{m.slot}" for m in near}, "out": _OUT, "bytes": room}
                done = await _ask(box, order)
            finally:
                box.kill()
            await self._workers.keep(vm, staged, name)
        except (SandboxError, PyfaasError, PreparationFailed):
            await self._drop(vm, staged)
            raise
        return int(done.get("bytes", 0))

    async def _forget(self, vm: str, files: VmFiles, wanted_bytes: int) -> bool:
        """Forget what may be; tells whether anything was."""
        gone = [name for name in files.forgettable(wanted_bytes) if await self._drop(vm, name, files)]
        return bool(gone)

    async def _drop(self, vm: str, name: str, files: VmFiles | None = None) -> bool:
        """Remove an entry; one that the launcher still sees in use stays, and is tried again by the next sweep."""
        kept = files.entries.pop(name, None) if files is not None else None  # nobody is given it meanwhile
        try:
            await self._workers.forget(vm, name)
        except (SandboxError, PyfaasError):
            if files is not None and kept is not None:
                files.entries.setdefault(name, kept)
            return False
        return True

    # ---- what happened

    def let_go(self, vm: str, version: Version) -> None:
        """Take note that what was brought is loaded: from now on it stays for as long as it is used."""
        files = self._vms.get(vm)
        kept = files.find(entry_name(version)) if files is not None else None
        if kept is not None:
            kept.users.discard(_HELD)

    def ended(self, vm: str, container: str) -> None:
        """Take note that a container ended."""
        files = self._vms.get(vm)
        if files is not None:
            files.ended(container)

    def vm_gone(self, vm: str) -> None:
        """Forget a VM, and all that lay in it."""
        self._vms.pop(vm, None)

    async def sweep(self) -> None:
        """Forget what was for containers that are gone."""
        for vm, files in list(self._vms.items()):
            if files.forgettable(0):
                await self._forget(vm, files, 0)


def entry_name(version: Version) -> str:
    """Name a version's entry by what it holds: code id and environment."""
    return "e" + hashlib.sha256(f"{version.code_id}\n{version.environment or ''}".encode()).hexdigest()


async def _ask(box: Container, order: Mapping[str, Any]) -> Mapping[str, Any]:
    answer: asyncio.Future[bytes | Ending] = asyncio.get_running_loop().create_future()

    def told(what: bytes | Ending) -> None:
        if not answer.done():
            answer.set_result(what)

    box.on_packet, box.on_end = told, told
    box.send((packet(Kind.LOAD, json.dumps(order).encode()),))
    try:
        said = await asyncio.wait_for(answer, _TIMEOUT_S)
    except TimeoutError:
        raise PreparationFailed("timeout", f"it took longer than {_TIMEOUT_S:g} s") from None
    return read_answer(said, "", " to copy its code")
