"""The words for what the server tells: pure functions, for every kind of event."""

from __future__ import annotations

import pytest

from pyfaas.cli import sentences
from pyfaas.model import EventKind

CANARY = {
    "version": 4,
    "base": 3,
    "percent": 10,
    "step": 1,
    "steps": [10, 20, 40, 80, 100],
    "weight": 20,
    "since": 1000.0,
    "next_at": 1075.0,
    "runs": 120,
    "faults": 1,
    "error_budget": 1.0,
    "state": "running",
    "reason": "",
}


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0s"), (0.25, "0.2s"), (1, "1s"), (59.6, "1m0s"), (300, "5m0s"), (3_725, "1h2m"), (200_000, "2d7h")],
)
def test_durations(seconds: float, said: str) -> None:
    """A duration is written with its two largest units."""
    assert sentences.span(seconds) == said


@pytest.mark.parametrize("kind", list(EventKind))
def test_every_kind_of_event_has_a_sentence(kind: EventKind) -> None:
    """None is told by its bare name, and none needs more than what every event has."""
    bare = {"kind": kind.value, "version": 4}
    full = {**bare, "pointer": "live", "weights": {"5": 10}, "reason": "why", "message": "no", "target": "near-store", "vm": "2", "bytes": 9, "step": "lock"}
    for event in (bare, full):
        said = sentences.happened(event)
        assert "version 4" in said
        assert "_" not in said


def test_an_unknown_event_is_told_by_its_name() -> None:
    """What a newer server tells is shown, too."""
    assert sentences.happened({"kind": "moved_house", "version": 2}) == "version 2: moved_house"


def test_a_step_counts_bytes_of_what_is_fetched() -> None:
    """Bytes are sizes, other counts numbers, and none where nobody knows how much there is."""
    assert sentences.step({"kind": "preparing", "step": "fetch", "done": 1 << 20, "total": 4 << 20}) == "fetching the code, 1M of 4M"
    assert sentences.step({"kind": "preparing", "step": "compile", "done": 3, "total": 12}) == "compiling, 3 of 12"
    assert sentences.step({"kind": "preparing", "step": "probe", "done": 0, "total": 0}) == "importing the handler"
    assert sentences.step({"kind": "prepared"}) == ""


@pytest.mark.parametrize(
    ("alias", "said"),
    [
        ({"version": 4, "weights": {}, "canary": None}, "greet:live is version 4"),
        (
            {"version": 3, "weights": {"4": 20}, "canary": CANARY},
            "greet:live sends 20 % to version 4; all of it after 3m45s unless more than 1 % fail",
        ),
        ({"version": 3, "weights": {"4": 20}, "canary": None}, "greet:live sends 20 % to version 4"),
        (
            {"version": 3, "weights": {}, "canary": {**CANARY, "state": "back", "reason": "9 of 60 runs failed"}},
            "greet:live stays at version 3: 9 of 60 runs failed",
        ),
        ({"version": 3, "weights": {}, "canary": {**CANARY, "state": "waiting"}}, "greet:live stays at version 3 until version 4 is ready"),
        ({}, "greet:live names nothing until version 4 is ready"),
    ],
)
def test_what_becomes_of_a_release(alias: dict[str, object], said: str) -> None:
    """One line tells where the alias is, or on its way."""
    assert sentences.released("greet:live", 4, alias) == said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "20 % to 4, step 2 of 5: 1 of 120 runs failed"),
        ({"reason": "held"}, "20 % to 4, step 2 of 5: held"),
        ({"state": "waiting"}, "version 4, once it is ready"),
        ({"state": "promoted"}, "version 4 has all, 1 of 120 runs failed"),
        ({"state": "back", "reason": "too many"}, "version 4 went back: too many"),
        ({"state": "ended", "reason": "moved by hand"}, "version 4 ended: moved by hand"),
    ],
)
def test_where_a_canary_stands(change: dict[str, object], said: str) -> None:
    """Each of its states is told, with the runs that decide."""
    assert sentences.canary({"canary": {**CANARY, **change}}) == said


def test_a_version_in_a_line() -> None:
    """Who names it with which share, what runs in which VM, where its code is, and what is wrong with it."""
    version = {
        "version": 4,
        "state": "ready",
        "created": 1000.0,
        "size": 2048,
        "pointers": ["latest", "live"],
        "shares": {"latest": 100, "live": 10},
        "running": [{"vm": "a-1", "state": "idle"}, {"vm": "7", "state": "busy"}, {"vm": "a-1", "state": "idle"}],
        "code_in": {"near_store": True, "vms": [{"vm": "a-1"}, {"vm": "a-1"}]},
        "withdrawn": True,
        "reason": {"code": "import_failed", "message": "x" * 80 + "\nmore"},
    }
    assert sentences.version_row(version, 1090.0) == [
        *("4", "ready", "1m30s", "2.0K", "latest, live 10 %", "2 idle in a-1; 1 busy in v7", "near store, a-1"),
        "withdrawn, " + "x" * 59 + "…",
    ]


def test_a_version_of_an_older_server_in_a_line() -> None:
    """What is not told is a dash, and never an error."""
    assert sentences.version_row({"version": 1, "state": "stored", "containers": 2}, 0.0) == ["1", "stored", *"---", "2", "-", "-"]
