"""The cell: how a server that parses what strangers send loses what it does not need, before it reads a byte.

It never keeps uid 0: without any capability, but with uid 0, a process still read /etc/shadow, changed the modes of
root's files and left a set-uid program in its data directory. So: a private mount namespace in which everything is
read-only and nosuid; the interpreter and the project bound under an empty tmpfs where their way is closed to others
(a virtual environment in root's home); the data directory writable, nosuid, nodev, noexec; an own uid; no_new_privs;
Landlock. Started by an ordinary user the same happens inside a user namespace, and the uid stays.
"""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from sandbox import kernel
from sandbox.errors import SetupError

_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/sbin", "/etc", "/dev", "/proc", "/opt", "/run/systemd/resolve")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What a server needs: `data` is writable, `needed` are paths to be read (interpreter, project, site-packages)."""

    data: str
    uid: int  # 0 keeps the uid of an ordinary user
    needed: tuple[str, ...]
    without: tuple[str, ...] = ()


def enter(cell: Cell) -> None:
    """Confine the calling process; raises SetupError naming the step."""
    step = "mounts"
    try:
        if os.getuid() != 0:
            _own_user_namespace()
        _mounts(cell)
        step = "identity"
        if cell.uid:
            os.setgroups([])
            os.setresgid(cell.uid, cell.uid, cell.uid)
            os.setresuid(cell.uid, cell.uid, cell.uid)
        kernel.drop_capabilities()
        kernel.set_parent_death_signal(signal.SIGKILL)
        step = "seal"
        kernel.set_no_new_privs()
        os.umask(0o077)
        step = "landlock"
        if "landlock" not in cell.without:
            _restrict(cell)
    except OSError as error:
        raise SetupError(f"cell.{step}", error.errno or 0, f"{error.filename or ''}: {error.strerror}") from None


def _own_user_namespace() -> None:
    uid, gid = os.getuid(), os.getgid()
    kernel.unshare(kernel.NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _mounts(cell: Cell) -> None:
    kernel.unshare(kernel.NEWNS)
    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    data = kernel.open_tree(kernel.AT_FDCWD, cell.data)
    hidden = [path for path in outermost(cell.needed) if closed_parent(path)]
    trees = [(path, kernel.open_tree(kernel.AT_FDCWD, path, recursive=True)) for path in hidden]
    for top in sorted({closed_parent(path) for path in (*hidden, cell.data)} - {""}):
        kernel.mount("tmpfs", top, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=256k,mode=755")
    for path, tree in trees:
        os.makedirs(path, 0o755, exist_ok=True)
        kernel.move_mount(tree, path)
        os.close(tree)
    os.makedirs(cell.data, 0o755, exist_ok=True)
    kernel.mount_setattr(kernel.AT_FDCWD, "/", kernel.ATTR_RDONLY | kernel.ATTR_NOSUID, recursive=True)
    kernel.mount_setattr(data, "", kernel.ATTR_NOSUID | kernel.ATTR_NODEV | kernel.ATTR_NOEXEC)
    kernel.move_mount(data, cell.data)
    os.close(data)
    os.chdir("/")


def closed_parent(path: str) -> str:
    """Return the topmost directory on the way to `path` that others may not pass; "" when the way is open."""
    parts = path.strip("/").split("/")
    for depth in range(1, len(parts)):
        directory = "/" + "/".join(parts[:depth])
        if not os.stat(directory).st_mode & stat.S_IXOTH:
            return directory
    return ""


def outermost(paths: Sequence[str]) -> list[str]:
    """Return the paths that lie beneath no other one."""
    kept: list[str] = []
    for path in sorted(set(paths)):
        if not any(path == other or path.startswith(other + "/") for other in kept):
            kept.append(path)
    return kept


def _restrict(cell: Cell) -> None:
    abi = kernel.landlock_abi()
    ruleset = kernel.landlock_create(abi)
    for path in outermost([p for p in (*_SYSTEM, *cell.needed) if os.path.exists(p)]):
        kernel.landlock_allow(ruleset, path, kernel.LANDLOCK_READ)
    kernel.landlock_allow(ruleset, "/dev/null", kernel.LANDLOCK_READ_FILE | kernel.LANDLOCK_WRITE_FILE)
    kernel.landlock_allow(ruleset, cell.data, kernel.landlock_write(abi))
    kernel.landlock_restrict(ruleset)
    os.close(ruleset)
