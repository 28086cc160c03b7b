"""What it costs to fork a blank container, and which part of it is which: launchers that leave something out, beside each other.

Asked directly, without a server: the time from the command to the launcher until the blank has reported.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import turns
from benchmarks.result import Table
from sandbox import doctor
from sandbox.host.launcher import Launcher
from sandbox.host.vm import Vm
from sandbox.launcher.options import LauncherOptions
from sandbox.spec import VmSpec

_WHOLE, _UNREHEARSED, _UNLIMITED = "as in the server", "without its rehearsal", "without rehearsal and cgroup"
_APART_S = 0.03


def measure(rounds: int) -> Table:
    """Return the milliseconds of a fork, whole and with parts left out; a layer that is missing here is left out of all."""
    with tempfile.TemporaryDirectory(prefix="pyfaas-bench-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        times = asyncio.run(_measured(Path(folder), rounds))
    medians = {name: statistics.median(values) for name, values in times.items()}
    return Table(title="What forking a blank costs, without a server", head=("part", "ms", "measured as"), rows=list(_parts(medians)))


def _parts(medians: dict[str, float]) -> Iterator[Sequence[str]]:
    yield "whole", f"{medians[_WHOLE]:.1f}", "a fork as the server asks for it"
    yield "its rehearsal", f"{medians[_WHOLE] - medians[_UNREHEARSED]:.1f}", "whole, less a fork without rehearsal"
    yield "its cgroup leaf", f"{medians[_UNREHEARSED] - medians[_UNLIMITED]:.1f}", "that, less a fork without a cgroup as well"
    yield "fork, namespaces, confinement", f"{medians[_UNLIMITED]:.1f}", "what is left"


async def _measured(folder: Path, rounds: int) -> dict[str, list[float]]:
    launchers: list[Launcher] = []
    try:
        vms: dict[str, Vm] = {}
        for name, options in _kinds().items():
            launchers.append(await Launcher.start(_options(folder / str(len(launchers)), **options)))
            vms[name] = await launchers[-1].create_vm(VmSpec())
        times: dict[str, list[float]] = {name: [] for name in vms}
        for _, name in turns(list(vms), rounds):
            await asyncio.sleep(_APART_S)
            began = time.perf_counter()
            box = await vms[name].fork()
            times[name].append((time.perf_counter() - began) * 1e3)
            box.kill()
    finally:
        for launcher in launchers:
            await launcher.close()
    return times


def _kinds() -> dict[str, dict[str, Any]]:
    lacking = tuple(layer.name for layer in doctor.layers() if not layer.live and layer.name in doctor.OPTIONAL)
    rehearsal = {"rehearse": "pyfaas.runtime.warm:rehearse", "without": lacking}
    return {
        _WHOLE: rehearsal,
        _UNREHEARSED: {"without": lacking},
        _UNLIMITED: {"without": tuple({*lacking, "cgroups"})},
    }


def _options(folder: Path, **options: Any) -> LauncherOptions:
    (folder / "root").mkdir(parents=True)
    return LauncherOptions(
        instance=os.urandom(4).hex(),
        root=str(folder / "root"),
        entry="pyfaas.runtime.container:serve",
        warm="pyfaas.runtime.warm:warm",
        **options,
    )
