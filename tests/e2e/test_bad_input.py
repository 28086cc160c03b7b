"""Bad input: each a clear error with a code and the right status, nothing half-written, and the next call served."""

from __future__ import annotations

import io
import json
import re
import stat
import time
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

import pytest

from pyfaas.web.routes import ROUTES
from tests.e2e.house import REPOSITORY, Answer, House, packed

ECHO = "def handler(event, context):\n    return event"
TYPED = "def add(a: int, b: int = 1) -> int:\n    return a + b"
Name = Callable[[], str]


@pytest.fixture(scope="module")
def echo(house: House) -> str:
    """Return an echo function, called after every bad request."""
    house.deploy("steady", ECHO)
    return "steady"


QUOTED = [
    re.compile(re.escape(quote).replace("…", ".*"), re.DOTALL)
    for quote in re.findall(r"^\| `([^`]+)`", (REPOSITORY / "pyfaas" / "ERRORS.md").read_text(), re.MULTILINE)
]


def is_quoted(detail: str) -> bool:
    """Tell whether a reader finds these words in ERRORS.md."""
    return any(quote.fullmatch(detail) for quote in QUOTED)


def refused(answer: Answer, status: int, code: str) -> dict[str, Any]:
    """Check a problem document (RFC 9457) and return it."""
    assert answer.status == status, answer.body
    problem: dict[str, Any] = answer.json
    assert problem["code"] == code, problem
    assert problem["status"] == status
    assert problem["fault"] in ("caller", "function", "platform")
    assert answer.headers["content-type"] == "application/problem+json"
    assert is_quoted(problem["detail"]), problem["detail"]
    return problem


@pytest.mark.parametrize("body", ["{broken", "[1, 2", '{"a": NaN}', "[" * 100_000, b"\xff\xfe", '{"a": 1} trailing'], ids=range(6))
def test_bodies_that_are_no_json(house: House, echo: str, body: str | bytes) -> None:
    """A body that should be JSON and is not, or is nested too deeply, is the caller's 400."""
    answer = house.call("POST", f"/v1/functions/{echo}/invoke", body, content_type="application/json")
    assert refused(answer, 400, "invalid_event")
    assert house.invoke(echo, {"ok": 1}).json == {"ok": 1}


@pytest.mark.parametrize("event", [{}, {"a": "x"}, {"a": 1, "c": 2}, [1], {"a": None}], ids=str)
def test_parameters_that_do_not_fit(house: House, event: Any) -> None:
    """A typed function's caller is told which parameter is wrong."""
    house.deploy("typed", TYPED)
    assert refused(house.invoke("typed", event), 400, "invalid_event")["detail"]
    assert house.invoke("typed", {"a": 2}).json == 3


@pytest.mark.parametrize(
    ("config", "code", "word"),
    [
        ({"memroy": "1G"}, "unknown_key", "memory"),
        ({"memory": "lots"}, "invalid_request", "memory"),
        ({"memory": "1M"}, "invalid_request", "memory"),
        ({"timeout": "1000s"}, "invalid_request", "timeout"),
        ({"timeout": -1}, "invalid_request", "timeout"),
        ({"env": {"A": "x" * 5000}}, "invalid_request", "env"),
        ({"env": [1]}, "invalid_request", "env"),
        ({"shape": "square"}, "invalid_request", "shape"),
        ({"concurrency": 0}, "invalid_request", "concurrency"),
        ({"requirements": ["--index-url=http://x"]}, "invalid_request", "requirements"),
        ({"network": ["https://example.com"]}, "invalid_request", "network[0]"),
    ],
    ids=str,
)
def test_configurations_that_are_refused(house: House, name: Name, config: dict[str, Any], code: str, word: str) -> None:
    """A configuration's mistake is named, and no function comes into being."""
    called = name()
    problem = refused(house.put(called, packed({"main.py": ECHO}), **config), 400, code)
    assert word in problem["detail"] + problem["hint"]
    assert house.call("GET", f"/v1/functions/{called}").status == 404


def archive(*entries: tuple[str, bytes, int]) -> bytes:
    """Return a zip of (name, content, mode) entries, duplicates included."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's own word on a name that is there twice
        for path, content, mode in entries:
            info = zipfile.ZipInfo(path)
            info.external_attr, info.compress_type = mode << 16, zipfile.ZIP_DEFLATED
            made.writestr(info, content)
    return out.getvalue()


FILE = stat.S_IFREG | 0o644


@pytest.mark.parametrize(
    "bundle",
    [
        b"this is no zip",
        b"",
        archive(("../evil.py", b"x", FILE)),
        archive(("/abs.py", b"x", FILE)),
        archive(("a\\..\\b.py", b"x", FILE)),
        archive(("main.py", b"1", FILE), ("main.py", b"2", FILE)),
        archive(("Main.py", b"1", FILE), ("main.py", b"2", FILE)),
        archive(("main.py", b"/etc/shadow", stat.S_IFLNK | 0o777)),
        archive(("bomb", bytes(240 << 20), FILE)),
    ],
    ids=["garbage", "empty", "dotdot", "absolute", "backslash", "twice", "case", "link", "bomb"],
)
def test_bundles_that_are_refused(house: House, name: Name, bundle: bytes) -> None:
    """A zip that could do harm is refused at its upload, and nothing of it is kept."""
    called = name()
    answer = house.put(called, bundle)
    assert answer.status in (400, 413), answer.body
    assert answer.json["code"] in ("invalid_request", "payload_too_large")
    assert is_quoted(answer.json["detail"]), answer.json["detail"]
    assert house.call("GET", f"/v1/functions/{called}").status == 404


def test_upload_that_is_no_publication(house: House) -> None:
    """A body that is not multipart, or lacks its code, says what is missing."""
    assert "multipart" in refused(house.call("PUT", "/v1/functions/x", "{}"), 400, "invalid_request")["detail"]
    from tests.e2e.house import multipart  # noqa: PLC0415

    body, kind = multipart({"config": b"{}"})
    assert "code" in refused(house.call("PUT", "/v1/functions/x", body, content_type=kind), 400, "invalid_request")["detail"]


@pytest.mark.parametrize(
    ("files", "config", "word"),
    [
        ({"main.py": "x = 1"}, {}, "handler"),
        ({"main.py": ECHO}, {"handler": "main:nothing"}, "nothing"),
        ({"other.py": ECHO, "more.py": ""}, {}, "main"),
        ({"main.py": "def handler(:"}, {}, "SyntaxError"),
        ({"main.py": "raise RuntimeError('at import')"}, {}, "at import"),
        ({"main.py": "import os; os._exit(4)"}, {}, "4"),
        ({"main.py": "while True: pass"}, {"init_timeout": "1s"}, "1 s"),
        ({"main.py": "import sys; sys.exit('no')"}, {}, "SystemExit"),
    ],
    ids=["none", "missing", "module", "syntax", "raises", "exits", "endless", "sysexit"],
)
def test_code_that_cannot_be_loaded(house: House, name: Name, files: dict[str, str | bytes], config: dict[str, Any], word: str) -> None:
    """A version whose import fails is `failed`, with the reason; a call answers init_error."""
    called = name()
    shown = house.deploy(called, files, **config).json
    assert shown["state"] == "failed"
    assert word in shown["reason"]["message"], shown["reason"]
    assert is_quoted(shown["reason"]["message"]), shown["reason"]
    answer = house.invoke(called)
    assert (answer.status, answer.outcome) == (502, "init_error")


def test_failed_deploy_leaves_the_old_version_serving(house: House, name: Name) -> None:
    """While the newest version has failed, the one before answers, and the headers say so."""
    called = name()
    house.deploy(called, "def handler(e, c): return 1")
    house.deploy(called, "raise ValueError")
    answer = house.invoke(called)
    assert (answer.json, answer.headers["pyfaas-requested-version"], answer.headers["pyfaas-executed-version"]) == (1, "2", "1")


def test_requirement_that_does_not_exist(house: House, name: Name) -> None:
    """A requirement nobody publishes fails the version by name."""
    shown = house.deploy(name(), ECHO, requirements=["no-such-distribution-zzz==9"]).json
    assert (shown["state"], shown["reason"]["code"]) == ("failed", "requirements_failed")
    assert "no-such-distribution-zzz" in shown["reason"]["message"]


@pytest.mark.parametrize("bad", ["a b", "a.b", "ä", "x" * 65, "%2e%2e"])
def test_names_outside_the_grammar(house: House, bad: str) -> None:
    """A name outside the grammar is 400, whatever the verb."""
    from urllib.parse import quote  # noqa: PLC0415

    path = bad if bad.startswith("%") else quote(bad)
    assert house.call("GET", f"/v1/functions/{path}").status in (400, 404)
    assert house.call("POST", f"/v1/functions/{path}/invoke", "{}").status in (400, 404)


def test_tokens(house: House, echo: str) -> None:
    """A missing, wrong, expired or revoked token is 401 in the same words; a scope that lacks is 403."""
    path = f"/v1/functions/{echo}"
    made = house.call("POST", "/v1/tokens", json.dumps({"expires": time.time() + 0.3}), content_type="application/json").json
    house.tokens.update(expiring=made["token"], wrong="pf_wrong")
    assert house.call("GET", path, token="expiring").status == 200  # noqa: S106
    second = house.call("POST", "/v1/tokens", json.dumps({"scopes": ["read"]}), content_type="application/json").json
    house.tokens["revoked"] = second["token"]
    assert house.invoke(echo, {}, token="revoked").status == 403  # noqa: S106
    assert house.call("DELETE", f"/v1/tokens/{second['id']}").status == 204
    until = time.time() + 5
    while house.call("GET", path, token="expiring").status == 200 and time.time() < until:  # noqa: S106
        pass
    answers = [house.call("GET", path, token=token) for token in (None, "wrong", "expiring", "revoked")]
    details = {refused(answer, 401, "unauthenticated")["detail"] for answer in answers}
    assert len(details) == 1
    assert all(answer.headers["www-authenticate"].startswith("Bearer") for answer in answers)


def test_bodies_over_the_limit(house: House, echo: str) -> None:
    """A body over the limit is 413 with the limit's name, for sync and async calls."""
    big = json.dumps("x" * (6 << 20))
    problem = refused(house.call("POST", f"/v1/functions/{echo}/invoke", big, content_type="application/json"), 413, "payload_too_large")
    assert problem["evidence"]["limit"] == "sync_payload"
    queued = house.call("POST", f"/v1/functions/{echo}/invoke", json.dumps("x" * (1 << 20)), Prefer="respond-async")
    assert refused(queued, 413, "payload_too_large")["evidence"]["limit"] == "async_payload"
    largest = "x" * ((6 << 20) - 2)
    assert house.invoke(echo, largest).json == largest


def test_headers_that_are_wrong(house: House, echo: str) -> None:
    """A header that cannot be honoured is refused, never ignored."""
    for header, value in (("Pyfaas-Timeout", "soon"), ("Pyfaas-Stale", "maybe"), ("Pyfaas-On-Disconnect", "x"), ("Idempotency-Key", "k")):
        answer = house.invoke(echo, {}, **{header.replace("-", "_"): value})
        assert header in refused(answer, 400, "invalid_header")["detail"]


def test_unknown_routes_and_methods(house: House) -> None:
    """What is not there is a problem document too, and 405 says what is possible."""
    refused(house.call("GET", "/v2/nothing"), 404, "not_found")
    answer = house.call("PATCH", "/v1/functions/x")
    refused(answer, 405, "method_not_allowed")
    assert "PUT" in answer.headers["allow"]


def test_qualifiers(house: House, echo: str) -> None:
    """An unknown version or alias is 404, one outside the grammar 400."""
    refused(house.call("POST", f"/v1/functions/{echo}/invoke?qualifier=99", "{}"), 404, "not_found")
    refused(house.call("POST", f"/v1/functions/{echo}/invoke?qualifier=live", "{}"), 404, "not_found")
    refused(house.call("POST", f"/v1/functions/{echo}/invoke?qualifier=a%20b", "{}"), 400, "invalid_name")


_PARTS = {"name": "steady", "number": "1", "alias": "live", "id": "x"}  # of a path


@pytest.mark.parametrize("route", [r for r in ROUTES if r.scope is not None], ids=lambda r: f"{r.method} {r.path}")
def test_every_route_needs_its_token(house: House, route: Any) -> None:
    """Without a token, with a wrong one, or with one of no scope that counts, no route does anything."""
    made = house.call("POST", "/v1/tokens", json.dumps({"scopes": ["invoke"]}), content_type="application/json").json
    house.tokens.update(wrong="pf_wrong", narrow=made["token"])
    method, path = route.method.replace("*", "GET"), re.sub(r"{(\w+)(?::[^}]*)?}", lambda part: _PARTS.get(part[1], "nobody"), route.path)
    assert house.call(method, path, token=None).status == 401
    assert house.call(method, path, token="wrong").status == 401  # noqa: S106
    if route.scope.value not in ("invoke",):
        assert house.call(method, path, token="narrow").status == 403  # noqa: S106
