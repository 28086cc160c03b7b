"""Every route: who may use it, what it asks of the service, and what it refuses."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from typing import Any
from urllib.parse import quote

import pytest

from pyfaas.contract import STATUS
from pyfaas.model import CanaryOrder, Scope
from pyfaas.web.routes import ROUTES, Route
from tests.web.conftest import Served
from tests.web.fake_service import ASYNC, SYNC
from tests.web.wire import Answer, Wire, ask, call, get, other

JSON = b"Content-Type: application/json\r\n"
ID = "0190a000-0000-7000-8000-00000000000a"
BODIES = {
    ("POST", "/v1/accounts"): b'{"name": "new"}',
    ("PUT", "/v1/accounts/{account}"): b'{"stale": "forbid"}',
    ("POST", "/v1/tokens"): b'{"scopes": ["invoke"]}',
    ("PUT", "/v1/functions/{name}/aliases/{alias}"): b'{"version": 3, "weights": {"4": 10}}',
    ("PUT", "/v1/functions/{name}/secrets/{key}"): b'{"value": "v"}',
    ("PUT", "/v1/aliases/{name}"): b'{"target": "ada/greet"}',
    ("POST", "/v1/apis/{api}/approvals/{account}"): b'{"approve": true}',
}
GUARDED = [route for route in ROUTES if route.scope is not None and route.method != "*"]
VALUES = {"name": "echo", "number": "1", "alias": "live", "id": ID, "account": "new", "grantee": "*", "key": "K"} | {
    "api": "text", "owner": "ada", "version": "1", "operation": "op", "path:.*": "x"
}  # fmt: skip
GOOD_STATUS = {"POST": (200, 201, 202), "PUT": (200, 201), "DELETE": (200, 204), "GET": (200,)}


def multipart(*parts: tuple[str, bytes]) -> tuple[bytes, bytes]:
    """Return a multipart body and its header."""
    pieces = [b'--B\r\nContent-Disposition: form-data; name="%b"; filename="x"\r\n\r\n%b\r\n' % (n.encode(), c) for n, c in parts]
    return b"".join(pieces) + b"--B--\r\n", b"Content-Type: multipart/form-data; boundary=B\r\n"


def request_of(route: Route, token: bytes | None) -> bytes:
    """Return a good request of a route."""
    path = route.path
    for name, value in VALUES.items():
        path = path.replace("{" + name + "}", value)
    body, extra = BODIES.get((route.method, route.path), b""), JSON
    if (route.method, route.path) == ("PUT", "/v1/functions/{name}"):
        body, extra = multipart(("config", b"{}"), ("code", b"zip"))
    return other(route.method.encode(), path.encode(), body, extra, token=token)


def scopes_without(scope: Scope | None) -> bytes:
    """Return a token that has a scope, but not this one."""
    return {Scope.INVOKE: b"pf_read", Scope.READ: b"pf_invoke", Scope.DEPLOY: b"pf_read", Scope.ADMIN: b"pf_all"}[scope or Scope.ADMIN]


def refusal(answer: Answer, code: str) -> Any:
    """Check a problem document and return it."""
    problem = answer.json
    assert answer.headers["content-type"] == "application/problem+json"
    assert (problem["code"], problem["status"], answer.status) == (code, STATUS[code], STATUS[code])  # type: ignore[index]
    assert {"type", "title", "detail", "fault", "hint", "evidence"} <= problem.keys()
    return problem


@pytest.mark.parametrize("route", GUARDED, ids=lambda r: f"{r.method} {r.path}")
async def test_who_may_use_a_route(front: Served, route: Route) -> None:
    """No token and a wrong one are 401, a token of another scope 403, and none reaches the service; the right one does."""
    for token in (None, b"pf_wrong", b""):
        answer = await ask(front.port, request_of(route, token))
        refusal(answer, "unauthenticated")
        assert answer.headers["www-authenticate"].startswith("Bearer")
    for token in (scopes_without(route.scope), b"pf_none"):
        refusal(await ask(front.port, request_of(route, token)), "not_allowed")
    assert (front.service.asked, front.service.calls) == ([], [])
    assert (await ask(front.port, request_of(route, b"pf_admin"))).status in GOOD_STATUS[route.method]


@pytest.mark.parametrize("path", [r.path for r in ROUTES if r.scope is None and not r.is_url])
async def test_what_needs_no_token(front: Served, path: str) -> None:
    """Anybody may see that the server lives and what it is; a wrong token is still no token."""
    assert (await ask(front.port, other(b"GET", path.encode(), token=None))).status == 200
    refusal(await ask(front.port, get(path.encode(), token=b"pf_wrong")), "unauthenticated")


def test_each_route_is_in_the_table_once() -> None:
    """A method and a path have one row."""
    rows = [(route.method, route.path) for route in ROUTES]
    assert len(rows) == len(set(rows))


BROWSER = b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n"


async def test_the_front_page(front: Served) -> None:
    """A browser gets a page that names the address it asked, and may load and run nothing."""
    answer = await ask(front.port, other(b"GET", b"/", b"", BROWSER, token=None).replace(b"Host: x", b"Host: box.example:8787"))
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in answer.headers["content-security-policy"]
    page = answer.body.decode()
    for word in ("http://box.example:8787/v1/functions/", 'href="/openapi.json"', 'href="/readyz"', 'href="/metrics"', "pyfaas deploy", "default.token"):
        assert word in page
    assert "src=" not in page
    assert set(re.findall(r'(?:href|action)="([^"]*)"', page)) == {"/openapi.json", "/readyz", "/healthz", "/metrics"}


async def test_the_style_is_the_one_that_the_policy_allows(front: Served) -> None:
    """The page's one style is the one whose hash is in the policy: a browser applies it, and no other."""
    answer = await ask(front.port, other(b"GET", b"/", b"", BROWSER, token=None))
    (style,) = re.findall(rb"<style>(.*?)</style>", answer.body, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style).digest()).decode()
    assert f"'sha256-{digest}'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("host", [b"a<script>", b"x y", b'"><b>', b"a/b", b""], ids=repr)
async def test_a_host_that_is_none(front: Served, host: bytes) -> None:
    """What is no host is not put on the page: the address that is listened on is, or the request is refused."""
    answer = await ask(front.port, other(b"GET", b"/", b"", BROWSER, token=None).replace(b"Host: x", b"Host: " + host))
    assert answer.status == 400 or b"http://127.0.0.1:8787/v1/" in answer.body
    assert not host or host not in answer.body or answer.status == 400


@pytest.mark.parametrize("accept", [b"", b"Accept: */*\r\n", b"Accept: application/json\r\n", b"Accept: application/json, text/html\r\n"], ids=repr)
async def test_the_front_page_for_a_program(front: Served, accept: bytes) -> None:
    """Whoever does not ask for HTML gets the same as JSON."""
    answer = await ask(front.port, other(b"GET", b"/", b"", accept, token=None))
    assert answer.headers["content-type"].startswith("application/json")
    assert (answer.json["name"], answer.json["isolation"], answer.json["links"]["openapi"]) == ("pyfaas", "full", "/openapi.json")


async def test_the_document_and_its_tag(front: Served) -> None:
    """The OpenAPI document has an entity tag, and is not sent again to whoever has it."""
    first = await ask(front.port, other(b"GET", b"/openapi.json", token=None))
    assert (first.status, first.json["openapi"]) == (200, "3.1.0")
    tag = first.headers["etag"].encode()
    for known in (tag, b"W/" + tag, b'"x", ' + tag, b"*"):
        again = await ask(front.port, other(b"GET", b"/openapi.json", b"", b"If-None-Match: " + known + b"\r\n", token=None))
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag.decode())
    assert (await ask(front.port, other(b"GET", b"/openapi.json", b"", b'If-None-Match: "x"\r\n', token=None))).status == 200


@pytest.mark.parametrize("path", [r.path for r in ROUTES if r.method == "GET"])
async def test_head_is_get_without_its_body(front: Served, path: str) -> None:
    """HEAD has the status and the headers of GET, and the connection goes on behind it."""
    path = path.replace("{name}", "echo").replace("{number}", "1").replace("{alias}", "live").replace("{id}", ID)
    wire = await Wire.to(front.port)
    await wire.send(get(path.encode(), token=b"pf_admin"))
    whole = await wire.answer()
    await wire.send(get(path.encode(), token=b"pf_admin").replace(b"GET", b"HEAD") + get(b"/healthz"))
    bare = await wire.answer(has_body=False)
    assert (bare.status, bare.headers.get("content-type")) == (whole.status, whole.headers.get("content-type"))
    assert (await wire.answer()).json["live"] is True


async def test_not_ready(front: Served) -> None:
    """A server that takes no calls says so with a status, and still lives."""
    front.service.is_ready = False
    answer = await ask(front.port, other(b"GET", b"/readyz", token=None))
    assert (answer.status, answer.json["ready"], answer.headers["retry-after"]) == (503, False, "1")
    assert (await ask(front.port, other(b"GET", b"/healthz", token=None))).status == 200


async def test_unknown_routes_and_methods(front: Served) -> None:
    """404 and 405 are problem documents; 405 says what is possible; a slash that is missing is named."""
    refusal(await ask(front.port, get(b"/v1/nothing")), "not_found")
    answer = await ask(front.port, other(b"PATCH", b"/v1/functions/echo"))
    refusal(answer, "method_not_allowed")
    assert answer.headers["allow"] == "DELETE, GET, HEAD, PUT"
    assert "slash" in refusal(await ask(front.port, get(b"/f/default/echo")), "not_found")["hint"]


BAD = [
    ("PUT", "/v1/functions/echo/aliases/live", b"{}", "invalid_request"),
    ("PUT", "/v1/functions/echo/aliases/live", b'{"version": "3"}', "invalid_request"),
    ("PUT", "/v1/functions/echo/aliases/live", b'{"version": true}', "invalid_request"),
    ("PUT", "/v1/functions/echo/aliases/live", b'{"version": 3, "weights": [1]}', "invalid_request"),
    ("PUT", "/v1/functions/echo/aliases/live", b'{"version": 3, "weights": {"x": 1}}', "invalid_request"),
    ("PUT", "/v1/functions/echo/aliases/live", b'{"version": 3, "weights": {"4": null}}', "invalid_request"),
    ("PUT", "/v1/functions/echo/aliases/live", b'{"versoin": 3}', "unknown_key"),
    ("PUT", "/v1/functions/echo/aliases/live", b"[1]", "invalid_request"),
    ("PUT", "/v1/functions/echo/aliases/live", b"{", "invalid_request"),
    ("PUT", "/v1/functions/echo/aliases/live", b"[" * 50_000, "invalid_request"),
    ("PUT", "/v1/functions/echo/aliases/live", b"{" + b" " * 70_000 + b"}", "payload_too_large"),
    ("POST", "/v1/accounts", b"{}", "invalid_request"),
    ("POST", "/v1/accounts", b'{"name": 1}', "invalid_request"),
    ("POST", "/v1/accounts", b'{"name": "a", "network": "yes"}', "invalid_request"),
    ("POST", "/v1/tokens", b'{"scopes": "invoke"}', "invalid_request"),
    ("POST", "/v1/tokens", b'{"scopes": [1]}', "invalid_request"),
    ("POST", "/v1/tokens", b'{"expires": "soon"}', "invalid_request"),
    ("POST", "/v1/tokens", b'{"expires": NaN}', "invalid_request"),
    ("POST", "/v1/tokens", b'{"expires": Infinity}', "invalid_request"),
    ("POST", "/v1/functions/echo/rollback", b'{"pointer": 3}', "invalid_request"),
    ("GET", "/v1/functions?limit=0", b"", "invalid_request"),
    ("GET", "/v1/functions?limit=1001", b"", "invalid_request"),
    ("GET", "/v1/functions?limit=x", b"", "invalid_request"),
    ("GET", "/v1/functions?limit=%D9%A8", b"", "invalid_request"),
    ("GET", "/v1/functions/a.b", b"", "invalid_name"),
    ("GET", "/v1/functions/e%63ho", b"", "invalid_name"),
    ("GET", "/v1/functions/echo/versions/0", b"", "invalid_request"),
    ("GET", "/v1/functions/echo/versions/latest", b"", "invalid_request"),
    ("GET", "/v1/functions/echo/versions/1?wait=x", b"", "invalid_request"),
    ("GET", "/v1/functions/echo/aliases/nothing", b"", "not_found"),
    ("GET", "/v1/functions/echo/logs?since=yesterday", b"", "invalid_request"),
    ("GET", "/v1/functions/echo/logs?since=nan", b"", "invalid_request"),
    ("GET", "/v1/functions/echo/logs?id=", b"", "not_found"),
    ("GET", "/v1/invocations?limit=2000", b"", "invalid_request"),
    ("GET", "/v1/functions?after=%20", b"", "invalid_request"),
    ("GET", "/v1/invocations?after=x", b"", "invalid_request"),
    ("GET", "/v1/tokens?after=x", b"", "invalid_request"),
    ("GET", "/v1/accounts?after=", b"", "invalid_request"),
    ("GET", "/v1/usage?after=2026", b"", "invalid_request"),
    ("GET", "/v1/usage?from=x", b"", "invalid_request"),
    ("GET", "/v1/usage?from=-1", b"", "invalid_request"),
    ("GET", "/v1/usage?to=1e300", b"", "invalid_request"),
    ("GET", "/v1/usage?to=1_0", b"", "invalid_request"),
    ("GET", "/v1/functions?limt=5", b"", "unknown_key"),
    ("GET", "/v1/functions?limit=5&limit=6", b"", "invalid_request"),
    ("GET", "/v1/limits?x", b"", "unknown_key"),
    ("GET", "/v1/invocations/x", b"", "not_found"),
    ("GET", "/v1/invocations/0190A000-0000-7000-8000-00000000000A", b"", "not_found"),
    ("DELETE", "/v1/tokens/0190a00000007000800000000000000a", b"", "not_found"),
    ("POST", "/v1/tokens", b'{"label": "%b"}' % (b"x" * 201), "invalid_request"),
    ("POST", "/v1/tokens", b'{"label": "a\\ud800"}', "invalid_request"),
    ("POST", "/v1/accounts", b'{"name": "\\udfff"}', "invalid_request"),
    ("POST", "/v1/tokens", b'{"expires": 1%b}' % (b"0" * 5000), "invalid_request"),
    ("PUT", "/v1/functions/echo/aliases/live", b'{"version": 3.5}', "invalid_request"),
    ("PUT", "/v1/functions/echo/aliases/live", b'{"version": 1e400}', "invalid_request"),
    ("GET", "/v1/functions/echo/logs?follow=perhaps", b"", "invalid_request"),
    ("PUT", "/v1/functions/echo", b"zip", "invalid_request"),
]


@pytest.mark.parametrize(("method", "path", "body", "code"), BAD, ids=lambda v: str(v)[:40])
async def test_what_is_refused(front: Served, method: str, path: str, body: bytes, code: str) -> None:
    """A request that says something impossible is told what, and changes nothing."""
    assert refusal(await ask(front.port, other(method.encode(), path.encode(), body, JSON, token=b"pf_admin")), code)["detail"]
    assert [name for name, _ in front.service.asked if name != "get_aliases"] == []


# ---- pages

_LISTS: list[tuple[str, str, dict[str, Any], list[dict[str, Any]]]] = [
    ("/v1/accounts", "list_accounts", SYNC, [{"account": name} for name in ("a", "b", "b-2", "c", "d")]),
    ("/v1/tokens", "list_tokens", SYNC, [{"id": ID[:-1] + name, "created": at} for name, at in (("9", 9.0), ("b", 10.0), ("a", 10.0), ("8", 1e9), ("7", 1.5e9))]),
    (
        "/v1/usage",
        "usage",
        ASYNC,
        [
            {"day": day, "account": "1", "owner": "1", "function": name, "kind": kind, "n": n}
            for n, (day, name, kind) in enumerate(
                [("2026-01-01", "f", "call"), ("2026-01-01", "f", "call"), ("2026-01-01", "f", "init"), ("2026-01-02", "a", "call"), ("2026-01-02", "b", "call")]
            )
        ],
    ),
]


@pytest.mark.parametrize(("path", "method", "table", "items"), _LISTS, ids=[path for path, *_ in _LISTS])
@pytest.mark.parametrize("limit", [1, 2, 5, 7])
async def test_pages(
    front: Served, monkeypatch: pytest.MonkeyPatch, path: str, method: str, table: dict[str, Any], items: list[dict[str, Any]], limit: int
) -> None:
    """Page after page gives every item once, in order, and the last page says that it is."""
    monkeypatch.setitem(table, method, items)
    found, after, pages = [], "", 0
    while True:
        answer = (await ask(front.port, get(f"{path}?limit={limit}{after}".encode()))).json
        assert set(answer) == {"items", "next"}
        found += answer["items"]
        pages += 1
        if answer["next"] is None:
            break
        assert len(answer["items"]) == limit
        after = "&after=" + quote(answer["next"])
    key = (lambda item: (item["created"], item["id"])) if method == "list_tokens" else (lambda _item: 0)
    assert found == sorted(items, key=key)
    assert pages == -(-len(items) // limit)


# ---- publications


@pytest.mark.parametrize(
    ("query", "order"),
    [
        (b"?alias=live", CanaryOrder(pointer="live", percent=100, promote_after_ms=0)),
        (b"?alias=live&canary=10", CanaryOrder(pointer="live", percent=10, promote_after_ms=300_000, error_budget=1.0)),
        (b"?error_budget=0.5&promote_after=1h&canary=99&alias=live", CanaryOrder(pointer="live", percent=99, promote_after_ms=3_600_000, error_budget=0.5)),
    ],
)
async def test_a_publication_for_a_release_alias(front: Served, query: bytes, order: CanaryOrder) -> None:
    """What the query orders reaches the service with the publication; what it leaves out is five minutes and one percent."""
    body, header = multipart(("config", b"{}"), ("code", b"zip"))
    assert (await ask(front.port, other(b"PUT", b"/v1/functions/echo" + query, body, header))).status == 201
    assert front.service.asked == [("publish", ("echo", {}, b"zip", order))]


async def test_a_publication(front: Served) -> None:
    """Configuration and code reach the service as they were sent, in either order."""
    zipped = bytes(range(256)) * 100
    for parts in ([("config", b'{"memory": "1G"}'), ("code", zipped)], [("code", zipped), ("config", b'{"memory": "1G"}')]):
        body, header = multipart(*parts)
        answer = await ask(front.port, other(b"PUT", b"/v1/functions/echo", body, header))
        assert (answer.status, answer.json["state"]) == (201, "preparing")
        assert front.service.asked.pop() == ("publish", ("echo", {"memory": "1G"}, zipped))


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        ([("config", b"{}")], "invalid_request"),
        ([("config", b"{"), ("code", b"x")], "invalid_request"),
        ([("config", b"[]"), ("code", b"x")], "invalid_request"),
        ([("config", b"[" * 100_000), ("code", b"x")], "invalid_request"),
        ([("config", b"{}"), ("code", b"x"), ("code", b"y")], "invalid_request"),
        ([("config", b"{}"), ("code", b"x"), ("more", b"y")], "unknown_key"),
        ([("config", b" " * (300 << 10)), ("code", b"x")], "payload_too_large"),
        ([("config", b"{}"), ("code", b"x" * (129 << 10))], "payload_too_large"),
        ([], "invalid_request"),
    ],
    ids=["no code", "broken", "list", "deep", "twice", "more", "long config", "long code", "empty"],
)
async def test_publications_that_are_refused(front: Served, parts: list[tuple[str, bytes]], code: str) -> None:
    """A publication with a part missing, broken, twice or too large is refused, and none reaches the service."""
    body, header = multipart(*parts)
    refusal(await ask(front.port, other(b"PUT", b"/v1/functions/echo", body, header)), code)
    assert front.service.asked == []


@pytest.mark.parametrize("header", [b"Content-Type: multipart/form-data\r\n", b"Content-Type: multipart/form-data; boundary=C\r\n"], ids=["no", "other"])
async def test_broken_multipart(front: Served, header: bytes) -> None:
    """A body without the boundary that it announces is refused."""
    refusal(await ask(front.port, other(b"PUT", b"/v1/functions/echo", multipart(("code", b"x"))[0], header)), "invalid_request")
    assert front.service.asked == []


async def test_an_upload_over_the_limit_is_refused_early(front: Served) -> None:
    """The answer comes while the upload still runs: by its length, or once it is over the limit."""
    head, header = multipart(("code", b""))[0][:-9], multipart()[1]
    wire = await Wire.to(front.port)
    await wire.send(other(b"PUT", b"/v1/functions/echo", b"", header).replace(b"Length: 0", b"Length: 99000000") + head)
    assert refusal(await wire.answer(), "payload_too_large")["evidence"]["limit"] == "bundle_packed"
    wire = await Wire.to(front.port)
    chunked = other(b"PUT", b"/v1/functions/echo", b"", header + b"Transfer-Encoding: chunked\r\n").replace(b"Content-Length: 0\r\n", b"")
    await wire.send(chunked + b"%x\r\n%b\r\n" % (len(head), head), *[b"10000\r\n" + b"x" * 65536 + b"\r\n"] * 4)
    assert refusal(await wire.answer(), "payload_too_large")["evidence"]["limit"] == "bundle_packed"
    assert front.service.asked == []


# ---- asynchronous calls and logs


async def test_a_call_for_later(front: Served) -> None:
    """A call that prefers to be answered at once is kept, with where to look for it."""
    answer = await ask(front.port, call(b'{"a": 1}', b"Prefer: respond-async\r\nPyfaas-Timeout: 5s\r\n", path=b"/v1/functions/echo/invoke?qualifier=live"))
    assert (answer.status, answer.json["state"]) == (202, "queued")
    assert answer.headers["location"] == f"/v1/invocations/{answer.json['id']}"
    ((_, (request,)),) = front.service.asked
    assert (request.body, request.qualifier, request.timeout_ms, request.wants_stream) == (b'{"a": 1}', "live", 5000, False)


async def test_a_replay(front: Served) -> None:
    """A replay has its event or another, and says whose replay it is."""
    for body, given in ((b"", None), (b'{"b": 2}', b'{"b": 2}')):
        answer = await ask(front.port, other(b"POST", f"/v1/invocations/{ID}/replay".encode(), body, JSON))
        assert (answer.status, answer.json["replay_of"]) == (202, ID)
        assert front.service.asked.pop() == ("replay_job", (ID, given))


async def test_log_lines(front: Served) -> None:
    """A log is one object a line, from a cursor on, and of one invocation when asked."""
    front.service.lines = [(n, {"line": f"line {n}"}) for n in range(1, 6)]
    answer = await ask(front.port, get(b"/v1/functions/echo/logs?after=3"))
    assert [json.loads(line)["line"] for line in answer.body.splitlines()] == ["line 4", "line 5"]
    answer = await ask(front.port, get(f"/v1/invocations/{ID}/logs".encode()))
    assert len(answer.body.splitlines()) == 5
    assert front.service.asked[-1] == ("logs", ("echo", None, ID, 0.0, False, 0, 1000))


async def test_following_a_log(front: Served) -> None:
    """A follower sees lines as they come, each once; it ends when the server stops, or when it leaves."""
    front.service.lines = [(1, {"line": "one"}), (2, {"line": "two"})]
    wire = await Wire.to(front.port)
    await wire.send(get(b"/v1/functions/echo/logs?follow&limit=1"))
    async with asyncio.timeout(5):
        await wire.head()
        assert [json.loads(await wire.chunk())["line"] for _ in range(2)] == ["one", "two"]
        front.service.lines.append((3, {"line": "three"}))
        assert json.loads(await wire.chunk())["line"] == "three"
        front.service.is_ready = False
        assert await wire.chunk() == b""


async def test_a_follower_that_leaves(front: Served) -> None:
    """A log without new lines is not asked for any more once its follower has gone."""
    wire = await Wire.to(front.port)
    await wire.send(get(b"/v1/functions/echo/logs?follow"))
    async with asyncio.timeout(5):
        await wire.head()
        while len(front.service.asked) < 2:
            await asyncio.sleep(0.01)
    wire.close()
    await asyncio.sleep(0.7)
    seen = len(front.service.asked)
    await asyncio.sleep(0.7)
    assert len(front.service.asked) == seen


# ---- a function's own URL


async def test_a_request_as_it_came(front: Served) -> None:
    """Method, path, query, headers and body reach the function; our token and what belongs to the connection do not."""
    sent = other(b"PATCH", b"/f/default/page:live/a%20b/?x=1&y=%20", b"body", b"X-Own: 1\r\nX-Own: 2\r\npyfaas-timeout: 5s\r\n")
    answer = await ask(front.port, sent)
    assert (answer.status, answer.headers["content-type"], answer.headers["x-own"]) == (201, "text/x-own", "yes")
    assert (answer.headers.get("connection"), answer.headers["pyfaas-outcome"]) == (None, "ok")
    seen = answer.json
    assert {k: seen[k] for k in ("method", "path", "raw_path", "rest", "query", "root_path", "body")} == {
        "method": "PATCH",
        "path": "/f/default/page:live/a b/",
        "raw_path": "/f/default/page:live/a%20b/",
        "rest": "/a b/",
        "query": "x=1&y=%20",
        "root_path": "/f/default/page:live",
        "body": "body",
    }
    assert [v for k, v in seen["headers"] if k == "X-Own"] == ["1", "2"]
    assert not any(k.lower() == "authorization" for k, _ in seen["headers"])
    assert (front.service.calls[0].request.timeout_ms, front.service.calls[0].request.qualifier) == (5000, "live")


async def test_who_may_use_a_url(front: Served) -> None:
    """A public function needs no token; another's is not there; one's own needs the scope."""
    assert (await ask(front.port, other(b"GET", b"/f/default/open/", token=None))).status == 201
    refusal(await ask(front.port, other(b"GET", b"/f/default/page/", token=None)), "unauthenticated")
    refusal(await ask(front.port, get(b"/f/stranger/page/")), "not_found")
    refusal(await ask(front.port, get(b"/f/default/p%61ge/")), "invalid_name")
    refusal(await ask(front.port, get(b"/f/default/page/", token=b"pf_read")), "not_allowed")
    own = other(b"GET", b"/f/default/open/", b"", b"Authorization: Basic eDp5\r\n", token=None)
    assert ["Authorization", "Basic eDp5"] in (await ask(front.port, own)).json["headers"]


async def test_a_large_request_to_a_url(front: Served) -> None:
    """A body over the limit is refused under a function's URL as well."""
    refusal(await ask(front.port, other(b"POST", b"/f/default/open/", b"x" * (300 << 10), token=None)), "payload_too_large")
    assert front.service.calls == []


@pytest.mark.parametrize(("path", "asks"), [(b"/v1/functions/echo/grants/ada", ("sharing.revoke", ("echo", "ada"))), (b"/v1/aliases/mine", ("sharing.remove_alias", ("mine",)))])
async def test_what_becomes_of_runs_when_a_right_ends(front: Served, path: bytes, asks: tuple[str, tuple[str, ...]]) -> None:
    """Running runs stop, unless they may finish; nothing else can become of them."""
    for query, is_stopping in ((b"", True), (b"?running=stop", True), (b"?running=finish", False)):
        assert (await ask(front.port, other(b"DELETE", path + query))).status == 204
        assert front.service.asked.pop() == (asks[0], (*asks[1], is_stopping))
    for query in (b"?running=later", b"?running=", b"?run=stop", b"?running=stop&running=finish"):
        assert (await ask(front.port, other(b"DELETE", path + query))).status == 400
    assert front.service.asked == []


async def test_an_alias_has_the_address_that_was_asked(front: Served) -> None:
    """The URLs of an account alias are whole, and those of the host by which the client came."""
    request = other(b"GET", b"/v1/aliases/mine").replace(b"Host: x", b"Host: box.example:8787")
    shown = (await ask(front.port, request)).json
    assert (shown["url"], shown["invoke"]) == ("http://box.example:8787/f/default/mine/", "http://box.example:8787/v1/functions/mine/invoke")
    listed = (await ask(front.port, other(b"GET", b"/v1/aliases"))).json
    assert [item["name"] for item in listed["items"]] == ["mine"]


@pytest.mark.parametrize("account", [b"*", b"public", b"ada", b"000000000001"])
async def test_to_whom_a_function_is_lent(front: Served, account: bytes) -> None:
    """An account, by name or id, or everybody; terms go on as they were sent."""
    answer = await ask(front.port, other(b"PUT", b"/v1/functions/echo/grants/" + account, b'{"relend": true, "x": 1}', JSON))
    assert (answer.status, front.service.asked) == (201, [("sharing.grant", ("echo", account.decode(), {"relend": True, "x": 1}))])
    for body in (b"[]", b"{", b'"x"', b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}"):
        refusal(await ask(front.port, other(b"PUT", b"/v1/functions/echo/grants/" + account, body, JSON)), "invalid_request")
    refusal(await ask(front.port, other(b"PUT", b"/v1/functions/echo/grants/" + account, b"{}" + b" " * (64 << 10), JSON)), "payload_too_large")
    assert len(front.service.asked) == 1
