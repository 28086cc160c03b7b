"""APIs on a real server: published by one account, called by others under the API's path and by name, and ended."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.e2e.house import Answer, House, started
from tests.e2e.publishing import CODE, JSON, STREAM, definition, publish, subscribe


@dataclass(frozen=True, slots=True)
class Texts:
    """A server on which north publishes `text`, and south has subscribed to it as `mine`."""

    house: House
    north: str
    south: str
    east: str

    def call(self, method: str, path: str, body: Any = None, *, token: str | None = None, version: str = "1", **headers: str) -> Answer:
        """Call an operation of north/text, as south."""
        sent = {"content_type": JSON, **headers} if body is not None else headers
        text = json.dumps(body) if body is not None and not isinstance(body, bytes) else body
        return self.house.call(method, f"/v1/apis/{self.north}/text/{version}/{path}", text, token=token or self.south, **sent)


@pytest.fixture(scope="module")
def texts(house: House) -> Iterator[Texts]:
    """Publish an API of two functions, and subscribe to it with a parameter and a secret."""
    north, south, east = (house.account(f"apis-{name}") for name in ("north", "south", "east"))
    assert house.deploy("texts", CODE, token=north).json["state"] == "ready"
    assert house.deploy("stream", STREAM, token=north).json["state"] == "ready"
    publish(house, "text", definition(), owner=north)
    subscribe(house, "mine", f"{north}/text", caller=south, params={"language": "en"}, secrets={"key": "hush"})
    return Texts(house, north, south, east)


def test_a_call_by_path_and_by_name_runs_the_owners_function(texts: Texts) -> None:
    """Both reach the code with the joined event, the subscriber's parameters and secret, and its name."""
    answer = texts.call("POST", "summaries/7?tags=a&tags=b", {"text": "one two", "how": {"short": True}})
    assert answer.status == 200, answer.body
    common = {"language": "en"}, {"key": "hush"}, "mine"
    assert (answer.json["params"], answer.json["secrets"], answer.json["alias"]) == common
    assert {k: answer.json[k] for k in ("id", "text", "tags", "how", "words")} == {"id": 7, "text": "one two", "tags": ["a", "b"], "how": {"short": True}, "words": 2}
    assert answer.outcome == "ok"
    named = texts.house.call("POST", "/v1/functions/mine/summarise/invoke", '{"id": 8, "text": "one"}', token=texts.south, content_type=JSON)
    assert named.status == 200, named.body
    assert (named.json["id"], named.json["words"], named.json["params"]) == (8, 1, {"language": "en"})


def test_parameters_come_in_any_writing(texts: Texts) -> None:
    """An encoded slash, another script and an empty query reach the code as they were meant."""
    assert texts.call("GET", "shown/a%2Fb%20gr%C3%BC%C3%9Fe?x=1&y=").json["what"] == "a/b grüße"
    found = texts.call("GET", "summaries?limit=5&tags=one")
    assert (found.json["limit"], found.json["tags"]) == (5, ["one"])


def test_bytes_and_streams_pass(texts: Texts) -> None:
    """Without an input a body of any type is the event, and a generator's items come as they do from one's own function."""
    raw = texts.call("POST", "raw", b"\x00\x01", content_type="application/octet-stream")
    assert raw.json["body"] == repr(b"\x00\x01")
    assert [json.loads(line) for line in texts.call("GET", "streams/3").body.splitlines()] == [{"n": 0}, {"n": 1}, {"n": 2}]


def test_a_call_can_be_kept_for_later(texts: Texts) -> None:
    """Prefer: respond-async answers 202 once the call is durable, and its result is the caller's to fetch."""
    kept = texts.call("POST", "summaries/9", {"text": "a b c"}, prefer="respond-async")
    assert (kept.status, kept.headers["preference-applied"]) == (202, "respond-async")
    done = texts.house.call("GET", kept.headers["location"] + "?wait=60", token=texts.south)
    assert (done.json["state"], done.json["result"]["words"]) == ("succeeded", 3), done.body
    assert texts.house.call("GET", kept.headers["location"], token=texts.north).status == 404


def test_a_replay_is_checked_as_the_call_was(texts: Texts) -> None:
    """Another event for a kept call has to fit the operation's input too."""
    kept = texts.call("POST", "summaries/9", {"text": "a"}, prefer="respond-async")
    texts.house.call("GET", kept.headers["location"] + "?wait=60", token=texts.south)
    replay = kept.headers["location"] + "/replay"
    refused = texts.house.call("POST", replay, '{"id": "x", "text": "a"}', token=texts.south, content_type=JSON)
    assert (refused.status, refused.json["code"]) == (400, "invalid_event")
    assert texts.house.call("POST", replay, '{"id": 1, "text": "a"}', token=texts.south, content_type=JSON).status == 202


def test_an_operation_is_mapped_over_lines(texts: Texts) -> None:
    """Each line is checked alone: what does not fit is an item's error, and the others run."""
    lines = '{"id": 1, "text": "a b"}\n{"id": "x", "text": "a"}\n{"id": 3, "text": "a b c"}\n'
    answer = texts.house.call("POST", "/v1/functions/mine/summarise/map", lines, token=texts.south)
    items = {item["i"]: item for item in map(json.loads, answer.body.splitlines())}
    assert (items[0]["ok"]["words"], items[2]["ok"]["words"]) == (2, 3)
    assert (items[1]["error"]["code"], items[1]["error"]["evidence"]["pointer"]) == ("invalid_event", "/id")


def test_a_failure_tells_nothing_of_the_code(texts: Texts) -> None:
    """What the owner's code raised reaches the caller as FunctionError, by path and by name."""
    body = {"id": 1, "text": "a", "fail": True}
    by_name = texts.house.call("POST", "/v1/functions/mine/summarise/invoke", json.dumps(body), token=texts.south, content_type=JSON)
    for answer in (texts.call("POST", "summaries/1", body), by_name):
        assert (answer.status, answer.json["errorType"]) == (500, "FunctionError")
        assert set(answer.json) == {"errorType", "invocationId"}
        assert b"canary" not in answer.body


REFUSED: list[tuple[str, str, Any, int, str]] = [
    ("POST", "summaries/x", {"text": "a"}, 400, "invalid_event"),
    ("POST", "summaries/1", {"text": 5}, 400, "invalid_event"),
    ("POST", "summaries/1", {"text": "a", "id": 2}, 400, "invalid_event"),
    ("POST", "summaries/1", [1], 400, "invalid_event"),
    ("GET", "summaries?limit=x", None, 400, "invalid_event"),
    ("GET", "summaries?limit=1&limit=2", None, 400, "invalid_event"),
    ("GET", "shown/%ff", None, 400, "invalid_event"),
    ("GET", "nothing", None, 404, "not_found"),
    ("GET", "", None, 404, "not_found"),
    ("GET", "summaries/", None, 404, "not_found"),
    ("PUT", "openapi.json", {}, 404, "not_found"),
    ("DELETE", "summaries", None, 405, "method_not_allowed"),
    ("OPTIONS", "summaries", None, 405, "method_not_allowed"),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "code"), REFUSED)
def test_what_is_refused_says_why(texts: Texts, method: str, path: str, body: Any, status: int, code: str) -> None:
    """Each refusal is a problem with its code, costs nothing and runs nothing."""
    answer = texts.call(method, path, body)
    assert (answer.status, answer.json["code"]) == (status, code), answer.body
    assert answer.outcome is None
    assert (answer.headers.get("allow") == "GET") == (status == 405)


def test_who_is_not_subscribed_is_refused(texts: Texts) -> None:
    """A stranger hears that it is not subscribed and how it could be, nobody without a token hears anything."""
    answer = texts.call("GET", "summaries", token=texts.east)
    assert (answer.status, answer.json["code"]) == (403, "not_allowed")
    assert f"pyfaas api subscribe {texts.north}/text" in answer.json["hint"]
    assert texts.house.call("GET", f"/v1/apis/{texts.north}/text/1/summaries", token=None).status == 401
    assert texts.house.call("POST", "/v1/functions/mine/summarise/invoke", "{}", token=texts.east).status == 404


def test_the_document_is_served_and_valid(texts: Texts) -> None:
    """Any account that may know of the API gets its document, which says where it is served."""
    path = f"/v1/apis/{texts.north}/text/1"
    served = texts.house.call("GET", f"{path}/openapi.json", token=texts.east)
    assert served.status == 200
    assert [str(error) for error in OpenAPIV31SpecValidator(served.json).iter_errors()] == []
    assert served.json["servers"] == [{"url": texts.house.url + path}]
    assert {o["operationId"] for methods in served.json["paths"].values() for o in methods.values()} == {"summarise", "find", "raw", "show", "stream"}
    shown = texts.house.call("GET", "/v1/subscriptions/mine", token=texts.south).json
    assert (shown["url"], shown["secrets"], len(shown["operations"])) == (texts.house.url + path, ["key"], 5)


def test_the_directory_has_pages(texts: Texts) -> None:
    """Everybody finds the API in the directory; its owner finds what is behind it."""
    for account, has_function in ((texts.south, False), (texts.north, True)):
        items = texts.house.call("GET", "/v1/apis?limit=1000", token=account).json["items"]
        [found] = [item for item in items if (item["owner"], item["api"]) == (texts.north, "text")]
        assert ("function" in found["versions"][0]["operations"][0]) is has_function
    assert found["subscribed"] is None
    first = texts.house.call("GET", "/v1/apis?limit=1", token=texts.south).json
    assert len(first["items"]) == 1


def test_what_an_api_needs_is_not_removed(texts: Texts) -> None:
    """Its functions stay until its version is retired."""
    refused = texts.house.call("DELETE", "/v1/functions/texts", token=texts.north)
    assert (refused.status, refused.json["code"]) == (409, "conflict")
    assert "text/1" in refused.json["detail"]


def test_versions_come_and_go(texts: Texts) -> None:
    """A second version answers beside the first; deprecated it warns, also when it refuses; retired it is gone, the other stays."""
    house = texts.house
    publish(house, "text", definition("2"), owner=texts.north)
    assert publish(house, "text", definition("2"), owner=texts.north, status=200).json["state"] == "published"
    publish(house, "text", definition("2", title="other"), owner=texts.north, status=409)
    assert texts.call("GET", "summaries", version="2").status == 200
    assert "deprecation" not in texts.call("GET", "summaries", version="2").headers
    deprecated = house.call("POST", "/v1/apis/text/versions/2/deprecate", '{"sunset": 2000000000}', token=texts.north, content_type=JSON)
    assert (deprecated.status, deprecated.json["state"]) == (200, "deprecated")
    for answer in (texts.call("GET", "summaries", version="2"), texts.call("GET", "streams/1", version="2")):
        assert answer.status == 200
        assert (answer.headers["deprecation"], answer.headers["sunset"]) == ("true", "Wed, 18 May 2033 03:33:20 GMT")
    assert house.call("POST", "/v1/apis/text/versions/2/retire", token=texts.north).json["state"] == "retired"
    assert texts.call("GET", "summaries", version="2").status == 410
    assert texts.call("GET", "summaries").status == 200


def test_an_operation_whose_function_lost_its_alias_is_gone(texts: Texts) -> None:
    """The subscriber hears that it is gone, and not by which name or number its owner called it."""
    house, north, south = texts.house, texts.north, texts.south
    house.call("PUT", "/v1/functions/texts/aliases/canary-alias", '{"version": 1}', token=north, content_type=JSON)
    publish(house, "aliased", {"version": "1", "operations": [{"name": "run", "path": "/run", "function": "texts:canary-alias"}]}, owner=north)
    subscribe(house, "aliased", f"{north}/aliased", caller=south)
    url = f"/v1/apis/{north}/aliased/1/run"
    assert house.call("POST", url, "{}", token=south).status == 200
    assert house.call("DELETE", "/v1/functions/texts/aliases/canary-alias", token=north).status == 204
    kept = house.call("POST", url, "{}", token=south, prefer="respond-async")
    late = house.call("GET", kept.headers["location"] + "?wait=60", token=south)
    assert late.json["state"] in ("failed", "dead", "cancelled"), late.body
    now = [house.call("POST", url, "{}", token=south), house.call("POST", "/v1/functions/aliased/run/map", "1", token=south)]
    assert [(answer.status, answer.json["code"]) for answer in now] == [(410, "gone")] * 2
    for answer in (*now, late):
        assert b"canary" not in answer.body
        assert b"texts" not in answer.body


def test_an_approval_is_asked_for_given_and_taken(texts: Texts) -> None:
    """Pending is 403; approved it runs; ended by the owner, what runs ends as revoked and no later call succeeds."""
    house, north, east = texts.house, texts.north, texts.east
    publish(house, "asked", definition(access="approval"), owner=north)
    assert subscribe(house, "asked", f"{north}/asked", caller=east).json["state"] == "pending"
    url = f"/v1/apis/{north}/asked/1"
    assert house.call("GET", f"{url}/summaries", token=east).status == 403
    assert house.call("POST", "/v1/functions/asked/raw/invoke", "{}", token=east).status == 403
    approvals = house.call("GET", "/v1/apis/asked/approvals", token=north).json["items"]
    assert [(item["account"], item["state"]) for item in approvals] == [(east, "pending")]
    approved = house.call("POST", f"/v1/apis/asked/approvals/{east}", '{"approve": true}', token=north, content_type=JSON)
    assert approved.json["state"] == "active"
    assert house.call("GET", f"{url}/summaries", token=east).status == 200
    ended: list[Answer] = []
    asking = threading.Thread(target=lambda: ended.append(house.call("POST", f"{url}/raw", '{"sleep": 50}', token=east, content_type=JSON)))
    asking.start()
    try:
        _until_it_runs(house, north)
    finally:
        revoked = house.call("DELETE", f"/v1/apis/asked/approvals/{east}", token=north)
    asking.join(60)
    assert revoked.status == 204, revoked.body
    assert [answer.status for answer in ended] == [410], ended[0].body
    assert house.call("GET", f"{url}/summaries", token=east).status == 410
    assert house.call("POST", "/v1/functions/asked/raw/invoke", "{}", token=east).status in (404, 410)


def _until_it_runs(house: House, owner: str) -> None:
    """Wait until a run of `texts` is under way."""
    for _ in range(600):
        found = house.call("GET", "/v1/fleets", token="admin").json
        if any(c["function"] == "texts" and c["state"] == "busy" for vm in found["vms"] for c in vm["containers"]):
            return
        threading.Event().wait(0.05)
    pytest.fail("nothing ran")


BAD_DEFINITIONS: list[tuple[Any, int, str]] = [
    ({"operations": [{"name": "a", "path": "/a", "function": "private-canary"}]}, 404, "no function 'private-canary'"),
    ({"operations": [{"name": "a", "path": "/a", "function": "apis-north/texts"}]}, 400, "a function of your own"),
    ({"operations": [{"name": "a", "path": "/a", "function": "own"}, {"name": "a", "path": "/b", "function": "own"}]}, 400, "the name of operations[0]"),
    ({"operations": [{"name": "a", "path": "/{x}", "function": "own"}, {"name": "b", "path": "/{y}", "function": "own"}]}, 400, "the method and path"),
    ({"operations": [{"name": "a", "path": "/openapi.json", "function": "own"}]}, 400, "the API's own document"),
    ({"operations": [{"name": "a", "path": "/a", "function": "own", "input": {"$ref": "file:///etc/passwd"}}]}, 400, "leads out of the schema"),
    ({"operations": [{"name": "a", "path": "/a", "function": "own", "input": {"uniqueItems": True}}]}, 400, "uniqueItems"),
    ({"operations": [{"name": "a", "path": "/a", "function": "own", "output": {"type": 5}}]}, 400, "no JSON Schema"),
    ({"access": "listed", "accounts": ["nobody-canary"]}, 404, "no account 'nobody-canary'"),
    ({"network": ["no host"]}, 400, "network[0]"),
    ({"operatons": []}, 400, "unknown key 'operatons'"),
    ({"version": "../1"}, 400, "is not a version"),
    ({"description": "x" * 300_000}, 413, "262144"),
    ([1], 400, "must be a JSON object"),
    (b"{broken", 400, "no JSON"),
]


@pytest.mark.parametrize(("change", "status", "says"), BAD_DEFINITIONS)
def test_a_bad_definition_is_refused_in_a_sentence(texts: Texts, change: Any, status: int, says: str) -> None:
    """Each mistake is told as it is; what is another account's is told as what does not exist, and nothing is kept."""
    house, south = texts.house, texts.south
    if house.call("GET", "/v1/functions/own", token=south).status == 404:
        house.deploy("own", STREAM, token=south)
        house.deploy("private-canary", STREAM, token=texts.north)
    body = change
    if isinstance(change, dict):
        body = json.dumps({"version": "1", "operations": [{"name": "a", "path": "/a", "function": "own"}], **change})
    elif not isinstance(change, bytes):
        body = json.dumps(change)
    answer = house.call("PUT", "/v1/apis/bad", body, token=south, content_type=JSON)
    assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json"), answer.body
    assert says in answer.json["detail"]
    assert house.call("GET", "/v1/apis/bad", token=south).status == 404


def test_an_account_that_goes_takes_its_apis_along(texts: Texts) -> None:
    """Subscribers of its APIs hear that they are not there, as of one that never was, and made again it revives nothing."""
    house = texts.house
    for _ in range(2):
        gone = house.account("apis-gone")
        house.deploy("texts", CODE, token=gone)
        house.deploy("stream", STREAM, token=gone)
        publish(house, "text", definition(), owner=gone)
        assert house.call("GET", f"/v1/apis/{gone}/text/1/summaries", token=texts.east).status == 403
        subscribe(house, "passing", f"{gone}/text", caller=texts.east)
        assert house.call("GET", f"/v1/apis/{gone}/text/1/summaries", token=texts.east).status == 200
        assert house.call("DELETE", f"/v1/accounts/{gone}", token="admin").status == 204
        assert house.call("GET", f"/v1/apis/{gone}/text/1/summaries", token=texts.east).status == 404
        assert house.call("POST", "/v1/functions/passing/find/invoke", "{}", token=texts.east).status in (404, 410)
        assert house.call("GET", "/v1/subscriptions/passing", token=texts.east).status == 404


def test_an_api_survives_a_restart(tmp_path: Path) -> None:
    """What was published and subscribed is there again, and what ended is not."""
    data = tmp_path / "data"
    with started(data) as house:
        house.account("south")
        assert house.deploy("texts", CODE).json["state"] == "ready"
        assert house.deploy("stream", STREAM).json["state"] == "ready"
        publish(house, "text", definition(), owner="default")
        publish(house, "gone", definition(), owner="default")
        subscribe(house, "mine", "default/text", caller="south", params={"a": 1})
        subscribe(house, "gone", "default/gone", caller="south")
        assert house.call("DELETE", "/v1/apis/gone", token="default").status == 204
        tokens = house.tokens
        house.stop()
    with started(data) as house:
        house.tokens.update(tokens)
        answer = house.call("GET", "/v1/apis/default/text/1/summaries", token="south")
        assert (answer.status, answer.json["params"]) == (200, {"a": 1}), answer.body
        assert house.call("GET", "/v1/apis/default/gone/1/summaries", token="south").status == 404
        assert [s["name"] for s in house.call("GET", "/v1/subscriptions", token="south").json["items"]] == ["mine"]
