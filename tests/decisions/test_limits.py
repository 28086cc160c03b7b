"""Retries, admission, access."""

from __future__ import annotations

import pytest

from pyfaas.decisions import retry
from pyfaas.decisions.access import check_token, require
from pyfaas.decisions.quota import Admission, admit
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
    ("account", "running", "waiting", "expected"),
    [(0, 0, 0, Admission.ADMIT), (2, 0, 0, Admission.WAIT), (0, 1, 0, Admission.WAIT), (2, 0, 5, Admission.REFUSE)],
)
def test_admission(account: int, running: int, waiting: int, expected: Admission) -> None:
    """Below both limits a call runs, over one it waits, over the queue's limit it is refused."""
    made = admit(account_running=account, account_limit=2, gates=[(running, 1)], waiting=waiting, queue_limit=5)
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
