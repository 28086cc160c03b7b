"""`ports.Apis` in SQLite: APIs, their versions and subscriptions.

A definition is one JSON document, the whole value; what changes of it has columns of its own beside. An API that was removed keeps its
rows, since the ids of its subscriptions are in the usage; what was stored with these is forgotten. A living subscription's name is among its
account's `callables`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import replace

import msgspec

from pyfaas.adapters.sqlite.connection import Database
from pyfaas.errors import not_found
from pyfaas.model import AccountId
from pyfaas.sharing import Api, ApiId, ApiVersion, Subscription, SubscriptionState

_LOAD_VERSIONS = """SELECT definition FROM api_versions JOIN apis ON apis.id = api_versions.api
    WHERE apis.removed IS NULL ORDER BY api_versions.created, api_versions.version"""
_PUT_SUBSCRIPTION = """INSERT INTO subscriptions (id, account, name, api, state, data, created, ended) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET state = excluded.state, data = excluded.data, ended = excluded.ended"""
_LIVING = (SubscriptionState.PENDING, SubscriptionState.ACTIVE)


class SqliteApis:
    """`ports.Apis` over a Database, which somebody else closes."""

    def __init__(self, database: Database) -> None:
        """Take a database from `schema.open_database`."""
        self._database = database

    async def load(self) -> tuple[Sequence[Api], Sequence[ApiVersion], Sequence[Subscription]]:
        """Read the APIs that are not removed with their versions, and all subscriptions, ended ones too."""

        def work(connection: sqlite3.Connection) -> tuple[list[Api], list[ApiVersion], list[Subscription]]:
            apis = [_api(row) for row in connection.execute("SELECT * FROM apis WHERE removed IS NULL ORDER BY created")]
            versions = [msgspec.json.decode(row[0], type=ApiVersion) for row in connection.execute(_LOAD_VERSIONS)]
            rows = connection.execute("SELECT data FROM subscriptions ORDER BY created, id")
            return apis, versions, [msgspec.json.decode(row[0], type=Subscription) for row in rows]

        return await self._database.read(work)

    async def publish(self, api: Api, version: ApiVersion) -> None:
        """Keep a version, and its API when that is new. Raises conflict when the owner has another API of this name, or the version is there."""

        def work(connection: sqlite3.Connection) -> None:
            values = api.id, api.owner, api.name, api.created
            connection.execute("INSERT INTO apis (id, owner, name, created) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO NOTHING", values)
            definition = _json(version)
            row = version.api, version.version, version.digest, definition, version.state, version.created, version.changed
            connection.execute("INSERT INTO api_versions (api, version, digest, definition, state, created, changed) VALUES (?, ?, ?, ?, ?, ?, ?)", row)

        await self._database.write(work)

    async def set_version(self, version: ApiVersion) -> None:
        """Keep a version's state, `sunset` and `changed`. Raises not_found."""

        def work(connection: sqlite3.Connection) -> None:
            values = _json(version), version.state, version.changed, version.api, version.version
            sql = "UPDATE api_versions SET definition = ?, state = ?, changed = ? WHERE api = ? AND version = ?"
            if not connection.execute(sql, values).rowcount:
                raise not_found("API version", version.version)

        await self._database.write(work)

    async def remove_api(self, api: ApiId, at: float) -> None:
        """Remove an API and end its subscriptions. Raises not_found."""

        def work(connection: sqlite3.Connection) -> None:
            if not connection.execute("UPDATE apis SET removed = ? WHERE id = ? AND removed IS NULL", (at, api)).rowcount:
                raise not_found("API", api)
            rows = connection.execute("SELECT data FROM subscriptions WHERE api = ? AND state IN (?, ?)", (api, *_LIVING)).fetchall()
            for row in rows:
                living = msgspec.json.decode(row[0], type=Subscription)
                _put(connection, replace(living, state=SubscriptionState.ENDED, ended=at, params={}, network=()))

        await self._database.write(work)

    async def put_subscription(self, subscription: Subscription) -> None:
        """Keep a subscription, new or changed. Raises conflict when the account has another living one for the API, or of its name."""
        await self._database.write(lambda connection: _put(connection, subscription))


def _put(connection: sqlite3.Connection, subscription: Subscription) -> None:
    s = subscription
    if s.state not in _LIVING:
        connection.execute("DELETE FROM callables WHERE kind = 'subscription' AND id = ?", (s.id,))
    elif not connection.execute("SELECT 1 FROM callables WHERE kind = 'subscription' AND id = ?", (s.id,)).fetchone():
        connection.execute("INSERT INTO callables VALUES (?, ?, 'subscription', ?)", (s.account, s.name, s.id))
    connection.execute(_PUT_SUBSCRIPTION, (s.id, s.account, s.name, s.api, s.state, _json(s), s.created, s.ended))


def _api(row: sqlite3.Row) -> Api:
    return Api(id=ApiId(row["id"]), owner=AccountId(row["owner"]), name=row["name"], created=row["created"])


def _json(value: ApiVersion | Subscription) -> str:
    return msgspec.json.encode(value).decode()
