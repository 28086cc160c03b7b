"""Rows to values and back: the one place that knows which column holds which field."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from pyfaas.model import (
    Account,
    AccountId,
    Attempt,
    Canary,
    CanaryState,
    Event,
    EventKind,
    Function,
    FunctionId,
    InvocationId,
    Job,
    JobState,
    LogLine,
    Outcome,
    PointerMove,
    Quota,
    Reason,
    Revision,
    Scope,
    Settings,
    Shape,
    StalePolicy,
    Token,
    Version,
    VersionState,
)


def to_json(value: Any) -> str | None:
    """Return a value as the text of a JSON column; None stays NULL."""
    return None if value is None else msgspec.json.encode(value).decode()


def _mapping(text: str | None) -> Mapping[str, Any] | None:
    return None if text is None else msgspec.json.decode(text, type=dict[str, Any])


def account(row: sqlite3.Row) -> Account:
    """Read an account."""
    return Account(
        id=AccountId(row["id"]),
        name=row["name"],
        network=bool(row["network"]),
        created=row["created"],
        policy=_policy(row["policy"]),
        quota=msgspec.json.decode(row["quota"], type=Quota),
    )


def _policy(text: str) -> StalePolicy:
    return msgspec.json.decode(text, type=StalePolicy)


def token(row: sqlite3.Row) -> Token:
    """Read a token."""
    return Token(
        id=row["id"],
        account=AccountId(row["account"]),
        digest=row["digest"],
        scopes=frozenset(Scope(s) for s in row["scopes"].split()),
        label=row["label"],
        created=row["created"],
        expires=row["expires"],
        revoked=row["revoked"],
    )


def token_values(token: Token) -> tuple[Any, ...]:
    """Return a token's columns in the table's order."""
    scopes = " ".join(sorted(token.scopes))
    return token.id, token.account, token.digest, scopes, token.label, token.created, token.expires, token.revoked


def function(row: sqlite3.Row) -> Function:
    """Read a function."""
    return Function(
        id=FunctionId(row["id"]),
        account=AccountId(row["account"]),
        name=row["name"],
        settings=msgspec.json.decode(row["settings"], type=Settings),
        created=row["created"],
    )


def version(row: sqlite3.Row) -> Version:
    """Read a version joined with its revision."""
    return Version(
        function=FunctionId(row["function"]),
        number=row["number"],
        code_id=row["code_id"],
        bundle=row["bundle"],
        size_bytes=row["size_bytes"],
        revision=msgspec.json.decode(row["revision"], type=Revision),
        state=VersionState(row["state"]),
        reason=None if row["reason"] is None else msgspec.json.decode(row["reason"], type=Reason),
        created=row["created"],
        withdrawn=bool(row["withdrawn"]),
        handler=row["handler"],
        shape=Shape(row["shape"]) if row["shape"] else None,
        generator=bool(row["generator"]),
        environment=row["environment"],
        deleted=bool(row["deleted"]),
    )


def version_state(version: Version) -> tuple[Any, ...]:
    """Return a version's columns that its preparation and its removal set."""
    return (
        version.state,
        to_json(version.reason),
        version.handler,
        version.shape,
        version.generator,
        version.environment,
        version.deleted,
    )


def move(row: sqlite3.Row) -> PointerMove:
    """Read one move of a pointer."""
    return PointerMove(
        function=FunctionId(row["function"]),
        pointer=row["pointer"],
        seq=row["seq"],
        version=row["version"],
        at=row["at"],
        weights=msgspec.json.decode(row["weights"], type=dict[int, int]),
        policy=_policy(row["policy"]),
    )


def canary(row: sqlite3.Row) -> Canary:
    """Read a canary."""
    return Canary(
        function=FunctionId(row["function"]),
        pointer=row["pointer"],
        version=row["version"],
        base=row["base"],
        state=CanaryState(row["state"]),
        percent=row["percent"],
        promote_after_ms=row["promote_after_ms"],
        error_budget=row["error_budget"],
        step=row["step"],
        since=row["since"],
        runs=row["runs"],
        faults=row["faults"],
        seq=row["seq"],
        reason=row["reason"],
    )


def canary_values(canary: Canary) -> tuple[Any, ...]:
    """Return a canary's columns in the table's order."""
    plan = canary.percent, canary.promote_after_ms, canary.error_budget
    stand = canary.step, canary.since, canary.runs, canary.faults, canary.seq, canary.reason
    return canary.function, canary.pointer, canary.version, canary.base, canary.state, *plan, *stand


def event(row: sqlite3.Row) -> Event:
    """Read an event."""
    return Event(
        at=row["at"],
        function=FunctionId(row["function"]),
        version=row["version"],
        kind=EventKind(row["kind"]),
        detail=msgspec.json.decode(row["detail"], type=dict[str, Any]),
    )


def event_values(cursor: int, event: Event) -> tuple[Any, ...]:
    """Return an event's columns in the table's order."""
    return cursor, event.at, event.function, event.version, event.kind, to_json(dict(event.detail))


def attempt(row: sqlite3.Row) -> Attempt:
    """Read one attempt of a job."""
    return Attempt(
        n=row["n"],
        started=row["started"],
        finished=row["finished"],
        requested=row["requested"],
        executed=row["executed"],
        outcome=Outcome(row["outcome"]) if row["outcome"] else None,
        error=_mapping(row["error"]),
    )


def attempt_values(job: InvocationId, attempt: Attempt) -> tuple[Any, ...]:
    """Return an attempt's columns in the table's order."""
    ended = attempt.outcome, to_json(attempt.error)
    return job, attempt.n, attempt.started, attempt.finished, attempt.requested, attempt.executed, *ended


def job(row: sqlite3.Row, attempts: Sequence[Attempt]) -> Job:
    """Read a job; `attempts` are its own, in order."""
    return Job(
        id=InvocationId(row["id"]),
        account=AccountId(row["account"]),
        function=FunctionId(row["function"]),
        name=row["name"],
        qualifier=row["qualifier"],
        event=row["event"],
        event_is_bytes=bool(row["event_is_bytes"]),
        state=JobState(row["state"]),
        due=row["due"],
        created=row["created"],
        deadline=row["deadline"],
        finished=row["finished"],
        outcome=Outcome(row["outcome"]) if row["outcome"] else None,
        attempts=tuple(attempts),
        lost=row["lost"],
        result=row["result"],
        result_is_bytes=bool(row["result_is_bytes"]),
        error=_mapping(row["error"]),
        fence=row["fence"],
        replay_of=InvocationId(row["replay_of"]) if row["replay_of"] else None,
        way=row["way"],
    )


def job_values(job: Job) -> dict[str, Any]:
    """Return a job's columns by name, attempts apart."""
    return {
        "id": job.id,
        "account": job.account,
        "function": job.function,
        "name": job.name,
        "qualifier": job.qualifier,
        "event": job.event,
        "event_is_bytes": job.event_is_bytes,
        "state": job.state,
        "due": job.due,
        "created": job.created,
        "deadline": job.deadline,
        "finished": job.finished,
        "outcome": job.outcome,
        "lost": job.lost,
        "result": job.result,
        "result_is_bytes": job.result_is_bytes,
        "error": to_json(job.error),
        "fence": job.fence,
        "replay_of": job.replay_of,
        "way": job.way,
    }


def log_line(row: sqlite3.Row) -> LogLine:
    """Read one line of a log."""
    return LogLine(
        at=row["at"],
        function=FunctionId(row["function"]),
        version=row["version"],
        invocation=InvocationId(row["invocation"]) if row["invocation"] else None,
        stream=row["stream"],
        line=row["line"],
    )
