"""Dividing processor time: exact to the microsecond."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyfaas.decisions.metering import Reckoning, split


@given(st.integers(0, 10**15), st.lists(st.integers(0, 10**12), min_size=1, max_size=50))
def test_shares_are_exact(amount: int, weights: list[int]) -> None:
    """Shares add up to the amount, none is negative, and each is less than one microsecond from what its weight says."""
    shares = split(amount, weights)
    total = sum(weights)
    assert sum(shares) == amount
    assert min(shares) >= 0
    if total:
        assert all(abs(share * total - amount * weight) < total for share, weight in zip(shares, weights, strict=True))


def test_shares_without_weights_are_alike() -> None:
    """Runs that took no time at all share alike; the rest of the division is not lost."""
    assert sorted(split(10, [0, 0, 0])) == [3, 3, 4]


def test_two_callers_share_by_their_time() -> None:
    """A run of three times the time of another takes three quarters."""
    assert split(1_000_000, [300, 100]) == [750_000, 250_000]


@pytest.mark.parametrize(("amount", "weights"), [(-1, [1]), (1, [-1, 2]), (1, [])])
def test_nonsense_is_refused(amount: int, weights: list[int]) -> None:
    """Negative amounts and weights, and an amount for nobody, are errors."""
    with pytest.raises(ValueError, match="n"):
        split(amount, weights)


def test_nothing_for_nobody() -> None:
    """Nothing can be divided among nobody."""
    assert split(0, []) == []


_STEPS = st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9), st.sampled_from(["ran", "read", "between", ""])), max_size=50)


@given(st.integers(1000, 10**12), st.integers(0, 10**12), _STEPS)
def test_rows_add_up_to_the_leaf(leaf_ns: int, own_ns: int, steps: list[tuple[int, int, str]]) -> None:
    """However the process's clock and its leaf's counter are read in between, what was booked is what the leaf counted."""
    reckoning = Reckoning(leaf_ns // 1000, own_ns)
    begun_us, rows = leaf_ns // 1000, 0
    for own, children, what in steps:
        own_ns += own
        leaf_ns += own + children
        if what == "ran":
            rows += reckoning.ran(own_ns)
        elif what:
            leaf_us = leaf_ns // 1000
            if what == "between":  # it runs on while it is read
                own_ns += own
                leaf_ns += own
            rows += reckoning.read(leaf_us, own_ns)
    rows += reckoning.read(leaf_ns // 1000)
    assert rows == leaf_ns // 1000 - begun_us == reckoning.booked_us


def test_what_is_between_two_runs_is_not_the_next_ones() -> None:
    """What a container burnt while it was idle is booked when it is seen, and not once more with its next run."""
    reckoning = Reckoning(100, 5_000)
    assert reckoning.ran(7_000) == 2
    assert reckoning.read(1_102, 1_007_000) == 1_000
    assert reckoning.ran(1_010_000) == 3


def test_what_is_gone_takes_nothing_back() -> None:
    """The clock of a process that is gone, and the counter of a leaf that is gone, read 0, and change nothing."""
    reckoning = Reckoning(100, 5_000)
    assert (reckoning.ran(0), reckoning.read(0), reckoning.booked_us) == (0, 0, 0)
    assert reckoning.ran(9_999) == 4
    assert reckoning.read(150) == 46
