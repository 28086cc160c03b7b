"""Canaries on a real server: step by step, back when they fail, and at the same step after a kill."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from pyfaas.decisions.canary import JUDGED
from tests.e2e.house import House, started
from tests.e2e.releases import BROKEN, alias, ask, called, canary, events, publish, source, until
from tests.e2e.test_kills import served_again


@pytest.fixture
def released(house: House, name: Callable[[], str]) -> str:
    """Return a function whose version 1 `live` names, and which answers."""
    made = name()
    assert house.deploy(made, source(1)).json["state"] == "ready"
    assert ask(house, "PUT", f"/v1/functions/{made}/aliases/live", {"version": 1, "max_stale_time": "1h"}).status == 200
    assert house.invoke(f"{made}", {}).json == 1
    return made


def test_a_canary_is_promoted(house: House, released: str) -> None:
    """Ordered with the publication, it begins when the version is ready, grows and takes all; every move is told, in order."""
    shown = publish(house, released, source(2), "?alias=live&canary=25&promote_after=2s&error_budget=1")
    assert shown["canary"]["steps"] == [25, 50, 100]
    ended = canary(house, released, "promoted")
    assert (ended["version"], ended["weights"], ended["max_stale_time"]) == (2, {}, "3600s")
    moved = [(e["version"], e["weights"]) for e in events(house, released) if e["kind"] == "moved" and e["pointer"] == "live"]
    assert moved == [(1, {}), (1, {"2": 25}), (1, {"2": 50}), (2, {})]
    assert [e["pointer"] for e in events(house, released, "&version=2") if e["kind"] == "promoted"] == ["live"]
    answer = house.call("POST", f"/v1/functions/{released}/invoke?qualifier=live", "{}")
    assert answer.headers["pyfaas-requested-version"] == "2"


def test_an_alias_alone_follows_the_version(house: House, released: str) -> None:
    """Without a percent the alias moves when the version is ready, and not before: nobody waits for it."""
    publish(house, released, source(2), "?alias=live")
    assert house.call("POST", f"/v1/functions/{released}/invoke?qualifier=live", "{}").json in (1, 2)
    assert canary(house, released, "promoted")["version"] == 2
    publish(house, released, source(3), "?alias=fresh")
    assert until(lambda: house.call("GET", f"/v1/functions/{released}/aliases/fresh").status == 200)
    assert alias(house, released, "fresh")["version"] == 3


def test_a_broken_budget_goes_back(house: House, released: str) -> None:
    """A version that fails is left by its alias at once, long before its step is over, is withdrawn, and it is told why."""
    publish(house, released, BROKEN, "?alias=live&canary=50&promote_after=1h&error_budget=1")
    canary(house, released, "running")
    called(house, f"/v1/functions/{released}/invoke?qualifier=2", (str(n) for n in range(JUDGED)))
    ended = canary(house, released, "back")
    assert (ended["version"], ended["weights"]) == (1, {})
    assert ended["canary"]["reason"] == f"{JUDGED} of {JUDGED} runs failed: 100 %, and 1 % are allowed"
    assert house.call("GET", f"/v1/functions/{released}/versions/2").json["withdrawn"] is True
    told = [e for e in events(house, released) if e["kind"] in ("withdrawn", "rolled_back")]
    assert [(e["kind"], e["version"]) for e in told] == [("withdrawn", 2), ("rolled_back", 1)]
    assert (told[1]["from"], told[1]["pointer"]) == (2, "live")
    assert set(called(house, f"/v1/functions/{released}/invoke?qualifier=live", (str(n) for n in range(30))).values()) == {1}


def test_a_version_that_fails_leaves_its_alias(house: House, released: str) -> None:
    """When the version cannot be prepared the canary ends, the alias stays, and both say so."""
    publish(house, released, "import nothing_like_this\n", "?alias=live&canary=10")
    ended = canary(house, released, "ended")
    assert (ended["version"], ended["weights"]) == (1, {})
    assert "nothing_like_this" in ended["canary"]["reason"]
    assert house.call("POST", f"/v1/functions/{released}/invoke?qualifier=live", "{}").json == 1


def test_a_move_by_hand_ends_it(house: House, released: str) -> None:
    """Whoever moves the alias ends its canary; a roll-back goes to its base and withdraws the new version."""
    publish(house, released, source(2), "?alias=live&canary=10&promote_after=1h")
    canary(house, released, "running")
    shown = ask(house, "PUT", f"/v1/functions/{released}/aliases/live", {"version": 1, "weights": {"2": 30}}).json
    assert (shown["canary"]["state"], shown["canary"]["reason"], shown["weights"]) == ("ended", "moved by hand", {"2": 30})
    back = ask(house, "POST", f"/v1/functions/{released}/rollback", {"pointer": "live"}).json
    assert back == {"function": released, "pointer": "live", "version": 1, "withdrawn": 2}
    assert publish(house, released, source(2), "?alias=live")["version"] == 2  # the same content, named again
    assert canary(house, released, "promoted")["version"] == 2
    assert house.call("GET", f"/v1/functions/{released}/versions/2").json["withdrawn"] is False


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("?canary=10", "say which one with alias"),
        ("?promote_after=5m", "say which one with alias"),
        ("?alias=live&error_budget=1", "say its first percent with canary"),
        ("?alias=live&canary=0", "canary must be a number from 1 to 100"),
        ("?alias=live&canary=101", "canary must be a number from 1 to 100"),
        ("?alias=live&canary=10%25", "canary must be a number from 1 to 100"),
        ("?alias=live&canary=10&promote_after=soon", "is not a duration"),
        ("?alias=live&canary=10&promote_after=10ms", "promote_after must be from 1s to 720h"),
        ("?alias=live&canary=10&error_budget=101", "error_budget must be a percent from 0 to 100"),
        ("?alias=live&canary=10&error_budget=-1", "error_budget must be a percent from 0 to 100"),
        ("?alias=latest", "already means something else"),
        ("?alias=3", "already means something else"),
    ],
)
def test_what_cannot_be_ordered(house: House, released: str, query: str, says: str) -> None:
    """An order that cannot be meant is refused before anything is published."""
    answer = house.call("PUT", f"/v1/functions/{released}{query}", b"", content_type="multipart/form-data; boundary=B")
    assert answer.status == 400
    assert says in answer.json["detail"] + answer.json["hint"]
    assert len(house.call("GET", f"/v1/functions/{released}/versions").json["items"]) == 1


def test_it_stands_at_the_same_step_after_a_kill(tmp_path: Path) -> None:
    """A server that is killed in the middle of a canary is followed by one that goes on at the same step, with what was counted."""
    with started(tmp_path / "data") as house:
        for name in ("f", "g"):  # f is what is called until somebody answers: its runs do not count for g
            assert house.deploy(name, source(1)).json["state"] == "ready"
        ask(house, "PUT", "/v1/functions/g/aliases/live", {"version": 1})
        publish(house, "g", source(2), "?alias=live&canary=1&promote_after=1h")
        running = canary(house, "g", "running")
        called(house, "/v1/functions/g/invoke?qualifier=2", (str(n) for n in range(20)))

        def counted() -> bool:
            with contextlib.closing(sqlite3.connect(house.data / "pyfaas.db")) as connection:
                return bool(connection.execute("SELECT runs FROM canaries").fetchone()[0] == 20)

        until(counted)
        os.kill(house.children()["server"], signal.SIGKILL)
        served_again(house)
        after = alias(house, "g")
        assert after["weights"] == {"2": 1}
        assert after["canary"] == running["canary"] | {"runs": 20}
        called(house, "/v1/functions/g/invoke?qualifier=2", (str(n) for n in range(3)))
        assert alias(house, "g")["canary"]["runs"] == 23
