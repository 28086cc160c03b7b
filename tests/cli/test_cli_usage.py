"""The table of `pyfaas usage`: what both sides of a run read."""

from __future__ import annotations

from typing import Any

from pyfaas.cli.usage import table

_OWN = {
    "day": "2026-01-02", "kind": "call", "account": "1", "caller": "1", "owner": "1", "account_name": "ada", "caller_name": "ada",
    "owner_name": "ada", "function": "resize", "alias": None, "api": None, "operation": None, "removed": False, "calls": 2,
    "outcomes": {"ok": 1, "error": 1}, "wall_ms": 1500.0, "cpu_ms": 20.0, "gib_ms": 500.0, "bytes_in": 2048, "bytes_out": 3,
}


def cells(row: dict[str, Any], *others: dict[str, Any], by: str | None = None) -> list[dict[str, str]]:
    """Return the lines as heads with their cells."""
    heads, lines = table([row, *others], by)
    return [dict(zip(heads, line, strict=True)) for line in lines]


def test_what_is_the_same_everywhere_is_left_out() -> None:
    """Somebody who neither lends nor borrows sees no columns about that."""
    line, total = cells(_OWN)
    assert line == {
        "day": "2026-01-02", "kind": "call", "function": "resize", "calls": "2", "outcomes": "1 ok, 1 error", "wall": "1.5s", "cpu": "20ms",
        "GiB·s": "0.500", "in": "2.0K", "out": "3",
    }
    assert (total["day"], total["calls"], total["outcomes"]) == ("total", "2", "1 ok, 1 error")


def test_an_owner_sees_who_called_and_dashes() -> None:
    """What the server does not tell is a dash, and counts for nothing in the sum."""
    hidden = dict.fromkeys(("cpu_ms", "gib_ms", "bytes_in", "bytes_out", "net_in", "net_out", "connections"))
    lent = {**_OWN, "account": "2", "caller": "2", "account_name": "bob", "caller_name": "bob", **hidden}
    own, theirs, total = cells(_OWN, lent)
    assert (own["caller"], theirs["caller"], theirs["account"], theirs["function"]) == ("ada", "bob", "bob", "resize")
    assert [theirs[head] for head in ("wall", "cpu", "GiB·s", "in", "out")] == ["1.5s", "-", "-", "-", "-"]
    assert (total["calls"], total["cpu"]) == ("4", "20ms")


def test_a_caller_sees_its_own_names_and_that_they_are_gone() -> None:
    """A removed alias is told to be removed, not the function that it was for; an operation has no function."""
    lent = {**_OWN, "owner": "2", "owner_name": "olga", "alias": "small", "removed": True}
    api = {**_OWN, "owner": "2", "owner_name": "olga", "function": None, "alias": "texts", "api": "olga/texts", "operation": "cut"}
    first, second, _ = cells(lent, api)
    assert (first["alias"], first["function"]) == ("small (removed)", "resize")
    assert (second["alias"], second["api"], second["operation"], second["function"]) == ("texts", "olga/texts", "cut", "-")


def test_network_has_columns_once_there_is_any() -> None:
    """Bytes in and out of the network are beside those of events and results."""
    line, total = cells({**_OWN, "net_in": 1024, "net_out": 5, "connections": 1})
    assert (line["net in"], line["net out"], total["net in"]) == ("1.0K", "5", "1.0K")


def test_by_one_thing() -> None:
    """A row for each: what else it was is not told, and how preparations ended is not how runs did."""
    rows = [{**_OWN, "day": None, "kind": None, "caller": "2", "caller_name": "bob", "function": None}]
    line, _ = cells(*rows, by="caller")
    assert (next(iter(line)), line["caller"]) == ("caller", "bob")
    _, total = table([_OWN, {**_OWN, "kind": "build", "calls": 0, "outcomes": {"ok": 9}}], None)
    assert "1 ok, 1 error" in total[-1]
