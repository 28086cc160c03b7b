"""Forking VMs and containers: what the launcher keeps of each, and the children's first lines.

The launcher forks everything; VM init only reaps. A container forked by init could not be confined any further, nor
start inside a cgroup. A child's whole life after the fork is inside `_child`, which ends in os._exit: an exception
must never unwind into the launcher's loop.
"""

from __future__ import annotations

import array
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from sandbox import kernel
from sandbox.errors import SetupError
from sandbox.guest import container as guest_container
from sandbox.guest import init as guest_init
from sandbox.launcher import confine
from sandbox.launcher.cgroups import Leaf
from sandbox.launcher.files import VmFiles
from sandbox.spec import Network, Usage, VmSpec

JOINED = ("mnt", "pid", "ipc", "uts", "net")


@dataclass(slots=True, kw_only=True)
class ContainerRecord:
    """A container as the launcher knows it; `pidfd` becomes readable when it ends."""

    id: str
    vm: str
    pid: int
    pidfd: int
    leaf: Leaf | None
    report: socket.socket
    request: str  # who waits for it; "" once answered
    mnt: int = -1
    tmp_bytes: int = 0
    host_ends: list[int] = field(default_factory=list)  # channel, fd 1, fd 2, until the host has them
    writes: set[str] = field(default_factory=set)  # the staged directories that it was given to write
    uses: set[str] = field(default_factory=set)  # what it was given of the VM's own files, to read or to write
    base: Usage = field(default_factory=Usage)  # what its leaf had counted before it
    is_succeeded: bool = False  # its leaf is another's from now on

    @property
    def name(self) -> str:
        """The container's name, which a process that replaces another shares with it."""
        return self.id.partition(":")[0]


@dataclass(slots=True, kw_only=True)
class VmRecord:
    """A VM as the launcher knows it; `join` are its namespaces' descriptors by kind."""

    id: str
    pid: int
    pidfd: int
    uid: int
    spec: VmSpec
    group: Leaf | None
    init: Leaf | None
    report: socket.socket
    request: str  # who waits for it; "" once its first container has been forked
    join: dict[str, int] = field(default_factory=dict)
    doors: list[int] = field(default_factory=list)  # until the host has them
    containers: dict[str, ContainerRecord] = field(default_factory=dict)
    made: int = 0
    files: VmFiles = field(default_factory=VmFiles)
    is_held: bool = False  # the host has got a container of it, and so knows it
    is_dying: bool = False  # killed; gone once its containers and then its init have been reaped
    mourners: list[str] = field(default_factory=list)  # the requests that wait for that


@dataclass(frozen=True, slots=True, kw_only=True)
class Succession:
    """A container whose process has been killed and is to be followed by another, in the same leaf, before `until`."""

    request: str
    vm: VmRecord
    box: ContainerRecord
    until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """What all children are made of: constant for a launcher's life."""

    is_root: bool
    pidns: int
    trees: dict[tuple[Network, bool], str]  # by profile, and whether it is for builds
    filters: dict[Network, bytes]
    landlock: int
    entry: guest_container.Entry
    rehearse: Callable[[], None] | None
    awaits_code: bool
    without: frozenset[str]
    fail_at: str


def fork_vm(
    house: House, vm_id: str, request: str, uid: int, *, spec: VmSpec, group: Leaf | None, init: Leaf | None
) -> VmRecord:
    """Fork a VM's PID 1; it reports on `report`. Raises OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    plan = _plan(house, spec, init, uid, {}, (null, null, null, theirs.fileno()), theirs)
    try:
        kernel.unshare(kernel.NEWPID)
        pid = os.fork()
        if pid == 0:
            _child(confine.VM_STEPS, plan, theirs, _live_as_init)
    except OSError:
        ours.close()
        raise
    finally:
        come_back(house.pidns, kernel.NEWPID)
        theirs.close()
        os.close(null)
    pidfd = kernel.pidfd_open(pid)
    return VmRecord(
        id=vm_id,
        pid=pid,
        pidfd=pidfd,
        uid=uid,
        spec=spec,
        group=group,
        init=init,
        report=ours,
        request=request,
    )


def fork_container(
    house: House, vm: VmRecord, container_id: str, request: str, leaf: Leaf | None, *, is_hurried: bool
) -> ContainerRecord:
    """Fork a blank into a VM; it reports on `report`. One that somebody waits for rehearses nothing. Raises OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    host, guest = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    host.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)  # its first packet says who it is to the host: see host.container
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    out_read, out_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    err_read, err_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    os.set_blocking(out_write, True)
    os.set_blocking(err_write, True)
    kept = (null, out_write, err_write, guest.fileno(), out_read, err_read, theirs.fileno())
    plan = _plan(house, vm.spec, leaf, vm.uid, vm.join, kept, theirs)

    def live() -> None:
        guest_container.live(house.entry, None if is_hurried else house.rehearse, awaits_code=house.awaits_code)

    try:
        kernel.setns(vm.join["pid"], kernel.NEWPID)
        pid = os.fork()
        if pid == 0:
            _child(confine.CONTAINER_STEPS, plan, theirs, live)
    except OSError:
        for end in (ours, host):
            end.close()
        for descriptor in (out_read, err_read):
            os.close(descriptor)
        raise
    finally:
        come_back(house.pidns, kernel.NEWPID)
        for end in (theirs, guest):
            end.close()
        for descriptor in (null, out_write, err_write):
            os.close(descriptor)
    pidfd = kernel.pidfd_open(pid)
    record = ContainerRecord(id=container_id, vm=vm.id, pid=pid, pidfd=pidfd, leaf=leaf, report=ours, request=request)
    record.host_ends = [host.detach(), out_read, err_read]
    record.tmp_bytes = vm.spec.limits.tmp_bytes
    return record


def come_back(namespace: int, kind: int) -> None:
    """Return to a namespace of the launcher's own; staying in a container's would be the end of all promises."""
    try:
        kernel.setns(namespace, kind)
    except OSError:
        os._exit(71)  # EX_OSERR


def _plan(
    house: House,
    spec: VmSpec,
    leaf: Leaf | None,
    uid: int,
    join: dict[str, int],
    kept: tuple[int, ...],
    report: socket.socket,
) -> confine.Plan:
    def give(tag: bytes, descriptors: list[int]) -> None:
        report.sendmsg([tag], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))])

    return confine.Plan(
        leaf=leaf,
        uid=uid,
        is_root=house.is_root,
        tree=house.trees[spec.kind],
        network=spec.network,
        doors=spec.doors,
        join=join,
        kept=kept,
        give=give,
        tmp_bytes=spec.limits.tmp_bytes,
        file_bytes=(4 << 30) if spec.kind[1] else (1 << 30),
        landlock=house.landlock,
        bpf=house.filters[spec.network],
        without=house.without,
        fail_at=house.fail_at,
    )


def _live_as_init() -> None:
    os.write(3, b"d")
    guest_init.wait(3)


def _child(
    steps: tuple[tuple[confine.Step, Callable[[confine.Plan], None]], ...],
    plan: confine.Plan,
    report: socket.socket,
    live: Callable[[], None],
) -> None:
    status = 70  # EX_SOFTWARE
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        confine.run(steps, plan)
        live()
        status = 0
    except SetupError as error:
        _tell(report, error)
    except BaseException as error:  # noqa: BLE001 - the child must not unwind into the launcher's loop
        _tell(report, SetupError("child", 0, f"{type(error).__name__}: {error}"))
    finally:
        os._exit(status)


def _tell(report: socket.socket, error: SetupError) -> None:
    """Send a failure to the launcher, over whichever number its socket has by now."""
    text = f"e {error.step} {error.errno} {error.reason}".encode()
    for descriptor in (report.fileno(), guest_container.LAUNCHER, 3):
        try:
            os.write(descriptor, text)
        except OSError:
            continue
        else:
            return
