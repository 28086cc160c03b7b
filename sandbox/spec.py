"""Frozen values that describe VMs, limits and how a guest process ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

MIB = 1024 * 1024


class Network(StrEnum):
    """What a VM's network namespace reaches; chosen when the VM is made."""

    NONE = "none"  # an empty namespace of the VM's own, loopback down
    HOST = "host"  # the host's own: for dependency builds only, which run no tenant code


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

    `files_bytes` bounds what it keeps in files of its own (`sandbox.launcher.files`); with 0 it has none.
    """

    network: Network = Network.NONE
    limits: Limits = field(default_factory=Limits)
    files_bytes: int = 0


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
