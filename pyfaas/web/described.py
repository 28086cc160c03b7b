"""How a route is described: what it takes and answers, as a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pyfaas.web.shapes import Schema, text, whole

JSON = "application/json"
TIMEOUT_PATTERN = "^([1-9][0-9]{0,8}(\\.[0-9]{1,3})?(ms|s|m|h)?|0\\.[0-9]{0,2}[1-9](s|m|h)?)$"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One good answer: its bodies by media type, and its headers."""

    says: str
    content: Mapping[str, Schema] = field(default_factory=dict)
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What a request asks for and may be told. `errors` are statuses beside 400, 401, 403 and 500, which all have."""

    tag: str
    says: str
    answers: Mapping[int, Answer]
    errors: tuple[int, ...] = ()
    more: str = ""
    query: Mapping[str, Schema] = field(default_factory=dict)
    headers: Mapping[str, Schema] = field(default_factory=dict)
    body: Mapping[str, Schema] = field(default_factory=dict)
    is_body_needed: bool = False
    example: Any = None
    fails: bool = False  # runs code, which can fail in its own ways
    is_token_optional: bool = False


def json_answer(says: str, schema: Schema, *headers: str) -> Answer:
    """Return an answer in JSON."""
    return Answer(says=says, content={JSON: schema}, headers=headers)


DONE = Answer(says="done")


def page_query(form: str) -> dict[str, Schema]:
    """Return the query of a list whose cursors have this form."""
    after = text(pattern=f"^{form}$", description="`next` of the page before")
    return {"limit": whole(1, 1000) | {"default": 100, "description": "items of one page"}, "after": after}
