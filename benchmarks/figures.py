"""The statistics of the benchmarks: plain functions over plain numbers.

A figure is a ratio against a baseline taken in the same run, in turns: one ratio a round, and of these the median. The
spread that is shown is the middle half (the quartiles) and the extremes; half of the rounds lie between the quartiles.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

QUIET, NOISY = 0.05, 0.15  # of the middle half's width against the median


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """What is told of some values: their median, middle half and extremes."""

    count: int
    median: float
    low: float  # the quartiles
    high: float
    least: float
    most: float

    @property
    def noise(self) -> float:
        """The width of the middle half against the median; 0 when there is no median to hold it against."""
        return (self.high - self.low) / self.median if self.median else 0.0


def spread(values: Sequence[float]) -> Spread:
    """Return the spread of values; raises ValueError when there are none."""
    if not values:
        raise ValueError("nothing was measured")
    low, high = percentile(values, 25), percentile(values, 75)
    return Spread(count=len(values), median=statistics.median(values), low=low, high=high, least=min(values), most=max(values))


def percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile, interpolated between its neighbours (the inclusive method)."""
    ordered = sorted(values)
    at = (len(ordered) - 1) * percent / 100
    below = int(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (at - below)


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, ...]:
    """Return one ratio a round; raises ValueError when one side has more rounds than the other."""
    return tuple(a / b for a, b in zip(ours, theirs, strict=True))


def in_groups(values: Sequence[float], count: int) -> list[list[float]]:
    """Split values, in their order, into at most `count` groups of nearly the same size."""
    count = max(1, min(count, len(values)))
    cuts = [round(len(values) * number / count) for number in range(count + 1)]
    return [list(values[start:end]) for start, end in itertools.pairwise(cuts)]


def grouped_ratios(ours: Sequence[float], theirs: Sequence[float], groups: int = 8) -> tuple[float, ...]:
    """Return a ratio of medians for each stretch of a run in which both sides were measured one by one."""
    groups = min(groups, len(ours), len(theirs))
    pairs = zip(in_groups(ours, groups), in_groups(theirs, groups), strict=True)
    return tuple(statistics.median(a) / statistics.median(b) for a, b in pairs)


def turns(names: Sequence[str], rounds: int) -> Iterator[tuple[int, str]]:
    """Yield (round, name): A B C, then C B A, so that a drift of the machine falls on all alike."""
    for number in range(rounds):
        for name in names if number % 2 == 0 else names[::-1]:
            yield number, name


def cumulative(values: Sequence[float], points: int = 200) -> tuple[list[float], list[float]]:
    """Return the cumulative distribution as (values, percent), thinned to `points`, its tail kept."""
    percents = [100 * number / (points - 1) for number in range(points)]
    return [percentile(values, percent) for percent in percents], percents


def words_for(noise: float) -> str:
    """Say how far a run can be trusted, by the noise of its baselines."""
    if noise <= QUIET:
        return "quiet"
    return "somewhat noisy" if noise <= NOISY else "noisy: repeat it on a machine that does nothing else"
