"""What figures depend on: the machine, how busy it is, and which layers of isolation are live."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_BUSY = 0.15  # of all processors, by others, before anything was started
_FIXED = ("cores", "processor", "kernel", "cgroups", "python", "user", "isolation")  # what makes two hosts one


def check(isolation: str, layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the host's state; `isolation` and `layers` are what the measured server says of itself."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "governor": _first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or "not told",
        "cgroups": cgroup_mode(Path("/proc/self/mounts").read_text()),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "user": "root" if os.getuid() == 0 else "an ordinary user",
        "load": round(os.getloadavg()[0], 2),
        "commit": _commit(),
        "isolation": isolation,
        "layers": {str(layer["name"]): str(layer.get("detail") or layer.get("live")) for layer in layers},
    }


def cgroup_mode(mounts: str) -> str:
    """Return v1, v2 or both, from /proc/self/mounts."""
    kinds = {line.split()[2] for line in mounts.splitlines() if len(line.split()) > 2}
    if {"cgroup", "cgroup2"} <= kinds:
        return "v1 and v2"
    return "v2" if "cgroup2" in kinds else "v1" if "cgroup" in kinds else "none"


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return in what two host checks differ that figures depend on."""
    return [f"{name}: {one.get(name)} / {other.get(name)}" for name in _FIXED if one.get(name) != other.get(name)]


def busy(seconds: float = 0.5) -> dict[str, float]:
    """Return how busy the processors are: `busy` and `stolen` (by the machine below) as shares of all time."""
    before = _ticks()
    time.sleep(seconds)
    return shares(before, _ticks())


def shares(before: Sequence[int], after: Sequence[int]) -> dict[str, float]:
    """Return the shares between two readings of /proc/stat's first line (user, nice, system, idle, iowait, irq, softirq, steal)."""
    spent = [b - a for a, b in zip(before, after, strict=False)]
    total = sum(spent) or 1
    return {"busy": round(1 - (spent[3] + spent[4]) / total, 3), "stolen": round(spent[7] / total, 3)}


def warnings(state: Mapping[str, float], load: float, cores: int) -> list[str]:
    """Return why figures taken now would not be worth much."""
    found = []
    if state["busy"] > _BUSY:
        found.append(f"the machine is busy without us: {state['busy']:.0%} of its processors; figures will be noisy")
    elif load > cores / 2:
        found.append(f"the load average is {load:.1f} on {cores} processors; something was running until just now")
    if state["stolen"] > 0.02:
        found.append(f"{state['stolen']:.0%} of the processors is taken by the machine below")
    return found


def _ticks() -> list[int]:
    return [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str:
    """Return the measured commit, and whether the tree differs from it; outside a checkout there is none."""
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=Path(__file__).parent, check=False
        )
    except FileNotFoundError:
        return "not told"
    return told.stdout.strip() or "not told"


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
