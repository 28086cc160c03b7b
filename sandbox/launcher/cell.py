"""The cell: how a process that parses what strangers send loses what it does not need, before it reads a byte.

It never keeps uid 0: without any capability, but with uid 0, a process still read /etc/shadow, changed the modes of
root's files and left a set-uid program in its data directory. So, in this order: a private mount namespace in which
everything is read-only and nosuid; the interpreter and the project bound under an empty tmpfs where their way is closed
to others (a virtual environment in root's home); the data directory writable, nosuid, nodev, noexec; an own uid, no
groups, no capabilities; no_new_privs; Landlock: reading what is listed, executing nothing, writing the data directory.
Started by an ordinary user the same happens inside a user namespace, and the uid stays.

What is confined is the calling process itself, which then goes on with the server's imports: no second interpreter has
to start, and since credentials changed without an exec it can neither be dumped nor traced.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from sandbox import kernel
from sandbox.errors import SetupError

_SYSTEM = (
    *("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/etc", "/opt", "/proc", "/run/systemd/resolve"),
    *("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"),
)
# What names are resolved with, by a process without data; all of /etc, since its files are replaced and not written.
RESOLVING = ("/usr", "/lib", "/lib32", "/lib64", "/etc", "/run/systemd/resolve", "/dev/null", "/dev/urandom")
_READ = kernel.LANDLOCK_READ_FILE | kernel.LANDLOCK_READ_DIRECTORY


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What a server needs: `data` is writable, `needed` are paths to be read (interpreter, project, site-packages).

    Paths are absolute. `data` is empty for a process that writes nothing, `hidden` are directories that it finds empty, `system` is what it
    reads of the system. `without` names layers that were given up: landlock, mount_namespace.
    """

    data: str
    uid: int  # 0 keeps the uid of an ordinary user
    needed: tuple[str, ...]
    without: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    system: tuple[str, ...] = _SYSTEM


def enter(cell: Cell) -> None:
    """Confine the calling process, which is then in the data directory, or in / without one; raises SetupError naming the step."""
    step = "mounts"
    try:
        if "mount_namespace" not in cell.without:
            if os.getuid() != 0:
                step = "user_namespace"
                _own_user_namespace()
                step = "mounts"
            _mounts(cell)
        step = "identity"
        if cell.uid:
            _refuse_closed(cell)
            kernel.drop_bounding_set()
            os.setgroups([])
            os.setresgid(cell.uid, cell.uid, cell.uid)
            os.setresuid(cell.uid, cell.uid, cell.uid)
        kernel.drop_capabilities()
        os.chdir(cell.data or "/")  # the only place where SQLite and tempfile can write, and they look here
        step = "seal"
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.umask(0o077)
        kernel.set_dumpable(0)
        kernel.set_parent_death_signal(signal.SIGKILL)
        kernel.set_no_new_privs()
        step = "landlock"
        if "landlock" not in cell.without:
            _restrict(cell)
    except OSError as error:
        raise SetupError(f"cell.{step}", error.errno or 0, f"{error.filename or ''}: {error.strerror}") from None


def give(directory: str, uid: int, names: Sequence[str] = ()) -> None:
    """Let a uid own a directory, the files in it, and the files in its subdirectories `names`; raises OSError.

    What an earlier server left may be hostile: everything is opened first, without following a link, and what is no
    regular file, or has a second name elsewhere, stays as it is.
    """
    for place in (directory, *(f"{directory}/{name}" for name in names)):
        top = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fchown(top, uid, uid)
            for name in os.listdir(top):
                _give_file(top, name, uid)
        finally:
            os.close(top)


def _give_file(directory: int, name: str, uid: int) -> None:
    if not stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
        return
    try:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError as error:
        if error.errno == errno.ELOOP:
            return
        raise
    try:
        found = os.fstat(file)
        if stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_uid != uid:
            os.fchown(file, uid, uid)
    finally:
        os.close(file)


def _own_user_namespace() -> None:
    uid, gid = os.getuid(), os.getgid()
    kernel.unshare(kernel.NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _mounts(cell: Cell) -> None:
    kernel.own_mounts()
    kept = cell.data or next(iter(cell.hidden), "")
    data = kernel.open_tree(kernel.AT_FDCWD, cell.data) if cell.data else -1
    inside = [path for path in outermost(cell.needed) if kept and path.startswith(kept + "/")]
    hidden = [path for path in outermost(cell.needed) if closed_parent(path) and path not in inside]
    trees = [(path, kernel.open_tree(kernel.AT_FDCWD, path, recursive=True)) for path in (*hidden, *inside)]
    for top in sorted({closed_parent(path) for path in (*hidden, cell.data or kept)} - {""}):
        kernel.mount("tmpfs", top, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=256k,mode=755")
    for path, tree in trees[: len(hidden)]:
        _attach(path, tree)
    if cell.data:
        os.makedirs(cell.data, 0o755, exist_ok=True)
    for path in [path for path in cell.hidden if os.path.isdir(path)]:
        kernel.mount("tmpfs", path, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=256k,mode=755")
    if not cell.data:
        for path, tree in trees[len(hidden) :]:
            _make_place(path, tree)
    kernel.mount_setattr(kernel.AT_FDCWD, "/", kernel.ATTR_RDONLY | kernel.ATTR_NOSUID, recursive=True)
    if cell.data:
        kernel.mount_setattr(data, "", kernel.ATTR_NOSUID | kernel.ATTR_NODEV | kernel.ATTR_NOEXEC)
        kernel.move_mount(data, cell.data)
        os.close(data)
    for path, tree in trees[len(hidden) :]:  # a virtual environment in the data directory: readable and executable again
        kernel.mount_setattr(tree, "", kernel.ATTR_RDONLY | kernel.ATTR_NOSUID, recursive=True)
        kernel.move_mount(tree, path)
        os.close(tree)


def _attach(path: str, tree: int) -> None:
    """Put a detached tree, a directory or a single file, at its place under a fresh tmpfs."""
    _make_place(path, tree)
    kernel.move_mount(tree, path)
    os.close(tree)


def _make_place(path: str, tree: int) -> None:
    """Make what a detached tree is put on."""
    if stat.S_ISDIR(os.fstat(tree).st_mode):
        os.makedirs(path, 0o755, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))


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


def _refuse_closed(cell: Cell) -> None:
    """Raise PermissionError for a path that the new uid could not read: its own mode is closed, not only the way to it."""
    for path in outermost(cell.needed):
        found = os.stat(path)
        wanted = stat.S_IROTH | (stat.S_IXOTH if stat.S_ISDIR(found.st_mode) else 0)
        if found.st_uid != cell.uid and found.st_mode & wanted != wanted:
            raise PermissionError(errno.EACCES, f"closed to the server's user; run: chmod -R o+rX {path}", path)


def _restrict(cell: Cell) -> None:
    abi = kernel.landlock_abi()
    ruleset = kernel.landlock_create(abi)
    for path in outermost([p for p in (*cell.system, *cell.needed) if os.path.exists(p)]):
        kernel.landlock_allow(ruleset, path, _READ)
    kernel.landlock_allow(ruleset, "/dev/null", kernel.LANDLOCK_READ_FILE | kernel.LANDLOCK_WRITE_FILE)
    if cell.data:
        kernel.landlock_allow(ruleset, cell.data, kernel.landlock_write(abi))
    kernel.landlock_restrict(ruleset)
    os.close(ruleset)
