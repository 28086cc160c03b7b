"""What a deploy is judged by: phases, quantiles, who answered when."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import deploys
from benchmarks.deploys import Deploy
from benchmarks.steady import Answer
from benchmarks.targets import Verdict, row

DEPLOY = Deploy(old=1, new=2, moved=10.0, told=10.1, ready=12.0)
FAILED = Deploy(old=1, new=0, moved=10.0, told=10.1, ready=12.0)


def answer(planned: float, ran: int = 1, *, ms: float = 1.0, requested: int = 0, executed: int = 0, **more: object) -> Answer:
    """Return an answer of a version that says the truth, unless told otherwise."""
    told = {"status": 200, "requested": requested or (2 if planned >= 10 else 1), "executed": executed or ran, **more}
    return Answer(planned=planned, sent=planned, done=planned + ms / 1e3, ran=ran, **told)


def load(deploy: Deploy = DEPLOY) -> list[Answer]:
    """Return an answer each 0.1 s from 0 to 20 s: the old version's, then from 12.2 s on the new one's."""
    return [answer(tenth / 10, 2 if deploy.new and tenth >= 122 else 1) for tenth in range(201)]


def test_a_deploy_without_harm_has_none() -> None:
    """Every answer is right, the ratio is one, and the moments are told from ready and from the move."""
    account = deploys.judge(load(), DEPLOY)
    assert (account.asked, account.wrong, account.stale) == (201, 0, 22)
    assert account.ratio == pytest.approx(1.0)
    assert account.first_new_ms == pytest.approx(201.0)
    assert account.first_new_moved_ms == pytest.approx(2201.0)
    assert account.last_old_ms == pytest.approx(101.0)
    assert account.during_s == pytest.approx(2.1)


def test_what_follows_the_cut_over_counts() -> None:
    """A new version that is slow once it answers alone makes the ratio, however quiet the time before was."""
    slow = [answer(a.planned, a.ran, ms=300.0 if a.planned > 15 else 1.0) for a in load()]
    account = deploys.judge(slow, DEPLOY)
    assert account.p99_during == pytest.approx(1.0)
    assert account.ratio == pytest.approx(300.0)


def test_latency_counts_from_the_planned_time() -> None:
    """A request that the load sent late took as long as its caller waited."""
    late = Answer(planned=1.0, sent=1.5, done=1.6, status=200)
    assert late.latency_ms == pytest.approx(600.0)
    assert late.late_ms == pytest.approx(500.0)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (answer(15.0, status=0, why="refused"), "errors"),
        (answer(15.0, 2, executed=1), "untrue"),
        (answer(5.0, 2), "not_allowed"),
        (answer(15.0, 2, requested=1), "not_allowed"),
        (answer(15.0, 3), "not_allowed"),
    ],
    ids=["failed", "another ran than the head names", "before it was published", "another was asked for", "nobody's"],
)
def test_one_wrong_answer_is_counted(wrong: Answer, field: str) -> None:
    """Whatever is wrong with it, one answer among good ones is found, as what it is."""
    account = deploys.judge([*load(), wrong], DEPLOY)
    assert getattr(account, field) == 1
    assert account.wrong == 1


def test_a_failed_version_must_not_answer() -> None:
    """Where the new version failed, only the old one's answers are right."""
    assert deploys.judge(load(FAILED), FAILED).wrong == 0
    assert deploys.judge([*load(FAILED), answer(15.0, 2)], FAILED).not_allowed == 1
    assert deploys.judge(load(FAILED), FAILED).first_new_ms is None


def test_failures_are_told_by_kind() -> None:
    """The page says of what requests of all rounds failed, the most frequent first; nothing when none did."""
    failed = [answer(11.0, status=0, why="refused"), answer(11.1, status=0, why="refused"), answer(11.2, status=503, why="503: no")]
    accounts = [deploys.judge([*load(), *failed], DEPLOY), deploys.judge([*load(), failed[0]], DEPLOY)]
    assert deploys.failures(accounts) == "3 × refused; 1 × 503: no"
    assert deploys.failures([deploys.judge(load(), DEPLOY)]) == ""


def test_a_gap_reaches_over_the_move() -> None:
    """Where nothing answers from the move on, the gap begins with the last answer before it."""
    gone = [a for a in load() if not 9.95 < a.planned < 13.95]
    account = deploys.judge(gone, DEPLOY)
    assert account.gap_ms == pytest.approx(4100.0)
    assert account.gap_before_ms == pytest.approx(100.0)


def test_a_phase_without_an_answer_has_no_quantile() -> None:
    """A server that is down all the time has no p99, rather than a good one; and its promise is missed."""
    down = [a if a.planned < 10 else answer(a.planned, status=0, why="refused") for a in load()]
    account = deploys.judge(down, DEPLOY)
    assert math.isnan(account.p99_during)
    assert row("publish-p99", [account.ratio], ("ms", [account.p99_since]), ("before", "ms", [account.p99_before])).verdict is Verdict.MISSED


def test_nothing_before_is_no_baseline() -> None:
    """Without a good answer before the move nothing is judged."""
    with pytest.raises(ValueError, match="before the move"):
        deploys.judge([answer(11.0)], DEPLOY)


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(1, 2)), max_size=60))
def test_every_answer_has_one_phase(given_: list[tuple[float, int]]) -> None:
    """Whenever it was planned, and whoever answered, an answer is in exactly one phase."""
    answers = [answer(planned, ran) for planned, ran in given_]
    assert sorted(a.planned for part in deploys.phases(answers, DEPLOY) for a in part) == sorted(a.planned for a in answers)


def test_a_plot_is_coloured_by_version_and_marked() -> None:
    """Each version has its series, what failed its own, and the moments stand at their times since the move."""
    plot = deploys.plot("p", "t", [*load(), answer(11.05, status=0)], DEPLOY)
    assert [name for name, _, _ in plot.series] == ["version 1", "version 2", "failed"]
    assert plot.marks == [("published", 0.0), ("ready", 2.0), ("first of 2", 2.201), ("last of 1", 2.101)]
    assert min(plot.series[0][1]) == -10.0


def test_columns_are_rounds() -> None:
    """The table has a column for each round, and says what there is none of."""
    table = deploys.table([deploys.judge(load(), DEPLOY), deploys.judge(load(FAILED), FAILED)])
    assert table.head == ("", "round 1", "round 2")
    assert next(line for line in table.rows if line[0].startswith("first answer of the new version after ready"))[1:] == ("201.00", "none")
