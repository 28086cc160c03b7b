"""What each side of a run may see of its usage."""

from __future__ import annotations

from typing import Any

import pytest

from pyfaas.model import AccountId
from pyfaas.service.usage import BY, report

OWNER, CALLER, STRANGER = (AccountId(f"00000000000{n}") for n in (1, 2, 3))
CANARIES = ("her-name", "way-id", "7777", "8888")
_FIGURES = {"wall_ms": 5.0, "cpu_ms": 7777.0, "gib_ms": 7777.0, "peak_bytes": 7777, "bytes_in": 8888, "bytes_out": 8888}


def row(**more: Any) -> dict[str, Any]:
    """Make a sum as the store gives it: of a run of OWNER's function by CALLER's alias."""
    return {
        "day": "2026-01-02", "kind": "call", "account": CALLER, "caller": CALLER, "owner": OWNER, "function": "f-id", "name": "resize",
        "way": "way-id", "operation": "", "way_name": "her-name", "way_removed": False, "removed": False, "target_name": "resize",
        "account_name": "carla", "caller_name": "carla", "owner_name": "olga", "lender": OWNER, "lender_name": "olga",
        "api": None, "api_owner": None, "api_owner_name": None, "calls": 1, "outcomes": {"ok": 1}, **_FIGURES,
        "net_in": 8888, "net_out": 8888, "connections": 8888,
        **more,
    }


def of_api(**more: Any) -> dict[str, Any]:
    """Make a sum of a run through a subscription."""
    return row(**{"target_name": None, "lender": None, "lender_name": None, "api": "texts", "api_owner": OWNER, "api_owner_name": "olga", "operation": "cut", **more})


def shown(*rows: dict[str, Any], to: AccountId | None, by: str | None = None) -> list[dict[str, Any]]:
    """Report rows."""
    return report(rows, to, 0.0, 2e9, by)


def test_a_caller_sees_its_run_whole() -> None:
    """By its own name for it, and by the name that it was lent under."""
    (seen,) = shown(row(), to=CALLER)
    assert (seen["alias"], seen["function"], seen["owner"], seen["owner_name"]) == ("her-name", "resize", OWNER, "olga")
    assert (seen["cpu_ms"], seen["bytes_in"], seen["from"], seen["to"]) == (7777.0, 8888, 1767312000.0, 1767398400.0)


def test_an_owner_sees_how_often_and_for_whom() -> None:
    """Who called, how it ended and how long it took; nothing by which name, how much went in and out, or what another pays for."""
    (seen,) = shown(row(), to=OWNER)
    assert (seen["caller"], seen["caller_name"], seen["function"], seen["calls"], seen["wall_ms"]) == (CALLER, "carla", "resize", 1, 5.0)
    assert not [canary for canary in CANARIES if canary in repr(seen)]


def test_an_owner_cannot_count_aliases() -> None:
    """Runs by two aliases of a caller are one row."""
    (seen,) = shown(row(), row(way="other-id", way_name="another", outcomes={"ok": 2, "error": 1}, calls=3), to=OWNER)
    assert (seen["calls"], seen["outcomes"]) == (4, {"ok": 3, "error": 1})


@pytest.mark.parametrize("kind", ["init", "idle", "build"])
def test_what_a_caller_pays_beside_its_runs_is_not_the_owners_business(kind: str) -> None:
    """An owner sees runs; imports and the like only where it pays."""
    assert shown(row(kind=kind, calls=0), to=OWNER) == []
    assert len(shown(row(kind=kind, calls=0, account=OWNER), to=OWNER)) == 1


def test_an_owner_who_pays_sees_what() -> None:
    """Still not by which name it was called."""
    (seen,) = shown(row(account=OWNER, account_name="olga"), to=OWNER)
    assert (seen["cpu_ms"], seen["alias"]) == (7777.0, None)


def test_an_api_hides_its_functions() -> None:
    """A subscriber sees operations, and whose API it is; the owner its functions too."""
    (seen,) = shown(of_api(), to=CALLER)
    assert (seen["function"], seen["api"], seen["operation"], seen["alias"], seen["owner"]) == (None, "olga/texts", "cut", "her-name", OWNER)
    (mine,) = shown(of_api(), to=OWNER)
    assert (mine["function"], mine["api"], mine["operation"], mine["alias"]) == ("resize", "olga/texts", "cut", None)


def test_a_chain_hides_where_it_leads() -> None:
    """Whoever was lent an alias sees the lender and its name for it, whoever pays, and not the owner behind."""
    (seen,) = shown(row(lender=STRANGER, lender_name="stan", target_name="small", account=OWNER, account_name="olga"), to=CALLER)
    assert (seen["owner"], seen["owner_name"], seen["function"], seen["account"]) == (STRANGER, "stan", "small", STRANGER)
    assert "olga" not in repr(seen)
    assert OWNER not in repr(seen)


def test_an_operator_sees_all() -> None:
    """Both names and every figure."""
    (seen,) = shown(row(), to=None)
    assert (seen["alias"], seen["function"], seen["cpu_ms"]) == ("her-name", "resize", 7777.0)


def test_what_is_gone_is_told() -> None:
    """A removed alias has its name still; of an own function the removal of the function counts."""
    assert shown(row(way_removed=True), to=CALLER)[0]["removed"]
    assert not shown(row(removed=True), to=CALLER)[0]["removed"]
    own = row(owner=CALLER, way="", way_name=None, target_name=None, removed=True, name="gone")
    assert (shown(own, to=CALLER)[0]["function"], shown(own, to=CALLER)[0]["removed"]) == ("gone", True)


@pytest.mark.parametrize(("by", "values"), [("function", ["resize"]), ("alias", ["her-name"]), ("api", ["olga/texts"]), ("caller", [CALLER])])
def test_by_one_thing_all_days_are_together(by: str, values: list[str]) -> None:
    """One row for each, kinds and days added up, without what has no such thing; the highest memory is kept."""
    rows = [row(), row(day="2026-01-03", peak_bytes=9999), row(kind="build", calls=0, outcomes={"ok": 9}), of_api(), row(way="", way_name=None, target_name=None, api=None)]
    seen = shown(*rows, to=CALLER, by=by)
    assert sorted({each[by] for each in seen}) == values
    assert all(each["day"] is None and each["kind"] is None and (each["from"], each["to"]) == (0.0, 2e9) for each in seen)
    assert by in BY
    if by == "caller":
        assert max(each["peak_bytes"] for each in seen) == 9999
        assert sum(each["calls"] for each in seen) == sum(each["outcomes"]["ok"] for each in seen) == 4
