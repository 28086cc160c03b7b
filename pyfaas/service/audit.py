"""The audit trail: what was lent, taken and called, told to each side in its own words.

What somebody decided (granted, accepted, revoked …) is written at once. What ran or was refused is counted, in one step of a dictionary
a call, and written by the minute, or when somebody looks. A side never has the other's: the owner hears of its function and an account, not of
that account's names; an account hears of its alias and of who lent it, not of whom that one has it from.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pyfaas.errors import PyfaasError
from pyfaas.model import AccountId
from pyfaas.ports import Clock
from pyfaas.ports import Sharing as Store
from pyfaas.service.shares import Shares
from pyfaas.service.ways import Way
from pyfaas.sharing import MAX_HOPS, AccountAlias, AuditKind, AuditLine, CallableId

log = logging.getLogger(__name__)
_MAX_COUNTED = 20_000  # sums of one minute
_MAX_LINES = 20_000  # that wait while the store takes none
_BATCH = 500
_MINUTE_S = 60


@dataclass(frozen=True, slots=True)
class Side:
    """Whose trail a line belongs to, whom it tells of, and the name by which that account knows what was called."""

    account: AccountId
    other: AccountId | None
    name: str


@dataclass(slots=True)
class _Sum:
    sides: tuple[Side, ...]
    counts: dict[str, int] = field(default_factory=dict)  # by outcome, or code


class Audit:
    """Collects the lines of both sides; `flush` writes them. `lost` counts calls and lines that nobody will be told of."""

    def __init__(self, store: Store, shares: Shares, clock: Clock) -> None:
        """Write to `store`."""
        self._store, self._shares, self._clock = store, shares, clock
        self._called: dict[Any, _Sum] = {}  # by way
        self._turned: dict[Any, _Sum] = {}  # by way, or by side: what was refused
        self._minute = clock.now() // _MINUTE_S
        self._lines: deque[AuditLine] = deque()
        self._flushing = asyncio.Lock()
        self._is_failing = False
        self.lost = 0

    def count(self, way: Way, kind: AuditKind, outcome: str) -> None:
        """Count a call by a way: `called` with its outcome, or `refused` with its code."""
        sums = self._called if kind is AuditKind.CALLED else self._turned
        found = sums.get(way) or self._room(sums, way, lambda: sides(self._shares, way))
        if found is not None:
            found.counts[outcome] = found.counts.get(outcome, 0) + 1

    def refused(self, account: AccountId, other: AccountId | None, name: str, code: str) -> None:
        """Count a call that was refused before it had a way, on one account's side; `name` is what that account calls it."""
        side = Side(account, other, name)
        found = self._turned.get(side) or self._room(self._turned, side, lambda: (side,))
        if found is not None:
            found.counts[code] = found.counts.get(code, 0) + 1

    def turned_away(self, account: AccountId, name: str, code: str) -> None:
        """Count a call of an account alias that was refused before anything ran, on both sides; any other name is nobody's business."""
        alias = self._shares.alias_names.get((account, name))
        if alias is None:
            return
        is_own = alias.owner == account
        self.refused(account, None if is_own else alias.owner, name, code)
        if not is_own:
            self.refused(alias.owner, account, alias.target_name, code)

    def _room(self, sums: dict[Any, _Sum], key: Way | Side, make: Callable[[], tuple[Side, ...]]) -> _Sum | None:
        """Make room for what was not counted in this minute; None, and a count of what is lost, when there is none."""
        if len(sums) >= _MAX_COUNTED:
            self.lost += 1
            return None
        found = sums[key] = _Sum(make())
        return found

    async def tell(self, lines: Iterable[AuditLine]) -> None:
        """Write lines at once; while the store cannot take them they wait, and nothing that was decided is undone."""
        self._keep(lines)
        await self._write()

    async def flush(self, *, is_whole: bool = False) -> None:
        """Write the counts of the minute that has passed; `is_whole` of the one that goes on as well."""
        now = self._clock.now()
        if is_whole or now // _MINUTE_S != self._minute:
            self._minute = now // _MINUTE_S
            called, self._called, turned, self._turned = self._called, {}, self._turned, {}
            self._keep((*_summed(AuditKind.CALLED, called, now), *_summed(AuditKind.REFUSED, turned, now)))
        if self._lines:
            await self._write()

    async def view(self, account: AccountId, after: int, limit: int) -> list[tuple[int, AuditLine]]:
        """Return (cursor, line) of an account's side after a cursor, up to now."""
        await self.flush(is_whole=True)
        return list(await self._store.audit(account, after, limit))

    def _keep(self, lines: Iterable[AuditLine]) -> None:
        self._lines.extend(lines)
        while len(self._lines) > _MAX_LINES:
            self._lines.popleft()
            self.lost += 1

    async def _write(self) -> None:
        async with self._flushing:
            while self._lines:
                batch = [self._lines.popleft() for _ in range(min(_BATCH, len(self._lines)))]
                try:
                    await self._store.add_audit(batch)
                except PyfaasError as error:
                    self._lines.extendleft(reversed(batch))
                    if not self._is_failing:
                        log.warning("audit_waits", extra={"code": error.code.value, "lines": len(self._lines)})
                    self._is_failing = True
                    return
            self._is_failing = False


def _summed(kind: AuditKind, sums: Mapping[Any, _Sum], now: float) -> list[AuditLine]:
    """Return one line for each side: ways that are resolved anew lead to the same sides."""
    totals: dict[Side, dict[str, int]] = {}
    for found in sums.values():
        for side in found.sides:
            total = totals.setdefault(side, {})
            for outcome, count in found.counts.items():
                total[outcome] = total.get(outcome, 0) + count
    return [_line(side, kind, now, {"count": sum(counts.values()), "outcomes": counts}) for side, counts in totals.items()]


def sides(shares: Shares, way: Way) -> tuple[Side, ...]:
    """Return who is told of a call: its caller, and whoever lent what it came through."""
    if way.api:
        operation = f"/{way.operation}"
        owner, _, api = way.api.partition("/")
        told = Side(way.owner, way.caller, api + operation), Side(way.caller, way.owner, way.name + operation)
        return told if owner and way.owner != way.caller else told[:1]
    hops = list(_hops(shares, way.id))
    lent = [(hop.account, grant) for hop in hops if hop.grant is not None and (grant := shares.grants.get(hop.grant)) is not None]
    owners = tuple(Side(grant.owner, account, grant.name) for account, grant in lent)
    lender = hops[0].owner if hops else way.owner
    return (*owners, Side(way.caller, lender if lender != way.caller else None, way.name))


def _hops(shares: Shares, alias: CallableId) -> Iterable[AccountAlias]:
    for _ in range(MAX_HOPS):
        hop = shares.aliases.get(alias)
        if hop is None:
            return
        yield hop
        alias = hop.target


def pair(at: float, kind: AuditKind, owner: Side, other: Side | None = None, detail: Mapping[str, Any] | None = None) -> list[AuditLine]:
    """Make the lines of something that was decided: the owner's side, and the other's where there is one; `detail` is for both."""
    return [_line(side, kind, at, detail or {}) for side in (owner, other) if side is not None]


def _line(side: Side, kind: AuditKind, at: float, detail: Mapping[str, Any]) -> AuditLine:
    return AuditLine(at=at, account=side.account, kind=kind, other=side.other, name=side.name, detail=detail)
