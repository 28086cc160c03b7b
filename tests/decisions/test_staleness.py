"""How far an older version may answer: policies of four levels, and limits that are exact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyfaas.decisions import rollout
from pyfaas.decisions.rollout import Answer, Decision, Supply
from pyfaas.decisions.staleness import DEFAULT_WAIT_MS, Merged, Tally, may_be_stale, merge
from pyfaas.model import StalePolicy, VersionState

SAID = st.sampled_from((None, "allow", "forbid"))
LIMIT = st.none() | st.integers(0, 100)
POLICY = st.builds(
    StalePolicy,
    stale=SAID,
    max_stale_time_ms=LIMIT,
    max_stale_requests=LIMIT,
    stale_percent=LIMIT,
    min_version=LIMIT,
    max_wait_ms=LIMIT,
)


def says(*levels: str | None) -> list[StalePolicy]:
    """Return policies of alias, function and account, as many as are given."""
    return [StalePolicy(stale=level) for level in levels]


@pytest.mark.parametrize(
    ("levels", "asked", "pointer", "number"),
    [
        ((), None, True, False),
        ((), "allow", True, True),
        ((), "forbid", False, False),
        (("allow", None, None), None, True, False),
        ((None, "forbid", None), None, False, False),
        ((None, "forbid", None), "allow", False, False),
        ((None, None, "forbid"), "allow", False, False),
        (("allow", "forbid", "forbid"), None, True, False),
        (("allow", "forbid", "forbid"), "allow", True, True),
        (("forbid", "allow", "allow"), "allow", False, False),
        ((None, "allow", "forbid"), None, True, False),
    ],
)
def test_the_narrowest_level_wins_and_no_request_loosens(levels: tuple[str | None, ...], asked: str | None, pointer: bool, number: bool) -> None:  # noqa: FBT001 - a table
    """Alias over function over account; a request may only forbid more; a number is stood in for where the request says so."""
    assert merge(says(*levels), asked, is_pointer=True).is_allowed is pointer
    assert merge(says(*levels), asked, is_pointer=False).is_allowed is number


@given(levels=st.lists(POLICY, max_size=3), asked=SAID, pointer=st.booleans())
def test_of_the_limits_the_strictest_holds(levels: list[StalePolicy], asked: str | None, pointer: bool) -> None:  # noqa: FBT001 - hypothesis
    """No level's limit is ever passed, whichever level said it; without any there is none."""
    merged = merge(levels, asked, is_pointer=pointer)
    for name, field in (("max_time_ms", "max_stale_time_ms"), ("max_requests", "max_stale_requests"), ("percent", "stale_percent")):
        given_values = [v for level in levels if (v := getattr(level, field)) is not None]
        assert getattr(merged, name) == (min(given_values) if given_values else None)
    floors = [level.min_version for level in levels if level.min_version is not None]
    waits = [level.max_wait_ms for level in levels if level.max_wait_ms is not None]
    assert merged.min_version == (max(floors) if floors else None)
    assert merged.max_wait_ms == (min(waits) if waits else DEFAULT_WAIT_MS)


def answered(policy: Merged, count: int) -> Tally:
    """Decide `count` requests one after the other at second 0, stale whenever that is allowed."""
    tally = Tally(since=0.0)
    for _ in range(count):
        stale = may_be_stale(policy, tally, 0.0)
        tally.total += 1
        tally.stale += stale
    return tally


@given(limit=st.integers(0, 20), count=st.integers(0, 100))
def test_a_limit_of_requests_is_exact(limit: int, count: int) -> None:
    """Of any number of requests exactly the limit are old answers, or all when they are fewer."""
    assert answered(Merged(is_allowed=True, max_requests=limit), count).stale == min(limit, count)


@given(percent=st.integers(0, 100), count=st.integers(1, 300))
def test_a_share_is_never_passed_and_always_used(percent: int, count: int) -> None:
    """At every moment at most that share of the answers is old, and not one less than that allows."""
    tally = answered(Merged(is_allowed=True, percent=percent), count)
    assert tally.stale == count * percent // 100


def test_a_time_ends() -> None:
    """The clock begins when the pointer moves, and ends the old answers to the millisecond."""
    policy = Merged(is_allowed=True, max_time_ms=500)
    assert may_be_stale(policy, Tally(since=10.0), 10.499)
    assert not may_be_stale(policy, Tally(since=10.0), 10.5)


def test_a_busy_last_version_is_not_passed_by() -> None:
    """Of two substitutes the later one answers, though only the earlier one has a container that is free."""
    made = rollout.decide(3, VersionState.FAILED, (2, 1), {2: Supply.BUSY, 1: Supply.FREE}, may_be_stale=True, is_cut_over=False)
    assert (made.answer, made.version) == (Answer.OLD, 2)


def oracle(state: VersionState, substitutes: tuple[int, ...], supply: Mapping[int, Supply], facts: Mapping[str, Any]) -> tuple[Answer, int]:
    """Walk the table of the design row by row; the named version is 2."""
    is_ready = state is VersionState.READY
    mine = supply.get(2, Supply.NONE)
    better = [n for n in substitutes if supply.get(n, Supply.NONE) > mine]
    rows: list[tuple[bool, tuple[Answer, int]]] = [
        (is_ready and mine in (Supply.FREE, Supply.TEMPLATE), (Answer.NEW, 2)),
        (is_ready and facts["is_cut_over"], (Answer.NEW, 2)),
        (facts["may_be_stale"] and bool(better), (Answer.OLD, better[0] if better else 0)),
        (not is_ready and facts["may_be_stale"] and bool(substitutes), (Answer.OLD, substitutes[0] if substitutes else 0)),
        (state is VersionState.FAILED, (Answer.INIT_ERROR, 2)),
        (is_ready, (Answer.NEW, 2)),
        (facts["has_waited"], (Answer.NOT_READY, 2)),
    ]
    return next((answer for holds, answer in rows if holds), (Answer.WAIT, 2))


@given(
    state=st.sampled_from(VersionState),
    supply=st.dictionaries(st.integers(1, 4), st.sampled_from(Supply)),
    substitutes=st.lists(st.sampled_from((1, 3, 4)), unique=True).map(tuple),
    facts=st.fixed_dictionaries({"may_be_stale": st.booleans(), "is_cut_over": st.booleans(), "has_waited": st.booleans()}),
)
def test_the_table_row_by_row(state: VersionState, supply: dict[int, Supply], substitutes: tuple[int, ...], facts: dict[str, bool]) -> None:
    """Over all states, supplies and policies the decision is the first row that matches, and starts just what is lacking."""
    made = rollout.decide(2, state, substitutes, supply, **facts)
    assert (made.answer, made.version) == oracle(state, substitutes, supply, facts)
    is_started = made.answer in (Answer.OLD, Answer.WAIT, Answer.NOT_READY)
    assert made == Decision(
        answer=made.answer,
        version=made.version,
        prepare=is_started and state is VersionState.STORED,
        load=made.answer is Answer.OLD and state is VersionState.READY,
    )
