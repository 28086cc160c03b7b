"""Three accounts, of which one publishes APIs that the others subscribe to, over a real store."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pyfaas.adapters.sqlite.apis import SqliteApis
from pyfaas.errors import Code, PyfaasError
from pyfaas.model import (
    AccountId,
    Caller,
    Function,
    FunctionId,
    PointerMove,
    Revision,
    Scope,
    Settings,
    Token,
    Version,
    VersionState,
)
from pyfaas.service.apis import Apis
from pyfaas.service.operations import Operations
from pyfaas.service.registry import Registry
from pyfaas.service.shares import Lent, Shares
from pyfaas.service.subscriptions import Subscriptions
from pyfaas.sharing import AuditLine, Subscription

NORTH, SOUTH, EAST = (AccountId(f"00000000000{n}") for n in (1, 2, 3))
NAMES = {NORTH: "north", SOUTH: "south", EAST: "east"}
INPUT = {
    "type": "object",
    "properties": {"id": {"type": "integer", "minimum": 1}, "text": {"type": "string", "pattern": "^[a-z ]+$"}, "tags": {"$ref": "#/$defs/tags"}},
    "required": ["id", "text"],
    "additionalProperties": False,
    "$defs": {"tags": {"type": "array", "items": {"type": "string"}}},
}


class Clock:
    """Time as the test says."""

    at = 1000.0

    def now(self) -> float:
        """A little later each time."""
        self.at += 1.0
        return self.at

    def monotonic(self) -> float:
        """The same."""
        return self.now()


class Secrets:
    """Secrets by owner."""

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, str]] = {}

    def check(self, values: Mapping[str, str]) -> None:
        """Refuse one that is too long."""
        if any(len(value) > 100 for value in values.values()):
            raise PyfaasError(Code.PAYLOAD_TOO_LARGE, "a secret is too large")

    def names(self, owner: str) -> list[str]:
        """Return the keys."""
        return sorted(self.kept.get(owner, {}))

    async def set_all(self, owner: str, values: Mapping[str, str]) -> None:
        """Keep."""
        self.kept[owner] = dict(values)

    async def forget(self, owner: str) -> None:
        """Forget."""
        self.kept.pop(owner, None)


class Audit:
    """What was told."""

    def __init__(self) -> None:
        self.lines: list[AuditLine] = []
        self.counted: list[tuple[AccountId, AccountId | None, str, str]] = []

    def refused(self, account: AccountId, other: AccountId | None, name: str, code: str) -> None:
        """Count."""
        self.counted.append((account, other, name, code))

    async def tell(self, lines: Iterable[AuditLine]) -> None:
        """Keep."""
        self.lines += lines

    def told(self, account: AccountId) -> list[tuple[str, str | None, str]]:
        """Return an account's side."""
        return [(line.kind.value, line.other, line.name) for line in self.lines if line.account == account]


class Bench:
    """Three accounts, of which north has functions, and what they do with APIs."""

    def __init__(self, store: SqliteApis, registry: Registry) -> None:
        self.store, self.registry = store, registry
        self.shares, self.clock, self.secrets, self.audit = Shares(Lent()), Clock(), Secrets(), Audit()
        self.ended: list[tuple[str, str, bool]] = []
        self.apis = Apis(registry, self.shares, store, self.clock, self.secrets, self.revoked, self.audit)
        self.subscriptions = Subscriptions(registry, self.shares, store, self.clock, self.apis)
        self.operations = Operations(self.shares, self.apis)

    async def revoked(self, subscription: Subscription, stop: bool) -> None:  # noqa: FBT001 - the hook's form
        """Note what ended; memory and disk know it by then."""
        assert self.shares.subscriptions[subscription.id].ended is not None
        self.ended.append((subscription.account, subscription.name, stop))

    def who(self, account: AccountId, *scopes: Scope) -> Caller:
        """Return an account's caller."""
        given = frozenset(scopes or (Scope.READ, Scope.INVOKE, Scope.DEPLOY))
        return Caller(account=self.registry.accounts[account], token=Token(id="t", account=account, digest=b"", scopes=given, created=0.0))

    def function(self, owner: AccountId, name: str, versions: int = 1) -> FunctionId:
        """Make a function known."""
        key = FunctionId(f"{owner}-{name}")
        entry = self.registry.put_function(Function(id=key, account=owner, name=name, settings=Settings(), created=0.0))
        for number in range(1, versions + 1):
            entry.put(
                Version(
                    function=key, number=number, code_id=f"sha256-{number:064x}", bundle="b", size_bytes=1, revision=Revision(), state=VersionState.READY, created=0.0
                )
            )
        entry.move(PointerMove(function=key, pointer="latest", seq=1, version=versions, at=0.0))
        return key

    async def publish(self, version: str = "1", api: str = "text", **more: Any) -> tuple[int, dict[str, Any]]:
        """Publish as north."""
        return await self.apis.publish(self.who(NORTH), api, {**definition(version), **more})

    async def subscribe(self, account: AccountId = SOUTH, name: str = "mine", **more: Any) -> tuple[int, dict[str, Any]]:
        """Subscribe to north/text."""
        return await self.subscriptions.put(self.who(account), name, {"api": "north/text", **more})

    def call(self, path: str, method: str = "POST", body: Any = None, *, account: AccountId = SOUTH, version: str = "1", **more: Any) -> Any:
        """Prepare a call of north/text."""
        sent = {"query": [], "is_json": True, "body": b"" if body is None else json.dumps(body).encode(), **more}
        return self.operations.prepare(self.who(account), ("north", "text", version), method, path, **sent)


def definition(version: str = "1") -> dict[str, Any]:
    """Return a definition with two operations."""
    return {
        "version": version,
        "operations": [
            {"name": "summarise", "method": "POST", "path": "/summaries/{id}", "function": "summarise:1", "input": INPUT},
            {"name": "list", "method": "GET", "path": "/summaries", "function": "list"},
        ],
    }
