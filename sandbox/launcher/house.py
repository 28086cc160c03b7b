"""What a launcher builds once, before the first fork: its own namespaces, and the VMs' trees.

Run by the launcher at its start. As root it only leaves the host's mount namespace; started by an ordinary user it first
becomes root, and PID 1, of a user namespace of its own, in which it may make all the others.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from sandbox import kernel
from sandbox.guest.container import Entry
from sandbox.launcher import tree
from sandbox.launcher.options import LauncherOptions
from sandbox.launcher.vms import House
from sandbox.spec import Network

_KINDS = ((Network.NONE, False), (Network.DOORS, False), (Network.DOORS, True), (Network.HOST, True))


def build(options: LauncherOptions, entry: Entry, rehearse: Callable[[], None] | None) -> House:
    """Enter the launcher's own namespaces and build the trees; raises OSError. As an ordinary user it returns in a child."""
    is_root = os.getuid() == 0
    filters = {network: _read_all(options.filters[network]) for network in options.networks}
    if not is_root:
        _become_root_of_a_user_namespace()
    kernel.own_mounts()
    if not is_root:
        kernel.mount("proc", "/proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
    kernel.mount("tmpfs", options.root, "tmpfs", kernel.MS_NOSUID, "size=1m,mode=755")
    trees = {kind: f"{options.root}/{kind[0]}{'-build' if kind[1] else ''}" for kind in _KINDS if kind[0] in options.networks}
    for (network, is_build), path in trees.items():
        os.mkdir(path)
        tree.build_tree(path, network, options.binds if is_build else ())
    return House(
        is_root=is_root,
        pidns=os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC),
        trees=trees,
        filters=filters,
        landlock=kernel.landlock_abi(),
        entry=entry,
        rehearse=rehearse,
        awaits_code=options.awaits_code,
        without=frozenset(options.without),
        fail_at=options.fail_at,
    )


def _become_root_of_a_user_namespace() -> None:
    """Be root, and PID 1, of a user namespace of one's own: how an ordinary user's launcher gets to make the others."""
    uid, gid = os.getuid(), os.getgid()
    kernel.unshare(kernel.NEWUSER | kernel.NEWPID)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        descriptor = os.open(f"/proc/self/{name}", os.O_WRONLY | os.O_CLOEXEC)
        os.write(descriptor, text.encode())
        os.close(descriptor)
    pid = os.fork()
    if pid:
        status = os.waitpid(pid, 0)[1]
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    kernel.set_parent_death_signal(signal.SIGKILL)


def _read_all(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb") as file:
        file.seek(0)
        return file.read()
