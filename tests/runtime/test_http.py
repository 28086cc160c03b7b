"""HTTP inside the container: ASGI apps, and event handlers behind a function's own URL."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from sandbox.wire import Flag, Status

from .conftest import Guest

HTTP = Flag.HTTP


def request(method: str = "GET", path: str = "/f/acct/f/items/7", query: str = "", headers: Any = ()) -> dict[str, Any]:
    """Return a call's meta for a request under the function's URL."""
    http = {
        "method": method, "scheme": "https", "path": path, "raw_path": path, "root_path": "/f/acct/f", "query": query,
        "headers": list(headers), "client": ["192.0.2.1", 4711], "server": ["example.org", 80],
        "account": "acct", "function": "f",
    }  # fmt: skip
    return {"http": http}


APP = """
import asyncio, json
state = {"started": 0, "left": 0}
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        assert (await receive())["type"] == "lifespan.startup"
        state["started"] += 1
        scope["state"]["pool"] = "made"
        await send({"type": "lifespan.startup.complete"})
        await receive()
        return
    path = scope["path"].removeprefix(scope["root_path"])
    message = await receive()
    headers = [(b"X-One", b"1"), (b"content-type", b"text/plain")]
    head = {"type": "http.response.start", "status": 201, "headers": headers}
    if path == "/raise": raise ValueError("broken")
    if path == "/silent": return
    if path == "/inject": head["headers"] = [(b"x", b"a\\r\\nb: c")]
    await send(head)
    if path == "/cut": return
    if path == "/ticks":
        try:
            while True:
                await send({"type": "http.response.body", "body": b"tick", "more_body": True})
                await asyncio.sleep(0)
        except OSError:
            state["left"] += 1
            raise
    if path == "/wait":
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        state["last"] = (await receive())["type"]
        return
    if path == "/parts":
        for part in (b"one", b"two", b""):
            await send({"type": "http.response.body", "body": part, "more_body": bool(part)})
        return
    shown = {key: scope[key] for key in ("method", "scheme", "path", "root_path", "client", "server", "state")}
    shown["headers"] = [[k.decode(), v.decode()] for k, v in scope["headers"]]
    shown["query"] = scope["query_string"].decode()
    shown |= {"body": message["body"].decode(), **state}
    await send({"type": "http.response.body", "body": json.dumps(shown).encode()})
"""


@pytest.fixture
def app(guest: Guest) -> Guest:
    """A container with the ASGI app above."""
    kind, loaded = guest.load(APP)
    assert (kind, loaded["shape"]) == ("R", "asgi")
    return guest


def _seen(app: Guest) -> Any:
    return json.loads(app.call(flags=HTTP, meta=request()).http[2])


def test_asgi_scope(app: Guest) -> None:
    """The app gets the request as it came, its body, and the state that its lifespan made, once."""
    for _ in range(2):
        answered = app.call(body=b"payload", flags=HTTP, meta=request("PUT", query="a=1", headers=[["X-Name", "v"]]))
        status, headers, body = answered.http
        shown = json.loads(body)
        assert (answered.status, status, headers["X-One"]) == (Status.OK_HTTP, 201, "1")
        assert (shown["method"], shown["scheme"], shown["query"], shown["body"]) == ("PUT", "https", "a=1", "payload")
        assert (shown["path"], shown["root_path"]) == ("/f/acct/f/items/7", "/f/acct/f")
        assert (shown["client"], shown["headers"]) == (["192.0.2.1", 4711], [["x-name", "v"]])
        assert (shown["state"], shown["started"]) == ({"pool": "made"}, 1)


def test_asgi_answer_in_parts(app: Guest) -> None:
    """Several body events are joined for a plain call and sent on for a stream."""
    meta = request(path="/f/acct/f/parts")
    assert app.call(flags=HTTP, meta=meta).http[2] == b"onetwo"
    streamed = app.call(flags=HTTP | Flag.STREAM, meta=meta)
    assert (streamed.status, streamed.items) == (Status.OK_STREAM, [b"one", b"two"])
    assert streamed.head == {"kind": "http", "status": 201, "headers": [["X-One", "1"], ["content-type", "text/plain"]]}


def test_asgi_one_piece_is_whole_even_for_a_stream(app: Guest) -> None:
    """An answer in one body event needs no stream."""
    answered = app.call(flags=HTTP | Flag.STREAM, meta=request())
    assert (answered.status, answered.head) == (Status.OK_HTTP, None)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/raise", "ValueError"),
        ("/silent", "IncompleteAnswer"),
        ("/cut", "IncompleteAnswer"),
        ("/inject", "InvalidResult"),
    ],
)
def test_asgi_failures(app: Guest, path: str, kind: str) -> None:
    """An app that raises, says nothing, stops half way or splits its head is an error."""
    answered = app.call(flags=HTTP, meta=request(path="/f/acct/f" + path))
    assert (answered.status, answered.json["errorType"]) == (Status.ERROR, kind)


def test_asgi_caller_leaves_while_sending(app: Guest) -> None:
    """After CANCEL sending raises OSError in the app, and the call is CANCELLED."""
    call_id = app.send(flags=HTTP | Flag.STREAM, meta=request(path="/f/acct/f/ticks"))
    app.cancel(call_id)
    assert app.receive(call_id).status is Status.CANCELLED
    assert _seen(app)["left"] == 1


def test_asgi_caller_leaves_while_waiting(app: Guest) -> None:
    """After CANCEL an app that waits gets http.disconnect."""
    call_id = app.send(flags=HTTP | Flag.STREAM, meta=request(path="/f/acct/f/wait"))
    app.cancel(call_id)
    assert app.receive(call_id).status is Status.CANCELLED
    assert _seen(app)["last"] == "http.disconnect"


def test_asgi_needs_http(app: Guest) -> None:
    """An app that is invoked without a request says how it is called."""
    answered = app.call({"a": 1})
    assert (answered.status, answered.json["errorType"]) == (Status.ERROR, "NotHttp")


def test_asgi_output_limit(guest: Guest) -> None:
    """An answer above the limit is a limit, whether the app sends it in one piece or in many."""
    source = """
    async def app(scope, receive, send):
        if scope["type"] == "lifespan": raise NotImplementedError
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for more in (True, False):
            await send({"type": "http.response.body", "body": b"x" * 600, "more_body": more})
    """
    guest.load(source, output_bytes=1000)
    answered = guest.call(flags=HTTP, meta=request())
    assert (answered.status, answered.json["observed"]) == (Status.LIMIT, 1200)


def test_asgi_startup_failure(guest: Guest) -> None:
    """An app that says its start-up failed is not loaded."""
    source = """
    async def app(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})
    """
    kind, failed = guest.load(source)
    assert (kind, failed["errorMessage"]) == ("F", "no database")


def test_function_url_event(guest: Guest) -> None:
    """An event handler gets a request as a Lambda function-URL event, payload 2.0."""
    guest.load("def handler(event, context):\n    return event\n")
    headers = [
        ["Host", "example.org"],
        ["Cookie", "a=1; b=2"],
        ["X-M", "1"],
        ["x-m", "2"],
        ["Content-Type", "text/plain"],
    ]
    answered = guest.call(body="é".encode(), flags=HTTP, meta=request("POST", query="q=1&q=2&r=", headers=headers))
    status, shown_headers, body = answered.http
    event = json.loads(body)
    assert (status, shown_headers["content-type"]) == (200, "application/json")
    assert (event["version"], event["rawPath"], event["rawQueryString"]) == ("2.0", "/items/7", "q=1&q=2&r=")
    assert event["queryStringParameters"] == {"q": "1,2", "r": ""}
    assert event["cookies"] == ["a=1", "b=2"]
    assert event["headers"] == {"host": "example.org", "x-m": "1,2", "content-type": "text/plain"}
    assert (event["body"], event["isBase64Encoded"]) == ("é", False)
    assert event["requestContext"]["http"]["method"] == "POST"
    assert event["requestContext"]["http"]["sourceIp"] == "192.0.2.1"
    binary = guest.call(body=b"\xff\x00", flags=HTTP, meta=request("POST", headers=[["content-type", "image/png"]]))
    event = json.loads(binary.http[2])
    assert (base64.b64decode(event["body"]), event["isBase64Encoded"]) == (b"\xff\x00", True)


ANSWERS = """
ANSWERS = {
    "/full": {"statusCode": 404, "headers": {"X-A": 1, "content-type": "text/html"}, "cookies": ["c=1"], "body": "<p>"},
    "/binary": {"statusCode": 200, "body": "/wA=", "isBase64Encoded": True},
    "/object": {"statusCode": "202", "body": {"a": 1}},
    "/text": "plain", "/plain": {"a": 1}, "/bytes": b"raw",
    "/status": {"statusCode": 99}, "/split": {"statusCode": 200, "headers": {"x": "a\\nb"}}, "/set": {1},
    "/headers": {"statusCode": 200, "headers": [1]},
}
def handler(event, context):
    return ANSWERS[event["rawPath"] if "rawPath" in event else event["path"]]
"""


@pytest.mark.parametrize(
    ("path", "status", "header", "body"),
    [
        ("/full", 404, ("set-cookie", "c=1"), b"<p>"),
        ("/binary", 200, ("content-type", "application/json"), b"\xff\x00"),
        ("/object", 202, ("content-type", "application/json"), b'{"a":1}'),
        ("/text", 200, ("content-type", "application/json"), b"plain"),
        ("/plain", 200, ("content-type", "application/json"), b'{"a":1}'),
        ("/bytes", 200, ("content-type", "application/octet-stream"), b"raw"),
    ],
)
def test_function_url_answers(guest: Guest, path: str, status: int, header: tuple[str, str], body: bytes) -> None:
    """{statusCode, headers, cookies, body, isBase64Encoded} is the whole answer; anything else is a body."""
    guest.load(ANSWERS)
    answered = guest.call(flags=HTTP, meta=request(path="/f/acct/f" + path))
    shown = answered.http
    assert (answered.status, shown[0], shown[2]) == (Status.OK_HTTP, status, body)
    assert shown[1][header[0]] == header[1]


@pytest.mark.parametrize("path", ["/status", "/split", "/set", "/headers"])
def test_function_url_refuses(guest: Guest, path: str) -> None:
    """An answer that HTTP cannot carry is an error of the function."""
    guest.load(ANSWERS)
    answered = guest.call(flags=HTTP, meta=request(path="/f/acct/f" + path))
    assert (answered.status, answered.json["errorType"]) == (Status.ERROR, "InvalidResult")


def test_status_code_means_nothing_without_http(guest: Guest) -> None:
    """Outside a function's URL {statusCode} is a result like any other."""
    guest.load(ANSWERS)
    answered = guest.call({"path": "/full"})
    assert (answered.status, answered.json["statusCode"]) == (Status.OK_JSON, 404)


def test_generator_behind_a_url(guest: Guest) -> None:
    """A generator is an array for a plain request and a stream for one that takes it."""
    guest.load("def handler(event, context):\n    yield 1\n    yield 2\n")
    assert guest.call(flags=HTTP, meta=request()).http[2] == b"[1,2]"
    assert guest.call(flags=HTTP | Flag.STREAM, meta=request()).items == [b"1", b"2"]


def test_typed_function_behind_a_url(guest: Guest) -> None:
    """A typed function takes the JSON body, or the query, and answers a body."""
    guest.load("def shout(text: str) -> str: return text.upper()\n")
    assert guest.call({"text": "a"}, flags=HTTP, meta=request("POST")).http[2] == b"A"
    assert guest.call(flags=HTTP, meta=request(query="text=b")).http[2] == b"B"
    assert guest.call({"txt": "a"}, flags=HTTP, meta=request("POST")).status is Status.INVALID_EVENT
