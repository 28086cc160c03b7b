"""Warm and cold calls: the promise that nothing starts.

Warm: 200 sequential calls of an echo function over one connection, authentication and metering on, p50 against the p50
of a bare aiohttp echo; the two take turns. Beside it the floor: the baseline and a packet to another process and back.
Cold: the first call of versions that never ran, VM and blank container from the pool, p50 against a fresh interpreter
(`python -I -S -c pass`) started between them, and where the time went: attaching and importing are `init`, HTTP and
the ways between processes the rest.
"""

from __future__ import annotations

import statistics
import sys
import time

from benchmarks import house as bench
from tests.e2e.house import House

ROUNDS, CALLS, COLD = 7, 200, 40
MUST = {"warm": 1.8, "cold": 0.15}
_APART_S = 0.1  # between first calls: the pool refills off the path, and this measures the path


def warm(house: House) -> dict[str, object]:
    """Return the ratios of the warm p50 to bare aiohttp's, one a round."""
    house.deploy("echo", bench.ECHO)
    ours = bench.request("/v1/functions/echo/invoke", house.token("default"))
    theirs = bench.request("/echo")
    ratios, p50s, baselines = [], [], []
    with bench.bare_aiohttp() as place:
        lines = bench.Line(*bench.address(house)), bench.Line(*place)
        for line, request in zip(lines, (ours, theirs), strict=True):
            for _ in range(50):
                line.call(request)
        for _ in range(ROUNDS):
            p50s.append(statistics.median(lines[0].call(ours) for _ in range(CALLS)) * 1e6)
            baselines.append(statistics.median(lines[1].call(theirs) for _ in range(CALLS)) * 1e6)
            ratios.append(p50s[-1] / baselines[-1])
        for line in lines:
            line.close()
    floor = statistics.median(baselines) + bench.process_hop() * 1e6
    return {
        "ratio": bench.spread(ratios),
        "p50_us": bench.spread(p50s),
        "baseline_us": bench.spread(baselines),
        "floor_us": floor,
        "floor_ratio": floor / statistics.median(baselines),
    }


def cold(house: House) -> dict[str, object]:
    """Return the ratio of the first call's p50 to a fresh interpreter's."""
    for number in range(COLD):
        ready = house.deploy(f"cold{number}", bench.ECHO)
        if ready.json["state"] != "ready":
            raise RuntimeError(ready.body.decode())
    line, times, baselines = bench.Line(*bench.address(house)), [], []
    phases: dict[str, list[float]] = {"queue": [], "init": [], "exec": [], "rest": []}
    for number in range(COLD):
        time.sleep(_APART_S)
        times.append(line.call(bench.request(f"/v1/functions/cold{number}/invoke", house.token("default"))) * 1e3)
        line.timing.setdefault("rest", times[-1] - sum(line.timing.values()))
        for name, values in phases.items():
            values.append(line.timing.get(name, 0.0))
        time.sleep(_APART_S)
        baselines.append(bench.fresh_interpreter() * 1e3)
    line.close()
    ratio = statistics.median(times) / statistics.median(baselines)
    where = {name: statistics.median(values) for name, values in phases.items()}
    return {"ratio": ratio, "where_ms": where, "first_call_ms": bench.spread(times), "fresh_interpreter_ms": bench.spread(baselines)}


def main() -> int:
    """Run both, print a table, write JSON; returns 1 when a ratio is over its must."""
    with bench.server() as house:
        result = {"host": bench.host_check(house), "warm": warm(house), "cold": cold(house)}
    path = bench.write("calls", result)
    ratios = {"warm": result["warm"]["ratio"]["median"], "cold": result["cold"]["ratio"]}  # type: ignore[index]
    print(f"{'measure':<44}{'ratio':>8}{'must':>8}")
    print(f"{'warm call, 1 client, p50 / bare aiohttp':<44}{ratios['warm']:>8.2f}{MUST['warm']:>8}")
    print(f"{'first call of a version, p50 / fresh python':<44}{ratios['cold']:>8.3f}{MUST['cold']:>8}")
    floor = result["warm"]["floor_ratio"]  # type: ignore[index]
    print(f"\nwarm: aiohttp and one hop to another process, with no work at all, would be {floor:.2f} here")
    where = result["cold"]["where_ms"]  # type: ignore[index]
    print("first call, ms: " + ", ".join(f"{name} {value:.2f}" for name, value in where.items()))
    print(f"written to {path}")
    return int(any(ratios[name] > must for name, must in MUST.items()))


if __name__ == "__main__":
    sys.exit(main())
