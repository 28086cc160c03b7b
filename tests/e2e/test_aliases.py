"""Release aliases with weights and a policy, roll-back, and accounts that say what they allow; of others nothing is seen."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pyfaas.decisions.routing import resolve
from pyfaas.model import FunctionId, PointerMove, Revision, Version, VersionState
from tests.e2e.house import House, multipart, packed, started
from tests.e2e.releases import alias, ask, called, publish, source

KEYS = 2000  # that are drawn
CALLED = 500  # of those, that really call


@pytest.fixture
def two(house: House, name: Callable[[], str]) -> str:
    """Return a function with two ready versions."""
    made = name()
    for number in (1, 2):
        assert house.deploy(made, source(number)).json["state"] == "ready"
    return made


def set_alias(house: House, name: str, **body: Any) -> Any:
    """Set `live`, and return what is answered."""
    answer = ask(house, "PUT", f"/v1/functions/{name}/aliases/live", body)
    assert answer.status == 200, answer.body
    return answer.json


def drawn(house: House, name: str, weight: int) -> dict[str, int]:
    """Return the version that each key is to have, as routing draws it for this very function."""
    with closing(sqlite3.connect(house.data / "pyfaas.db")) as connection:
        (function,) = connection.execute("SELECT id FROM functions WHERE name = ?", (name,)).fetchone()
    known = {
        n: Version(function=FunctionId(function), number=n, code_id="", bundle="", size_bytes=0, revision=Revision(), state=VersionState.READY, created=0.0)
        for n in (1, 2)
    }
    moves = {"live": [PointerMove(function=FunctionId(function), pointer="live", seq=1, version=1, at=0.0, weights={2: weight})]}
    return {key: resolve("live", known, moves, key).requested for key in map(str, range(KEYS))}


def test_raising_a_weight_only_moves_keys_forward(house: House, two: str) -> None:
    """Sticky keys go where routing draws them; of 2,000 none goes back when the weight grows from 10 to 30."""
    for weight in (10, 30):
        set_alias(house, two, version=1, weights={"2": weight})
        found, expected = called(house, f"/v1/functions/{two}/invoke?qualifier=live", map(str, range(CALLED))), drawn(house, two, weight)
        assert found == {key: expected[key] for key in found}
        assert len(found) == CALLED
    first, then = ({key for key, version in drawn(house, two, weight).items() if version == 2} for weight in (10, 30))
    assert first < then
    assert 0.07 * KEYS < len(first) < 0.13 * KEYS  # five standard deviations
    assert 0.25 * KEYS < len(then) < 0.35 * KEYS


def test_a_policy_is_changed_key_by_key(house: House, two: str) -> None:
    """A key that is not there stays, null removes it, and what is shown can be sent again."""
    everything = {"stale": "allow", "max_stale_time": "1500ms", "max_stale_requests": 3, "stale_percent": 50, "min_version": 1, "max_wait": "2s"}
    shown = set_alias(house, two, version=1, **everything)
    assert shown == {"version": 1, "weights": {}, "canary": None, **everything}
    assert set_alias(house, two, version=2, stale=None, min_version=None, max_stale_time="90s") == {
        "version": 2, "weights": {}, "canary": None, "max_stale_time": "90s",
        "max_stale_requests": 3, "stale_percent": 50, "max_wait": "2s",
    }
    again = alias(house, two)
    assert set_alias(house, two, **{key: value for key, value in again.items() if key != "canary"}) == again


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"version": 1, "weights": {"2": 10, "3": 10}}, "at most two versions"),
        ({"version": 1, "weights": {"2": 100}}, "from 1 to 99"),
        ({"version": 1, "weights": {"2": 0}}, "from 1 to 99"),
        ({"version": 1, "weights": {"1": 10}}, "another version than the main one"),
        ({"version": 1, "stale": "maybe"}, "stale: expected allow or forbid"),
        ({"version": 1, "stale_percent": 101}, "stale_percent"),
        ({"version": 1, "max_stale_time": "soon"}, "max_stale_time"),
        ({"version": 1, "max_wait": "2h"}, "max_wait"),
        ({"version": 1, "unknown": 1}, "unknown key 'unknown'"),
    ],
)
def test_what_an_alias_cannot_be(house: House, two: str, body: dict[str, Any], says: str) -> None:
    """What cannot be meant is refused with its name, and nothing is moved."""
    answer = ask(house, "PUT", f"/v1/functions/{two}/aliases/live", body)
    assert (answer.status, says in answer.json["detail"]) == (400, True), answer.body
    assert house.call("GET", f"/v1/functions/{two}/aliases/live").status == 404


def test_both_versions_are_to_be_ready(house: House, two: str) -> None:
    """A version that is not there, or not ready, is not given a weight."""
    assert ask(house, "PUT", f"/v1/functions/{two}/aliases/live", {"version": 1, "weights": {"9": 10}}).status == 404
    publish(house, two, "import nothing_like_this\n")
    assert ask(house, "PUT", f"/v1/functions/{two}/aliases/live", {"version": 1, "weights": {"3": 10}}).status == 409


def test_rollback_of_weights_withdraws_the_weighted(house: House, two: str) -> None:
    """A pointer with two versions goes back to its main one; the other is withdrawn until it is named again."""
    set_alias(house, two, version=1, weights={"2": 40})
    shown = house.call("GET", f"/v1/functions/{two}/versions/2").json
    assert (shown["pointers"], shown["shares"]) == (["latest", "live"], {"latest": 100, "live": 40})
    assert ask(house, "POST", f"/v1/functions/{two}/rollback", {"pointer": "live"}).json["withdrawn"] == 2
    assert alias(house, two)["weights"] == {}
    assert house.call("GET", f"/v1/functions/{two}/versions/2").json["withdrawn"] is True
    set_alias(house, two, version=2)
    assert house.call("GET", f"/v1/functions/{two}/versions/2").json["withdrawn"] is False


def test_one_of_two_versions_may_stream(house: House, name: Callable[[], str]) -> None:
    """Of two versions of which one is a generator each answers in its own way, whoever is drawn."""
    made = name()
    for code in (source(1), "def handler(event, context):\n    yield 'a'\n    yield 'b'\n"):
        assert house.deploy(made, code).json["state"] == "ready"
    set_alias(house, made, version=1, weights={"2": 50})
    seen = {house.call("POST", f"/v1/functions/{made}/invoke?qualifier=live", "{}").body for _ in range(60)}
    assert seen == {b"1", b'"a"\n"b"\n'}  # one of them alone is drawn once in 2 ** 59


def test_latest_goes_back_and_comes_again(house: House, two: str) -> None:
    """`latest` goes back too; the same content published again is the same number, named again and not withdrawn."""
    assert ask(house, "POST", f"/v1/functions/{two}/rollback", {}).json == {"function": two, "pointer": "latest", "version": 1, "withdrawn": 2}
    assert house.invoke(two, {}).json == 1
    again = publish(house, two, source(2))
    assert (again["version"], again["changed"]) == (2, True)
    shown = house.call("GET", f"/v1/functions/{two}").json
    assert shown["latest"] == 2
    assert house.call("GET", f"/v1/functions/{two}/versions/2").json["withdrawn"] is False
    assert publish(house, two, source(2))["changed"] is False


def test_versions_are_paged_from_the_newest(house: House, two: str) -> None:
    """Page after page gives every version once, newest first, and the last page says that it is."""
    publish(house, two, source(3))
    first = house.call("GET", f"/v1/functions/{two}/versions?limit=2").json
    assert ([v["version"] for v in first["items"]], first["next"]) == ([3, 2], "2")
    rest = house.call("GET", f"/v1/functions/{two}/versions?limit=2&after={first['next']}").json
    assert ([v["version"] for v in rest["items"]], rest["next"]) == ([1], None)


def test_what_runs_where(house: House, two: str) -> None:
    """A version tells its containers, and what they did; one that runs nowhere tells none."""
    for _ in range(3):
        assert house.invoke(two, {}).json == 2
    shown = house.call("GET", f"/v1/functions/{two}/versions").json["items"]
    assert [(v["version"], v["containers"]) for v in shown] == [(2, 1), (1, 0)]
    (running,) = shown[0]["running"]
    assert (running["state"], running["calls"]) == ("idle", 3)
    vms = {vm["id"]: [c["id"] for c in vm["containers"]] for vm in house.call("GET", "/v1/fleets").json["vms"]}
    assert running["container"] in vms[running["vm"]]
    assert (shown[1]["running"], shown[0]["code_in"]["near_store"]) == ([], True)


def test_an_accounts_policy(tmp_path: Path) -> None:
    """An account changes its own policy, an admin any; it is shown, and still there after a restart."""
    with started(tmp_path / "data") as house:
        house.account("ada")
        path = "/v1/accounts/ada"
        shown = ask(house, "PUT", path, {"stale": "forbid", "max_stale_time": "10s", "max_wait": 5}, token="ada").json
        assert (shown["stale"], shown["max_stale_time"], shown["max_wait"]) == ("forbid", "10s", "5s")
        assert "stale_percent" in ask(house, "PUT", path, {"stale_percent": 10, "stale": None}, token="admin").json
        assert ask(house, "PUT", path, {"stale": "allow"}).status == 404
        refused = ask(house, "PUT", path, {"min_version": 2}, token="ada")
        assert (refused.status, "min_version" in refused.json["detail"]) == (400, True)
        assert house.stop() == 0
    with started(tmp_path / "data") as again:
        again.tokens["ada"] = house.tokens["ada"]
        (kept,) = again.call("GET", "/v1/accounts", token="ada").json["items"]
        assert {key: kept.get(key) for key in ("stale", "max_stale_time", "stale_percent", "max_wait")} == {
            "stale": None, "max_stale_time": "10s", "stale_percent": 10, "max_wait": "5s",
        }


def test_of_others_nothing_is_seen(house: House, two: str) -> None:
    """Another account is told of nothing here: not of aliases, canaries, versions, events or policies, and it moves nothing."""
    house.account("passer-by")
    set_alias(house, two, version=1)
    function = f"/v1/functions/{two}"
    asked: list[tuple[str, str, Any]] = [
        ("GET", f"{function}/events", None),
        ("GET", f"{function}/events?wait=30", None),
        ("GET", f"{function}/versions", None),
        ("GET", f"{function}/aliases", None),
        ("GET", f"{function}/aliases/live", None),
        ("PUT", f"{function}/aliases/live", {"version": 2}),
        ("DELETE", f"{function}/aliases/live", None),
        ("POST", f"{function}/rollback", {"pointer": "live"}),
        ("PUT", "/v1/accounts/default", {"stale": "forbid"}),
    ]
    assert [(m, p, s) for m, p, b in asked if (s := ask(house, m, p, b, token="passer-by").status) != 404] == []
    assert house.call("GET", f"{function}/events", token="passer-by", Accept="text/event-stream").status == 404
    body, kind = multipart({"config": b"{}", "code": packed({"main.py": source(9)})})
    own = house.call("PUT", f"{function}?alias=live&canary=10", body, token="passer-by", content_type=kind)
    assert (own.status, own.json["version"]) == (201, 1)  # a function of its own, which happens to have that name
    assert (alias(house, two)["version"], alias(house, two)["canary"]) == (1, None)
