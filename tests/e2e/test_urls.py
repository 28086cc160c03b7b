"""A function's own URL: ASGI apps and HTTP events, public and not."""

from __future__ import annotations

import pytest

from tests.e2e.house import House

ASGI = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"].endswith("shutdown"): return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"): break
    names = [k.decode() for k, v in scope["headers"]]
    text = f"{scope['method']} {scope['path']} {scope['root_path']} {scope['query_string'].decode()} {body.decode()} {'authorization' in names}"
    await send({"type": "http.response.start", "status": 201, "headers": [(b"content-type", b"text/plain"), (b"x-own", b"yes"), (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
    await send({"type": "http.response.body", "body": b"!"})
"""
EVENT = """
def handler(event, context):
    if event.get("rawPath") == "/plain": return {"just": "data"}
    http = event["requestContext"]["http"]
    return {"statusCode": 418, "headers": {"content-type": "text/html"}, "cookies": ["a=b"], "body": f"{http['method']} {event['rawPath']} {event['rawQueryString']}"}
"""


@pytest.fixture(scope="module")
def sites(house: House) -> None:
    """Deploy an ASGI app and an event function, each public and not."""
    for name, source, config in (("site", ASGI, {"public": True}), ("closed", ASGI, {}), ("page", EVENT, {"public": True})):
        assert house.deploy(name, source, **config).json["state"] == "ready"


def test_asgi_app_gets_the_request_as_it_came(house: House, sites: None) -> None:
    """Method, path, query and body reach the app; status and headers are its own, the connection's stay ours."""
    answer = house.call("POST", "/f/default/site/a/b?x=1", "hello", token=None)
    assert (answer.status, answer.headers["content-type"], answer.headers["x-own"]) == (201, "text/plain", "yes")
    assert answer.body == b"POST /f/default/site/a/b /f/default/site x=1 hello False!"
    assert answer.headers.get("connection") != "close"


def test_token_never_reaches_the_code(house: House, sites: None) -> None:
    """A bearer token of ours is not among the headers that the code sees."""
    assert house.call("GET", "/f/default/site/", token="default").body.endswith(b"False!")  # noqa: S106


def test_function_that_is_not_public(house: House, sites: None) -> None:
    """Without a token 401, with a stranger's 404, with the owner's served."""
    assert house.call("GET", "/f/default/closed/", token=None).status == 401
    assert house.call("GET", "/f/default/closed/", token=house.account("passer")).status == 404
    assert house.call("GET", "/f/default/closed/").status == 201
    assert house.call("GET", "/f/default/nothing/", token=None).status == 401
    assert house.call("GET", "/f/nobody/nothing/", token=None).status == 401


def test_event_function_shapes_its_answer_here_only(house: House, sites: None) -> None:
    """statusCode, headers and cookies count under /f/, and are plain data when invoked."""
    answer = house.call("DELETE", "/f/default/page/x?y=2", token=None)
    assert (answer.status, answer.headers["content-type"], answer.body) == (418, "text/html", b"DELETE /x y=2")
    assert answer.headers["set-cookie"] == "a=b"
    assert house.call("GET", "/f/default/page/plain", token=None).json == {"just": "data"}
    invoked = house.invoke("page", {"rawPath": "/x", "rawQueryString": "", "requestContext": {"http": {"method": "GET"}}})
    assert (invoked.status, invoked.json["statusCode"]) == (200, 418)


def test_asgi_app_cannot_be_invoked(house: House, sites: None) -> None:
    """An app that wants HTTP says so when it is called with an event."""
    answer = house.invoke("site", {})
    assert answer.status == 500
    assert "/f/" in answer.json["errorMessage"]
