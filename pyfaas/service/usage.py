"""What was used, as each side of a run may see it.

Whoever pays or called sees everything about the run but whose code it is inside: of an account alias the name that it was made for, of
an API the operation. Whoever owns the function and neither pays nor called sees how often it ran for which account, how it ended and for how
long, and neither by which name nor what went in and out. An operator sees all. Rows that look alike to somebody are one row to them: how many
aliases a caller has is the caller's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from pyfaas.model import AccountId

BY = ("function", "alias", "api", "caller")
_DAY_S = 86_400
_KEYS = ("day", "kind", "account", "caller", "owner", "function", "removed", "alias", "api", "operation")
_NAMES = ("account_name", "caller_name", "owner_name")
_HIDDEN = ("cpu_ms", "gib_ms", "peak_bytes", "bytes_in", "bytes_out", "net_in", "net_out", "connections")  # from an owner who does not pay
_SUMS = ("calls", "wall_ms", *(name for name in _HIDDEN if name != "peak_bytes"))
Row = Mapping[str, Any]


def report(rows: Iterable[Row], account: AccountId | None, since: float, until: float, by: str | None = None) -> list[dict[str, Any]]:
    """Show sums of the store to an account, or to an operator (None): by day and everything, or all days together by one of `BY`.

    `rows` are as `ports.Store.usage` returns them. Times are seconds since the epoch.
    """
    sums: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        shown = _seen_by(row, account)
        if shown is None or (by is not None and shown[by] is None):
            continue
        if by is not None:
            kept = {"account", "account_name", "owner", "owner_name", by, f"{by}_name"} | ({"removed"} if by in ("function", "alias") else set())
            if shown["kind"] != "call":
                shown["outcomes"] = {}  # how steps of preparations ended is not how runs did
            shown |= {name: None for name in (*_KEYS, *_NAMES) if name not in kept} | ({} if "removed" in kept else {"removed": False})
        key = tuple(shown[name] for name in _KEYS)
        found = sums.get(key)
        if found is None:
            sums[key] = {**shown, "outcomes": dict(shown["outcomes"]), **_times(shown["day"], since, until)}
        else:
            _add(found, shown)
    return list(sums.values())


def _seen_by(row: Row, account: AccountId | None) -> dict[str, Any] | None:
    """Return a row as an account may see it; None for what is none of its business."""
    is_lent = row["caller"] != row["owner"]
    shown = {name: row[name] for name in ("day", "kind", "account", "caller", "owner", "calls", "outcomes", "wall_ms", *_HIDDEN, *_NAMES)}
    shown |= {"function": row["name"] or row["function"], "removed": row["removed"], "operation": row["operation"] or None}
    shown |= {"alias": row["way_name"], "api": _api(row)}
    if account is None or not is_lent:
        return shown
    if account == row["caller"]:
        return shown | _outside(row)
    if account not in (row["owner"], row["account"]) or (row["kind"] != "call" and account != row["account"]):
        return None
    shown["alias"] = None
    if account != row["owner"]:  # who lent it on, and pays: what it leads to is somebody else's
        shown |= {"function": None, "removed": False}
    if row["api_owner"] != account:
        shown |= {"api": None, "operation": None}
    return shown if account == row["account"] else shown | dict.fromkeys(_HIDDEN)


def _outside(row: Row) -> dict[str, Any]:
    """Return what a caller sees of a lent function: what it was lent, by whom, and whether its own name for it is gone."""
    if not row["way"]:
        return {}
    lender, name = (row["api_owner"], row["api_owner_name"]) if row["api"] is not None else (row["lender"], row["lender_name"])
    shown = {"function": row["target_name"], "removed": row["way_removed"], "owner": lender, "owner_name": name}
    return shown if row["account"] != row["owner"] else shown | {"account": lender, "account_name": name}


def _api(row: Row) -> str | None:
    return f"{row['api_owner_name']}/{row['api']}" if row["api"] is not None else None


def _times(day: str | None, since: float, until: float) -> dict[str, float]:
    """Return from when to when a row speaks: of the day, or the part of it that was asked for."""
    if day is None:
        return {"from": since, "to": until}
    begins = datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()
    return {"from": max(since, begins), "to": min(until, begins + _DAY_S)}


def _add(total: dict[str, Any], row: Row) -> None:
    for name in _SUMS:
        if row[name] is not None:
            total[name] = (total[name] or 0) + row[name]
    if row["peak_bytes"] is not None:
        total["peak_bytes"] = max(total["peak_bytes"] or 0, row["peak_bytes"])
    for outcome, count in row["outcomes"].items():
        total["outcomes"][outcome] = total["outcomes"].get(outcome, 0) + count
