"""The statistics of the benchmarks, and what is judged by them."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import figures
from benchmarks.targets import TARGETS, Target, Verdict, row

_VALUES = st.lists(st.floats(0.001, 1e6), min_size=1, max_size=50)


@given(_VALUES)
def test_a_spread_is_in_order(values: list[float]) -> None:
    """Least, quartiles, median and most of any values stand in this order."""
    told = figures.spread(values)
    order = [told.least, told.low, told.median, told.high, told.most]
    assert order == pytest.approx(sorted(order))
    assert told.count == len(values)


def test_nothing_measured_has_no_spread() -> None:
    """A spread of no values is refused, rather than told as zero."""
    with pytest.raises(ValueError, match="nothing was measured"):
        figures.spread([])


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=40))
def test_percentiles_are_those_of_the_library(values: list[float]) -> None:
    """The quartiles are the standard library's inclusive ones."""
    expected = statistics.quantiles(values, n=4, method="inclusive")
    assert [figures.percentile(values, p) for p in (25, 50, 75)] == pytest.approx(expected)


def test_ratios_are_taken_round_by_round() -> None:
    """A machine that becomes slower for both sides does not change the ratios."""
    assert figures.ratios([2.0, 4.0, 8.0], [1.0, 2.0, 4.0]) == (2.0, 2.0, 2.0)
    with pytest.raises(ValueError, match="shorter"):
        figures.ratios([1.0, 2.0], [1.0])


def test_turns_go_back_and_forth() -> None:
    """The order turns from round to round, and everybody gets each round once."""
    assert list(figures.turns(["a", "b", "c"], 2)) == [(0, "a"), (0, "b"), (0, "c"), (1, "c"), (1, "b"), (1, "a")]


@given(_VALUES, st.integers(1, 60))
def test_groups_keep_everything_in_order(values: list[float], count: int) -> None:
    """Groups put together again are the values, and no group is empty."""
    groups = figures.in_groups(values, count)
    assert [value for group in groups for value in group] == values
    assert all(groups)


def test_grouped_ratios_follow_the_machine() -> None:
    """Where both sides become slower half-way, each stretch's ratio stays what it is."""
    ours, theirs = [2.0] * 10 + [6.0] * 10, [1.0] * 5 + [3.0] * 5
    assert figures.grouped_ratios(ours, theirs, 2) == (2.0, 2.0)


def test_a_distribution_reaches_from_least_to_most() -> None:
    """A cumulative distribution begins at the least value and ends at the greatest, however much it is thinned."""
    values, percents = figures.cumulative([float(n) for n in range(1000)], points=11)
    assert (values[0], values[-1]) == (0.0, 999.0)
    assert percents == [0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100]


@pytest.mark.parametrize(
    ("ratio", "most", "least"),
    [(0.5, Verdict.GOAL, Verdict.MISSED), (1.0, Verdict.GOAL, Verdict.MISSED), (1.5, Verdict.MUST, Verdict.MISSED), (2.0, Verdict.MUST, Verdict.MUST)],
)
def test_a_bound_itself_is_reached(ratio: float, most: Verdict, least: Verdict) -> None:
    """A ratio on a bound reaches it, in either direction."""
    assert Target(text="", must=2.0, goal=1.0).verdict(ratio) is most
    assert Target(text="", must=2.0, goal=4.0, is_most=False).verdict(ratio) is least


def test_more_is_not_less() -> None:
    """A throughput over its goal has reached it, one over its must the must."""
    target = Target(text="", must=0.4, goal=1.4, is_most=False)
    assert [target.verdict(ratio) for ratio in (0.3, 0.5, 1.5)] == [Verdict.MISSED, Verdict.MUST, Verdict.GOAL]


@pytest.mark.parametrize("key", TARGETS)
def test_a_goal_is_beyond_its_must(key: str) -> None:
    """Each promise's goal is the harder of the two; nothing is beyond none at all."""
    target = TARGETS[key]
    if not target.must:
        assert target.must is None or target.goal == 0
        return
    assert target.goal < target.must if target.is_most else target.goal > target.must


def test_without_a_must_nothing_is_missed() -> None:
    """Where there is a goal only, a figure reaches it or is short of it; no exit status depends on that."""
    target = Target(text="", must=None, goal=2.0)
    assert [target.verdict(ratio) for ratio in (2.0, 2.1)] == [Verdict.GOAL, Verdict.SHORT]
    assert [target.bound(bound) for bound in (target.must, target.goal)] == ["none", "≤ 2"]


def test_a_row_is_judged_by_the_median() -> None:
    """One bad round does not make a promise missed."""
    made = row("warm-p50", [1.5, 1.5, 9.0], ("µs", [150.0]), ("bare aiohttp", "µs", [100.0]))
    assert made.verdict is Verdict.MUST
    assert (made.must, made.goal) == ("≤ 1.8", "≤ 0.9")
