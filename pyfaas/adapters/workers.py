"""The Workers port over the sandbox: the only importer of `sandbox.host`.

A launcher that dies takes its VMs along; keeper starts another and hands its socket over, and `adopt` goes on with
it. Until then whoever wants a VM waits, a while.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Sequence

from pyfaas.errors import Code, PyfaasError
from pyfaas.network import NetworkPlan
from pyfaas.ports import Container, Egress, Mounted
from sandbox.errors import SandboxError
from sandbox.host import container as host_container
from sandbox.host.launcher import Launcher
from sandbox.host.vm import Vm
from sandbox.spec import Doors, Ending, Layer, Limits, Network, Usage, VmSpec

_WAIT_S = 10.0  # for a new launcher after one died
_PIPE = 65536


class Box:
    """A sandbox container behind the port."""

    __slots__ = ("_box", "_clock", "id", "vm")

    def __init__(self, box: host_container.Container, vm: str) -> None:
        """Wrap a blank of `vm`."""
        self._box = box
        self.id, self.vm = box.id, vm
        self._clock = (~box.pid << 3) | 2  # the process's own CPU clock: linux, clock_getcpuclockid(3)

    @property
    def on_packet(self) -> Callable[[bytes], None]:
        """Who takes its packets."""
        return self._box.on_packet

    @on_packet.setter
    def on_packet(self, take: Callable[[bytes], None]) -> None:
        self._box.on_packet = take

    @property
    def on_end(self) -> Callable[[Ending], None]:
        """Who hears of its end."""
        return self._box.on_end

    @on_end.setter
    def on_end(self, take: Callable[[Ending], None]) -> None:
        self._box.on_end = take

    def send(self, packets: Iterable[bytes]) -> None:
        """Send packets in order; what the socket does not take at once follows when it can."""
        for packet in packets:
            self._box.send(packet)

    def limit(self, limits: Limits) -> None:
        """Set what it may use."""
        self._box.limit(limits)

    def usage(self) -> Usage:
        """Read its leaf's counters."""
        return self._box.usage()

    def cpu_ns(self) -> int:
        """Read its CPU clock; 0 when it is gone."""
        try:
            return time.clock_gettime_ns(self._clock)
        except OSError:
            return 0

    def read_logs(self) -> tuple[bytes, bytes]:
        """Take what waits in its log pipes."""
        return _read(self._box.out_fd), _read(self._box.err_fd)

    def pause(self) -> None:
        """Stop reading its packets."""
        self._box.pause()

    def resume(self) -> None:
        """Go on reading its packets."""
        self._box.resume()

    def kill(self) -> None:
        """End it and all that it started."""
        self._box.kill()

    def attach_nowait(self, mounts: Sequence[Mounted], done: Callable[[Exception | None], None]) -> None:
        """Attach as `attach` does, and call `done` with what went wrong, or None."""
        self._box.attach_nowait([(m.slot, m.store, m.name, m.writable) for m in mounts], done)

    async def attach(self, mounts: Sequence[Mounted]) -> None:
        """Attach code, read-only unless it is a staging directory."""
        await self._box.attach([(m.slot, m.store, m.name, m.writable) for m in mounts])


class SandboxWorkers:
    """The Workers port over one launcher at a time."""

    def __init__(
        self, launcher: Launcher, layers: Sequence[Layer], *, files_bytes: int = 0, egress: Egress | None = None
    ) -> None:
        """Begin with a launcher that is ready; each VM may keep so many bytes of files of its own. `egress` takes the doors of VMs."""
        self.on_lost: Callable[[], None] = lambda: None
        self.on_vm_lost: Callable[[str], None] = lambda _vm: None
        self._layers, self._files_bytes, self._egress = layers, files_bytes, egress
        self._ready = asyncio.Event()
        self._vms: dict[str, Vm] = {}
        self.adopt(launcher)

    def adopt(self, launcher: Launcher) -> None:
        """Go on with another launcher."""
        self._launcher = launcher
        launcher.on_gone, launcher.on_vm_gone = self._gone, self._vm_gone
        self._ready.set()

    def _vm_gone(self, vm: str) -> None:
        self._vms.pop(vm, None)
        self._shut_doors(vm)
        self.on_vm_lost(vm)

    def _gone(self) -> None:
        self._ready.clear()
        for vm in self._vms:
            self._shut_doors(vm)
        self._vms.clear()
        self.on_lost()

    async def open_vm(self, *, network: NetworkPlan | None = None, limits: Limits | None = None) -> tuple[str, Container]:
        """Make a VM with one blank; raises no_capacity when no launcher comes back in time, not_allowed where the kernel has no doors."""
        profile = Network.NONE if network is None else self._profile(network)
        doors = _doors(network) if network is not None and profile is Network.DOORS else None
        is_build = network is not None and network.is_trusted
        spec = VmSpec(network=profile, doors=doors, limits=limits or Limits(), files_bytes=self._files_bytes, is_build=is_build)
        vm = await (await self._live()).create_vm(spec)
        self._vms[vm.id] = vm
        if network is not None and vm.doors and self._egress is not None:
            self._egress.open(vm.id, network, vm.doors)
        for descriptor in vm.doors:
            os.close(descriptor)  # egress has its own; what stays open keeps the VM's network in the kernel
        vm.doors.clear()
        return vm.id, Box(vm.first, vm.id)

    def _profile(self, plan: NetworkPlan) -> Network:
        """Return how a VM with a plan gets out: builds by the host's own network where there is no other way."""
        if self._egress is not None and any(layer.name == "doors" and layer.live for layer in self._layers):
            return Network.DOORS
        if plan.is_trusted:
            return Network.HOST
        raise PyfaasError(Code.NOT_ALLOWED, "network cannot be enforced on this kernel", hint="pyfaas doctor says what is missing")

    def _shut_doors(self, vm: str) -> None:
        if self._egress is not None:
            self._egress.close(vm)

    async def fork(self, vm: str, *, is_hurried: bool = False) -> Container:
        """Fork another blank into a VM; hurried when a call waits for it."""
        return Box(await self._vm(vm).fork(is_hurried=is_hurried), vm)

    async def weigh(self, vm: str, *, is_background: bool) -> None:
        """Let a VM run when nobody else wants the processors, or as any other."""
        await self._vm(vm).weigh(is_background=is_background)

    async def close_vm(self, vm: str) -> None:
        """End a VM and all in it."""
        found = self._vms.pop(vm, None)
        if found is not None:
            try:
                await found.destroy()
            finally:
                self._shut_doors(vm)

    async def replace(self, vm: str, container: str) -> Container:
        """Put a blank in a container's place."""
        return Box(await self._vm(vm).replace(container), vm)

    async def stage(self, vm: str, name: str, *, inside: bool = False) -> None:
        """Make a directory that the VM's code may write when it is attached."""
        await self._vm(vm).stage(name, inside=inside)

    async def keep(self, vm: str, staged: str, name: str) -> None:
        """Give a directory of the VM's own files its final name."""
        await self._vm(vm).keep(staged, name)

    async def forget(self, vm: str, name: str) -> None:
        """Remove a directory of the VM's own files."""
        await self._vm(vm).forget(name)

    async def commit(self, staged: str, store: str, name: str) -> None:
        """Move a staged directory to its final name; one that is there already stays."""
        await (await self._live()).commit(staged, store, name)

    async def discard(self, store: str, name: str) -> None:
        """Remove a directory of a store."""
        await (await self._live()).discard(store, name)

    def layers(self) -> Sequence[Layer]:
        """Tell which layers of isolation are live."""
        return self._layers

    def _vm(self, vm: str) -> Vm:
        found = self._vms.get(vm)
        if found is None:
            raise SandboxError(f"VM {vm} is gone")
        return found

    async def _live(self) -> Launcher:
        try:
            await asyncio.wait_for(self._ready.wait(), _WAIT_S)
        except TimeoutError:
            raise PyfaasError(Code.NO_CAPACITY, "the launcher is not there", retry_after=1.0) from None
        return self._launcher


def _doors(plan: NetworkPlan) -> Doors:
    """Return a plan's doors as the sandbox makes them."""
    return Doors(listen=tuple((door.address, door.port) for door in plan.doors), routes=plan.ranges, is_watched=True)


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, _PIPE)
    except OSError:  # nothing there, or closed
        return b""
