"""One preparation's steps, each in a confined container of a VM made for it.

    fetch     the bundle → the near store
    lock      requirements → a lock (environments.py)
    install   the lock → environments/<name> (environments.py)
    compile   unpack and byte-compile the bundle → staging → prepared/<code id>
    probe     load the version as a call would, with its limits → handler and shape

A VM's code writes only to its own staging directory; the launcher moves that to its final name when nobody can write it any
more, so nothing half-written is ever seen under a final name. A step that was done before is done again, or found done: a
preparation that a crash ended begins from the start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pyfaas.config import Config
from pyfaas.errors import PyfaasError
from pyfaas.model import Account, EventKind, Version
from pyfaas.network import plan
from pyfaas.ports import Bundles, Clock, Container, Mounted, Workers
from pyfaas.service.dialogue import BuildVm, Dialogue, Order, lost
from pyfaas.service.environments import LIMITS, OUT, Environments
from pyfaas.service.happenings import Happenings
from pyfaas.service.journal import Journal
from pyfaas.service.lane import load_order, mounts_of
from sandbox.spec import Limits

_COMPILE_S = 120.0
_TOLD_S = 0.5  # between two words on how far a step is
_STEPS = ("fetch", "lock", "install", "compile", "probe")
_MOST = 1 << 53  # of what JSON's readers count exactly


class Preparing:
    """The steps, over the workers."""

    def __init__(
        self,
        config: Config,
        workers: Workers,
        bundles: Bundles,
        environments: Environments,
        journal: Journal,
        clock: Clock,
        happenings: Happenings,
    ) -> None:
        """Take what the steps need."""
        self._config, self._workers, self._bundles, self._environments = config, workers, bundles, environments
        self._journal, self._clock, self._happenings = journal, clock, happenings

    def is_live(self, layer: str) -> bool:
        """Tell whether a layer of the isolation is live on this machine."""
        return any(found.name == layer and found.live for found in self._workers.layers())

    async def prepare(self, version: Version, function: str, account: Account) -> tuple[Version, Mapping[str, Any]]:
        """Do all steps; returns the version with its environment, and what the import found.

        Raises PreparationFailed, or what a port raises.
        """
        told = Telling(self._happenings, self._clock, version).tell
        bundle = await self._fetch(version, told)
        try:
            version = await self._environments.provide(version, told)
            return version, await self._compile_and_probe(version, bundle, function, account, told)
        finally:
            await self._bundles.release(version.bundle)

    async def _fetch(self, version: Version, told: Callable[[str, int, int], None]) -> str:
        told("fetch", 0, 0)
        try:
            return await self._bundles.path_name(version.bundle, lambda done, total: told("fetch", done, total))
        except PyfaasError as error:
            raise lost("its code could not be fetched", error) from None

    async def _compile_and_probe(
        self, version: Version, bundle: str, function: str, account: Account, told: Callable[[str, int, int], None]
    ) -> Mapping[str, Any]:
        entries = version.revision.network if account.network else ()
        network = plan(entries) if entries else None  # an import may want what the version lists
        async with BuildVm(self._workers, LIMITS, network=network, bill=self._environments.bill(version)) as vm:
            mounts = [Mounted(slot="bundle", store="bundles", name=bundle), await vm.stage()]
            await vm.give(vm.first, LIMITS, mounts)
            limits = {"bytes": self._config.bundle_unpacked}
            build = {"do": "build", "step": "compile", "bundle": "/app/bundle", "digest": version.bundle, "out": OUT, "limits": limits}
            await self._ask(vm, vm.first, version, Order(fields=build, timeout_s=_COMPILE_S, what=" to be compiled", told=told))
            await vm.commit("prepared", version.code_id)
            told("probe", 0, 0)
            probe, memory = await vm.fork(), version.revision.memory_bytes
            await vm.give(probe, Limits(memory_bytes=memory, tmp_bytes=memory // 2), mounts_of(version))
            load = load_order(version, function, account.name, self._config)
            what = f" to be imported: the version's memory is {memory >> 20} MiB, its init_timeout {version.revision.init_timeout_ms} ms"
            order = Order(fields=load, timeout_s=version.revision.init_timeout_ms / 1000, what=what)
            return await self._ask(vm, probe, version, order)

    async def _ask(self, vm: BuildVm, box: Container, version: Version, order: Order) -> Mapping[str, Any]:
        return (await Dialogue(vm, box, self._journal, version, self._clock).ask(order))[0]


class Telling:
    """Tells a version's watchers of its steps: every beginning, and now and then how far one is."""

    def __init__(self, happenings: Happenings, clock: Clock, version: Version) -> None:
        """Tell of one version's preparation."""
        self._happenings, self._clock, self._version = happenings, clock, version
        self._step, self._next = -1, 0.0

    def tell(self, step: str, done: int, total: int) -> None:
        """Tell how much of a step is done, unless that was told just now, or a later step was: a container may say what it likes."""
        now, at = self._clock.monotonic(), _STEPS.index(step) if step in _STEPS else -1
        if at < self._step or (at == self._step and now < self._next and done != total) or at < 0:
            return
        done, total = (min(max(number, 0), _MOST) for number in (done, total))
        self._step, self._next = at, now + _TOLD_S
        version = self._version
        self._happenings.tell(version.function, version.number, EventKind.PREPARING, step=step, done=done, total=total)
