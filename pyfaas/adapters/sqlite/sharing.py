"""`ports.Sharing` in SQLite: grants, account aliases and the audit trail.

What ended or was removed stays as a tombstone, so an id never comes to life again. An alias's name is among its account's `callables`,
where functions and subscriptions have theirs. `terms` and `binding` are JSON; what was kept by an earlier release may lack keys.
"""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from collections.abc import Collection, Sequence
from typing import Any

import msgspec

from pyfaas.adapters.sqlite.connection import Database, translate
from pyfaas.errors import Code, PyfaasError
from pyfaas.model import AccountId
from pyfaas.sharing import AccountAlias, AuditKind, AuditLine, CallableId, Grant, GrantId, Terms

_BATCH = 500  # lines in one transaction, so that a durable write waits for a few milliseconds at most
_BOUND = ("grant", "owner", "target", "target_name", "qualifier", "params", "memory_bytes", "timeout_ms", "network", "placement")
_PUT_GRANT = """INSERT INTO grants (id, owner, target, name, caller, terms, created) VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET terms = excluded.terms WHERE ended IS NULL"""
_PUT_ALIAS = """INSERT INTO account_aliases (id, account, name, binding, created) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET binding = excluded.binding WHERE removed IS NULL"""
_REMOVE_ALIAS = """UPDATE account_aliases SET removed = ?, binding = json_set(binding, '$.params', json('{}'))
    WHERE id = ? AND removed IS NULL"""
_ADD_LINE = "INSERT INTO audit (at, account, kind, other, name, detail) VALUES (?, ?, ?, ?, ?, ?)"
_LINES = "SELECT * FROM audit WHERE account = ? AND cursor > ? ORDER BY cursor LIMIT ?"


class SqliteSharing:
    """`ports.Sharing` over a Database, which somebody else closes."""

    def __init__(self, database: Database) -> None:
        """Take a database from `schema.open_database`."""
        self._database = database

    async def load(self) -> tuple[Sequence[Grant], Sequence[AccountAlias]]:
        """Return all grants, ended ones too, and the living aliases, in the order in which they were made."""

        def work(connection: sqlite3.Connection) -> tuple[list[Grant], list[AccountAlias]]:
            grants = [_grant(row) for row in connection.execute("SELECT * FROM grants ORDER BY rowid")]
            found = connection.execute("SELECT * FROM account_aliases WHERE removed IS NULL ORDER BY rowid")
            return grants, [_alias(row) for row in found]

        return await self._database.read(work)

    async def put_grant(self, grant: Grant) -> None:
        """Keep a grant, new or with other terms. Raises gone for one that ended, conflict for a second one that lives."""
        values = grant.id, grant.owner, grant.target, grant.name, grant.caller, _json(dataclasses.asdict(grant.terms)), grant.created

        def work(connection: sqlite3.Connection) -> None:
            if not connection.execute(_PUT_GRANT, values).rowcount:
                raise PyfaasError(Code.GONE, f"the grant of {grant.name!r} has ended")

        await self._database.write(work)

    async def put_alias(self, alias: AccountAlias, replaces: CallableId | None = None) -> None:
        """Keep an alias, new or with another binding, in one transaction with the end of the one that it replaces.

        Raises conflict for a taken name, gone for an alias that was removed.
        """
        bound = {name: getattr(alias, name) for name in _BOUND}

        def work(connection: sqlite3.Connection) -> None:
            if replaces is not None:
                _end(connection, (), (replaces,), alias.created)
            if connection.execute("SELECT 1 FROM account_aliases WHERE id = ?", (alias.id,)).fetchone() is None:
                _take_name(connection, alias)
            values = alias.id, alias.account, alias.name, _json(bound), alias.created
            if not connection.execute(_PUT_ALIAS, values).rowcount:
                raise PyfaasError(Code.GONE, f"the account alias {alias.name!r} was removed")

        await self._database.write(work)

    async def end(self, grants: Collection[GrantId], aliases: Collection[CallableId], at: float) -> None:
        """End grants and remove aliases, in one transaction; the first time counts.

        An ended grant's terms and a removed alias's parameters are forgotten, and its name is free.
        """
        await self._database.write(lambda connection: _end(connection, grants, aliases, at))

    async def add_audit(self, lines: Sequence[AuditLine]) -> None:
        """Append lines in order; not durable against a power cut."""
        for start in range(0, len(lines), _BATCH):
            batch = [(line.at, line.account, line.kind.value, line.other, line.name, _json(line.detail)) for line in lines[start : start + _BATCH]]
            await self._database.append(lambda connection, batch=batch: _add(connection, batch))  # type: ignore[misc]

    async def audit(self, account: AccountId, after: int, limit: int) -> Sequence[tuple[int, AuditLine]]:
        """Return (cursor, line) of an account's side, in order after a cursor."""

        def work(connection: sqlite3.Connection) -> list[tuple[int, AuditLine]]:
            return [(row["cursor"], _line(row)) for row in connection.execute(_LINES, (account, after, limit))]

        return await self._database.read(work)


def _json(value: Any) -> str:
    """Return JSON as text; numbers of any length stay what they are, which msgspec refuses."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _take_name(connection: sqlite3.Connection, alias: AccountAlias) -> None:
    try:
        connection.execute("INSERT INTO callables VALUES (?, ?, 'alias', ?)", (alias.account, alias.name, alias.id))
    except sqlite3.IntegrityError as error:
        if (told := translate(error)).code is not Code.CONFLICT:
            raise
        raise PyfaasError(Code.CONFLICT, f"the name {alias.name!r} is taken in this account", evidence=told.evidence) from error


def _end(connection: sqlite3.Connection, grants: Collection[GrantId], aliases: Collection[CallableId], at: float) -> None:
    connection.executemany("UPDATE grants SET ended = ?, terms = '{}' WHERE id = ? AND ended IS NULL", [(at, each) for each in grants])
    connection.executemany(_REMOVE_ALIAS, [(at, each) for each in aliases])
    connection.executemany("DELETE FROM callables WHERE kind = 'alias' AND id = ?", [(each,) for each in aliases])


def _add(connection: sqlite3.Connection, lines: Sequence[tuple[Any, ...]]) -> None:
    connection.executemany(_ADD_LINE, lines)


def _grant(row: sqlite3.Row) -> Grant:
    return Grant(
        id=GrantId(row["id"]),
        owner=AccountId(row["owner"]),
        target=CallableId(row["target"]),
        name=row["name"],
        caller=None if row["caller"] is None else AccountId(row["caller"]),
        terms=msgspec.convert(json.loads(row["terms"]), Terms),
        created=row["created"],
        ended=row["ended"],
    )


def _alias(row: sqlite3.Row) -> AccountAlias:
    known = {"id": row["id"], "account": row["account"], "name": row["name"], "created": row["created"]}
    return msgspec.convert(json.loads(row["binding"]) | known, AccountAlias)


def _line(row: sqlite3.Row) -> AuditLine:
    return AuditLine(
        at=row["at"],
        account=AccountId(row["account"]),
        kind=AuditKind(row["kind"]),
        other=None if row["other"] is None else AccountId(row["other"]),
        name=row["name"],
        detail=json.loads(row["detail"]),
    )
