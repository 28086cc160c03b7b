"""Making and ending VMs with doors: those for builds, each step that may fail, and that nothing of a network stays."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox import kernel
from sandbox.errors import SetupError
from sandbox.host.vm import Vm
from sandbox.launcher.confine import VM_STEPS, Step
from sandbox.spec import MAX_LISTENERS, Doors, Fate, Limits, Network, VmSpec
from tests.sandbox.doorkeeper import Doorkeeper
from tests.sandbox.rig import Refused, Rig, sockets_of

SYNTHETIC = "198.18.0.0/15"
PLACES = Doors(listen=(("198.18.0.5", 443), ("0.0.0.0", 5432)), routes=(SYNTHETIC, "10.1.2.0/24"))


def with_doors(rig: Rig, doors: Doors = PLACES) -> Vm:
    """Make a VM with doors."""
    return rig.vm(network=Network.DOORS, doors=doors)


# ---- builds


def test_a_vm_for_builds_sees_the_binds(make_rig: Callable[..., Rig], tmp_path: Path) -> None:
    """What the launcher was told to bind is in VMs for builds, with doors too, and in no other; larger files go with it."""
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "one.whl").write_text("x")
    rig = make_rig(binds=(f"{tmp_path}/wheels:/run/wheels",))
    look = "import os, resource; result = [os.path.exists('/run/wheels/one.whl'), resource.getrlimit(resource.RLIMIT_FSIZE)[0] >> 30]"
    for spec, seen in (({}, [False, 1]), ({"is_build": True}, [True, 4])):
        vm = rig.vm(network=Network.DOORS, doors=PLACES, **spec)
        with Doorkeeper(vm.doors):
            assert rig.ask(vm.first, look) == seen
    assert rig.ask(rig.vm(network=Network.HOST).first, look) == [True, 4]


def test_a_profile_that_a_launcher_was_not_made_for(make_rig: Callable[..., Rig]) -> None:
    """A launcher for plain VMs refuses others by the step's name, leaves nothing, and goes on."""
    rig = make_rig(networks=(Network.NONE,))
    for spec in ({"network": Network.DOORS, "doors": PLACES}, {"network": Network.HOST}):
        with pytest.raises(SetupError, match="network: this launcher makes no VMs") as caught:
            rig.vm(**spec)
        assert caught.value.step == "network"
    rig.wait_for_rest()
    assert rig.ask(rig.blank(), "result = 1") == 1


# ---- what goes wrong


def opened() -> int:
    """Count this process's descriptors."""
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("step", [*dict.fromkeys([*(step for step, _ in VM_STEPS), Step.SCRATCH])])
def test_a_failed_step_leaves_no_door(make_rig: Callable[..., Rig], step: Step) -> None:
    """Whatever fails, the step is named, and neither this process nor the launcher keeps a socket."""
    rig = make_rig(fail_at=step.value)
    assert rig.process is not None
    pid = rig.process.pid
    before, theirs = opened(), sockets_of(pid)
    with pytest.raises(SetupError) as caught:
        with_doors(rig)
    assert caught.value.step == step.value
    rig.wait_for_rest()
    rig.wait_until(lambda: sockets_of(pid) == theirs, lambda: sockets_of(pid))
    assert opened() == before


def test_nobody_waits_for_it_any_more(make_rig: Callable[..., Rig]) -> None:
    """A VM whose asker has left is ended, and its doors are closed here."""
    rig = make_rig()
    before = opened()

    async def leave() -> None:
        making = asyncio.ensure_future(rig.launcher.create_vm(VmSpec(network=Network.DOORS, doors=PLACES)))
        await asyncio.sleep(0)
        making.cancel()
        with pytest.raises(asyncio.CancelledError):
            await making

    rig.run(leave())
    rig.wait_for_rest()
    rig.wait_until(lambda: opened() == before)


def test_a_host_without_room_for_them(make_rig: Callable[..., Rig]) -> None:
    """Where not all descriptors arrive the VM is refused and ended, and those that did are closed; with room it is made."""
    rig = make_rig()
    before = opened()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = sorted(set(range(soft)) - set(map(int, os.listdir("/proc/self/fd"))))
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[20], hard))  # numbers below the limit, not how many there are
    places = Doors(listen=tuple(("198.18.0.5", 1000 + port) for port in range(MAX_LISTENERS)), routes=(SYNTHETIC,))
    try:
        with pytest.raises(SetupError, match=r"descriptors of .* arrived"):
            with_doors(rig, places)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    rig.wait_for_rest()
    assert opened() == before
    for door in with_doors(rig, places).doors:
        os.close(door)


# ---- what it may use

_FILL = """
import socket
server = socket.create_server(('127.0.0.1', 0))
kept, held = [], 0
for _ in range(20):
    one = socket.create_connection(server.getsockname())
    kept += (one, server.accept()[0])
for one in kept:
    one.setblocking(False)
    try:
        while True:
            held += one.send(bytes(65536))
    except BlockingIOError:
        pass
result = held >> 20
"""


def test_what_sockets_hold_is_bounded(make_rig: Callable[..., Rig]) -> None:
    """Bytes that nobody reads count against the container, wherever the kernel keeps them; a plain process of the host holds far more."""
    code = _FILL + "print(result)"
    outside = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    rig = make_rig()
    vm = rig.vm(network=Network.DOORS, doors=PLACES, limits=Limits(memory_bytes=48 << 20))
    with Doorkeeper(vm.doors):
        try:
            assert rig.ask(vm.first, _FILL) <= 48
        except Refused as refused:  # v2 counts it as memory, and may end who has too much
            assert Fate.OOM in refused.text
    assert outside > 64


# ---- the end


class Witness:
    """A network namespace from which another one is given an id: the kernel forgets the id when that namespace is no more.

    Sockets keep a namespace and show in no directory of /proc. rtnetlink(7): RTM_NEWNSID, RTM_GETNSID; linux/net_namespace.h.
    """

    def __init__(self, space: int) -> None:
        """Give the namespace of a descriptor the id 7, in a new one of this witness's own."""
        here = os.open("/proc/self/ns/net", os.O_RDONLY)
        try:
            kernel.unshare(kernel.NEWNET)
            self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
        finally:
            kernel.setns(here, kernel.NEWNET)
            os.close(here)
        assert self._ask(88, 5, struct.pack("=HHi", 8, 1, 7) + struct.pack("=HHI", 8, 3, space))[0] == 2

    def _ask(self, kind: int, flags: int, attributes: bytes) -> tuple[int, bytes]:
        self.socket.send(struct.pack("=IHHII4x", 20 + len(attributes), kind, flags, 1, 0) + attributes)
        told = self.socket.recv(4096)
        answer, code = struct.unpack_from("=4xH10xi", told)
        assert answer != 2 or code == 0, os.strerror(-code)
        return answer, told

    def is_there(self) -> bool:
        """Tell whether the namespace still is."""
        return self._ask(90, 0x301, b"")[0] == 88  # a dump of all ids: one, or the end of the list at once


def test_the_network_goes_with_the_last_door(make_rig: Callable[..., Rig]) -> None:
    """When the VM has ended its namespace lives as long as one door or one connection that came through one, and no longer."""
    rig = make_rig()
    vm = with_doors(rig)
    space = os.open(f"/proc/{vm.first.pid}/ns/net", os.O_RDONLY)
    witness = Witness(space)
    os.close(space)
    doors = [socket.socket(fileno=door) for door in vm.doors]
    rig.tell(vm.first, "import socket; s = socket.create_connection(('198.18.0.5', 443), 20)")
    talk, _ = doors[0].accept()
    rig.run(vm.destroy())
    rig.wait_for_rest()
    for one in doors:
        assert witness.is_there()
        one.close()
    assert witness.is_there()
    talk.close()
    rig.wait_until(lambda: not witness.is_there())
    witness.socket.close()


def test_the_doors_outlive_the_launcher(make_rig: Callable[..., Rig]) -> None:
    """The host's descriptors stay its own when launcher and VM are killed; a connection then reads its end."""
    rig = make_rig()
    vm = with_doors(rig)
    doors = [socket.socket(fileno=door) for door in vm.doors]
    rig.tell(vm.first, "import socket; s = socket.create_connection(('198.18.0.5', 443), 20)")
    talk, _ = doors[0].accept()
    assert rig.process is not None
    rig.process.kill()
    talk.settimeout(20)
    assert talk.recv(1) == b""
    assert rig.ending(vm.first).fate == Fate.LOST
    assert doors[0].getsockname() == ("198.18.0.5", 443)
    for one in (talk, *doors):
        one.close()
