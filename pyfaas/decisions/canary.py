"""How a canary goes on: a pure decision over its state, the runs that were counted, and the time.

Its first weight is doubled from step to step until everything goes to the new version: 10, 20, 40, 80, 100. The steps before
the last share the whole time equally. The budget is a share of the runs that *executed* the new version, whoever called it; it
is judged from JUDGED runs on, at any moment. Before that nothing is raised while the share is above it: one fault in three
runs proves nothing, and is no reason to send more there.
"""

from __future__ import annotations

from dataclasses import dataclass

from pyfaas.model import Canary, CanaryOrder, CanaryState, FunctionId, Outcome

JUDGED = 50  # runs from which on the budget is judged
ALL = 100
FAULTS = frozenset(
    {
        *(Outcome.ERROR, Outcome.INIT_ERROR, Outcome.TIMEOUT, Outcome.OOM),
        *(Outcome.LIMIT, Outcome.FORBIDDEN_SYSCALL, Outcome.CRASHED),
    }
)
RUNS = FAULTS | {Outcome.OK}  # what was cancelled, refused or lost says nothing of the code


@dataclass(frozen=True, slots=True)
class Keep:
    """Go on as it is; `reason` says what holds it when its step is over."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Raise:
    """Give the new version this weight, and begin this step."""

    step: int
    weight: int


@dataclass(frozen=True, slots=True)
class Promote:
    """Send everything to the new version."""


@dataclass(frozen=True, slots=True)
class Back:
    """Send everything to the old version, and withdraw the new one."""

    reason: str


Decision = Keep | Raise | Promote | Back


def ordered(order: CanaryOrder, function: FunctionId, version: int, base: int | None, now_s: float) -> Canary:
    """Return the canary that a publication ordered, before its version is ready."""
    return Canary(
        function=function,
        pointer=order.pointer,
        version=version,
        base=base,
        state=CanaryState.WAITING,
        percent=order.percent,
        promote_after_ms=order.promote_after_ms,
        error_budget=order.error_budget,
        since=now_s,
    )


def steps(percent: int) -> tuple[int, ...]:
    """Return the weights in order; the last one is 100."""
    found = [percent]
    while found[-1] < ALL:
        found.append(min(ALL, found[-1] * 2))
    return tuple(found)


def weight(canary: Canary) -> int:
    """Return the weight of the step at which a canary stands."""
    return steps(canary.percent)[canary.step]


def step_s(canary: Canary) -> float:
    """Return how long one step lasts, in seconds; there is none to wait for when everything goes there at once."""
    return canary.promote_after_ms / 1000 / max(1, len(steps(canary.percent)) - 1)


def is_beyond(runs: int, faults: int, budget: float) -> bool:
    """Tell whether the share of faults is above the budget (percent), however few the runs."""
    return faults * ALL > budget * runs


def decide(canary: Canary, now_s: float) -> Decision:
    """Decide what a running canary does at `now_s`, in the clock of its `since`."""
    is_over = is_beyond(canary.runs, canary.faults, canary.error_budget)
    if is_over and canary.runs >= JUDGED:
        share = canary.faults * ALL / canary.runs
        return Back(f"{canary.faults} of {canary.runs} runs failed: {share:.3g} %, and {canary.error_budget:g} % are allowed")
    weights = steps(canary.percent)
    if len(weights) > 1 and now_s < canary.since + step_s(canary):
        return Keep()
    if is_over:
        return Keep(f"{canary.faults} of {canary.runs} runs failed: not raised before {JUDGED} runs tell more")
    if canary.step + 1 >= len(weights) - 1:
        return Promote()
    return Raise(canary.step + 1, weights[canary.step + 1])
