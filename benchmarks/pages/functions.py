"""Many functions: does a warm call cost more when many others are deployed and idle?

Two servers run beside each other, one with 10 functions, one with many; blocks of calls of an echo take turns.
"""

from __future__ import annotations

import statistics
import time

from benchmarks.figures import ratios, turns
from benchmarks.result import Table
from benchmarks.stage import Stage, deploy_all

TITLE = "Many functions"
SAYS = "Warm calls, one client, of a server with many deployed functions, beside those of a server with 10."
FEW = 10


def run(stage: Stage) -> None:
    """Fill in the result."""
    many = stage.pick(200, 1000)
    rounds, calls = stage.pick((15, 300), (41, 500))
    houses = {FEW: stage.server(), many: stage.server()}
    rows = []
    for count, house in houses.items():
        began = time.monotonic()
        deploy_all(stage, house, [(f"echo{number}", "default") for number in range(count)])
        rows.append((f"{count:,}", f"{count / (time.monotonic() - began):.0f}"))
    peers = {str(count): stage.function(house, f"echo{count // 2}") for count, house in houses.items()}
    p50s: dict[str, list[float]] = {name: [] for name in peers}
    for number, name in turns(list(peers), rounds):
        stage.tell(f"with {name} functions, round {number + 1} of {rounds}")
        p50s[name].append(statistics.median(stage.run(peers[name].order(calls=calls)).latencies_us))
    few, lots = p50s[str(FEW)], p50s[str(many)]
    stage.row("functions", ratios(lots, few), ("µs", lots), (f"pyfaas with {FEW} functions", "µs", few))
    stage.result.notes.append(f"many: {many:,} functions.")
    stage.result.tables.append(Table(title="Deploying, until every version is ready", head=("functions", "a second"), rows=rows))
