"""The kernel as it is called here: the only module that uses ctypes.

Every function raises OSError with the call's name as its `filename`, so that a failure says what failed. Numbers are
those of x86-64 and aarch64; both architectures share everything from 424 (pidfd_send_signal) on.
Sources: the man pages of section 2 named in each docstring, and the kernel's uapi headers.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long

NEWNS, NEWCGROUP, NEWUTS, NEWIPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
NEWUSER, NEWPID, NEWNET = 0x10000000, 0x20000000, 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 32, 1 << 14, 1 << 18
MNT_DETACH = 2
AT_FDCWD, AT_EMPTY_PATH, AT_RECURSIVE = -100, 0x1000, 0x8000
ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV, ATTR_NOEXEC = 1, 2, 4, 8
_OPEN_TREE_CLONE, _MOVE_MOUNT_F_EMPTY_PATH = 1, 4
RESOLVE_NO_XDEV, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH = 1, 2, 4, 8

_PR_SET_PDEATHSIG, _PR_GET_DUMPABLE, _PR_SET_DUMPABLE = 1, 3, 4
_PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 23, 24, 38, 47

_SO_ATTACH_FILTER, _SO_LOCK_FILTER = 26, 44

_IS_X86 = os.uname().machine == "x86_64"  # not platform.machine(), which keeps the host's name for every child to read
_NR = {
    "capset": (126, 91),
    "mount": (165, 40),
    "pivot_root": (155, 41),
    "prctl": (157, 167),
    "seccomp": (317, 277),
    "setns": (308, 268),
    "sethostname": (170, 161),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "pidfd_send_signal": (424, 424),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "pidfd_open": (434, 434),
    "close_range": (436, 436),
    "openat2": (437, 437),
    "mount_setattr": (442, 442),
    "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446),
    "renameat2": (316, 276),
}


def call(name: str, *args: object) -> int:
    """Make a system call; raises OSError naming it."""
    number = _NR[name][0 if _IS_X86 else 1]
    result: int = _syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in args])
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), name)
    return result


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else os.fsencode(text)


# ---- namespaces


def unshare(flags: int) -> None:
    """Leave namespaces for new ones: unshare(2)."""
    call("unshare", flags)


def setns(descriptor: int, kind: int) -> None:
    """Enter a namespace: setns(2)."""
    call("setns", descriptor, kind)


def set_hostname(name: str) -> None:
    """Set the host name of the UTS namespace: sethostname(2)."""
    call("sethostname", name.encode(), len(name.encode()))


# ---- mounts


def own_mounts() -> None:
    """Enter a mount namespace of one's own, private, whose root is the directory that this process has as its root.

    In a chroot these are two: "/" need be no mount point then, and a user namespace is refused (EPERM in unshare(2)).
    There the tree is attached over the namespace's root, which setns(2) to the own namespace makes the process's.
    """
    unshare(NEWNS)
    here, tree = os.stat("/"), open_tree(AT_FDCWD, "/", recursive=True)
    own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    setns(own, NEWNS)
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    if not os.path.samestat(os.stat("/"), here):
        move_mount(tree, "/")
        setns(own, NEWNS)
        mount(None, "/", None, MS_REC | MS_PRIVATE)
    os.close(tree)
    os.close(own)


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    """Mount a file system, or change propagation: mount(2)."""
    call("mount", _bytes(source), _bytes(target), _bytes(kind), flags, _bytes(options))


def unmount(target: str, flags: int = 0) -> None:
    """Unmount: umount2(2)."""
    call("umount2", _bytes(target), flags)


def pivot_root(new: str, old: str) -> None:
    """Make `new` the root: pivot_root(2); with "." for both the old root ends on top of the new one."""
    call("pivot_root", _bytes(new), _bytes(old))


def open_tree(directory: int, path: str, *, recursive: bool = False) -> int:
    """Clone the mount at a path (or, with "", of a descriptor) and return it detached: open_tree(2)."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    return call("open_tree", directory, _bytes(path), flags)


def move_mount(tree: int, target: str) -> None:
    """Attach a detached mount at a path: move_mount(2)."""
    call("move_mount", tree, b"", AT_FDCWD, _bytes(target), _MOVE_MOUNT_F_EMPTY_PATH)


def mount_setattr(directory: int, path: str, attributes: int, *, recursive: bool = False) -> None:
    """Set attributes of a mount, or with "" of a detached one: mount_setattr(2), Linux 5.12."""
    argument = struct.pack("=QQQQ", attributes, 0, 0, 0)
    flags = (AT_EMPTY_PATH if path == "" else 0) | (AT_RECURSIVE if recursive else 0)
    call("mount_setattr", directory, _bytes(path), flags, argument, len(argument))


def open_beneath(directory: int, path: str, flags: int) -> int:
    """Open a path that stays below a directory and follows no link of any kind: openat2(2), Linux 5.6."""
    resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
    argument = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, resolve)
    return call("openat2", directory, _bytes(path), argument, len(argument))


def rename_noreplace(source_dir: int, source: str, target_dir: int, target: str) -> None:
    """Rename unless the target exists (then FileExistsError): renameat2(2)."""
    call("renameat2", source_dir, _bytes(source), target_dir, _bytes(target), 1)


# ---- privileges


def set_dumpable(value: int) -> None:
    """Set whether the process can be dumped and traced: PR_SET_DUMPABLE(2const)."""
    call("prctl", _PR_SET_DUMPABLE, value, 0, 0, 0)


def set_parent_death_signal(signal: int) -> None:
    """Be signalled when the parent's thread ends; a change of credentials clears it: PR_SET_PDEATHSIG(2const)."""
    call("prctl", _PR_SET_PDEATHSIG, signal, 0, 0, 0)


def set_no_new_privs() -> None:
    """Let no execve grant a privilege, for ever: PR_SET_NO_NEW_PRIVS(2const)."""
    call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def drop_bounding_set() -> None:
    """Drop every capability that the kernel knows from the bounding set: PR_CAPBSET_DROP(2const)."""
    for capability in range(64):
        try:
            call("prctl", _PR_CAPBSET_READ, capability, 0, 0, 0)
        except OSError:
            return  # EINVAL: past the last one
        call("prctl", _PR_CAPBSET_DROP, capability, 0, 0, 0)


def drop_capabilities() -> None:
    """Empty the effective, permitted, inheritable and ambient sets: capset(2), PR_CAP_AMBIENT(2const)."""
    call("prctl", _PR_CAP_AMBIENT, 4, 0, 0, 0)
    call("capset", struct.pack("=Ii", 0x20080522, 0), struct.pack("=6I", 0, 0, 0, 0, 0, 0))


# ---- Landlock (landlock(7))

LANDLOCK_READ = 1 << 0 | 1 << 2 | 1 << 3  # execute, read a file, read a directory
LANDLOCK_EXECUTE, LANDLOCK_READ_DIRECTORY = 1 << 0, 1 << 3
LANDLOCK_READ_FILE, LANDLOCK_WRITE_FILE = 1 << 2, 1 << 1
_LANDLOCK_FS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # ABI → number of file rights; later ones add none
_LANDLOCK_DEVICES = 1 << 6 | 1 << 11  # make a character device, make a block device
_LANDLOCK_FILE_ONLY = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15


def landlock_abi() -> int:
    """Return the version of Landlock that the kernel has; 0 when none is live."""
    try:
        return call("landlock_create_ruleset", None, 0, 1)
    except OSError:
        return 0


def landlock_all(abi: int) -> int:
    """Return all file rights of an ABI."""
    return (1 << _LANDLOCK_FS.get(abi, 16)) - 1


def landlock_write(abi: int) -> int:
    """Return the rights of a private scratch directory: all but executing and making devices."""
    return landlock_all(abi) & ~LANDLOCK_EXECUTE & ~_LANDLOCK_DEVICES


def landlock_create(abi: int) -> int:
    """Return a ruleset that handles every file right and, where the kernel has them, the scopes (ABI 6)."""
    scopes = 3 if abi >= 6 else 0
    size = 24 if abi >= 6 else (16 if abi >= 4 else 8)
    return call("landlock_create_ruleset", struct.pack("=QQQ", landlock_all(abi), 0, scopes)[:size], size, 0)


def landlock_allow(ruleset: int, path: str, rights: int) -> None:
    """Allow rights beneath a path; what only makes sense for directories is left out for a file."""
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not os.path.isdir(path):
            rights &= _LANDLOCK_FILE_ONLY
        call("landlock_add_rule", ruleset, 1, struct.pack("=Qi", rights, descriptor), 0)
    finally:
        os.close(descriptor)


def landlock_restrict(ruleset: int) -> None:
    """Put the calling thread under a ruleset, for ever."""
    call("landlock_restrict_self", ruleset, 0)


# ---- seccomp, processes, C library


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def load_filter(bpf: bytes) -> None:
    """Install a seccomp filter on all threads of the process: seccomp(2), SECCOMP_FILTER_FLAG_TSYNC."""
    buffer = ctypes.create_string_buffer(bpf, len(bpf))
    program = _Program(len(bpf) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    call("seccomp", 1, 1, ctypes.byref(program))


def attach_filter(descriptor: int, bpf: bytes) -> None:
    """Let a socket take only the packets that a program lets through, for ever: SO_ATTACH_FILTER, SO_LOCK_FILTER in socket(7)."""
    buffer = ctypes.create_string_buffer(bpf, len(bpf))
    program = bytes(_Program(len(bpf) // 8, ctypes.cast(buffer, ctypes.c_void_p)))
    with socket.socket(fileno=os.dup(descriptor)) as filtered:
        filtered.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
        filtered.setsockopt(socket.SOL_SOCKET, _SO_LOCK_FILTER, 1)


def pidfd_open(pid: int) -> int:
    """Return a descriptor that becomes readable when the process ends: pidfd_open(2)."""
    return call("pidfd_open", pid, 0)


def close_from(first: int) -> None:
    """Close every descriptor from `first` on, however many there are: close_range(2), Linux 5.9."""
    call("close_range", first, 0xFFFFFFFF, 0)


def line_buffer_stdout() -> None:
    """Make the C library's stdout line buffered, so that a native print belongs to the call that made it: setvbuf(3)."""
    stream = ctypes.c_void_p.in_dll(_libc, "stdout")
    _libc.setvbuf(stream, None, 1, 0)
