"""What was used, in SQLite: sums by minute, and after a while by the hour.

A row a call would be hundreds of millions a day on a busy server, and nobody asks for less than a minute, so rows are summed on the way in;
`since` and `until` are therefore taken to the minute. Names are looked up when somebody asks, among what was removed too.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

from pyfaas.adapters.sqlite.connection import Database
from pyfaas.model import AccountId, FunctionId, UsageRow
from pyfaas.ports import CallSum
from pyfaas.sharing import CallableId

GIB = 1 << 30
DAY_MINUTES = 24 * 60
_KEYS = ("kind", "account", "caller", "owner", "function", "way", "operation")  # of a sum, beside its day
_NAMES = ("name", "account_name", "caller_name", "owner_name", "way_name", "target_name", "api", "api_owner", "api_owner_name", "lender", "lender_name")
_SUMS = ("gib_ms", "bytes_in", "bytes_out", "net_in", "net_out", "connections")


class SqliteUsage:
    """The part of `ports.Store` that is about usage, over a Database that somebody else closes."""

    def __init__(self, database: Database) -> None:
        """Take a database from `schema.open_database`."""
        self._database = database

    async def add(self, rows: Sequence[UsageRow]) -> None:
        """Add to the sums, all or none; not durable against a power cut. A batch at most, lest others wait."""
        await self._database.append(lambda connection: add_rows(connection, rows))

    async def sums(self, account: AccountId | None, since: float, until: float) -> Sequence[Mapping[str, Any]]:
        """Sum as `ports.Store.usage` says."""
        return await self._database.read(lambda connection: _sums(connection, account, since, until))

    async def calls_since(self, minute: int) -> Sequence[CallSum]:
        """Count runs and bytes over the network since a minute (of the epoch), by who pays, calls and owns, function and way."""

        def work(connection: sqlite3.Connection) -> Sequence[CallSum]:
            return [
                CallSum(
                    account=AccountId(row["account"]),
                    caller=AccountId(row["caller"]),
                    owner=AccountId(row["owner"]),
                    function=FunctionId(row["function"]),
                    way=CallableId(row["way"]),
                    calls=row["calls"],
                    net_bytes=row["net_bytes"],
                )
                for row in connection.execute(_CALLS_SINCE, (minute,))
            ]

        return await self._database.read(work)

    async def trim(self, before: float) -> int:
        """Delete what one account used before a time; returns how many rows went, 0 when nothing is left to do."""
        minute = int(before // 60)
        found = await self._database.read(lambda connection: connection.execute(_PAST, (minute,)).fetchone())
        if found is None:
            return 0
        return await self._database.append(lambda connection: connection.execute(_DROP_PAST, (found["account"], minute)).rowcount)

    async def fold(self, before: float) -> int:
        """Sum an account's older minutes to hours, a day's at most; the sums stay exact. Returns how many rows went."""
        minute = int(before // 3600) * 60  # whole hours only
        found = await self._database.read(lambda connection: connection.execute(_UNFOLDED, (minute,)).fetchone())
        if found is None:
            return 0
        span = (found["account"], found["minute"], min(minute, found["minute"] + DAY_MINUTES))

        def work(connection: sqlite3.Connection) -> int:
            sums = connection.execute(_HOURS, span).fetchall()
            gone = connection.execute(_DROP_MINUTES, span).rowcount
            connection.executemany(_ADD, [tuple(row) for row in sums])
            return gone

        return await self._database.append(work)


def add_rows(connection: sqlite3.Connection, rows: Sequence[UsageRow]) -> int:
    """Add to the sums within the caller's transaction; returns how many were written."""
    return connection.executemany(_ADD, [_values(row) for row in rows]).rowcount


_ADD = """
    INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET rows = rows + excluded.rows, wall_us = wall_us + excluded.wall_us, cpu_us = cpu_us + excluded.cpu_us,
        gib_ms = gib_ms + excluded.gib_ms, peak_bytes = max(peak_bytes, excluded.peak_bytes), bytes_in = bytes_in + excluded.bytes_in,
        bytes_out = bytes_out + excluded.bytes_out, net_in = net_in + excluded.net_in, net_out = net_out + excluded.net_out,
        connections = connections + excluded.connections
"""
_TIME = "minute >= :from AND minute * 60 < :until"
# An account's own, what it called and somebody else pays for, and what others ran of its code: each has an index.
_WHOSE = f"""
    SELECT * FROM usage WHERE account = :account AND {_TIME}
    UNION ALL SELECT * FROM usage WHERE caller = :account AND caller <> account AND {_TIME}
    UNION ALL SELECT * FROM usage WHERE owner = :account AND owner <> account AND caller <> :account AND {_TIME}
"""  # noqa: S608 - fixed words only
_EVERYBODYS = f"SELECT * FROM usage WHERE {_TIME}"  # noqa: S608 - likewise
_SUM = """
    SELECT used.*, functions.name AS name, functions.removed IS NOT NULL AS removed,
        payers.name AS account_name, callers.name AS caller_name, owners.name AS owner_name,
        coalesce(aliases.name, subscriptions.name) AS way_name,
        aliases.removed IS NOT NULL OR subscriptions.ended IS NOT NULL AS way_removed,
        json_extract(aliases.binding, '$.target_name') AS target_name, json_extract(aliases.binding, '$.owner') AS lender, lenders.name AS lender_name,
        apis.name AS api, apis.owner AS api_owner, publishers.name AS api_owner_name
    FROM (
        SELECT minute / 1440 AS day, kind, account, caller, owner, function, way, operation, outcome, sum(rows) AS rows,
            sum(wall_us) AS wall_us, sum(cpu_us) AS cpu_us, sum(gib_ms) AS gib_ms, max(peak_bytes) AS peak_bytes, sum(bytes_in) AS bytes_in,
            sum(bytes_out) AS bytes_out, sum(net_in) AS net_in, sum(net_out) AS net_out, sum(connections) AS connections
        FROM ({}) GROUP BY day, kind, account, caller, owner, function, way, operation, outcome
    ) AS used
    LEFT JOIN functions ON functions.id = used.function
    LEFT JOIN accounts AS payers ON payers.id = used.account
    LEFT JOIN accounts AS callers ON callers.id = used.caller
    LEFT JOIN accounts AS owners ON owners.id = used.owner
    LEFT JOIN account_aliases AS aliases ON aliases.id = used.way
    LEFT JOIN accounts AS lenders ON lenders.id = json_extract(aliases.binding, '$.owner')
    LEFT JOIN subscriptions ON subscriptions.id = used.way
    LEFT JOIN apis ON apis.id = subscriptions.api
    LEFT JOIN accounts AS publishers ON publishers.id = apis.owner
    ORDER BY day, used.account, used.caller, used.owner, function, way, operation, kind, outcome
"""
_CALLS_SINCE = """
    SELECT account, caller, owner, function, way, sum(iif(kind = 'call', rows, 0)) AS calls, sum(net_in + net_out) AS net_bytes
    FROM usage WHERE minute >= ? GROUP BY account, caller, owner, function, way
"""
_PAST = "SELECT account FROM usage WHERE minute < ? LIMIT 1"  # may read everything: by the lane that keeps nobody waiting
_DROP_PAST = "DELETE FROM usage WHERE account = ? AND minute < ?"
_KEY = "account, kind, caller, owner, function, way, operation, version, outcome"
_UNFOLDED = """SELECT account, min(minute) AS minute FROM usage WHERE minute % 60 <> 0 AND minute < ?
    GROUP BY account ORDER BY minute LIMIT 1"""
_MINUTES = "account = ? AND minute >= ? AND minute < ? AND minute % 60 <> 0"
_HOURS = f"""
    SELECT kind, minute / 60 * 60 AS hour, account, caller, owner, function, way, operation, version, outcome, sum(rows), sum(wall_us),
        sum(cpu_us), sum(gib_ms), max(peak_bytes), sum(bytes_in), sum(bytes_out), sum(net_in), sum(net_out), sum(connections)
    FROM usage WHERE {_MINUTES} GROUP BY hour, {_KEY}
"""  # noqa: S608 - fixed words only
_DROP_MINUTES = f"DELETE FROM usage WHERE {_MINUTES}"  # noqa: S608 - likewise


def _values(row: UsageRow) -> tuple[Any, ...]:
    gib_ms = row.memory_bytes / GIB * (row.wall_us / 1000)
    key = row.kind, int(row.at // 60), row.account, row.caller, row.owner, row.function, row.way, row.operation, row.version, row.outcome or ""
    network = row.net_in, row.net_out, row.connections
    return *key, row.count, row.wall_us, row.cpu_us, gib_ms, row.peak_bytes, row.bytes_in, row.bytes_out, *network


def _sums(connection: sqlite3.Connection, account: AccountId | None, since: float, until: float) -> list[Mapping[str, Any]]:
    sums: dict[tuple[Any, ...], dict[str, Any]] = {}
    values = {"account": account, "from": int(since // 60), "until": until}
    for row in connection.execute(_SUM.format(_EVERYBODYS if account is None else _WHOSE), values):
        total = sums.setdefault((row["day"], *(row[key] for key in _KEYS)), _empty(row))
        if row["kind"] == "call":
            total["calls"] += row["rows"]
        if row["outcome"]:
            total["outcomes"][row["outcome"]] = row["rows"]
        total["wall_ms"] += row["wall_us"] / 1000
        total["cpu_ms"] += row["cpu_us"] / 1000
        total["peak_bytes"] = max(total["peak_bytes"], row["peak_bytes"])
        for column in _SUMS:
            total[column] += row[column]
    return cast("list[Mapping[str, Any]]", list(sums.values()))


def _empty(row: sqlite3.Row) -> dict[str, Any]:
    day = datetime.fromtimestamp(row["day"] * DAY_MINUTES * 60, UTC).date().isoformat()
    keys = {name: row[name] for name in (*_KEYS, *_NAMES)} | {"removed": bool(row["removed"]), "way_removed": bool(row["way_removed"])}
    counts = {"calls": 0, "outcomes": {}, "wall_ms": 0.0, "cpu_ms": 0.0, "peak_bytes": 0, **dict.fromkeys(_SUMS, 0)}
    return {**keys, "day": day, **counts}
