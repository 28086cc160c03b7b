"""The canary's decisions: its steps, its budget, and what holds it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyfaas.decisions.canary import (
    FAULTS,
    JUDGED,
    RUNS,
    Back,
    Keep,
    Promote,
    Raise,
    decide,
    is_beyond,
    step_s,
    steps,
    weight,
)
from pyfaas.model import Canary, CanaryState, FunctionId, Outcome

MINUTE_S = 60.0


def canary(**more: Any) -> Canary:
    """Make one that goes from 10 to 100 in four minutes, and began at 1000 s."""
    defaults: dict[str, Any] = {"percent": 10, "promote_after_ms": 240_000, "since": 1000.0}
    return Canary(function=FunctionId("f"), pointer="live", version=2, base=1, state=CanaryState.RUNNING, **(defaults | more))


@pytest.mark.parametrize(
    ("percent", "expected"),
    [(10, (10, 20, 40, 80, 100)), (1, (1, 2, 4, 8, 16, 32, 64, 100)), (50, (50, 100)), (99, (99, 100)), (100, (100,))],
)
def test_steps_double_until_all(percent: int, expected: tuple[int, ...]) -> None:
    """The first weight is doubled from step to step, and the last one is everything."""
    assert steps(percent) == expected


@given(st.integers(1, 100), st.integers(0, 10**9))
def test_steps_take_the_whole_time_together(percent: int, after_ms: int) -> None:
    """Weights only grow, and the steps before the last one last as long together as was asked for."""
    found = steps(percent)
    assert list(found) == sorted(set(found))
    assert found[-1] == 100
    one = canary(percent=percent, promote_after_ms=after_ms)
    assert step_s(one) * max(1, len(found) - 1) == pytest.approx(after_ms / 1000)


def test_a_step_is_kept_for_its_time_and_then_raised() -> None:
    """Nothing happens before a step's share of the time is over; then the next weight is given."""
    assert decide(canary(), 1000.0 + MINUTE_S - 0.001) == Keep()
    assert decide(canary(), 1000.0 + MINUTE_S) == Raise(1, 20)
    assert decide(canary(step=2), 1000.0 + MINUTE_S) == Raise(3, 80)


def test_the_last_step_before_all_is_promoted() -> None:
    """When the step before everything is over the new version is promoted; one for everything needs no time."""
    assert decide(canary(step=3), 1000.0 + MINUTE_S) == Promote()
    assert decide(canary(percent=100), 0.0) == Promote()


def test_a_step_that_is_long_over_is_one_step() -> None:
    """After an hour without a server the canary goes on by one step, not by all that it missed."""
    assert decide(canary(), 1000.0 + 60 * MINUTE_S) == Raise(1, 20)


def test_a_broken_budget_goes_back_at_once() -> None:
    """Above the budget, from enough runs on, the canary goes back, in the middle of a step too, and says the figures."""
    back = decide(canary(runs=JUDGED, faults=1), 1000.0)
    assert isinstance(back, Back)
    assert "1 of 50" in back.reason
    assert "2 %" in back.reason


def test_a_budget_that_is_just_kept_is_kept() -> None:
    """A share that equals the budget does not break it."""
    assert decide(canary(runs=100, faults=1), 1000.0) == Keep()
    assert isinstance(decide(canary(runs=100, faults=2), 1000.0), Back)


def test_few_runs_hold_and_do_not_go_back() -> None:
    """Faults among few runs keep the step when it is over, and say why; without faults few runs are enough."""
    held = decide(canary(runs=JUDGED - 1, faults=1), 1000.0 + MINUTE_S)
    assert isinstance(held, Keep)
    assert "1 of 49" in held.reason
    assert decide(canary(runs=3), 1000.0 + MINUTE_S) == Raise(1, 20)


def test_a_budget_of_nothing_and_of_all() -> None:
    """With no budget one fault in fifty breaks it; with all of it nothing does."""
    assert isinstance(decide(canary(error_budget=0.0, runs=50, faults=1), 1000.0), Back)
    assert decide(canary(error_budget=100.0, runs=50, faults=50), 1000.0) == Keep()


def test_what_counts_as_a_fault() -> None:
    """Outcomes from error to crashed are faults; what was cancelled, refused or lost is no run of the code."""
    assert {Outcome.CANCELLED, Outcome.REJECTED, Outcome.LOST} == set(Outcome) - RUNS
    assert {Outcome.OK} == RUNS - FAULTS


@given(
    st.integers(1, 100), st.integers(0, 2000), st.integers(0, 2000), st.floats(0, 100), st.floats(0, 10_000), st.integers(0, 7)
)
def test_every_state_has_one_decision(percent: int, runs: int, faults: int, budget: float, late_s: float, step: int) -> None:
    """Whatever the state: a broken budget never stays or rises, a kept one never goes back, and a weight only grows."""
    faults, step = min(runs, faults), min(step, max(0, len(steps(percent)) - 2))
    one = canary(percent=percent, runs=runs, faults=faults, error_budget=budget, step=step)
    found = decide(one, one.since + late_s)
    if is_beyond(runs, faults, budget):
        assert isinstance(found, Back if runs >= JUDGED else Keep)
    else:
        assert not isinstance(found, Back)
    if isinstance(found, Raise):
        assert weight(one) < found.weight < 100
        assert found.step == step + 1
