"""What owners and callers decide of lending, over HTTP: for how long it holds, who is told, and that it outlives the server."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import pyfaas
from tests.e2e.house import Answer, House, started
from tests.e2e.lending import JSON, accept, accounts, grant, revoke

CANARY = secrets.token_hex(16)
ECHO = f"""
PRIVATE = {CANARY!r}

def handler(event, context):
    if event.get("fail"):
        raise ValueError(PRIVATE)
    return {{"event": event, "secrets": context.secrets, "version": context.function_version}}
"""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A server with an owner, a caller and others, and two functions of the owner's."""
    with started(tmp_path_factory.mktemp("control") / "data") as made:
        accounts(made, "owner", "caller", "third", "fourth")
        made.deploy("echo", ECHO, token="owner")
        made.deploy("private", ECHO, token="owner")
        yield made


def audit(house: House, who: str) -> list[dict[str, Any]]:
    """Return an account's whole trail."""
    items: list[dict[str, Any]] = []
    after = "0"
    while after is not None:
        page = house.call("GET", f"/v1/audit?limit=50&after={after}", token=who).json
        items, after = items + page["items"], page["next"]
    return items


def told(answer: Answer) -> dict[str, Any]:
    """Return a problem without what names the request."""
    return {key: value for key, value in answer.json.items() if key != "invocationId"}


def test_nothing_tells_whether_a_private_function_is_there(house: House) -> None:
    """Accepting and calling what is not lent is answered in the same words, whether it is there or not, and whoever asks."""
    for who in ("caller", "third"):
        answers = [accept(house, "mine", f"owner/{name}", caller=who, status=None) for name in ("private", "nothing")]
        assert [answer.status for answer in answers] == [404, 404]
        assert answers[0].body.replace(b"private", b"nothing") == answers[1].body
        calls = [house.invoke(name, {}, token=who) for name in ("private", "nothing")]
        assert calls[0].body.replace(b"private", b"nothing") == calls[1].body
        looks = [house.call("GET", f"/v1/functions/{name}/grants", token=who) for name in ("private", "nothing")]
        assert looks[0].body.replace(b"private", b"nothing") == looks[1].body
        assert {answer.status for answer in (*calls, *looks)} == {404}


def test_an_alias_works_from_accept_to_the_end(house: House) -> None:
    """Accepted, it is called by the URL that the answer gives; revoked, it is gone for its holder and was never there for others."""
    grant(house, "echo", "caller", version=1)
    made = accept(house, "whole", "owner/echo", params={"p": 1}, secrets={"S": "mine"}).json
    assert made["invoke"] == f"{house.url}/v1/functions/whole/invoke"
    answer = house.call("POST", made["invoke"].removeprefix(house.url), "{}", token="caller", content_type=JSON)
    assert answer.json == {"event": {"p": 1}, "secrets": {"S": "mine"}, "version": "1"}
    url = house.call("GET", made["url"].removeprefix(house.url) + "x", token="caller")
    assert (url.status, url.json["secrets"], url.json["event"]["rawPath"]) == (200, {"S": "mine"}, "/x")
    assert house.call("GET", made["url"].removeprefix(house.url), token=None).status == 401
    assert revoke(house, "echo", "caller").status == 204
    assert house.invoke("whole", {}, token="caller").status == 410
    assert house.invoke("whole", {}, token="third").status == 404
    assert house.call("GET", "/v1/aliases/whole", token="caller").json["state"] == "gone"
    assert accept(house, "whole", "owner/echo", status=None).status == 410
    assert accept(house, "whole", "owner/echo", caller="third", status=None).status == 404
    grant(house, "echo", "caller", version=1)
    assert house.invoke("whole", {}, token="caller").status == 410
    assert accept(house, "whole", "owner/echo", status=200).json["state"] == "active"
    assert house.invoke("whole", {}, token="caller").json == {"event": {}, "secrets": {}, "version": "1"}
    assert house.call("DELETE", "/v1/aliases/whole", token="caller").status == 204
    assert house.invoke("whole", {}, token="caller").status == 404
    revoke(house, "echo", "caller")


def test_a_hundred_equal_requests_at_once(house: House) -> None:
    """Of a hundred equal grants, and of a hundred equal accepts, one makes something; the others find it."""
    with ThreadPoolExecutor(20) as pool:
        grants = list(pool.map(lambda _: grant(house, "echo", "third", status=None, rate=1000), range(100)))
        accepts = list(pool.map(lambda _: accept(house, "many", "owner/echo", caller="third", status=None, secrets={"S": "s"}), range(100)))
    for answers in (grants, accepts):
        assert sorted(answer.status for answer in answers) == [200] * 99 + [201]
    assert len({answer.json["id"] for answer in grants}) == 1
    given = house.call("GET", "/v1/functions/echo/grants", token="owner").json["given"]
    assert [each["account"] for each in given] == ["third"]
    assert [each["name"] for each in house.call("GET", "/v1/aliases", token="third").json["items"]] == ["many"]
    assert house.invoke("many", {}, token="third").json["secrets"] == {"S": "s"}
    revoke(house, "echo", "third")


def test_both_sides_of_the_trail(house: House) -> None:
    """Who lent, accepted, called and took back is told to both, in each one's words; no value, name or message of the other side is."""
    value = secrets.token_hex(16)
    grant(house, "echo", "fourth", lock={"style": value})
    accept(house, "named-so", "owner/echo", caller="fourth", secrets={"S": value})
    for event in ({}, {}, {"fail": True}):
        house.invoke("named-so", event, token="fourth")
    revoke(house, "echo", "fourth")
    assert house.invoke("named-so", {}, token="fourth").status == 410
    mine, theirs = audit(house, "fourth"), [line for line in audit(house, "owner") if line["other"] == "fourth"]
    assert [(line["kind"], line["name"]) for line in mine if line["kind"] != "refused"] == [
        ("granted", "owner/echo"),
        ("accepted", "named-so"),
        ("revoked", "owner/echo"),
        ("called", "named-so"),
    ]
    assert {line["other"] for line in mine} == {"owner"}
    assert [(line["kind"], line["name"]) for line in theirs if line["kind"] != "refused"] == [
        (kind, "echo") for kind in ("granted", "accepted", "revoked", "called")
    ]
    for side in (mine, theirs):
        (called,) = [line for line in side if line["kind"] == "called"]
        assert called["detail"] == {"count": 3, "outcomes": {"ok": 2, "error": 1}}
    assert value not in json.dumps(mine + theirs)
    assert CANARY not in json.dumps(mine + theirs)
    assert "named-so" not in json.dumps(theirs)
    assert audit(house, "third") == [line for line in audit(house, "third") if line["other"] == "owner"]


def test_what_is_made_again_has_no_rights(house: House) -> None:
    """A function and an account that were removed and made again under their names lend nothing and are lent nothing."""
    accounts(house, "passing", "lender")
    house.deploy("tool", ECHO, token="lender")
    grant(house, "tool", "passing", owner="lender")
    grant(house, "tool", "caller", owner="lender")
    accept(house, "tool-of", "lender/tool", caller="passing")
    accept(house, "tool-of", "lender/tool")
    assert house.invoke("tool-of", {}, token="passing").status == house.invoke("tool-of", {}, token="caller").status == 200
    assert house.call("DELETE", "/v1/accounts/passing", token="admin").status == 204
    house.account("passing")
    assert house.invoke("tool-of", {}, token="passing").status == 404
    assert house.call("GET", "/v1/grants", token="passing").json == {"given": [], "received": []}
    assert accept(house, "tool-of", "lender/tool", caller="passing", status=None).status == 404
    assert house.call("DELETE", "/v1/functions/tool", token="lender").status == 204
    house.deploy("tool", ECHO, token="lender")
    assert house.invoke("tool-of", {}, token="caller").status == 410
    assert house.call("GET", "/v1/grants", token="lender").json == {"given": [], "received": []}
    assert house.call("DELETE", "/v1/accounts/lender", token="admin").status == 204
    assert house.invoke("tool-of", {}, token="caller").status == 410
    assert house.call("GET", "/v1/aliases/tool-of", token="caller").json["state"] == "gone"
    assert house.call("DELETE", "/v1/aliases/tool-of", token="caller").status == 204


BAD: list[tuple[str, dict[str, Any], int, str]] = [
    ("nobody/echo", {}, 404, "no function 'nobody/echo'"),
    ("owner/echo:9", {}, 404, "no version '9'"),
    ("caller/bad", {}, 400, "itself"),
    ("owner/echo", {"params": {"style": 1}}, 400, "'style' is set by the owner"),
    ("owner/echo", {"params": {"unknown": 1}}, 400, "no parameter 'unknown'"),
    ("owner/echo", {"params": "text"}, 400, "params"),
    ("owner/echo", {"secrets": {"S": 1}}, 400, "secrets"),
    ("owner/echo", {"secrets": {"S": "x" * 20_000}}, 413, "16384"),
    ("owner/echo", {"memory": "8G"}, 400, "bytes"),
    ("owner/echo", {"timeout": "31s"}, 400, "30000 ms"),
    ("owner/echo", {"network": ["not a host"]}, 400, "network[0]"),
    ("owner/echo", {"network": ["169.254.169.254:80"]}, 400, "is not lent"),
    ("owner/echo", {"network": ["other.example.com:443"]}, 400, "is not lent"),
    ("owner/echo", {"placement": "owner"}, 400, "placement"),
    ("owner/echo", {"parms": {}}, 400, "parms"),
]


def test_orders_that_cannot_be(house: House) -> None:
    """Each wrong order is refused with a clear sentence, without a locked value or anything else of the owner's; a right one is made."""
    locked = secrets.token_hex(16)
    grant(house, "echo", "caller", lock={"style": locked}, allow=["p"], network=["api.example.com:443"], status=None)
    for target, order, status, words in BAD:
        answer = accept(house, "bad", target, status=None, **order)
        assert (answer.status, words in answer.json["detail"]) == (status, True), answer.body
        assert locked.encode() not in answer.body
        assert CANARY.encode() not in answer.body
        assert answer.json["fault"] == "caller"
    assert house.call("GET", "/v1/aliases/bad", token="caller").status == 404
    accept(house, "good", "owner/echo:1", params={"p": 1}, network=["api.example.com:443"])
    revoke(house, "echo", "caller")


def test_eight_hops_and_no_more(house: House) -> None:
    """A chain of eight account aliases answers, a ninth is refused, and no second grant to lend on is needed to find that out."""
    accounts(house, "chained")
    house.deploy("link0", ECHO, token="chained")
    for n in range(1, 9):
        accept(house, f"link{n}", f"chained/link{n - 1}", caller="chained", params={f"p{n}": n})
    assert house.invoke("link8", {}, token="chained").json["event"] == {f"p{n}": n for n in range(1, 9)}
    answer = accept(house, "link9", "chained/link8", caller="chained", status=400)
    assert "more than 8" in answer.json["detail"]


def test_the_sdk_lends_and_accepts(house: House) -> None:
    """Owner and caller do with the SDK what they do over HTTP, for one account and for everybody."""
    with pyfaas.Client(house.url, house.token("owner")) as owner, pyfaas.Client(house.url, house.token("caller")) as caller:
        for account in ("public", "caller"):
            owner.grant("echo", account, require=["p"])
            made = caller.accept("owner/echo", "by-sdk", params={"p": [1]}, secrets={"S": "s"})
            assert (made["state"], made["secrets"]) == ("active", ["S"])
            assert caller.invoke("by-sdk", {"q": 2})["event"] == {"p": [1], "q": 2}
            owner.revoke("echo", account)
            with pytest.raises(pyfaas.Gone):
                caller.invoke("by-sdk", {})
            assert caller.account_alias("by-sdk")["state"] == "gone"
            caller.remove_account_alias("by-sdk")
        assert owner.grants()["given"] == []


def test_a_restart_keeps_what_is_lent(tmp_path: Path) -> None:
    """What was lent, accepted, revoked and told is there after a stop, and an alias whose grant ended stays gone."""
    with started(tmp_path / "data") as house:
        accounts(house, "owner", "caller")
        house.deploy("echo", ECHO, token="owner")
        house.deploy("other", ECHO, token="owner")
        for name in ("echo", "other"):
            grant(house, name, "caller")
            accept(house, f"my-{name}", f"owner/{name}", params={"p": name}, secrets={"S": name})
        house.invoke("my-other", {}, token="caller")
        revoke(house, "other", "caller")
        paths = {"owner": ("/v1/grants",), "caller": ("/v1/grants", "/v1/audit")}
        before = {(who, path): house.call("GET", path, token=who).json for who in paths for path in paths[who]}
        tokens = house.tokens
    with started(tmp_path / "data") as again:
        again.tokens = tokens
        after = {(who, path): again.call("GET", path, token=who).json for who in paths for path in paths[who]}
        assert after == before
        assert again.invoke("my-echo", {}, token="caller").json == {"event": {"p": "echo"}, "secrets": {"S": "echo"}, "version": "1"}
        assert again.invoke("my-other", {}, token="caller").status == 410
        states = {item["name"]: item["state"] for item in again.call("GET", "/v1/aliases", token="caller").json["items"]}
        assert states == {"my-echo": "active", "my-other": "gone"}
