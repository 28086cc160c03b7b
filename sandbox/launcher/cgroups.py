"""Control groups: v1, v2 and both, behind one face.

Theory of operation. `detect` reads which hierarchies are mounted and where this process sits in each; that place is
the base of everything made here. A VM has a group `pyfaas-<instance>-<vm>` in every hierarchy, a container a *leaf*
below it. A process moves itself in by writing "0" to each cgroup.procs: such a write costs milliseconds (a grace
period in the kernel), so pools hold processes that already sit in their leaf. On v1 there is no atomic kill; where a
v2 mount without controllers is beside it, each leaf has a twin there for `cgroup.kill`.

On v2 a group that hands controllers down may hold no process itself, so the processes of the base, ours among them, are
first moved into its child `pyfaas-host`; a launcher that is started again finds itself there and takes the parent.

Sources: cgroups(7), Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst of the kernel.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Sequence

from sandbox.spec import Limits, Usage

_V1 = ("memory", "pids", "cpu", "cpuacct")
_PERIOD_US = 100_000
_LEAST_QUOTA_US = 1_000  # the kernel takes no less
_HOST = "pyfaas-host"
_DOWN = "+memory +pids +cpu"
_KILL_ROUNDS = 100


class Hierarchies:
    """Where groups are made: v1 controller → base directory, and the base in v2 (None where it is not mounted)."""

    def __init__(self, v1: dict[str, str], v2: str | None, v2_controllers: frozenset[str], reason: str = "") -> None:
        """Keep the places; `reason` says why limits cannot be set here, empty when they can."""
        self.v1, self.v2, self.v2_controllers, self.reason = v1, v2, v2_controllers, reason

    @property
    def usable(self) -> bool:
        """Whether memory, pids and cpu can be limited here."""
        return not self.reason

    @property
    def kind(self) -> str:
        """Name the arrangement: v1, v2 or hybrid."""
        return "v2" if not self.v1 else ("hybrid" if self.v2 else "v1")

    def bases(self) -> list[str]:
        """Return the directories in which groups are made, each once."""
        return list(dict.fromkeys([*self.v1.values(), *([self.v2] if self.v2 else [])]))

    def prepare(self) -> None:
        """On v2: hand the controllers down, and where processes are in the way, move them aside first; raises OSError."""
        if self.v1 or self.v2 is None:
            return
        control = os.path.join(self.v2, "cgroup.subtree_control")
        for _ in range(10):
            try:
                _write(control, _DOWN)
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                self._move_aside(self.v2)
            else:
                return
        raise OSError(errno.EBUSY, "processes keep coming into it", self.v2)

    def _move_aside(self, base: str) -> None:
        aside = os.path.join(base, _HOST)
        os.makedirs(aside, exist_ok=True)
        for pid in _read(os.path.join(base, "cgroup.procs")).split():
            try:
                _write(os.path.join(aside, "cgroup.procs"), pid)
            except ProcessLookupError:
                continue  # it ended meanwhile

    def create(self, name: str, limits: Limits | None = None) -> Leaf:
        """Make a group of this name, which may be `group/leaf`, in every hierarchy."""
        paths = {base: os.path.join(base, name) for base in self.bases()}
        for path in paths.values():
            os.makedirs(path, exist_ok=True)
        leaf = Leaf({c: paths[b] for c, b in self.v1.items()}, paths[self.v2] if self.v2 else None, bool(self.v1))
        if limits is None and not self.v1 and self.v2 is not None:
            _write(os.path.join(paths[self.v2], "cgroup.subtree_control"), _DOWN)
        if limits is not None:
            leaf.set(limits)
        return leaf

    def found(self, prefix: str, spared: Sequence[str] = ()) -> dict[str, list[str]]:
        """Return the groups whose name begins with `prefix` and none of `spared`, and the directories of each."""
        found: dict[str, list[str]] = {}
        for base in self.bases():
            for name in os.listdir(base):
                path = os.path.join(base, name)
                if name.startswith(prefix) and not name.startswith(tuple(spared)) and os.path.isdir(path):
                    found.setdefault(name, []).append(path)
        return found

    def sweep(self, prefix: str, spared: Sequence[str] = ()) -> list[str]:
        """Kill and remove groups whose name begins with `prefix` and none of `spared`: what a crash left. Returns their names.

        A group whose last process is still dying stays; another sweep finds it.
        """
        found = self.found(prefix, spared)
        for path in (path for paths in found.values() for path in paths):
            for directory, _, _ in os.walk(path, topdown=False):
                if not kill_at_once(directory):
                    kill_one_by_one(directory)
                _remove(directory)
        return sorted(found)


class Leaf:
    """One group in all hierarchies."""

    def __init__(self, v1: dict[str, str], v2: str | None, is_v1: bool) -> None:  # noqa: FBT001 - a value, not a mode
        """Keep the directories: v1 controller → path, and the one in v2."""
        self._v1, self._v2, self._is_v1 = v1, v2, is_v1

    def directories(self) -> list[str]:
        """Return each directory once."""
        return list(dict.fromkeys([*self._v1.values(), *([self._v2] if self._v2 else [])]))

    def enter(self) -> None:
        """Move the calling process in."""
        for path in self.directories():
            _write(os.path.join(path, "cgroup.procs"), "0")

    def set(self, limits: Limits) -> None:
        """Set the limits of a new group; a kernel that does not account for swap has no limit of it to set."""
        for file, value in limit_values(limits, is_v1=self._is_v1):
            path = self._file(file)
            if path is not None and (file not in _SWAP_FILES or os.path.exists(path)):
                _write(path, value)

    def reset(self, limits: Limits) -> None:
        """Set the limits of a group that had others, and begin its peak of memory anew where the kernel lets us (v1)."""
        memsw, peak = self._file(_SWAP_FILES[0]), self._file("memory.max_usage_in_bytes")
        if self._is_v1 and memsw is not None and os.path.exists(memsw):
            _write(memsw, "-1")  # it may never be below the limit of memory, whichever changes first
        self.set(limits)
        if self._is_v1 and peak is not None:
            _write(peak, "0")

    def bound_sockets(self) -> None:
        """Bound the memory of what internet sockets hold unread, which v2 counts as memory and v1 apart, without a limit.

        Without it 80 sockets of a container with 64 MiB held 300 MB, and all sockets of the host share one pool (tcp(7), tcp_mem).
        """
        path = self._file(_SOCKETS_FILE)
        if self._is_v1 and path is not None and os.path.exists(path):
            _write(path, str(_SOCKETS_BYTES))

    def is_empty(self) -> bool:
        """Whether no process is in the group, not even one that is ending: the kernel counts it until it is released."""
        return _read_or_empty(self._file("pids.current") or "").strip() == "0"

    def weigh(self, *, is_background: bool) -> None:
        """Let the group have the processors only when no other wants them, or as any other.

        Measured on two processors kept busy by three processes of another group, a wakeup's 99th percentile: 10 to 20 ms beside an
        ordinary group or one of the least weight, 3 beside `cpu.idle` (Linux 5.15), whose tasks any wakeup preempts, 1 to 4 alone.
        """
        idle = self._file("cpu.idle")
        if idle is not None and os.path.exists(idle):
            _write(idle, "1" if is_background else "0")
            return
        file, least, usual = ("cpu.shares", "2", "1024") if self._is_v1 else ("cpu.weight", "1", "100")
        path = self._file(file)
        if path is not None:
            _write(path, least if is_background else usual)

    def descriptors(self) -> list[tuple[str, int]]:
        """Open what the host needs: limit files for writing, counters for reading, cgroup.kill. The caller closes them."""
        opened = []
        for label in LIMIT_FILES[self._is_v1]:
            path = self._file(label)
            if path is not None and os.path.exists(path):
                opened.append((label, os.open(path, os.O_RDWR | os.O_CLOEXEC)))
        for label in COUNTER_FILES[self._is_v1]:
            path = self._file(label)
            if path is not None and os.path.exists(path):
                opened.append((label, os.open(path, os.O_RDONLY | os.O_CLOEXEC)))
        if self._v2 is not None and os.path.exists(kill := os.path.join(self._v2, "cgroup.kill")):
            opened.append(("cgroup.kill", os.open(kill, os.O_WRONLY | os.O_CLOEXEC)))
        return opened

    def usage(self) -> Usage:
        """Read the counters, by path: once, before the group is removed."""
        return read_usage(lambda label: _read_or_empty(self._file(label) or "").encode(), is_v1=self._is_v1)

    def kill(self) -> bool:
        """Kill every process in the group; True when it was at once, by cgroup.kill, False when one by one."""
        if self._v2 is not None and kill_at_once(self._v2):
            return True
        for path in self.directories():
            kill_one_by_one(path)
        return False

    def remove(self) -> bool:
        """Remove the group; False when a dying process still holds it."""
        return all([_remove(path) for path in self.directories()])

    def _file(self, label: str) -> str | None:
        if not self._is_v1:
            return os.path.join(self._v2, label) if self._v2 else None
        directory = self._v1.get("cpuacct" if label.startswith("cpuacct") else label.partition(".")[0])
        return os.path.join(directory, label) if directory else None


LIMIT_FILES = {
    True: ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "pids.max", "cpu.cfs_quota_us"),
    False: ("memory.max", "memory.swap.max", "pids.max", "cpu.max", "memory.oom.group"),
}
_SOCKETS_FILE, _SOCKETS_BYTES = "memory.kmem.tcp.limit_in_bytes", 32 << 20
_SWAP_FILES = ("memory.memsw.limit_in_bytes", "memory.swap.max")
COUNTER_FILES = {
    True: ("memory.oom_control", "memory.max_usage_in_bytes", "pids.events", "cpuacct.usage"),
    False: ("memory.events", "memory.peak", "pids.events", "cpu.stat"),
}


def read_usage(read: Callable[[str], bytes], *, is_v1: bool) -> Usage:
    """Return a group's counters; `read` gives a file's content by its name, empty when it is not there."""
    if is_v1:
        return Usage(
            cpu_us=_number(read("cpuacct.usage")) // 1000,
            memory_peak_bytes=_number(read("memory.max_usage_in_bytes")),
            oom_kills=_field(read("memory.oom_control"), b"oom_kill "),
            pids_refused=_field(read("pids.events"), b"max "),
        )
    return Usage(
        cpu_us=_field(read("cpu.stat"), b"usage_usec "),
        memory_peak_bytes=_number(read("memory.peak")),
        oom_kills=_field(read("memory.events"), b"oom_kill "),
        pids_refused=_field(read("pids.events"), b"max "),
    )


def _number(text: bytes) -> int:
    return int(text) if text.strip().isdigit() else 0


def _field(text: bytes, name: bytes) -> int:
    for line in text.splitlines():
        if line.startswith(name):
            return _number(line[len(name) :])
    return 0


def limit_values(limits: Limits, *, is_v1: bool) -> list[tuple[str, str]]:
    """Return (file, value) pairs in the order for a group that has no limits yet."""
    memory, quota = str(limits.memory_bytes), max(round(limits.cpu * _PERIOD_US), _LEAST_QUOTA_US)
    if is_v1:
        return [
            ("memory.limit_in_bytes", memory),
            ("memory.memsw.limit_in_bytes", memory),
            ("pids.max", str(limits.pids)),
            ("cpu.cfs_quota_us", str(quota)),
        ]
    return [
        ("memory.max", memory),
        ("memory.swap.max", "0"),
        ("memory.oom.group", "1"),
        ("pids.max", str(limits.pids)),
        ("cpu.max", f"{quota} {_PERIOD_US}"),
    ]


def detect(mountinfo: str = "/proc/self/mountinfo", own: str = "/proc/self/cgroup", base: str = "") -> Hierarchies:
    """Find the hierarchies and this process's place in each, or `base` in each, a path like those in /proc/self/cgroup."""
    mounts = _mounts(_read(mountinfo))
    v1: dict[str, str] = {}
    v2, controllers = None, frozenset[str]()
    for line in _read(own).splitlines():
        number, names, path = line.split(":", 2)
        path = base or path
        if number == "0" and "" in mounts:
            v2 = _join(mounts[""], path).removesuffix("/" + _HOST)
            controllers = frozenset(_read_or_empty(os.path.join(v2, "cgroup.controllers")).split())
        for name in names.split(","):
            if name in _V1 and name in mounts:
                v1[name] = _join(mounts[name], path)
    return Hierarchies(v1, v2, controllers, _why_not(v1, v2, controllers))


def _why_not(v1: dict[str, str], v2: str | None, controllers: frozenset[str]) -> str:
    if v1:
        missing = [name for name in _V1 if name not in v1]
        if missing:
            return f"the cgroup controllers {', '.join(missing)} are not mounted"
        places = list(v1.values())
    elif v2 is None:
        return "no cgroup hierarchy is mounted"
    elif missing := sorted({"memory", "pids", "cpu"} - controllers):
        return f"the cgroup controllers {', '.join(missing)} are not delegated to {v2}"
    else:
        places = [v2]
    closed = [place for place in places if not os.access(place, os.W_OK)]
    return f"{closed[0]} is not writable" if closed else ""


def _mounts(mountinfo: str) -> dict[str, tuple[str, str]]:
    """Return controller → (mount point, root of the mount); "" is v2. See proc_pid_mountinfo(5)."""
    found: dict[str, tuple[str, str]] = {}
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, (kind, _, options) = left.split(), right.split(" ", 2)
        if kind == "cgroup2":
            found.setdefault("", (fields[4], fields[3]))
        elif kind == "cgroup":
            for name in options.split(","):
                found.setdefault(name, (fields[4], fields[3]))
    return {name: (_plain(point), _plain(root)) for name, (point, root) in found.items()}


def _plain(field: str) -> str:
    """Return a field of mountinfo without its octal escapes."""
    for escape, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(escape, character)
    return field


def _join(mount: tuple[str, str], path: str) -> str:
    point, root = mount
    is_below = path == root or path.startswith(root.rstrip("/") + "/")
    return os.path.normpath(point + "/" + (path[len(root.rstrip("/")) :] if is_below else path))


def processes_in(path: str) -> set[str]:
    """Return the pids in a group and in those below it."""
    return {pid for directory, _, _ in os.walk(path) for pid in _read_or_empty(os.path.join(directory, "cgroup.procs")).split()}


def kill_at_once(directory: str) -> bool:
    """Kill every process of a group and of those below it; False where there is no cgroup.kill (v1, before Linux 5.14)."""
    try:
        _write(os.path.join(directory, "cgroup.kill"), "1")
    except OSError:
        return False
    return True


def kill_one_by_one(directory: str) -> None:
    """Kill every process of one group until none is left, or those that are left do not die."""
    for _ in range(_KILL_ROUNDS):
        pids = [pid for pid in _read_or_empty(os.path.join(directory, "cgroup.procs")).split() if pid != "0"]
        if not pids:
            return
        for pid in pids:
            _kill(int(pid))


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _remove(path: str) -> bool:
    """Remove a directory; a group whose last process is still dying answers EBUSY for a moment."""
    for wait in (0.0, 0.001, 0.004):
        time.sleep(wait)
        try:
            os.rmdir(path)
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                raise
        else:
            return True
    return False


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()


def _read_or_empty(path: str) -> str:
    try:
        return _read(path)
    except OSError:
        return ""


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
