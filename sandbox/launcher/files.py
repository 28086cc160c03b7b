"""A VM's own files: directories in memory that only this VM's containers are given, and that end with it.

Theory of operation. Each directory is a tmpfs of its own, mounted in a mount namespace that holds nothing else and that only
the launcher has a descriptor of: it is in no container's tree and not in the launcher's, so a VM that is made later copies none,
and all end with the launcher, however it ends. A directory is *staged* first: it belongs to the VM's uid, and the containers to
which it is attached may write it. Then it is *kept*: its whole file system is made read-only, which the kernel refuses (EBUSY)
for as long as anybody, anywhere, has a file of it open or mapped for writing (mount(2), MS_REMOUNT; a descriptor that is on its
way through a socket counts). From then on no descriptor, no mount and no owner can change it. That is why an entry has a file
system of its own and is not renamed within one: a read-only attachment alone would not stop a descriptor that was passed on.

Its pages are charged to whoever wrote them first, that is to a leaf below the VM's group, and stay charged to the VM's group
when the leaf is gone. What lies in a VM in all is bounded when it is staged and once more when it is kept.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from sandbox import kernel

STORE = "vm"
_FLAGS = kernel.MS_NOSUID | kernel.MS_NODEV  # not noexec: shared libraries are imported from it, as from the near store
_BYTES_A_FILE = 2048  # at least: inodes are memory too
_FEWEST_FILES = 1024
_PATIENCE_S = 1.0  # a process that was killed lets go of its files in its own time


@dataclass(slots=True, kw_only=True)
class Entry:
    """One directory: where it is mounted, and what it takes once it is kept."""

    place: str
    is_kept: bool = False
    used_bytes: int = 0


@dataclass(slots=True, kw_only=True)
class VmFiles:
    """What lies in one VM, by name; at most so many bytes, and nothing at all with 0."""

    most_bytes: int = 0
    entries: dict[str, Entry] = field(default_factory=dict)

    def free_bytes(self) -> int:
        """Return what kept entries leave."""
        return self.most_bytes - sum(entry.used_bytes for entry in self.entries.values())

    def find(self, name: str) -> Entry:
        """Return an entry; raises FileNotFoundError."""
        if name not in self.entries:
            raise FileNotFoundError(errno.ENOENT, "the VM has no such files", STORE)
        return self.entries[name]

    def begin(self, name: str, place: str) -> int:
        """Note a staged directory; returns its size in bytes. Raises OSError: EINVAL, ENOSPC or EEXIST."""
        if not self.most_bytes:
            raise OSError(errno.EINVAL, "this VM was made without files of its own", STORE)
        if name in self.entries:
            raise FileExistsError(errno.EEXIST, "the VM has files of this name", STORE)
        room = self.free_bytes()
        if room <= 0:
            raise OSError(errno.ENOSPC, "the VM's own files are full", STORE)
        self.entries[name] = Entry(place=place)
        return room

    def finish(self, staged: str, name: str, used_bytes: int) -> str | None:
        """Give a sealed directory its final name. Returns the place of one that is to be removed: the first of a name stays.

        Raises OSError: ENOENT, or ENOSPC when all together would be more than the VM may keep.
        """
        entry = self.find(staged)
        if name != staged and name in self.entries:
            return self.entries.pop(staged).place
        if used_bytes > self.free_bytes():
            raise OSError(errno.ENOSPC, "the VM's own files are full", STORE)
        self.entries[name] = self.entries.pop(staged)
        entry.is_kept, entry.used_bytes = True, used_bytes
        return None


class Files:
    """The namespace in which all VMs' own files are mounted; made at the first use."""

    def __init__(self, root: str, own: int, come_back: Callable[[int, int], None]) -> None:
        """`root` is a directory to mount on, `own` the launcher's mount namespace, to which `come_back` returns or dies."""
        self._root, self._own, self._come_back = root, own, come_back
        self._namespace = -1
        self._made = 0

    def stage(self, files: VmFiles, name: str, uid: int) -> None:
        """Make a directory that a VM's uid may write; raises OSError."""
        self._made += 1
        place = f"/{self._made}"
        size = files.begin(name, place)
        try:
            with self._inside():
                os.mkdir(place, 0o700)
                count = max(size // _BYTES_A_FILE, _FEWEST_FILES)
                kernel.mount("tmpfs", place, "tmpfs", _FLAGS, f"size={size},nr_inodes={count},mode=755,uid={uid},gid={uid}")
        except OSError:
            del files.entries[name]
            raise

    def tree(self, files: VmFiles, name: str, *, writable: bool) -> int:
        """Return a detached mount of `ENTRY` or `ENTRY/TREE`, a kept one read-only, a staged one to be written; raises OSError."""
        name, _, inner = name.partition("/")
        entry = files.find(name)
        if writable == entry.is_kept:
            raise PermissionError(errno.EPERM, "what is kept is only read, what is staged only written", STORE)
        with self._inside():
            tree = _cloned(entry.place, inner or ".")
        flags = kernel.ATTR_NOSUID | kernel.ATTR_NODEV
        kernel.mount_setattr(tree, "", flags | (kernel.ATTR_NOEXEC if writable else kernel.ATTR_RDONLY))
        return tree

    def seal(self, place: str) -> int:
        """Make a directory unchangeable and return what it takes, in bytes; raises OSError, EBUSY while somebody can write it."""
        with self._inside():
            kernel.mount(None, place, None, kernel.MS_REMOUNT | kernel.MS_RDONLY | _FLAGS)
            status = os.statvfs(place)
        return (status.f_blocks - status.f_bfree) * status.f_frsize

    def wait_sealed(self, place: str) -> None:
        """Seal a directory as soon as those that were killed have let go of it; for a child, since it waits. Raises OSError."""
        until = time.monotonic() + _PATIENCE_S
        while True:
            try:
                self.seal(place)
            except OSError as error:
                if error.errno != errno.EBUSY or time.monotonic() > until:
                    raise
                time.sleep(0.002)
            else:
                return

    def remove(self, places: Iterable[str]) -> None:
        """Let go of directories; for a child, since giving their pages back takes a while. Raises OSError."""
        with self._inside():
            for place in places:
                kernel.unmount(place, kernel.MNT_DETACH)
                os.rmdir(place)

    @contextlib.contextmanager
    def _inside(self) -> Iterator[None]:
        if self._namespace < 0:
            self._make()
        kernel.setns(self._namespace, kernel.NEWNS)
        try:
            yield
        finally:
            self._come_back(self._own, kernel.NEWNS)

    def _make(self) -> None:
        """Make a namespace whose only mount is its root, and come back."""
        try:
            kernel.unshare(kernel.NEWNS)
            namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
            kernel.mount("tmpfs", self._root, "tmpfs", _FLAGS | kernel.MS_NOEXEC, "size=1m,mode=700")
            os.chdir(self._root)
            kernel.pivot_root(".", ".")
            kernel.unmount(".", kernel.MNT_DETACH)
        finally:
            self._come_back(self._own, kernel.NEWNS)
        self._namespace = namespace


def _cloned(place: str, inner: str) -> int:
    root = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = kernel.open_beneath(root, inner, os.O_PATH)
    finally:
        os.close(root)
    try:
        return kernel.open_tree(found, "")
    finally:
        os.close(found)
