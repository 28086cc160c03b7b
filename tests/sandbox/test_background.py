"""VMs in the background: they have the processors when nobody else wants them, until they are hurried."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandbox.host.vm import Vm
from sandbox.launcher import cgroups
from sandbox.spec import VmSpec
from tests.sandbox.rig import Rig

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="an ordinary user's process may not take its urgency back")


def weight(rig: Rig, vm: Vm) -> tuple[str, str]:
    """Return what the VM's group says of its share, by the first file that there is."""
    found = cgroups.detect()
    place = found.v1.get("cpu") or found.v2 or ""
    group = Path(place) / f"pyfaas-{rig.instance}-{vm.id}"
    name = next(name for name in ("cpu.idle", "cpu.weight", "cpu.shares") if (group / name).exists())
    return name, (group / name).read_text().strip()


def nice(vm: Vm) -> int:
    """Return the urgency of the VM's first container."""
    return os.getpriority(os.PRIO_PROCESS, vm.first.pid)


@needs_root
def test_the_background_gives_way_until_it_is_hurried(rig: Rig) -> None:
    """A VM in the background has the least share that there is, beside one that has not; hurried, it is like that one."""
    usual, behind = rig.run(rig.launcher.create_vm(VmSpec())), rig.run(rig.launcher.create_vm(VmSpec(is_background=True)))
    assert weight(rig, behind) != weight(rig, usual)
    assert (nice(behind), nice(usual)) == (19, 0)
    rig.run(behind.hurry())
    assert weight(rig, behind) == weight(rig, usual)
    assert nice(behind) == 0
    for vm in (usual, behind):
        rig.run(vm.destroy())
