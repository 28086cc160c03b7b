"""Memory: what an idle container costs, after 20 calls, beside a fresh interpreter that has imported the same.

*Private* are the pages that no other process has; a container shares most with the launcher that forked it. *Share* is
the proportional share (PSS): pages of n processes count for 1/n. Both are the kernel's (smaps_rollup, proc(5)).
"""

from __future__ import annotations

import os
import statistics
from collections import defaultdict

from benchmarks import baselines, procfs
from benchmarks.result import Plot, Table
from benchmarks.stage import Stage, accounts, deploy_all
from tests.e2e.house import House

TITLE = "Memory"
SAYS = "Containers that were each called 20 times and are idle; P is a fresh interpreter with the launcher's imports."
CALLS = 20
_PER_ACCOUNT = 10
_FRESH = 5  # fresh interpreters
_FIRST_BLANK = 2  # its number in the VM's PID namespace; the pool's youngest VMs hold nothing else
_OWN_NUMBER = "import os\ndef handler(event, context):\n    return os.getpid() if event == 'pid' else event"


def run(stage: Stage) -> None:
    """Fill in the result."""
    if os.getuid() != 0:
        stage.result.missing["the memory of containers"] = "only root may look at confined processes; run it as root"
        return
    count = stage.pick(20, 200)
    house = stage.server()
    names = accounts(house, count // _PER_ACCOUNT)
    wanted = [(f"idle{number}", name) for name in names for number in range(_PER_ACCOUNT)]
    deploy_all(stage, house, wanted, _OWN_NUMBER)
    launcher = house.children()["launcher"]
    before = _all_together(launcher)
    over: list[tuple[float, float]] = [(0.0, before / 2**20)]
    pids: list[int] = []
    for at, account in enumerate(names):
        stage.tell(f"calling, account {at + 1} of {len(names)}")
        pids += _filled(stage, house, account, launcher)
        over.append((float(len(pids)), _all_together(launcher) / 2**20))
    stage.tell("fresh interpreters")
    fresh = [_fresh() for _ in range(_FRESH)]
    _tell(stage, house, [procfs.memory_bytes(pid) for pid in pids], fresh)
    stage.result.profile = _profile(pids[len(pids) // 2], launcher)
    xs, ys = [x for x, _ in over], [y for _, y in over]
    series = [("launcher, VMs and containers", xs, ys), ("as many fresh interpreters", xs, [x * fresh[0]["share"] / 2**20 for x in xs])]
    stage.result.plots.append(Plot(name="memory", title="Memory over idle containers", x="idle containers", y="MiB (PSS)", series=series))


def _filled(stage: Stage, house: House, account: str, launcher: int) -> list[int]:
    """Call each function of an account 20 times; returns the host's pids of its containers."""
    inner = set()
    for number in range(_PER_ACCOUNT):
        function = stage.function(house, f"idle{number}", token=account)
        stage.run(function.order(calls=CALLS - 1, warm=0))
        inner.add(int(house.invoke(f"idle{number}", "pid", token=account).json))
    by_vm: dict[str, dict[int, int]] = defaultdict(dict)
    for pid in procfs.descendants(launcher):
        vm, number = procfs.namespace(pid)
        by_vm[vm][number] = pid
    for members in by_vm.values():
        if inner <= set(members):
            return [members[number] for number in inner]
    raise RuntimeError(f"the containers of {account} are not all in one VM: {sorted(inner)}")


def _fresh() -> dict[str, int]:
    with baselines.launchers_imports() as pid:
        return procfs.memory_bytes(pid)


def _all_together(launcher: int) -> float:
    return float(sum(procfs.memory_bytes(pid)["share"] for pid in procfs.descendants(launcher)))


def _tell(stage: Stage, house: House, found: list[dict[str, int]], fresh: list[dict[str, int]]) -> None:
    private, base = ([memory["private"] / 2**20 for memory in several] for several in (found, fresh))
    ours, theirs = ("MiB", private), ("fresh interpreter with the launcher's imports", "MiB", base)
    stage.row("memory", [value / statistics.median(base) for value in private], ours, theirs)
    children = house.children()
    rows = [_line(f"idle container (median of {len(found)})", *(statistics.median(m[key] for m in found) for key in ("private", "share")))]
    for name, pid in (("launcher", children["launcher"]), ("server", children["server"]), ("keeper", house.process.pid)):
        memory = procfs.memory_bytes(pid)
        rows.append(_line(name, memory["private"], memory["share"]))
    rows.append(_line("fresh interpreter with the launcher's imports", fresh[0]["private"], fresh[0]["share"]))
    stage.result.tables.append(Table(title="Memory by process", head=("", "private MiB", "share (PSS) MiB"), rows=rows))


def _line(name: str, private: float, share: float) -> tuple[str, str, str]:
    return name, f"{private / 2**20:.2f}", f"{share / 2**20:.2f}"


def _profile(called: int, launcher: int) -> Table:
    """Return what the private pages of a called container are, beside those of containers and inits that ran nothing yet."""
    inits, blanks = [], []
    for pid in procfs.descendants(launcher)[1:]:
        number = procfs.namespace(pid)[1]
        if number == 1:
            inits.append(pid)
        elif number == _FIRST_BLANK:
            blanks.append(pid)
    columns = [_mapped([called]), _mapped(blanks[-2:]), _mapped(inits[-2:])]
    names = sorted(set[str]().union(*columns), key=lambda name: -columns[0].get(name, 0))[:6]
    rows = [(name, *(f"{column.get(name, 0) / 2**20:.2f}" for column in columns)) for name in names]
    rows.append(("all", *(f"{sum(column.values()) / 2**20:.2f}" for column in columns)))
    head = ("private MiB of", "a container after 20 calls", "a blank, rehearsed, never called", "a VM's init")
    return Table(title="What the private memory is", head=head, rows=rows)


def _mapped(pids: list[int]) -> dict[str, float]:
    """Return the mean private bytes of processes by mapping; one that has ended meanwhile is left out."""
    found: dict[str, float] = {}
    for pid in pids:
        for name, size in procfs.private_by_mapping(pid).items():
            found[name] = found.get(name, 0.0) + size / len(pids)
    return found
