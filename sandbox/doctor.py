"""What this machine can isolate, layer by layer: each is tried, not looked up.

Every layer is used once, in a throw-away child that starts as the launcher would: as root, or (by an ordinary user) as
root of a user namespace of its own. A layer that is missing stops a server unless the operator gave it up by name, and
what the launcher cannot do without is never given up. Every answer says what mends it.

Giving up has the granularity of what the launcher can honour: cgroups go as a whole, since a leaf with one limit missing
would be called limited.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable, Sequence

from sandbox import filters, kernel
from sandbox.errors import LayerMissing
from sandbox.launcher import cgroups, doors
from sandbox.spec import Doors, Layer, Network

NEEDED = (
    *("user_namespace", "pid_namespace", "mount_namespace", "network_namespace", "ipc_namespace", "uts_namespace"),
    *("cgroup_namespace", "no_new_privs"),
)
OPTIONAL = ("proc", "cgroups", "seccomp", "landlock")
EXTRA = ("doors",)  # what only some VMs are made of: its absence weakens no other, so it stops nothing and is never given up
LAYERS = (*NEEDED[:-1], *OPTIONAL, NEEDED[-1], *EXTRA)

_UID = 2_000_001  # the first of the VMs, by default
_NOBODY = 65_534  # whom root tries as, when asked what an ordinary user could do
_CONTAINER = "in a container runtime: a runtime option that allows it, such as --privileged"
_USERNS = (
    "allow unprivileged user namespaces: sysctl -w kernel.unprivileged_userns_clone=1 (Debian), "
    "kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu), user.max_user_namespaces=10000"
)
_DELEGATE = "run as root, or in a systemd unit with Delegate=yes, or through: systemd-run --user --scope -p Delegate=yes"


def layers(*, rootless: bool | None = None, uid: int = _UID) -> list[Layer]:
    """Try every layer and tell which are live, and what mends those that are not.

    `rootless` asks as an ordinary user would find it, by default who is asking; `uid` is one that VMs get under root.
    """
    is_user = os.getuid() != 0 if rootless is None else rootless
    tried = _Tried(is_rootless=is_user, uid=uid)
    found = {layer.name: layer for layer in (*tried.namespaces(), tried.proc(), tried.cgroups(), *tried.confinement(), tried.doors())}
    return [found[name] for name in LAYERS]


def require(found: Sequence[Layer], allowed: Sequence[str]) -> list[str]:
    """Return the layers that are given up: those that are missing and were allowed to be.

    Raises LayerMissing, naming every layer that is missing and was not allowed to be; ValueError for an allowed name
    that is no layer, or one that cannot be given up.
    """
    for name in allowed:
        if name not in OPTIONAL:
            told = "cannot be given up" if name in NEEDED else "is no layer"
            raise ValueError(f"{name} {told}; what can be: {', '.join(OPTIONAL)}")
    weak = [layer for layer in found if not layer.live and layer.name not in EXTRA]
    missing = [layer for layer in weak if layer.name not in allowed]
    if missing:
        first = next((layer for layer in missing if layer.name in NEEDED), None)
        named = [first] if first else missing
        reasons, mends = ("; ".join(dict.fromkeys(texts)) for texts in ([x.detail for x in named], [x.mend for x in named]))
        raise LayerMissing(",".join(layer.name for layer in named), reasons, mends)
    return [layer.name for layer in weak]


class _Tried:
    """The trials, each as the launcher would start."""

    def __init__(self, *, is_rootless: bool, uid: int) -> None:
        self.is_rootless, self.uid = is_rootless, uid

    def _become_launcher(self) -> None:
        """Be what a launcher is, in a child."""
        if not self.is_rootless:
            return
        self._become_user()
        _enter_user_namespace(0)

    def _become_user(self) -> None:
        if os.getuid() == 0:
            os.setgroups([])
            os.setresgid(_NOBODY, _NOBODY, _NOBODY)
            os.setresuid(_NOBODY, _NOBODY, _NOBODY)
            kernel.set_dumpable(1)  # the change of credentials closed /proc/self/uid_map

    def namespaces(self) -> list[Layer]:
        """Try each kind, and that it isolates."""
        trials: tuple[tuple[str, Callable[[], object], str], ...] = (
            ("pid", _try_pid, _CONTAINER),
            ("mount", _try_mount, f"Linux 5.12 or newer; {_CONTAINER}"),
            ("network", _try_network, _CONTAINER),
            ("ipc", lambda: kernel.unshare(kernel.NEWIPC), _CONTAINER),
            ("uts", _try_uts, _CONTAINER),
            ("cgroup", lambda: kernel.unshare(kernel.NEWCGROUP), _CONTAINER),
        )
        made = [self._user()]
        for name, work, mend in trials:
            failed, _ = self._as_launcher(work)
            mends = f"{_USERNS}; {mend}" if self.is_rootless else mend
            made.append(Layer(name=f"{name}_namespace", live=not failed, detail=failed or "own", mend=mends))
        return made

    def _user(self) -> Layer:
        def work() -> None:
            if not self.is_rootless:
                with contextlib.suppress(OSError):  # told as what it is, below
                    kernel.own_mounts()  # a VM has left a chroot by then
                os.setgroups([])
                os.setresgid(self.uid, self.uid, self.uid)
                os.setresuid(self.uid, self.uid, self.uid)
                kernel.set_dumpable(1)
            _enter_user_namespace(1000)

        failed, _ = self._as_launcher(work)
        mend = _USERNS if self.is_rootless else f"{_USERNS}; and uids that exist here, see /proc/self/uid_map and uid_base"
        detail = "own, below the user's: all VMs share one uid, and the user's groups stay" if self.is_rootless else "own, a uid per VM"
        return Layer(name="user_namespace", live=not failed, detail=failed or detail, mend=mend)

    def proc(self) -> Layer:
        """Try a /proc that shows the own processes only."""
        failed, _ = self._as_launcher(_try_proc)
        mend = "Linux 5.8 or newer, and a /proc without masked paths (a container runtime's default hides some)"
        return Layer(name="proc", live=not failed, detail=failed or "subset=pid, hidepid=invisible", mend=mend)

    def cgroups(self) -> Layer:
        """Look for a place to make groups, as who will make them, and make one."""

        def work() -> str:
            if self.is_rootless:
                self._become_user()
            found = cgroups.detect()
            if not found.usable:
                raise OSError(1, found.reason, "detect")
            _try_group(found)
            return f"{found.kind}: memory, pids, cpu" + ("" if found.v2 else "; no kill at once")

        failed, detail = _in_child(work)
        return Layer(name="cgroups", live=not failed, detail=failed.removeprefix("detect: ") or detail, mend=_DELEGATE)

    def doors(self) -> Layer:
        """Try a network of one's own that leads to listeners only, and a connection to one."""
        failed, _ = self._as_launcher(_try_doors)
        mend = f"a kernel that routes by rtnetlink, CONFIG_INET; {_CONTAINER}"
        mends = f"{_USERNS}; {mend}" if self.is_rootless else mend
        return Layer(name="doors", live=not failed, detail=failed or "loopback, local routes, listeners", mend=mends)

    def confinement(self) -> list[Layer]:
        """Try what needs no privilege."""
        return [_seccomp(), _landlock(), _no_new_privs()]

    def _as_launcher(self, work: Callable[[], object]) -> tuple[str, str]:
        def whole() -> object:
            self._become_launcher()
            return work()

        return _in_child(whole)


def _in_child(work: Callable[[], object]) -> tuple[str, str]:
    """Do something in a throw-away child; returns ("", what it told) or (what failed, "")."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, f"+{work()}".encode())
        except OSError as error:
            os.write(write, f"-{error.filename or 'system call'}: {error.strerror}".encode())
        except BaseException as error:  # noqa: BLE001 - the child must not unwind into the caller
            os.write(write, f"-{error!r}".encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        told = file.read()
    number = os.WTERMSIG(os.waitpid(pid, 0)[1])
    if not told:
        return f"the trial ended by {signal.Signals(number).name if number else 'itself'}", ""
    return ("", told[1:]) if told[0] == "+" else (told[1:], "")


def _enter_user_namespace(inside: int) -> None:
    uid, gid = os.getuid(), os.getgid()
    kernel.unshare(kernel.NEWUSER)
    setgroups = "/proc/self/setgroups"
    with open(setgroups) as file:
        is_denied = file.read().strip() == "deny"  # inherited from the user namespace above
    for path, text in ((setgroups, "deny"), ("/proc/self/uid_map", f"{inside} {uid} 1"), ("/proc/self/gid_map", f"{inside} {gid} 1")):
        if path != setgroups or not is_denied:
            with open(path, "w") as file:
                file.write(text)


def _in_pid_namespace(work: Callable[[], object]) -> None:
    """Work as PID 1 of a new pid namespace; raises OSError with what failed there."""
    kernel.unshare(kernel.NEWPID)
    failed, _ = _in_child(work)
    if failed:
        raise OSError(1, failed.partition(": ")[2] or failed, failed.partition(": ")[0])


def _try_pid() -> None:
    def work() -> None:
        if os.getpid() != 1:
            raise OSError(1, "the child is not its first process", "unshare")

    _in_pid_namespace(work)


def _try_mount() -> None:
    """Mount a tmpfs, and bind a tree read-only onto it: what every VM's root is made of."""
    kernel.own_mounts()
    kernel.mount("tmpfs", "/tmp", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=64k,mode=755")  # noqa: S108 - a private one
    os.mkdir("/tmp/usr")  # noqa: S108
    tree = kernel.open_tree(kernel.AT_FDCWD, "/usr", recursive=True)
    kernel.mount_setattr(tree, "", kernel.ATTR_RDONLY | kernel.ATTR_NOSUID | kernel.ATTR_NODEV, recursive=True)
    kernel.move_mount(tree, "/tmp/usr")  # noqa: S108


def _try_network() -> None:
    kernel.unshare(kernel.NEWNET)
    others = [name for _, name in socket.if_nameindex() if name != "lo" and not name.startswith(_FALLBACK_TUNNELS)]
    if others:
        raise OSError(1, f"a new one is not empty: {', '.join(others)}", "unshare")


# What a kernel with these modules puts, down, into every new network namespace: net.core.fb_tunnels_only_for_init_net.
_FALLBACK_TUNNELS = ("tunl", "gre", "gretap", "erspan", "ip_vti", "ip6_vti", "sit", "ip6tnl", "ip6gre")


def _try_doors() -> None:
    kernel.unshare(kernel.NEWNET)
    doors.make(Doors(listen=(("198.18.0.1", 443),), routes=("198.18.0.0/15",), is_watched=True))
    with socket.socket() as dialled:  # no name to be looked up: whoever tries may not read the codecs for names
        dialled.settimeout(5)
        dialled.connect(("198.18.0.1", 443))


def _try_uts() -> None:
    kernel.unshare(kernel.NEWUTS)
    kernel.set_hostname("pyfaas")


def _try_proc() -> None:
    def work() -> None:
        kernel.own_mounts()
        kernel.mount("proc", "/proc", "proc", kernel.MS_NOSUID, "subset=pid,hidepid=invisible")
        if os.path.exists("/proc/meminfo"):
            raise OSError(1, "the kernel ignores subset=pid", "mount")

    _in_pid_namespace(work)


def _try_group(found: cgroups.Hierarchies) -> None:
    """Make a group in every hierarchy and remove it: a mount may be read-only in ways that access(2) does not tell."""
    name = f"pyfaas-doctor-{os.getpid()}"
    for base in found.bases():
        os.mkdir(os.path.join(base, name))
        os.rmdir(os.path.join(base, name))


def _seccomp() -> Layer:
    try:
        programs = [filters.build(network) for network in Network]
    except LayerMissing as missing:
        return Layer(name="seccomp", live=False, detail=missing.reason, mend=missing.mend)

    def work() -> None:
        kernel.set_no_new_privs()
        kernel.load_filter(programs[0])
        try:
            socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)  # anybody may have one
        except OSError:
            return
        raise OSError(1, "the filter is loaded and refuses nothing", "seccomp")

    failed, _ = _in_child(work)
    detail = f"{len(programs[0]) // 8} instructions, {len(filters.allowed_calls(Network.NONE))} calls allowed"
    return Layer(name="seccomp", live=not failed, detail=failed or detail, mend="a kernel with CONFIG_SECCOMP_FILTER")


def _landlock() -> Layer:
    abi = kernel.landlock_abi()

    def work() -> None:
        kernel.set_no_new_privs()
        ruleset = kernel.landlock_create(abi)
        kernel.landlock_allow(ruleset, "/usr", kernel.LANDLOCK_READ)
        kernel.landlock_restrict(ruleset)
        try:
            os.listdir("/")
        except PermissionError:
            return
        raise OSError(1, "the rules are in force and refuse nothing", "landlock")

    mend = "Linux 5.13 or newer, booted with landlock in the lsm= list"
    if not abi:
        return Layer(name="landlock", live=False, detail="the kernel has none, or it is not in the lsm= list", mend=mend)
    failed, _ = _in_child(work)
    detail = f"ABI {abi}" + ("" if abi >= 6 else ": no scopes for signals and abstract sockets, Linux 6.12 has them")
    return Layer(name="landlock", live=not failed, detail=failed or detail, mend=mend)


def _no_new_privs() -> Layer:
    failed, _ = _in_child(kernel.set_no_new_privs)
    return Layer(name="no_new_privs", live=not failed, detail=failed or "set", mend="Linux 3.5 or newer")
