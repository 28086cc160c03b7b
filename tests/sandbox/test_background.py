"""VMs in the background: they have the processors when nobody else wants them."""

from __future__ import annotations

from pathlib import Path

from sandbox.host.vm import Vm
from sandbox.launcher import cgroups
from sandbox.spec import VmSpec
from tests.sandbox.rig import Rig


def weight(rig: Rig, vm: Vm) -> str:
    """Return what the VM's group says of its share, by the first file that there is."""
    found = cgroups.detect()
    group = Path(found.v1.get("cpu") or found.v2 or "") / f"pyfaas-{rig.instance}-{vm.id}"
    return next((group / name).read_text().strip() for name in ("cpu.idle", "cpu.weight", "cpu.shares") if (group / name).exists())


def test_the_background_gives_way(rig: Rig) -> None:
    """A VM in the background has the least share that there is, and comes back to what others have."""
    usual, behind = (rig.run(rig.launcher.create_vm(VmSpec())) for _ in range(2))
    rig.run(behind.weigh(is_background=True))
    assert weight(rig, behind) != weight(rig, usual)
    rig.run(behind.weigh(is_background=False))
    assert weight(rig, behind) == weight(rig, usual)
    for vm in (usual, behind):
        rig.run(vm.destroy())
