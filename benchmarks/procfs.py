"""Processes as /proc tells of them: who descends from whom, processor time, private memory (proc(5))."""

from __future__ import annotations

import os
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def descendants(pid: int) -> list[int]:
    """Return the process and all that it and its children started, as far as they live."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (stat := _read(f"/proc/{name}/stat")):
            children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(name))
    found = [pid]
    for parent in found:
        found += children.get(parent, [])
    return found


def cpu_seconds(pids: list[int]) -> float:
    """Return the processor time of processes, of all their threads; those that have ended count nothing."""
    total = 0
    for pid in pids:
        words = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
        total += int(words[11]) + int(words[12]) if words else 0
    return total * _TICK_S


def ran_seconds(pid: int) -> float:
    """Return the time that a process's first thread ran, exact to a nanosecond, where the kernel tells it (else 0)."""
    words = _read(f"/proc/{pid}/schedstat").split()
    return int(words[0]) / 1e9 if words else 0.0


def memory_bytes(pid: int) -> dict[str, int]:
    """Return `private` (no other process has these pages) and `share` (pages shared by n count for 1/n) of a process.

    Raises OSError when it has ended, or is not ours to look at.
    """
    found: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        found[name] = int(rest.split()[0]) * 1024
    private = found["Private_Clean"] + found["Private_Dirty"] + found.get("Private_Hugetlb", 0)
    return {"private": private, "share": found["Pss"]}


def private_by_mapping(pid: int) -> dict[str, int]:
    """Return a process's private bytes by what is mapped: `anonymous`, `[heap]`, `[stack]`, or a file's name without folders."""
    found: dict[str, int] = {}
    name = ""
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            name = os.path.basename(words[5]) if len(words) > 5 else "anonymous"
        elif words[0] in ("Private_Clean:", "Private_Dirty:"):
            found[name] = found.get(name, 0) + int(words[1]) * 1024
    return found


def namespace(pid: int) -> tuple[str, int]:
    """Return a process's PID namespace, and its number in there."""
    status = _read(f"/proc/{pid}/status")
    inner = next((line.split()[-1] for line in status.splitlines() if line.startswith("NSpid:")), "0")
    try:
        return os.readlink(f"/proc/{pid}/ns/pid"), int(inner)
    except OSError:
        return "", int(inner)


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""  # it has ended meanwhile
