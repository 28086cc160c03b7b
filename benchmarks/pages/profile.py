"""Where a warm call's microseconds go, hop by hop: by differences of parts that are each measured, in turns.

    client, kernel, loop    an echo over TCP that parses nothing
    + HTTP                  bare aiohttp, for comparison
    + our server            the whole server over containers that answer in the next turn of its loop
    + the way to a process  a packet to another process and back, when neither does anything with it
    + the container         what is left of a confined call

Beside it, the processor time of server and container a call: what is not processor time is waiting to be woken.
"""

from __future__ import annotations

import shutil
import statistics
from dataclasses import replace

from benchmarks import baselines, hollow, procfs
from benchmarks.figures import turns
from benchmarks.load import Order
from benchmarks.result import Table
from benchmarks.stage import Peer, Stage, serving
from tests.e2e.house import House

TITLE = "Profile of a warm call"
SAYS = "One client, p50s; each hop is a difference of two measured parts."
HOLLOW = "server without containers"
_SOCKET, _A, _OURS = "bare socket", "bare aiohttp", "pyfaas"


def run(stage: Stage) -> None:
    """Fill in the result."""
    rounds, calls = stage.pick((11, 300), (41, 500))
    house, ours, without = with_hollow(stage)
    found = [stage.peer(_SOCKET, baselines.bare_socket), stage.peer(_A, baselines.aiohttp), without, ours]
    peers = {peer.name: peer for peer in found if peer is not None}
    p50s: dict[str, list[float]] = {name: [] for name in peers}
    for number, name in turns(list(peers), rounds):
        stage.tell(f"round {number + 1} of {rounds}, {name}")
        p50s[name].append(statistics.median(stage.run(peers[name].order(calls=calls)).latencies_us))
    stage.tell("packets between two processes")
    hop = statistics.median(baselines.packet_hop(5000)) * 1e6
    for name in [name for name in (_SOCKET, _A) if name in p50s]:
        stage.baseline(f"{name}, µs", stage.amount(name, "µs", p50s[name]))
    medians = {name: statistics.median(values) for name, values in p50s.items()}
    stage.result.profile = Table(
        title="Where a warm call's microseconds go (p50, 1 client)", head=("hop", "µs", "share", "measured as"), rows=hops(medians, hop)
    )
    stage.result.tables.append(processor(stage, house, ours.order(calls=stage.pick(2000, 10000), warm=0)))


def with_hollow(stage: Stage) -> tuple[House, Peer, Peer]:
    """Start a server with an echo, and one without containers over a copy of its data; returns the first, and both to call."""
    data = stage.folder / "deployed"
    with serving(data) as house:
        stage.deploy(house, "echo")
    shutil.copytree(data, stage.folder / "copy")
    house = stage.server(data=data)
    ours = stage.function(house)
    stage.tell(f"starting a {HOLLOW}")
    pid, port = stage.open.enter_context(hollow.serving(stage.folder / "copy"))
    return house, ours, replace(ours, name=HOLLOW, pid=pid, port=port)


def hops(medians: dict[str, float], hop: float) -> list[tuple[str, str, str, str]]:
    """Return the rows of the profile from the medians of its parts, in microseconds."""
    bare, without, whole = medians[_SOCKET], medians[HOLLOW], medians[_OURS]
    parts = [
        ("client, kernel, event loop", bare, "an echo over TCP that parses nothing"),
        ("the server's Python", without - bare, "the server over containers that answer at once, less the line above"),
        ("the way to another process and back", hop, "packets between two processes that do nothing"),
        ("the container, and waking up", whole - without - hop, "what is left"),
        ("a confined call", whole, "measured"),
        ("for comparison: bare aiohttp's Python", medians[_A] - bare, "bare aiohttp, less the first line"),
    ]
    return [(name, f"{us:.0f}", f"{us / whole:.0%}", how) for name, us, how in parts]


def processor(stage: Stage, house: House, order: Order) -> Table:
    """Measure the processor time of each process a call, by the kernel's own account (schedstat)."""
    stage.tell("processor time a call")
    children = house.children()
    pids = {"server": children["server"], "launcher": children["launcher"], "keeper": house.process.pid}
    containers = procfs.descendants(children["launcher"])[1:]
    before = {pid: procfs.ran_seconds(pid) for pid in [*pids.values(), *containers]}
    seen, calls = stage.run(order), order.calls
    spent = {pid: (procfs.ran_seconds(pid) - then) / calls * 1e6 for pid, then in before.items()}
    rows = [(name, f"{spent[pid]:.1f}") for name, pid in pids.items()]
    rows.append(("the container", f"{max((spent[pid] for pid in containers), default=0.0):.1f}"))
    rows.append(("the load", f"{seen.cpu_s / calls * 1e6:.1f}"))
    return Table(title=f"Processor time a call, 1 client, bodies of {order.size:,} bytes", head=("process", "µs"), rows=rows)
