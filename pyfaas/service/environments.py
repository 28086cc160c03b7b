"""Dependency environments: requirements locked once, and one builder for each lock.

    lock      resolve a version's requirements to a lock, whose text is kept, durably, before anything is built of it
    install   the lock → staging → environments/<name>

An environment is named by the hash of its lock, the interpreter and the platform. Whoever needs one that is there uses it;
whoever needs one that is being built waits for that build, whichever function or account began it. **Accounts share**: an
environment is attached read-only, consists of wheels, which run no code when they are installed, and holds what its lock says: it is
installed in a container that has seen nothing else, and checked by the lock's hashes. What one can learn by sharing is
whether somebody on this machine has the same set already, from how long it takes.

**A lock is kept for as long as its version is**: an environment that was lost is installed from it again, with the same pins. Within
an account, a version whose requirements have the same text as another's gets that one's lock: a change of code alone needs no
index, and changes no dependency. To take newer packages, change the text. A lock is made anew for another Python or platform, and
when requirements could not be locked or installed and no version was ever ready with it: then nothing relies on its pins.

**What is named is not removed**: a version names its environment in the database before anybody looks whether the directory is
there, and both happen in `turn`, which whoever removes unneeded files also takes while it looks and removes.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
import sysconfig
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pyfaas.config import Config
from pyfaas.model import AccountId, Version, VersionState
from pyfaas.network import plan
from pyfaas.ports import Clock, Locks, Trees, Workers
from pyfaas.service.dialogue import BuildVm, Dialogue, Order
from pyfaas.service.journal import Journal
from pyfaas.service.metering import Build, Meter
from pyfaas.service.registry import Registry
from sandbox.spec import MIB, Limits

OUT = "/app/build/out"  # where a launcher attaches what may be written
LIMITS = Limits(memory_bytes=2048 * MIB, pids=128, cpu=2.0, tmp_bytes=1024 * MIB)
_TOOL_S = 900.0  # for locking, and for installing with compiling
_SLACK_S = 10.0  # a tool that takes too long is ended by the container, which says so
_JOINED = b"the same requirements are being installed already; waiting for that\n"
Told = Callable[[str, int, int], None]  # a step, how much of it is done, and of how much


@dataclass(slots=True)
class _Work:
    """Something that is done once, for everybody who wants it meanwhile."""

    task: asyncio.Task[str] = field(init=False)
    told: set[Told] = field(default_factory=set)
    last: tuple[str, int, int] | None = None

    def tell(self, step: str, done: int, total: int) -> None:
        """Tell everybody how far it is."""
        self.last = step, done, total
        for told in list(self.told):
            told(step, done, total)


class Environments:
    """Locks and builds; `turn` is held while something is removed, or while it is decided that it need not be made."""

    def __init__(
        self,
        config: Config,
        registry: Registry,
        locks: Locks,
        trees: Trees,
        workers: Workers,
        journal: Journal,
        clock: Clock,
        tool: Mapping[str, Any],
        exits: Sequence[str] = (),
    ) -> None:
        """`tool` tells the build container which installer there is and what indexes the host is set up for; `exits` is its network list."""
        self._config, self._registry, self._locks, self._trees = config, registry, locks, trees
        self._workers, self._journal, self._clock, self._tool = workers, journal, clock, tool
        self.meter: Meter | None = None  # who writes down what preparations use
        self._network = plan(exits, is_trusted=True)
        self.turn = asyncio.Lock()
        self._works: dict[tuple[str, ...], _Work] = {}

    async def provide(self, version: Version, told: Told) -> Version:
        """Return the version with its environment named, durably, and there. Raises PreparationFailed, or PyfaasError."""
        if not version.revision.requirements:
            return version
        entry = self._registry.entries.get(version.function)
        account = entry.function.account if entry is not None else AccountId("")  # removed meanwhile: nobody's any more
        lock = await self._known_lock(version, account)
        if lock is None:
            key = ("lock", account, *version.revision.requirements)
            lock = await self._once(key, told, lambda tell: self._lock(version, tell), version)
        name, text = environment_name(lock), lock
        async with self.turn:
            await self._locks.keep(version.function, version.number, name, lock)
            is_wanting = ("install", name) in self._works or name not in await self._trees.names("environments")
        self._take_note(version, name)
        if is_wanting:  # nobody has begun it since: that takes a turn
            await self._once(("install", name), told, lambda tell: self._install(version, name, text, tell), version)
        return replace(version, environment=name)

    def _take_note(self, version: Version, name: str) -> None:
        """Name the environment in the registry too: the next version with these requirements takes the same lock."""
        entry = self._registry.entries.get(version.function)
        if entry is not None:
            entry.put(replace(entry.versions[version.number], environment=name))

    def bill(self, version: Version) -> Build | None:
        """Return where a step of a version's preparation writes what it used; one that others join is the first one's."""
        entry = self._registry.entries.get(version.function)
        return self.meter.build(version, entry.function.account) if self.meter is not None and entry is not None else None

    async def settle(self) -> None:
        """Wait until nothing is being removed that is not needed: what is named now stays."""
        async with self.turn:
            pass

    async def close(self) -> None:
        """Stop what is being made."""
        tasks = [work.task for work in self._works.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _known_lock(self, version: Version, account: AccountId) -> str | None:
        """Return the version's own lock, or that of the account's newest version with the same requirements."""
        own = [version] if version.environment is not None else []
        for known in (*own, *same_requirements(self._registry, version, account)):
            lock = await self._locks.text(known.environment or "")
            if lock is not None and environment_name(lock) == known.environment:
                return lock
        return None

    async def _once(self, key: tuple[str, ...], told: Told, work: Callable[[Told], Awaitable[str]], version: Version) -> str:
        """Do a work, or join it when it is being done; it ends when the last who wants it has gone."""
        found = self._works.get(key)
        if found is None:
            found = self._works[key] = _Work()
            found.task = asyncio.get_running_loop().create_task(self._do(key, found, work))
        else:
            self._journal.text(self._clock.now(), version.function, version.number, None, "build", _JOINED)
            if found.last is not None:
                told(*found.last)
        found.told.add(told)
        try:
            return await asyncio.shield(found.task)
        finally:
            found.told.discard(told)
            if not found.told and not found.task.done():
                self._works.pop(key, None)  # whoever comes now begins anew
                found.task.cancel()

    async def _do(self, key: tuple[str, ...], own: _Work, work: Callable[[Told], Awaitable[str]]) -> str:
        try:
            return await work(own.tell)
        finally:
            if self._works.get(key) is own:
                del self._works[key]

    async def _lock(self, version: Version, tell: Told) -> str:
        fields = {"step": "lock", "requirements": list(version.revision.requirements)}
        async with BuildVm(self._workers, LIMITS, network=self._network, bill=self.bill(version)) as vm:
            await vm.give(vm.first, LIMITS, ())
            return (await Dialogue(vm, vm.first, self._journal, version, self._clock).ask(self._order(fields, b"", tell)))[1]

    async def _install(self, version: Version, name: str, lock: str, tell: Told) -> str:
        async with BuildVm(self._workers, LIMITS, network=self._network, bill=self.bill(version)) as vm:
            await vm.give(vm.first, LIMITS, [await vm.stage()])
            order = self._order({"step": "install", "out": OUT}, lock.encode(), tell)
            await Dialogue(vm, vm.first, self._journal, version, self._clock).ask(order)
            await vm.commit("environments", name)
        return name

    def _order(self, fields: Mapping[str, Any], lock: bytes, tell: Told) -> Order:
        limits = {"bytes": self._config.environment_size, "seconds": _TOOL_S}
        order = {"do": "build", **fields, "tool": dict(self._tool), "limits": limits}
        return Order(fields=order, timeout_s=_TOOL_S + _SLACK_S, what=" to have its requirements installed", lock=lock, told=tell)


def same_requirements(registry: Registry, version: Version, account: AccountId) -> list[Version]:
    """Return the account's other versions that have the same requirements and an environment, newest first.

    One that failed is none: its lock may be what failed.
    """
    found = [
        other
        for entry in registry.functions_of(account)
        for other in entry.versions.values()
        if other.revision.requirements == version.revision.requirements
        and other.environment is not None
        and other.state is not VersionState.FAILED
        and not other.deleted
    ]
    return sorted(found, key=lambda other: (other.created, other.number), reverse=True)


def is_lock_kept(version: Version) -> bool:
    """Tell whether a version that is to be prepared again keeps its lock: unless that failed, and no run relied on it."""
    return version.handler is not None or version.reason is None or version.reason.code != "requirements_failed"


def environment_name(lock: str) -> str:
    """Name an environment by its lock, the interpreter and the platform."""
    text = f"{lock}\n{sys.implementation.cache_tag}\n{sysconfig.get_platform()}"
    return "sha256-" + hashlib.sha256(text.encode()).hexdigest()
