"""Frozen values that describe VMs, limits and how a guest process ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

MIB = 1024 * 1024


class Network(StrEnum):
    """What a VM's network namespace reaches; chosen when the VM is made."""

    NONE = "none"  # an empty namespace of the VM's own, loopback down
    DOORS = "doors"  # one of its own whose only ways out are listeners that its host holds: see `Doors`
    HOST = "host"  # the host's own: for dependency builds only, which run no tenant code


MAX_LISTENERS = MAX_ROUTES = 64  # a command to the launcher is one packet, and 253 descriptors fit a message (unix(7))
RESOLVER = "127.0.0.53"  # where /etc/resolv.conf of a VM with doors looks for names
DNS_PORT = 53
_WATCHED = "watched"


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """The ways out of a VM: what is listened on inside, by sockets that only the host holds, and which addresses lead there.

    `listen` are TCP listeners, IPv4 address and port; they come out in this order, and after them the two sockets of the resolver
    (`RESOLVER`, port 53): UDP, TCP. `routes` are the IPv4 ranges, in CIDR notation, that are local inside: an address in one has whoever
    listens there, and is refused at once where nobody does; every other address is unreachable. With `is_watched` one more comes
    last, from which the host reads who knocked where no door is: a packet each, the IPv4 header first, then TCP's. Raises ValueError for
    what is no address, port or range, too many of them, one twice, or port 53 of every address, which is the resolver's.
    """

    listen: tuple[tuple[str, int], ...] = ()
    routes: tuple[str, ...] = ()
    is_watched: bool = False

    def __post_init__(self) -> None:
        """Refuse what the kernel could not make."""
        if len(self.listen) > MAX_LISTENERS or len(self.routes) > MAX_ROUTES:
            raise ValueError(f"a VM has at most {MAX_LISTENERS} listeners and {MAX_ROUTES} routes")
        if len(set(self.listen)) < len(self.listen) or len(set(self.routes)) < len(self.routes):
            raise ValueError("a listener or a route is there twice")
        for address, port in self.listen:
            _ipv4(address)
            if not 0 < port < 65536:
                raise ValueError(f"{port} is no port")
            if port == DNS_PORT and address in {"0.0.0.0", RESOLVER}:  # noqa: S104 - inside of a VM
                raise ValueError(f"port {port} of {address} is the resolver's")
        everywhere = {port for address, port in self.listen if address == "0.0.0.0"}  # noqa: S104 - inside of a VM
        for address, port in self.listen:
            if port in everywhere and address != "0.0.0.0":  # noqa: S104 - inside of a VM
                raise ValueError(f"port {port} is listened on at every address, and at {address} again")
        for route in self.routes:
            address, _, length = route.partition("/")
            bits = int(length) if length.isdecimal() and len(length) < 3 else 33
            if bits > 32 or _ipv4(address) & ((1 << 32 - bits) - 1):
                raise ValueError(f"{route} is no IPv4 range")

    @property
    def count(self) -> int:
        """How many descriptors come out."""
        return len(self.listen) + 2 + self.is_watched

    def words(self) -> list[str]:
        """Return the value as words of a command to the launcher."""
        return [*(f"{address}:{port}" for address, port in self.listen), *self.routes, *([_WATCHED] if self.is_watched else [])]

    @classmethod
    def of_words(cls, words: Sequence[str]) -> Doors:
        """Read what `words` made; raises ValueError."""
        listen = [word.partition(":") for word in words if "/" not in word and word != _WATCHED]
        return cls(
            listen=tuple((address, int(port) if port.isdecimal() else 0) for address, _, port in listen),
            routes=tuple(word for word in words if "/" in word),
            is_watched=_WATCHED in words,
        )


def _ipv4(text: str) -> int:
    """Return an IPv4 address as a number; raises ValueError for any other spelling than four plain decimals."""
    parts = text.split(".")
    if len(parts) != 4 or not all(part.isdecimal() and str(int(part)) == part and int(part) < 256 for part in parts):
        raise ValueError(f"{text} is no IPv4 address")
    return int.from_bytes(map(int, parts), "big")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one container may use; enforced by its cgroup leaf and its rlimits.

    `memory_bytes` counts tmpfs pages too and has no swap beside it. `cpu` is in
    processors (1.0 = one whole). `tmp_bytes` bounds /tmp and /dev/shm each.
    """

    memory_bytes: int = 256 * MIB
    pids: int = 256  # processes and threads; BLAS and OpenMP start one for each of the host's processors, each library its own
    cpu: float = 1.0
    tmp_bytes: int = 128 * MIB
    output_bytes: int = 6 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class VmSpec:
    """A VM to be made: its network profile and the limits its blanks are born with.

    `files_bytes` bounds what it keeps in files of its own (`sandbox.launcher.files`); with 0 it has none. One that is for builds sees
    the launcher's `binds` and may write larger files; with the host's network a VM always is, without a network never. Raises
    ValueError for that, and when there are doors without that profile, or the other way round.
    """

    network: Network = Network.NONE
    doors: Doors | None = None
    is_build: bool = False
    limits: Limits = field(default_factory=Limits)
    files_bytes: int = 0

    def __post_init__(self) -> None:
        """Refuse half of a way out."""
        if (self.network is Network.DOORS) != (self.doors is not None):
            raise ValueError(f"network={self.network} with doors={self.doors}")
        if self.is_build and self.network is Network.NONE:
            raise ValueError("a VM for builds has a network")

    @property
    def kind(self) -> tuple[Network, bool]:
        """Return what decides which files it sees: its network profile, and whether it is for builds."""
        return self.network, self.is_build or self.network is Network.HOST


class Fate(StrEnum):
    """How a container's process ended, as far as the kernel can tell."""

    EXITED = "exited"  # left by itself, whatever its status
    OOM = "oom"  # the leaf's oom_kill counter rose
    FORBIDDEN_SYSCALL = "forbidden_syscall"  # SIGSYS from the seccomp filter
    SIGNALLED = "signalled"  # any other signal
    KILLED = "killed"  # we killed it
    LOST = "lost"  # launcher or VM went away under it


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """A container's end with its evidence (signal, exit status, counters), for the caller to read."""

    fate: Fate
    signal: int = 0
    status: int = 0
    evidence: Mapping[str, int | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Counters of a cgroup leaf since it was made; read from the kernel, never from the guest."""

    cpu_us: int = 0
    memory_peak_bytes: int = 0
    oom_kills: int = 0
    pids_refused: int = 0

    def since(self, base: Usage) -> Usage:
        """Return what was counted after `base`; the peak is not a sum, and stays."""
        return Usage(
            cpu_us=self.cpu_us - base.cpu_us,
            memory_peak_bytes=self.memory_peak_bytes,
            oom_kills=self.oom_kills - base.oom_kills,
            pids_refused=self.pids_refused - base.pids_refused,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer of the isolation on this machine: is it live, and if not, why and what mends it."""

    name: str
    live: bool
    detail: str = ""
    mend: str = ""
