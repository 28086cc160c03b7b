"""`ports.Queue` in SQLite: durable asynchronous invocations.

A claim is a compare-and-swap on the state, and gives the job its next fence; whoever ends an attempt must show that fence, and
the job must still be running, so of a cancellation, a recovery and a late answer exactly one is written: the first.
A claim names the server instance that made it and ends with that instance (`recover`), never by time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from pyfaas.adapters.sqlite import rows
from pyfaas.adapters.sqlite.connection import Database
from pyfaas.adapters.sqlite.usage import add_rows
from pyfaas.model import AccountId, Attempt, FunctionId, InvocationId, Job, JobState, Outcome, UsageRow
from pyfaas.sharing import CallableId

_ENDED = frozenset({"due", "outcome", "result", "result_is_bytes", "error", "lost"})
_COLUMNS = """id, account, function, name, qualifier, event_is_bytes, state, due, created, deadline, finished, outcome, lost,
    result_is_bytes, error, fence, instance, replay_of, way"""
_PUT = """INSERT INTO jobs (id, account, function, name, qualifier, event, event_is_bytes, state, due, created, deadline, finished,
    outcome, lost, result, result_is_bytes, error, fence, replay_of, way) VALUES (:id, :account, :function, :name, :qualifier, :event,
    :event_is_bytes, :state, :due, :created, :deadline, :finished, :outcome, :lost, :result, :result_is_bytes, :error, :fence,
    :replay_of, :way)"""
_PUT_ATTEMPT = "INSERT OR REPLACE INTO attempts VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_CLOSE_ATTEMPTS = "UPDATE attempts SET finished = ?, outcome = ? WHERE job = ? AND finished IS NULL"


class SqliteQueue:
    """`ports.Queue` over a Database, which the store closes."""

    def __init__(self, database: Database) -> None:
        """Take a database from `schema.open_database`."""
        self._database = database

    async def put(self, job: Job) -> None:
        """Keep a job; durable when it returns. Raises conflict when the id is taken, storage_full."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(_PUT, rows.job_values(job))
            for attempt in job.attempts:
                connection.execute(_PUT_ATTEMPT, rows.attempt_values(job.id, attempt))

        await self._database.write(work)

    async def claim(self, limit: int, now: float, instance: str) -> Sequence[Job]:
        """Take due jobs, oldest first: queued → running with a new fence and a new attempt, the last of `attempts`."""
        return await self._database.write(lambda connection: _claim(connection, limit, now, instance))

    async def finish_attempt(
        self, job_id: InvocationId, fence: int, attempt: Attempt, state: JobState, usage: Sequence[UsageRow] = (), **ended: Any
    ) -> bool:
        """Record an attempt's end and the job's next state (`due`, `outcome`, `result`, `result_is_bytes`, `error`, `lost`).

        What the attempt used is added in the same transaction, whether or not it is the one that counts. `lost` is the job's new count,
        `due` counts for QUEUED. False when the fence is stale or the job is not running.
        Raises ValueError for state RUNNING or another keyword.
        """
        if state is JobState.RUNNING or not ended.keys() <= _ENDED:
            raise ValueError(f"an attempt does not end as {state} with {sorted(ended)}")
        values = ended | {"state": state, "finished": attempt.finished if state.is_terminal else None}
        if "error" in values:
            values["error"] = rows.to_json(values["error"])

        def work(connection: sqlite3.Connection) -> bool:
            add_rows(connection, usage)
            return _finish(connection, job_id, fence, attempt, values)

        return await self._database.write(work, ends_a_run=True)

    async def cancel(self, job_id: InvocationId, at: float) -> Job | None:
        """Cancel a job and return it as it is now; a terminal one stays as it was; None when unknown."""

        def work(connection: sqlite3.Connection) -> Job | None:
            if _cancel(connection, job_id, at):
                connection.execute(_CLOSE_ATTEMPTS, (at, Outcome.CANCELLED, job_id))
            return _get(connection, job_id)

        return await self._database.write(work)

    async def get(self, job_id: InvocationId) -> Job | None:
        """Return a job with its attempts, or None."""
        return await self._database.read(lambda connection: _get(connection, job_id))

    async def list(
        self, account: AccountId, *, state: JobState | None = None, after: str = "", limit: int = 100
    ) -> Sequence[Job]:
        """Return an account's jobs by id, after `after`; without their payloads (`event` b"", `result` None): use `get`."""
        sql = f"SELECT {_COLUMNS}, x'' AS event, NULL AS result FROM jobs WHERE account = ?1 AND id > ?2"  # noqa: S608 - fixed words
        sql += " AND (?3 IS NULL OR state = ?3) ORDER BY id LIMIT ?4"
        return await self._database.read(
            lambda c: _with_attempts(c, c.execute(sql, (account, after, state, limit)).fetchall())
        )

    async def next_due(self) -> float | None:
        """Return when the first queued job is due, or None when none is queued."""
        return await self._database.read(
            lambda c: c.execute("SELECT min(due) FROM jobs WHERE state = 'queued'").fetchone()[0]
        )

    async def queued(self) -> int:
        """Count the jobs that wait for an attempt; the partial index on `due` has just these."""

        def work(connection: sqlite3.Connection) -> int:
            return int(connection.execute("SELECT count(*) FROM jobs WHERE state = 'queued'").fetchone()[0])

        return await self._database.read(work)

    async def recover(self, instance: str, now: float, max_lost: int = 3) -> int:
        """At start: attempts of other instances become `lost` and their jobs queued again; returns how many.

        A job that was lost more than `max_lost` times ends as dead, with outcome `lost`. Due times stay as they are.
        """
        return await self._database.write(lambda connection: _recover(connection, instance, now, max_lost))

    async def cancel_function(self, function: FunctionId, at: float) -> Sequence[InvocationId]:
        """Cancel the queued jobs of a removed function, and return their ids."""
        return await self._database.write(lambda c: _cancel_queued(c, "function", function, at))

    async def cancel_way(self, way: CallableId, at: float) -> Sequence[InvocationId]:
        """Cancel the queued jobs of an account alias or a subscription that ended, and return their ids."""
        return await self._database.write(lambda c: _cancel_queued(c, "way", way, at))


def _cancel_queued(connection: sqlite3.Connection, column: str, value: str, at: float) -> list[InvocationId]:
    sql = f"SELECT id FROM jobs WHERE state = 'queued' AND {column} = ? AND {column} <> '' ORDER BY id"  # noqa: S608 - our own words
    ids = [InvocationId(row["id"]) for row in connection.execute(sql, (value,)).fetchall()]
    return [job_id for job_id in ids if _cancel(connection, job_id, at)]


def _claim(connection: sqlite3.Connection, limit: int, now: float, instance: str) -> Sequence[Job]:
    due = connection.execute(
        "SELECT id FROM jobs WHERE state = 'queued' AND due <= ? ORDER BY due, id LIMIT ?", (now, limit)
    ).fetchall()
    for row in due:
        connection.execute(
            "UPDATE jobs SET state = 'running', fence = fence + 1, instance = ? WHERE id = ? AND state = 'queued'",
            (instance, row["id"]),
        )
        connection.execute(
            "INSERT INTO attempts (job, n, started) SELECT ?1, coalesce(max(n), 0) + 1, ?2 FROM attempts WHERE job = ?1",
            (row["id"], now),
        )
    jobs = (_get(connection, row["id"]) for row in due)
    return [job for job in jobs if job is not None]


def _finish(
    connection: sqlite3.Connection, job_id: InvocationId, fence: int, attempt: Attempt, values: dict[str, Any]
) -> bool:
    changes = ", ".join(f"{column} = :{column}" for column in values)
    sql = f"UPDATE jobs SET {changes} WHERE id = :id AND fence = :fence AND state = 'running'"  # noqa: S608 - our own keywords
    if not connection.execute(sql, {**values, "id": job_id, "fence": fence}).rowcount:
        return False
    connection.execute(_PUT_ATTEMPT, rows.attempt_values(job_id, attempt))
    return True


def _cancel(connection: sqlite3.Connection, job_id: InvocationId, at: float) -> bool:
    cursor = connection.execute(
        "UPDATE jobs SET state = 'cancelled', outcome = 'cancelled', finished = ? WHERE id = ? AND state IN ('queued', 'running')",
        (at, job_id),
    )
    return bool(cursor.rowcount)


def _recover(connection: sqlite3.Connection, instance: str, now: float, max_lost: int) -> int:
    found = connection.execute(
        "SELECT id FROM jobs WHERE state = 'running' AND instance IS NOT ?", (instance,)
    ).fetchall()
    for row in found:
        connection.execute(_CLOSE_ATTEMPTS, (now, Outcome.LOST, row["id"]))
    lost = [(max_lost, now, row["id"]) for row in found]
    connection.executemany(
        """UPDATE jobs SET lost = lost + 1, instance = NULL, state = iif(lost < ?1, 'queued', 'dead'),
            outcome = iif(lost < ?1, outcome, 'lost'), finished = iif(lost < ?1, NULL, ?2) WHERE id = ?3""",
        lost,
    )
    return len(found)


def _get(connection: sqlite3.Connection, job_id: str) -> Job | None:
    row = connection.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
    return None if row is None else _with_attempts(connection, [row])[0]


def _with_attempts(connection: sqlite3.Connection, found: Iterable[sqlite3.Row]) -> Sequence[Job]:
    sql = "SELECT * FROM attempts WHERE job = ? ORDER BY n"
    return [rows.job(row, [rows.attempt(a) for a in connection.execute(sql, (row["id"],))]) for row in found]
