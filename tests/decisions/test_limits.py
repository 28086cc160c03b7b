"""Retries, admission, access."""

from __future__ import annotations

import pytest

from pyfaas.decisions import retry
from pyfaas.decisions.access import check_token, require
from pyfaas.decisions.quota import Admission, Pace, admit
from pyfaas.errors import Code, PyfaasError
from pyfaas.model import Account, AccountId, Caller, JobState, Outcome, Retries, Scope, Token

NOW = 1000.0


def after(outcome: Outcome, *, attempts: int = 1, lost: int = 0, invalid: bool = False, jitter: float = 1.0) -> retry.Next:
    """Return what follows an attempt with the default retries."""
    return retry.next_step(
        outcome, is_invalid_event=invalid, attempts=attempts, lost=lost, retries=Retries(), now=NOW, jitter=jitter
    )


def test_success_and_cancellation_are_final() -> None:
    """What succeeded or was cancelled is over."""
    assert after(Outcome.OK).state is JobState.SUCCEEDED
    assert after(Outcome.CANCELLED).state is JobState.CANCELLED


def test_back_off_doubles_and_ends_dead() -> None:
    """A failure is tried again after 1 s, then 2 s; the third one is dead."""
    assert (after(Outcome.ERROR).due, after(Outcome.ERROR, attempts=2).due) == (NOW + 1.0, NOW + 2.0)
    assert after(Outcome.ERROR, attempts=3).state is JobState.DEAD


def test_jitter_takes_at_most_half() -> None:
    """The jittered delay lies between a half and the whole."""
    assert after(Outcome.ERROR, jitter=0.0).due == NOW + 0.5


def test_invalid_event_is_not_repeated() -> None:
    """The caller's mistake is not tried again."""
    assert after(Outcome.REJECTED, invalid=True).state is JobState.FAILED


def test_lost_attempts_use_no_retry() -> None:
    """What the platform lost is queued again, three times at most, without using a retry."""
    first = after(Outcome.LOST)
    assert (first.state, first.lost) == (JobState.QUEUED, 1)
    assert after(Outcome.LOST, attempts=4, lost=3).state is JobState.DEAD
    assert after(Outcome.ERROR, attempts=3, lost=2).state is JobState.QUEUED


def test_throttled_attempt_is_queued_again() -> None:
    """A refusal for want of room comes back later."""
    assert after(Outcome.REJECTED).state is JobState.QUEUED


@pytest.mark.parametrize(
    ("is_free", "waiting", "expected"),
    [(True, 0, Admission.ADMIT), (True, 5, Admission.ADMIT), (False, 4, Admission.WAIT), (False, 5, Admission.REFUSE)],
)
def test_admission(is_free: bool, waiting: int, expected: Admission) -> None:  # noqa: FBT001 - a parameter
    """Below all limits a call runs, over one it waits, over the queue's limit it is refused."""
    made = admit(is_free=is_free, waiting=waiting, queue_limit=5)
    assert made is expected


def token(**fields: object) -> Token:
    """Return a token with the scope `read`."""
    plain: dict[str, object] = {"id": "t", "account": AccountId("1"), "digest": b"", "scopes": frozenset({Scope.READ}), "created": 0.0}
    return Token(**{**plain, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [None, token(expires=NOW), token(revoked=1.0)])
def test_bad_tokens_are_refused_alike(bad: Token | None) -> None:
    """Unknown, expired and revoked are told in the same words."""
    with pytest.raises(PyfaasError, match="missing, unknown, expired or revoked") as caught:
        check_token(bad, NOW)
    assert caught.value.code is Code.UNAUTHENTICATED
    assert check_token(token(expires=NOW + 1), NOW)


def test_scope_is_required_and_admin_has_all() -> None:
    """A token without the scope is refused by name; an admin's passes."""
    account = Account(id=AccountId("1"), name="a", created=0.0)
    with pytest.raises(PyfaasError, match="'deploy'"):
        require(Caller(account=account, token=token()), Scope.DEPLOY)
    require(Caller(account=account, token=token(scopes=frozenset({Scope.ADMIN}))), Scope.DEPLOY)


def test_a_pace_counts_a_second_and_a_day() -> None:
    """A bucket holds a second's worth and fills as time goes on; a day ends at midnight UTC, and what was given back may run again."""
    pace = Pace()
    pace.set(2.0, 3)
    at = 86_400.0 * 20_000 + 100
    for _ in range(2):
        assert pace.wait(10.0, at) == 0.0
        pace.take(10.0, at)
    assert pace.wait(10.0, at) == 0.5
    pace.take(10.5, at)
    assert pace.wait(20.0, at) == 86_300.0
    pace.give_back(at)
    assert pace.wait(20.0, at) == 0.0
    pace.take(20.0, at)
    assert pace.wait(90_000.0, at + 86_400) == 0.0


def test_a_day_goes_on_after_a_restart() -> None:
    """What began before counts, on that day only."""
    pace = Pace()
    pace.set(0.0, 2)
    pace.resume(2, 86_400.0 * 20_000)
    assert pace.wait(0.0, 86_400.0 * 20_000 + 1) == 86_399.0
    assert pace.wait(0.0, 86_400.0 * 20_001) == 0.0


def test_without_a_limit_a_pace_is_off() -> None:
    """Nothing needs to be asked of a pace that limits nothing."""
    pace = Pace()
    pace.set(0.0, 0)
    assert not pace.is_on
    pace.set(0.0, 1)
    assert pace.is_on
