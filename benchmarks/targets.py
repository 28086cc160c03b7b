"""What is promised: for each measure its must and its goal, and whether a figure reaches them.

`must` belongs to a working version, `goal` to the work that follows it; some have a goal only. All are ratios against a baseline of the
same run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from benchmarks.figures import Spread, spread


class Verdict(StrEnum):
    """How far a figure got."""

    GOAL = "goal"
    MUST = "must"
    SHORT = "short"  # of the goal, where there is no must
    MISSED = "missed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A promise; `is_most` when the ratio may be at most must and goal, else it has to be at least these. No must is None."""

    text: str
    must: float | None
    goal: float
    is_most: bool = True

    def verdict(self, ratio: float) -> Verdict:
        """Judge a ratio."""
        for bound, verdict in ((self.goal, Verdict.GOAL), (self.must, Verdict.MUST)):
            if bound is not None and (ratio <= bound if self.is_most else ratio >= bound):
                return verdict
        return Verdict.SHORT if self.must is None else Verdict.MISSED

    def bound(self, value: float | None) -> str:
        """Return a bound as it is written in a table."""
        if value is None:
            return "none"
        return f"{'≤' if self.is_most else '≥'} {value:g}"


TARGETS: Mapping[str, Target] = {
    "warm-p50": Target(text="warm call, 1 client: p50 / bare aiohttp's", must=1.8, goal=0.9),
    "warm-rps": Target(text="warm calls, 32 clients: requests/s / bare aiohttp's", must=0.4, goal=1.4, is_most=False),
    "warm-rps-peer": Target(text="warm calls, 32 clients: requests/s / functions-framework's", must=3, goal=8, is_most=False),
    "cold-pool": Target(text="cold call, VM and blank from the pool: p50 / fresh interpreter's", must=0.15, goal=0.04),
    "cold-fork": Target(text="cold call, VM there but no blank left: p50 / fresh interpreter's", must=0.4, goal=0.2),
    "memory": Target(text="private memory of an idle container after 20 calls / fresh interpreter's", must=0.12, goal=0.06),
    "payload": Target(text="6 MiB echo: MB/s / bare aiohttp's", must=0.5, goal=0.9, is_most=False),
    "functions": Target(text="warm p50 with many deployed functions / with 10", must=1.1, goal=1.02),
    "publish-wrong": Target(text="publishing under load: failed or wrong answers / requests", must=0, goal=0),
    "publish-p99": Target(text="publishing under load: p99 / p99 before", must=2, goal=1.2),
    "publish-harm": Target(text="publishing under load: requests that failed or took over 100 ms / a redeployed server's", must=0.02, goal=0),
    "rollback-wrong": Target(text="rolling back under load: failed or wrong answers / requests", must=0, goal=0),
    "rollback-p99": Target(text="rolling back under load: p99 / p99 before", must=2, goal=1.2),
    "broken-wrong": Target(text="a version that fails, under load: failed or wrong answers / requests", must=0, goal=0),
    "broken-p99": Target(text="a version that fails, under load: p99 / p99 before", must=2, goal=1.2),
    "store-wrong": Target(text="code in a slow object store, under load: failed or wrong answers / requests", must=0, goal=0),
    "store-p99": Target(text="code in a slow object store, under load: p99 / p99 before", must=2, goal=1.2),
    "store-bytes": Target(text="code in a slow object store: bytes fetched / bytes of the bundle", must=1.1, goal=1.02),
    "lent-p50": Target(text="warm call through an account alias, 1 client: p50 / the owner's own call's", must=1.2, goal=1.1),
    "egress-transfer": Target(text="a large answer through egress: MB/s / the same client's outside", must=None, goal=0.5, is_most=False),
    "egress-request": Target(text="a small request through egress, kept alive: p50 / the same client's outside", must=None, goal=2),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """Something measured in a unit, beside its ratio: absolute values wander, and are told for orientation only."""

    name: str
    unit: str
    spread: Spread


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A figure with its promise."""

    key: str
    text: str
    ratio: Spread
    must: str
    goal: str
    verdict: Verdict
    ours: Amount
    baseline: Amount


def row(key: str, ratios: Sequence[float], ours: tuple[str, Sequence[float]], baseline: tuple[str, str, Sequence[float]]) -> Row:
    """Judge ratios; `ours` is (unit, values), `baseline` (name, unit, values). Raises KeyError for an unknown measure."""
    target, told = TARGETS[key], spread(ratios)
    return Row(
        key=key,
        text=target.text,
        ratio=told,
        must=target.bound(target.must),
        goal=target.bound(target.goal),
        verdict=target.verdict(told.median),
        ours=Amount(name="pyfaas", unit=ours[0], spread=spread(ours[1])),
        baseline=Amount(name=baseline[0], unit=baseline[1], spread=spread(baseline[2])),
    )
