"""How a VM with a network list is made, by the layers that are live, and what becomes of its doors."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from pyfaas.adapters.workers import SandboxWorkers
from pyfaas.errors import Code, PyfaasError
from pyfaas.network import NetworkPlan, plan
from sandbox.spec import Layer, Network, VmSpec

TENANTS, OPERATORS = plan(["api.test:443"]), plan(["*:443"], is_trusted=True)


@dataclass(slots=True)
class FakeLauncher:
    """Makes VMs of nothing; their doors are real descriptors."""

    specs: list[VmSpec] = field(default_factory=list)
    given: list[int] = field(default_factory=list)
    on_gone: Callable[[], None] = lambda: None
    on_vm_gone: Callable[[str], None] = lambda _vm: None

    async def create_vm(self, spec: VmSpec) -> Any:
        """Return a VM as the sandbox's host holds it."""
        self.specs.append(spec)
        doors = [os.open("/dev/null", os.O_RDONLY) for _ in range(spec.doors.count if spec.doors is not None else 0)]
        self.given += doors

        async def destroy() -> None:
            await asyncio.sleep(0)

        return SimpleNamespace(id=f"vm{len(self.specs)}", first=SimpleNamespace(id="c", pid=1), doors=doors, destroy=destroy)


@dataclass(slots=True)
class FakeEgress:
    """Keeps what it is told."""

    opened: dict[str, tuple[NetworkPlan, int]] = field(default_factory=dict)
    closed: list[str] = field(default_factory=list)
    on_used: Callable[[str, int, int, int], None] = lambda *_row: None
    on_refused: Callable[[str, str], None] = lambda *_row: None

    def open(self, vm: str, plan: NetworkPlan, doors: Sequence[int]) -> None:
        """Take doors."""
        self.opened[vm] = plan, len(doors)

    def close(self, vm: str) -> None:
        """Let go of doors."""
        if vm in self.opened:
            self.closed.append(vm)


def made(*, is_live: bool) -> tuple[SandboxWorkers, FakeLauncher, FakeEgress]:
    """Return workers on a machine that can make doors, or cannot."""
    launcher, egress = FakeLauncher(), FakeEgress()
    layers = [Layer(name="cgroups", live=True), Layer(name="doors", live=is_live)]
    return SandboxWorkers(launcher, layers, egress=egress), launcher, egress  # type: ignore[arg-type]


async def test_a_list_makes_doors_and_egress_has_them() -> None:
    """A VM with a list has its doors in the plan's order, and they are handed over and not kept."""
    workers, launcher, egress = made(is_live=True)
    vm, _ = await workers.open_vm(network=TENANTS)
    spec = launcher.specs[0]
    assert (spec.network, spec.is_build) == (Network.DOORS, False)
    assert spec.doors is not None
    assert spec.doors.listen == (("198.18.0.1", 443),)
    assert (spec.doors.routes, spec.doors.is_watched) == (("0.0.0.0/0",), True)
    assert egress.opened == {vm: (TENANTS, 4)}
    for descriptor in launcher.given:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


async def test_without_a_list_there_is_no_network() -> None:
    """A VM without a list has none, whatever this machine can."""
    workers, launcher, egress = made(is_live=True)
    await workers.open_vm()
    assert launcher.specs[0].network is Network.NONE
    assert egress.opened == {}


async def test_builds_leave_by_the_same_door() -> None:
    """A build's VM has doors too, and sees what it installs with."""
    workers, launcher, egress = made(is_live=True)
    await workers.open_vm(network=OPERATORS)
    assert (launcher.specs[0].network, launcher.specs[0].is_build) == (Network.DOORS, True)
    assert len(egress.opened) == 1


async def test_without_doors_builds_have_the_hosts_network_and_nobody_else() -> None:
    """On a kernel that cannot make doors builds go out as the host does; a tenant's list is refused, and never ignored."""
    workers, launcher, egress = made(is_live=False)
    await workers.open_vm(network=OPERATORS)
    assert (launcher.specs[0].network, launcher.specs[0].is_build) == (Network.HOST, True)
    with pytest.raises(PyfaasError, match="cannot be enforced") as caught:
        await workers.open_vm(network=TENANTS)
    assert caught.value.code is Code.NOT_ALLOWED
    assert (len(launcher.specs), egress.opened) == (1, {})


async def test_doors_are_closed_with_their_vm() -> None:
    """A VM that is closed, one that ends by itself, and all of a launcher that ends have their doors closed, once each."""
    workers, launcher, egress = made(is_live=True)
    first, second, third = [(await workers.open_vm(network=TENANTS))[0] for _ in range(3)]
    await workers.close_vm(first)
    assert egress.closed == [first]
    launcher.on_vm_gone(second)
    assert egress.closed == [first, second]
    launcher.on_gone()
    assert egress.closed == [first, second, third]
