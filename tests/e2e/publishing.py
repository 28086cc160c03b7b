"""APIs over HTTP, as the tests of them ask for it."""

from __future__ import annotations

import json
from typing import Any

from tests.e2e.house import Answer, House

JSON = "application/json"
SUMMARY: dict[str, Any] = {
    "type": "object",
    "properties": {
        "id": {"type": "integer"},
        "text": {"type": "string", "maxLength": 100},
        "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}},
        "how": {"$ref": "#/$defs/how"},
    },
    "required": ["id", "text"],
    "$defs": {"tag": {"type": "string"}, "how": {"type": "object", "properties": {"short": {"type": "boolean"}}}},
}
RESULT: dict[str, Any] = {
    "type": "object",
    "properties": {"id": {"type": "integer"}, "words": {"type": "integer"}, "caller": {"type": "string"}},
    "required": ["id", "words"],
}
CODE = """
import time

def handler(event, context):
    event = event if isinstance(event, dict) else {"body": repr(event)}
    if event.get("sleep"):
        time.sleep(event["sleep"])
    if event.get("fail"):
        raise ValueError("canary-in-the-owners-code")
    if event.get("count"):
        return [n for n in range(event["count"])]
    return {**event, "words": len(event.get("text", "").split()), "params": dict(context.params), "secrets": dict(context.secrets), "alias": context.alias}
"""
STREAM = """
def handler(event, context):
    for n in range(int(event["n"])):
        yield {"n": n}
"""


def definition(version: str = "1", **more: Any) -> dict[str, Any]:
    """Return a definition over the functions `texts` and `stream`."""
    operations = [
        {"name": "summarise", "method": "POST", "path": "/summaries/{id}", "function": "texts", "input": SUMMARY, "output": RESULT},
        {"name": "find", "method": "GET", "path": "/summaries", "function": "texts", "input": {
            "type": "object", "properties": {"limit": {"type": "integer"}, "tags": SUMMARY["properties"]["tags"]}, "$defs": SUMMARY["$defs"]}},
        {"name": "raw", "path": "/raw", "function": "texts"},
        {"name": "show", "method": "GET", "path": "/shown/{what}", "function": "texts"},
        {"name": "stream", "method": "GET", "path": "/streams/{n}", "function": "stream"},
    ]
    return {"version": version, "operations": operations, **more}


def publish(house: House, api: str, body: dict[str, Any], *, owner: str, status: int | None = 201) -> Answer:
    """Publish a version."""
    answer = house.call("PUT", f"/v1/apis/{api}", json.dumps(body), token=owner, content_type=JSON)
    assert status is None or answer.status == status, answer.body
    return answer


def subscribe(house: House, name: str, api: str, *, caller: str, status: int | None = 201, **order: Any) -> Answer:
    """Subscribe."""
    answer = house.call("PUT", f"/v1/subscriptions/{name}", json.dumps({"api": api, **order}), token=caller, content_type=JSON)
    assert status is None or answer.status == status, answer.body
    return answer
