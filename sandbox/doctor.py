"""What this machine can isolate, layer by layer: each is tried, not looked up.

A layer that is missing stops a server unless the operator gave it up by name; every answer says what mends it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from sandbox import filters, kernel
from sandbox.errors import LayerMissing
from sandbox.launcher import cgroups
from sandbox.spec import Layer

LAYERS = ("namespaces", "proc", "cgroups", "seccomp", "landlock", "no_new_privs")
_USERNS = (
    "allow unprivileged user namespaces: sysctl kernel.unprivileged_userns_clone=1, "
    "kernel.apparmor_restrict_unprivileged_userns=0 and user.max_user_namespaces above 0"
)


def layers() -> list[Layer]:
    """Try every layer and tell which are live, and what mends those that are not."""
    return [_namespaces(), _proc(), _cgroups(), _seccomp(), _landlock(), _no_new_privs()]


def require(found: Sequence[Layer], allowed: Sequence[str]) -> list[str]:
    """Return the layers that are given up; raises LayerMissing for one that is missing and was not allowed to be.

    Raises ValueError for a name that is no layer.
    """
    unknown = set(allowed) - set(LAYERS)
    if unknown:
        raise ValueError(f"no layer {', '.join(sorted(unknown))}; there are {', '.join(LAYERS)}")
    for layer in found:
        if not layer.live and layer.name not in allowed:
            raise LayerMissing(layer.name, layer.detail, layer.mend)
    return [layer.name for layer in found if not layer.live]


def _in_child(work: Callable[[], None]) -> str:
    """Do something in a throw-away child; returns "" or what failed."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except OSError as error:
            os.write(write, f"{error.filename}: {error.strerror}".encode())
        except BaseException as error:  # noqa: BLE001 - the child must not unwind into the caller
            os.write(write, repr(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        told = file.read()
    os.waitpid(pid, 0)
    return told


def _become_root() -> None:
    if os.getuid() == 0:
        return
    uid, gid = os.getuid(), os.getgid()
    kernel.unshare(kernel.NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _namespaces() -> Layer:
    def work() -> None:
        _become_root()
        kernel.unshare(kernel.NEWPID | kernel.NEWNS | kernel.NEWIPC | kernel.NEWUTS | kernel.NEWCGROUP | kernel.NEWNET)
        kernel.unshare(kernel.NEWUSER)

    failed = _in_child(work)
    return Layer(name="namespaces", live=not failed, detail=failed or "user, pid, mount, network, ipc, uts, cgroup", mend=_USERNS)


def _proc() -> Layer:
    def work() -> None:
        _become_root()
        kernel.unshare(kernel.NEWPID | kernel.NEWNS)
        pid = os.fork()
        if pid == 0:
            try:
                kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
                kernel.mount("proc", "/proc", "proc", kernel.MS_NOSUID, "subset=pid,hidepid=invisible")
                os._exit(0)
            finally:
                os._exit(1)
        if os.waitpid(pid, 0)[1]:
            raise OSError(1, "a /proc of the own processes only cannot be mounted", "mount")

    failed = _in_child(work)
    mend = "Linux 5.8 or newer, and a /proc without masked paths (a container runtime's default hides some)"
    return Layer(name="proc", live=not failed, detail=failed or "subset=pid, hidepid=invisible", mend=mend)


def _cgroups() -> Layer:
    found = cgroups.detect()
    mend = "run as root, or as a systemd unit with Delegate=yes, or through: systemd-run --user --scope -p Delegate=yes"
    return Layer(name="cgroups", live=found.usable, detail=found.reason or f"{found.kind}: memory, pids, cpu", mend=mend)


def _seccomp() -> Layer:
    try:
        bpf = filters.build(network=False)
    except LayerMissing as missing:
        return Layer(name="seccomp", live=False, detail=missing.reason, mend=missing.mend)

    def work() -> None:
        kernel.set_no_new_privs()
        kernel.load_filter(bpf)

    failed = _in_child(work)
    detail = failed or f"{len(bpf) // 8} instructions, {len(filters.allowed_calls(network=False))} calls allowed"
    return Layer(name="seccomp", live=not failed, detail=detail, mend="a kernel with CONFIG_SECCOMP_FILTER")


def _landlock() -> Layer:
    abi = kernel.landlock_abi()
    mend = "Linux 5.13 or newer, booted with landlock in the lsm= list"
    return Layer(name="landlock", live=abi > 0, detail=f"ABI {abi}" if abi else "the kernel has none", mend=mend)


def _no_new_privs() -> Layer:
    failed = _in_child(kernel.set_no_new_privs)
    return Layer(name="no_new_privs", live=not failed, detail=failed or "set", mend="Linux 3.5 or newer")
