"""What the tests of releases ask of a server: aliases, canaries, events, and many calls on one connection."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

from tests.e2e.house import Answer, House, multipart, packed

ENOUGH_S = 60.0
SOURCE = "def handler(event, context):\n    return {number}\n"
BROKEN = "def handler(event, context):\n    raise ValueError('broken')\n"


def source(number: int) -> str:
    """Return the code of a version that answers with a number."""
    return SOURCE.format(number=number)


def ask(house: House, method: str, path: str, body: Any = None, **more: Any) -> Answer:
    """Make a request with a JSON body."""
    return house.call(method, path, None if body is None else json.dumps(body), content_type="application/json", **more)


def publish(house: House, name: str, code: str, query: str = "") -> dict[str, Any]:
    """Publish a version, with what its query orders; it is not waited for."""
    body, kind = multipart({"config": b"{}", "code": packed({"main.py": code})})
    answer = house.call("PUT", f"/v1/functions/{name}{query}", body, content_type=kind)
    assert answer.status in (200, 201), answer.body
    found: dict[str, Any] = answer.json
    return found


def alias(house: House, name: str, which: str = "live") -> dict[str, Any]:
    """Show a release alias."""
    answer = house.call("GET", f"/v1/functions/{name}/aliases/{which}")
    assert answer.status == 200, answer.body
    found: dict[str, Any] = answer.json
    return found


def until(look: Callable[[], Any], seconds: float = ENOUGH_S) -> Any:
    """Look again and again until something is there; returns it."""
    late = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < late, "it did not come"
        time.sleep(0.02)
    return found


def canary(house: House, name: str, state: str, which: str = "live") -> dict[str, Any]:
    """Wait until an alias's canary is in a state; returns the alias."""
    found: dict[str, Any] = until(lambda: (shown := alias(house, name, which))["canary"] is not None and shown["canary"]["state"] == state and shown)
    return found


def called(house: House, path: str, keys: Iterator[str], token: str = "default") -> dict[str, int]:  # noqa: S107 - a name
    """Call on one connection, once with each sticky key; returns the version that ran, by key."""
    parts = urlsplit(house.url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=ENOUGH_S)
    found = {}
    try:
        for key in keys:
            headers = {"Authorization": "Bearer " + house.token(token), "Pyfaas-Sticky-Key": key, "Content-Type": "application/json"}
            connection.request("POST", path, b"{}", headers)
            answer = connection.getresponse()
            answer.read()
            found[key] = int(answer.headers["Pyfaas-Executed-Version"])
    finally:
        connection.close()
    return found


def events(house: House, name: str, query: str = "") -> list[dict[str, Any]]:
    """Return what happened."""
    answer = house.call("GET", f"/v1/functions/{name}/events?limit=1000{query}")
    assert answer.status == 200, answer.body
    found: list[dict[str, Any]] = answer.json["items"]
    return found
