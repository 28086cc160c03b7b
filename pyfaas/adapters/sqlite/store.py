"""`ports.Store` in SQLite: accounts, tokens, functions, versions, pointers, usage and logs.

Every public method is one transaction in one of the database's lanes, its SQL in full sight. Nothing is deleted that had
an id: removed rows keep theirs and are left out of `load`. Logs and usage are the exception, they are records.
Usage is in `usage.py`.
"""

from __future__ import annotations

import heapq
import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from operator import itemgetter
from types import MappingProxyType
from typing import Any

from pyfaas.adapters.sqlite import rows
from pyfaas.adapters.sqlite.connection import Database
from pyfaas.adapters.sqlite.copying import needed
from pyfaas.adapters.sqlite.usage import SqliteUsage
from pyfaas.errors import Code, PyfaasError, not_found
from pyfaas.model import (
    Account,
    AccountId,
    Canary,
    Event,
    Function,
    FunctionId,
    InvocationId,
    LogLine,
    PointerMove,
    Token,
    UsageRow,
    Version,
)
from pyfaas.ports import CallSum, Kept, Snapshot

_FUNCTION, _STREAM, _LINE = 1, 4, 5  # places in a log row
_LINE_BYTES = 128  # that a line takes beside its text, about
BUILD = "build"  # the stream of what an installation says
BATCH = 500  # rows in one appended transaction, so that a durable write waits for a few milliseconds at most


class SqliteStore:
    """`ports.Store` over a Database, which it closes."""

    def __init__(self, database: Database) -> None:
        """Take a database from `schema.open_database`."""
        self._database, self._usage = database, SqliteUsage(database)

    async def load(self) -> Snapshot:
        """Read all that lives; versions that are marked deleted are among them, their numbers being taken."""
        return await self._database.read(_load)

    async def add_account(self, account: Account, token: Token | None) -> None:
        """Keep an account and its first token. Raises conflict when the name or an id is taken."""

        def work(connection: sqlite3.Connection) -> None:
            with _unique(f"an account named {account.name!r} exists"):
                connection.execute(
                    "INSERT INTO accounts (id, name, network, created, policy, quota) VALUES (?, ?, ?, ?, ?, ?)",
                    (account.id, account.name, account.network, account.created, *_of_account(account)),
                )
            if token is not None:
                _add_token(connection, token)

        await self._database.write(work)

    async def set_account(self, account: Account) -> None:
        """Replace an account's policy, quota and network. Raises not_found for one that is removed."""

        def work(connection: sqlite3.Connection) -> None:
            values = *_of_account(account), account.network, account.id
            sql = "UPDATE accounts SET policy = ?, quota = ?, network = ? WHERE id = ? AND removed IS NULL"
            if not connection.execute(sql, values).rowcount:
                raise not_found("account", account.name)

        await self._database.write(work)

    async def remove_account(self, account: AccountId, at: float) -> None:
        """Leave tombstones of an account, its tokens and its functions, and nothing of its secrets; on one that is removed nothing changes."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("UPDATE accounts SET removed = ? WHERE id = ? AND removed IS NULL", (at, account))
            connection.execute("UPDATE tokens SET revoked = ? WHERE account = ? AND revoked IS NULL", (at, account))
            connection.execute("UPDATE functions SET removed = ? WHERE account = ? AND removed IS NULL", (at, account))
            connection.execute("DELETE FROM secrets WHERE owner IN (SELECT id FROM callables WHERE account = ?)", (account,))
            connection.execute("DELETE FROM callables WHERE account = ?", (account,))

        await self._database.write(work)

    async def add_token(self, token: Token) -> None:
        """Keep a token. Raises conflict when its id or digest is taken."""
        await self._database.write(lambda connection: _add_token(connection, token))

    async def revoke_token(self, token_id: str, at: float) -> None:
        """Revoke a token; the first time counts."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("UPDATE tokens SET revoked = ? WHERE id = ? AND revoked IS NULL", (at, token_id))

        await self._database.write(work)

    async def publish(
        self, function: Function, version: Version | None, move: PointerMove | None, canary: Canary | None = None
    ) -> None:
        """Write a new or changed function, with a new version, the move of `latest` and a canary when given, in one transaction.

        Raises conflict when the name, the version's number or the move's is taken; gone when the function was removed.
        """

        def work(connection: sqlite3.Connection) -> None:
            _put_function(connection, function)
            if version is not None:
                _add_version(connection, version)
            if move is not None:
                _add_move(connection, move)
            if canary is not None:
                _put_canary(connection, canary)

        await self._database.write(work)

    async def set_version(self, version: Version) -> None:
        """Replace what preparation and removal set of a version; one that is deleted stays it.

        Raises not_found for one that was never published.
        """
        await self._database.write(lambda connection: _set_version(connection, version))

    async def move_pointer(
        self, move: PointerMove, withdrawn: Mapping[int, bool] = MappingProxyType({}), canary: Canary | None = None
    ) -> None:
        """Keep a pointer's move, which versions are withdrawn from now on and which are not, and how its canary now stands.

        Raises conflict when `seq` is taken, not_found for a version that was never published.
        """

        def work(connection: sqlite3.Connection) -> None:
            _add_move(connection, move)
            for number, is_withdrawn in withdrawn.items():
                values = is_withdrawn, move.function, number
                if not connection.execute("UPDATE versions SET withdrawn = ? WHERE function = ? AND number = ?", values).rowcount:
                    raise not_found("version", str(number))
            if canary is not None:
                _put_canary(connection, canary)

        await self._database.write(work)

    async def set_canary(self, canary: Canary) -> None:
        """Keep a pointer's canary, in place of the one before."""
        await self._database.write(lambda connection: _put_canary(connection, canary))

    async def count_canaries(self, canaries: Sequence[Canary]) -> None:
        """Keep the counts of canaries that still stand as they did; not durable against a power cut."""
        await self._database.append(_many(_COUNT, [(c.runs, c.faults, c.function, c.pointer, c.version, c.since) for c in canaries]))

    async def remove_pointer(self, function: FunctionId, pointer: str) -> None:
        """Remove a pointer with its canary; its moves are kept, and a new pointer of the same name starts at any `seq`."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE pointer_moves SET removed = 1 WHERE function = ? AND pointer = ?", (function, pointer)
            )
            connection.execute("DELETE FROM canaries WHERE function = ? AND pointer = ?", (function, pointer))

        await self._database.write(work)

    async def remove_function(self, function: FunctionId, at: float) -> None:
        """Leave a function's tombstone, free its name and forget its secrets; on one that is removed nothing changes."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("UPDATE functions SET removed = ? WHERE id = ? AND removed IS NULL", (at, function))
            connection.execute("DELETE FROM callables WHERE kind = 'function' AND id = ?", (function,))
            connection.execute("DELETE FROM secrets WHERE owner = ?", (function,))

        await self._database.write(work)

    async def add_usage(self, rows: Sequence[UsageRow]) -> None:
        """Add to the sums, all or none; not durable against a power cut. At most BATCH rows, lest others wait."""
        await self._usage.add(rows)

    async def usage(self, account: AccountId | None, since: float, until: float) -> Sequence[Mapping[str, Any]]:
        """Sum usage: see the port."""
        return await self._usage.sums(account, since, until)

    async def calls_since(self, minute: int) -> Sequence[CallSum]:
        """Count runs and bytes over the network since a minute."""
        return await self._usage.calls_since(minute)

    async def add_logs(self, lines: Sequence[LogLine]) -> None:
        """Append lines in order; not durable against a power cut."""
        for start in range(0, len(lines), BATCH):
            batch = [_log_values(line) for line in lines[start : start + BATCH]]
            await self._database.append(partial(_add_lines, lines=batch))

    async def logs(
        self,
        function: FunctionId,
        *,
        version: int | None = None,
        invocation: InvocationId | None = None,
        since: float = 0.0,
        build: bool = False,
        after: int = 0,
        limit: int = 1000,
    ) -> Sequence[tuple[int, LogLine]]:
        """Return (cursor, line) in order; `after` is the last cursor seen; `build` chooses the build's log instead."""
        where = ["function = ?", "cursor > ?", "at >= ?"]
        values: list[Any] = [function, after, since]
        for column, value in (("version", version), ("invocation", invocation)):
            if value is not None:
                where.append(f"{column} = ?")
                values.append(value)
        table = "build_logs" if build else "logs"
        sql = f"SELECT * FROM {table} WHERE {' AND '.join(where)} ORDER BY cursor LIMIT ?"  # noqa: S608 - fixed words only

        def work(connection: sqlite3.Connection) -> list[tuple[int, LogLine]]:
            return [(row["cursor"], rows.log_line(row)) for row in connection.execute(sql, (*values, limit))]

        return await self._database.read(work)

    async def add_events(self, events: Sequence[tuple[int, Event]]) -> None:
        """Append events with their cursors; one that is there stays. Not durable against a power cut."""
        await self._database.append(_many(_ADD_EVENT, [rows.event_values(cursor, event) for cursor, event in events]))

    async def events(self, function: FunctionId, after: int, version: int | None, limit: int) -> Sequence[tuple[int, Event]]:
        """Return (cursor, event) in order after a cursor; of `version`, those that are about it or give it a weight."""

        def work(connection: sqlite3.Connection) -> list[tuple[int, Event]]:
            found = connection.execute(_EVENTS, {"function": function, "after": after, "version": version, "limit": limit})
            return [(row["cursor"], rows.event(row)) for row in found]

        return await self._database.read(work)

    async def last_event(self) -> int:
        """Return the highest cursor of an event, 0 when there is none."""
        return await self._database.read(lambda connection: int(connection.execute(_LAST_EVENT).fetchone()[0]))

    async def trim(self, kind: Kept, before: float) -> int:
        """Delete a batch of what is older than `before`; returns how many rows went, 0 when nothing is left to do."""
        if kind == "usage":
            return await self._usage.trim(before)
        if kind == "logs":
            return await self._database.append(lambda connection: _drop_lines(connection, _OLD_LINES, before))
        return await self._database.append(_many(_TRIM[kind], [(before,)]))

    async def fold_usage(self, before: float) -> int:
        """Sum an account's older minutes to hours, exactly; returns how many rows went."""
        return await self._usage.fold(before)

    async def cap_logs(self, limit: int) -> int:
        """Delete a batch of the oldest lines of an account whose logs take more than `limit` bytes; returns how many."""
        found = await self._database.read(lambda connection: connection.execute(_LARGEST, (limit,)).fetchone())
        if found is None:
            return 0
        return await self._database.append(lambda connection: _drop_oldest(connection, found["account"]))

    async def shrink(self, pages: int) -> None:
        """Give at most so many unused pages of the file back to the file system."""
        await self._database.shrink(pages)

    async def needed(self) -> Mapping[str, Collection[str]]:
        """Return the names of what living versions need, by store."""
        return await self._database.read(needed)

    async def close(self) -> None:
        """Finish what waits and close the database, the queue's as well."""
        await self._database.close()


_ADD_LOG = "INSERT INTO {} (at, function, version, invocation, stream, line) VALUES (?, ?, ?, ?, ?, ?)"
_COUNT = """UPDATE canaries SET runs = ?, faults = ?
    WHERE function = ? AND pointer = ? AND version = ? AND since = ? AND state = 'running'"""
_ADD_EVENT = "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
_EVENTS = """SELECT * FROM events WHERE function = :function AND cursor > :after
    AND (:version IS NULL OR version = :version OR json_type(detail, '$.weights."' || :version || '"') IS NOT NULL)
    ORDER BY cursor LIMIT :limit"""
_LAST_EVENT = "SELECT coalesce(max(cursor), 0) FROM events"
# Lines arrive nearly in the order of their time, so the oldest are the lowest cursors: no index on `at` to pay for.
_DROP_LINES = "DELETE FROM logs WHERE cursor IN ({}) RETURNING function, length(CAST(line AS BLOB))"
_OLD_LINES = "SELECT cursor FROM (SELECT cursor, at FROM logs ORDER BY cursor LIMIT 500) WHERE at < ?"
_GROW = "INSERT INTO log_sizes VALUES (?, ?) ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes"
_TRIM: Mapping[str, str] = {
    "build_logs": """DELETE FROM build_logs WHERE cursor IN
        (SELECT cursor FROM (SELECT cursor, at FROM build_logs ORDER BY cursor LIMIT 500) WHERE at < ?)""",
    "events": """DELETE FROM events WHERE cursor IN
        (SELECT cursor FROM (SELECT cursor, at FROM events ORDER BY cursor LIMIT 500) WHERE at < ?)""",
    "audit": """DELETE FROM audit WHERE cursor IN
        (SELECT cursor FROM (SELECT cursor, at FROM audit ORDER BY cursor LIMIT 500) WHERE at < ?)""",
    "jobs": """DELETE FROM jobs WHERE id IN
        (SELECT id FROM jobs WHERE finished IS NOT NULL AND finished < ? ORDER BY finished LIMIT 100)""",
}
# Whose logs there are: a lent run's are its caller's, under the id of what was called.
_HOLDERS = """(SELECT id, account FROM functions UNION ALL SELECT id, account FROM account_aliases
    UNION ALL SELECT id, account FROM subscriptions) AS holders"""
_LARGEST = f"""
    SELECT account, sum(bytes) AS total FROM log_sizes JOIN {_HOLDERS} ON holders.id = log_sizes.function
    GROUP BY account HAVING total > ? ORDER BY total DESC LIMIT 1
"""  # noqa: S608 - fixed words only
_LOGS_OF = f"""SELECT log_sizes.function FROM log_sizes JOIN {_HOLDERS} ON holders.id = log_sizes.function
    WHERE account = ? AND bytes > 0"""  # noqa: S608 - likewise


@contextmanager
def _unique(message: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.IntegrityError as error:
        if error.sqlite_errorname == "SQLITE_CONSTRAINT_UNIQUE":
            raise PyfaasError(Code.CONFLICT, message) from error
        raise


def _many(sql: str, values: Sequence[tuple[Any, ...]]) -> Callable[[sqlite3.Connection], int]:
    return lambda connection: connection.executemany(sql, values).rowcount


def _drop_oldest(connection: sqlite3.Connection, account: AccountId) -> int:
    """Delete an account's oldest lines; each function's are in order already, by its index."""
    functions = connection.execute(_LOGS_OF, (account,)).fetchall()
    found = [connection.execute("SELECT cursor FROM logs WHERE function = ? ORDER BY cursor", (f[0],)) for f in functions]
    cursors = [row[0] for row in islice(heapq.merge(*found, key=itemgetter(0)), BATCH)]  # read no further than that
    for read in found:
        read.close()
    return _drop_lines(connection, "SELECT value FROM json_each(?)", json.dumps(cursors))


def _add_lines(connection: sqlite3.Connection, lines: Sequence[tuple[Any, ...]]) -> None:
    builds = [line for line in lines if line[_STREAM] == BUILD]
    runs = [line for line in lines if line[_STREAM] != BUILD]
    connection.executemany(_ADD_LOG.format("build_logs"), builds)
    connection.executemany(_ADD_LOG.format("logs"), runs)
    sizes: Counter[str] = Counter()
    for line in runs:
        sizes[line[_FUNCTION]] += len(line[_LINE].encode()) + _LINE_BYTES
    connection.executemany(_GROW, sizes.items())


def _drop_lines(connection: sqlite3.Connection, which: str, value: Any) -> int:
    """Delete the lines whose cursors the query `which` gives; returns how many."""
    gone = connection.execute(_DROP_LINES.format(which), (value,)).fetchall()
    sizes: Counter[str] = Counter()
    for function, size in gone:
        sizes[function] -= size + _LINE_BYTES
    connection.executemany(_GROW, sizes.items())
    return len(gone)


def _load(connection: sqlite3.Connection) -> Snapshot:
    living = "function IN (SELECT id FROM functions WHERE removed IS NULL)"
    versions = (
        f"SELECT * FROM versions JOIN revisions USING (function, code_id) WHERE {living} ORDER BY function, number"  # noqa: S608 - fixed
    )
    moves = f"SELECT * FROM pointer_moves WHERE removed = 0 AND {living} ORDER BY function, pointer, seq"  # noqa: S608 - fixed
    execute = connection.execute
    return Snapshot(
        accounts=[rows.account(r) for r in execute("SELECT * FROM accounts WHERE removed IS NULL ORDER BY id")],
        tokens=[rows.token(r) for r in execute("SELECT * FROM tokens WHERE revoked IS NULL ORDER BY id")],
        functions=[rows.function(r) for r in execute("SELECT * FROM functions WHERE removed IS NULL ORDER BY id")],
        versions=[rows.version(r) for r in execute(versions)],
        moves=[rows.move(r) for r in execute(moves)],
        canaries=[rows.canary(r) for r in execute(f"SELECT * FROM canaries WHERE {living} ORDER BY function, pointer")],  # noqa: S608 - fixed
    )


def _add_token(connection: sqlite3.Connection, token: Token) -> None:
    with _unique("the same token exists"):
        connection.execute("INSERT INTO tokens VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows.token_values(token))


def _put_function(connection: sqlite3.Connection, function: Function) -> None:
    known = connection.execute("SELECT removed FROM functions WHERE id = ?", (function.id,)).fetchone()
    settings = rows.to_json(function.settings)
    if known is None:
        with _unique(f"the name {function.name!r} is taken in this account"):
            connection.execute(
                "INSERT INTO callables VALUES (?, ?, 'function', ?)", (function.account, function.name, function.id)
            )
        connection.execute(
            "INSERT INTO functions (id, account, name, settings, created) VALUES (?, ?, ?, ?, ?)",
            (function.id, function.account, function.name, settings, function.created),
        )
    elif known["removed"] is not None:
        raise PyfaasError(Code.GONE, f"the function {function.name!r} was removed")
    else:
        connection.execute("UPDATE functions SET settings = ? WHERE id = ?", (settings, function.id))


def _add_version(connection: sqlite3.Connection, version: Version) -> None:
    connection.execute(
        "INSERT INTO revisions VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (version.function, version.code_id, version.bundle, version.size_bytes, rows.to_json(version.revision)),
    )
    connection.execute(
        """INSERT INTO versions (function, number, code_id, created, withdrawn, state, reason, handler, shape, generator,
            environment, deleted) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
        (version.function, version.number, version.code_id, version.created, version.withdrawn, *rows.version_state(version)),
    )


def _set_version(connection: sqlite3.Connection, version: Version) -> None:
    cursor = connection.execute(
        """UPDATE versions SET state = ?, reason = ?, handler = ?, shape = ?, generator = ?, environment = ?,
            deleted = deleted OR ? WHERE function = ? AND number = ?""",
        (*rows.version_state(version), version.function, version.number),
    )
    if not cursor.rowcount:
        raise not_found("version", str(version.number))


def _add_move(connection: sqlite3.Connection, move: PointerMove) -> None:
    weights, policy = rows.to_json(dict(move.weights)), rows.to_json(move.policy)
    with _unique(f"move {move.seq} of {move.pointer!r} exists"):
        connection.execute(
            "INSERT INTO pointer_moves (function, pointer, seq, version, at, weights, policy) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (move.function, move.pointer, move.seq, move.version, move.at, weights, policy),
        )


def _put_canary(connection: sqlite3.Connection, canary: Canary) -> None:
    places = ", ".join("?" * len(values := rows.canary_values(canary)))
    connection.execute(f"INSERT OR REPLACE INTO canaries VALUES ({places})", values)  # noqa: S608 - question marks only


def _log_values(line: LogLine) -> tuple[Any, ...]:
    return line.at, line.function, line.version, line.invocation, line.stream, _storable(line.line)


def _storable(line: str) -> str:
    return line.encode("utf-8", "replace").decode()  # a lone surrogate is no UTF-8, and a guest may print one


def _of_account(account: Account) -> tuple[str | None, str | None]:
    return rows.to_json(account.policy), rows.to_json(account.quota)
