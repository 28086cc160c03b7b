"""How a freshly forked child loses everything: named steps, in an order that matters.

A child of the launcher begins with all that the launcher may. Each step takes something away, and later ones could
not be done earlier: a mount needs the capabilities that the identity step ends, entering a user namespace refills the
bounding set, changing credentials clears the death signal and the dumpable flag, and after the filter most of these
calls do not exist. The first failure is a SetupError with the step's name; no code of a tenant runs after one.

`VM_STEPS` and `CONTAINER_STEPS` are the whole list; sandbox/README.md shows the same, checked by a test.
"""

from __future__ import annotations

import fcntl
import os
import random
import resource
import signal
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from sandbox import kernel
from sandbox.errors import SetupError
from sandbox.launcher import doors
from sandbox.launcher.cgroups import Leaf
from sandbox.spec import Doors, Network

INSIDE_ID = 1000  # uid and gid as the code sees them
UNCOVERED = "/run/uncovered"  # readable by its mode, covered by no Landlock rule: opening it shows that Landlock is live
BUILD_DIR = "/app/build"  # what is attached below it may be written, where the attachment is writable
_DEVICES = ("null", "zero", "full", "random", "urandom")
_TMP_FLAGS = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC


class Step(StrEnum):
    """A step's name, as it is told in errors."""

    CGROUP = "cgroup"
    SESSION = "session"
    NAMESPACES = "namespaces"
    DOORS = "doors"
    ROOT = "root"
    SCRATCH = "scratch"
    HANDLES = "handles"
    IDENTITY = "identity"
    CAPABILITIES = "capabilities"
    DESCRIPTORS = "descriptors"
    LIMITS = "limits"
    SEAL = "seal"
    LANDLOCK = "landlock"
    SECCOMP = "seccomp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a child needs to know of itself. Descriptors in `join` are the VM's namespaces, by kind.

    `kept` are the descriptors that stay, in the order of their new numbers from 0; `give` takes descriptors for the
    launcher. `uid` is the VM's on the host (0 for a launcher without root: then the user namespace exists already).
    """

    leaf: Leaf | None
    uid: int
    is_root: bool
    tree: str
    network: Network
    doors: Doors | None
    join: dict[str, int]
    kept: tuple[int, ...]
    give: Callable[[bytes, list[int]], None]
    tmp_bytes: int
    file_bytes: int
    landlock: int
    bpf: bytes
    without: frozenset[str]
    fail_at: str = ""


def run(steps: tuple[tuple[Step, Callable[[Plan], None]], ...], plan: Plan) -> None:
    """Do the steps; raises SetupError naming the one that failed."""
    for step, work in steps:
        try:
            if plan.fail_at == step.value:
                raise OSError(5, "asked to fail", "test")
            work(plan)
        except OSError as error:
            raise SetupError(step.value, error.errno or 0, f"{error.filename or ''}: {error.strerror}") from None


def enter_cgroup(plan: Plan) -> None:
    """Sit in the leaf before anything is used that it should count, and before the namespace hides it."""
    if plan.leaf is not None:
        plan.leaf.enter()


def start_session(_plan: Plan) -> None:
    """Have no controlling terminal, and no process group with the host."""
    os.setsid()


def make_namespaces(plan: Plan) -> None:
    """Give the VM its own mount, ipc, uts and cgroup namespaces, and the network that it was made for."""
    network = 0 if plan.network is Network.HOST else kernel.NEWNET  # 0.4 ms; one for all would let accounts meet by abstract sockets' names
    kernel.unshare(kernel.NEWNS | kernel.NEWIPC | kernel.NEWUTS | kernel.NEWCGROUP | network)
    kernel.set_hostname("pyfaas")


def open_doors(plan: Plan) -> None:
    """Set the VM's own network up, and hand the sockets that listen there to the launcher: nobody inside keeps one."""
    if plan.doors is not None:
        made = doors.make(plan.doors)
        plan.give(b"o", made)
        for descriptor in made:
            os.close(descriptor)


def join_namespaces(plan: Plan) -> None:
    """Enter the VM's namespaces, with a mount and a cgroup namespace of one's own."""
    if plan.network is not Network.HOST:
        kernel.setns(plan.join["net"], kernel.NEWNET)
    kernel.setns(plan.join["mnt"], kernel.NEWNS)
    kernel.setns(plan.join["ipc"], kernel.NEWIPC)
    kernel.setns(plan.join["uts"], kernel.NEWUTS)
    kernel.unshare(kernel.NEWNS | kernel.NEWCGROUP)


def change_root(plan: Plan) -> None:
    """Make the prepared tree the root, with a /proc of the own processes only, and let go of the host's."""
    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    options = None if "proc" in plan.without else "subset=pid,hidepid=invisible"
    kernel.mount("proc", plan.tree + "/proc", "proc", _TMP_FLAGS, options)
    os.chdir(plan.tree)
    kernel.pivot_root(".", ".")
    kernel.unmount(".", kernel.MNT_DETACH)
    os.chdir("/")


def mount_scratch(plan: Plan) -> None:
    """Mount the container's private /tmp and /dev/shm; they end with it."""
    owner = f"uid={plan.uid},gid={plan.uid},mode=1777"
    options = f"size={plan.tmp_bytes},nr_inodes=65536,{owner}"
    kernel.mount("tmpfs", "/tmp", "tmpfs", _TMP_FLAGS, options)  # noqa: S108 - inside the container
    kernel.mount("tmpfs", "/dev/shm", "tmpfs", _TMP_FLAGS, options)  # noqa: S108 - inside the container


def give_handles(plan: Plan) -> None:
    """Hand the namespaces to the launcher now: once sealed, a launcher without root could not open them."""
    kinds = ("mnt",) if plan.join else ("mnt", "pid", "ipc", "uts", "net")
    handles = [os.open(f"/proc/self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in kinds]
    plan.give(b"n", handles)
    for handle in handles:
        os.close(handle)


def become_nobody(plan: Plan) -> None:
    """Take the VM's uid and enter a user namespace in which the other namespaces belong to somebody else."""
    outside = 0
    if plan.is_root:
        os.setgroups([])
        os.setresgid(plan.uid, plan.uid, plan.uid)
        os.setresuid(plan.uid, plan.uid, plan.uid)
        outside = plan.uid
    kernel.set_dumpable(1)  # the change of credentials cleared it, and /proc/self/uid_map would be closed
    kernel.unshare(kernel.NEWUSER)
    if plan.is_root:
        _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{INSIDE_ID} {outside} 1")
    _write("/proc/self/gid_map", f"{INSIDE_ID} {outside} 1")


def drop_capabilities(_plan: Plan) -> None:
    """Empty all five sets; the bounding set first, since unshare(NEWUSER) refilled it."""
    kernel.drop_bounding_set()
    kernel.drop_capabilities()


def set_limits(plan: Plan) -> None:
    """Bound what cgroups do not count, be the first to go when memory is short, and die with the launcher."""
    _write("/proc/self/oom_score_adj", "1000")
    for limit, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 1024),
        (resource.RLIMIT_FSIZE, plan.file_bytes),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_SIGPENDING, 64),
        (resource.RLIMIT_STACK, 8 << 20),
    ):
        resource.setrlimit(limit, (value, value))
    kernel.set_parent_death_signal(signal.SIGKILL)
    os.umask(0o077)
    os.environ.clear()
    random.seed()


def keep_descriptors(plan: Plan) -> None:
    """Keep the written list of descriptors, under fixed numbers, and close every other one."""
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, len(plan.kept)) for fd in plan.kept]  # out of each other's way first
    for at, fd in enumerate(high):
        os.dup2(fd, at, inheritable=at < 3)
    kernel.close_from(len(high))


def seal(_plan: Plan) -> None:
    """Be neither dumped nor traced, and gain nothing by executing."""
    kernel.set_dumpable(0)
    kernel.set_no_new_privs()


def restrict_files(plan: Plan) -> None:
    """Allow reading the tree and writing the scratch directories, by Landlock too; made after /tmp is mounted."""
    if "landlock" in plan.without:
        return
    ruleset = kernel.landlock_create(plan.landlock)
    kernel.landlock_allow(ruleset, "/", kernel.LANDLOCK_READ_DIRECTORY)
    for name in os.listdir("/"):
        if name != UNCOVERED.split("/")[1]:
            kernel.landlock_allow(ruleset, "/" + name, kernel.LANDLOCK_READ)
    for path in ("/tmp", "/dev/shm", BUILD_DIR):  # noqa: S108 - inside the container
        kernel.landlock_allow(ruleset, path, kernel.landlock_write(plan.landlock))
    for name in _DEVICES:
        kernel.landlock_allow(ruleset, "/dev/" + name, kernel.LANDLOCK_READ_FILE | kernel.LANDLOCK_WRITE_FILE)
    kernel.landlock_restrict(ruleset)
    os.close(ruleset)


def filter_calls(plan: Plan) -> None:
    """Install the seccomp filter, last: most of what was done above is refused from here on."""
    if "seccomp" not in plan.without:
        kernel.load_filter(plan.bpf)


_DROP = (
    (Step.IDENTITY, become_nobody),
    (Step.CAPABILITIES, drop_capabilities),
    (Step.DESCRIPTORS, keep_descriptors),  # before the limits: the launcher's numbers may be above a container's limit
    (Step.LIMITS, set_limits),
    (Step.SEAL, seal),
    (Step.LANDLOCK, restrict_files),
    (Step.SECCOMP, filter_calls),
)
VM_STEPS = (
    (Step.CGROUP, enter_cgroup),
    (Step.SESSION, start_session),
    (Step.NAMESPACES, make_namespaces),
    (Step.DOORS, open_doors),
    (Step.ROOT, change_root),
    (Step.HANDLES, give_handles),
    *_DROP,
)
CONTAINER_STEPS = (
    (Step.CGROUP, enter_cgroup),
    (Step.SESSION, start_session),
    (Step.NAMESPACES, join_namespaces),
    (Step.SCRATCH, mount_scratch),
    (Step.HANDLES, give_handles),
    *_DROP,
)


def read_back() -> dict[str, str]:
    """Return what the kernel says of this process now, and whether Landlock refuses what it should.

    Landlock shows nowhere in /proc, so a file is opened that everybody may read and no rule covers.
    """
    wanted = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Groups", "Uid", "Pid")
    with open("/proc/self/status") as file:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    told = {name: status.get(name, "").strip() for name in wanted}
    try:
        os.close(os.open(UNCOVERED, os.O_RDONLY | os.O_CLOEXEC))
        told["Landlock"] = "0"
    except PermissionError:
        told["Landlock"] = "1"
    return told


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
