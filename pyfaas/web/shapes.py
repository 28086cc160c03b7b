"""The words in which shapes are written: JSON Schema 2020-12 of the values that go over HTTP.

An answer's shape lists what is there today and lets more come; what is sent to us is closed, since an unknown key is
refused. Times are seconds since the epoch, sizes bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyfaas.model import Outcome
from pyfaas.web.asked import ID_FORM, MAX_VERSION, NAME_FORM

Schema = dict[str, Any]

NAME_PATTERN = f"^{NAME_FORM}$"
CODE_ID_PATTERN = "^sha256-[0-9a-f]{64}$"


def text(**more: Any) -> Schema:
    """Return the schema of a string."""
    return {"type": "string", **more}


def whole(low: int | None = 0, high: int | None = None) -> Schema:
    """Return the schema of a whole number."""
    return {"type": "integer"} | _given(minimum=low, maximum=high)


def number(low: float | None = 0) -> Schema:
    """Return the schema of a number."""
    return {"type": "number"} | _given(minimum=low)


def one_of(values: Any) -> Schema:
    """Return the schema of a closed set of strings."""
    return text(enum=[str(value) for value in values])


def maybe(schema: Schema) -> Schema:
    """Return a schema that allows null too."""
    if "$ref" in schema:
        return {"anyOf": [schema, {"type": "null"}]}
    widened = schema | {"type": [schema["type"], "null"]}
    return widened | ({"enum": [*schema["enum"], None]} if "enum" in schema else {})


def array(items: Schema) -> Schema:
    """Return the schema of a list."""
    return {"type": "array", "items": items}


def table(values: Schema) -> Schema:
    """Return the schema of an object that is used as a table: any key, one kind of value."""
    return {"type": "object", "additionalProperties": values}


def ref(name: str) -> Schema:
    """Return a reference to a component."""
    return {"$ref": f"#/components/schemas/{name}"}


def shown(properties: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    """Return the schema of an object that is answered: `properties` are always there."""
    return {"type": "object", "properties": {**properties, **(optional or {})}, "required": list(properties)}


def taken(properties: Mapping[str, Schema], *needed: str) -> Schema:
    """Return the schema of an object that is sent to us: nothing else may be in it."""
    return {"type": "object", "properties": dict(properties), "additionalProperties": False} | _given(required=list(needed) or None)


def _given(**words: Any) -> Schema:
    return {word: value for word, value in words.items() if value is not None}


def page_of(items: str) -> Schema:
    """Return the schema of a page of items."""
    return shown({"items": array(ref(items)), "next": maybe(text(description="the `after` of the next page; null on the last one"))})


ANY: Schema = {}
TIME = number() | {"description": "seconds since the epoch"}
ID = text(pattern=f"^{ID_FORM}$", description="a UUID")
NAME = text(pattern=NAME_PATTERN)
VERSION = whole(1, MAX_VERSION)
OUTCOME = one_of(Outcome)
DURATION = {"type": ["string", "number"], "description": "500ms, 30s, 5m or 1h; a bare number is seconds"}
DESTINATION = text(
    pattern="^(\\*\\.)?([a-z][a-z0-9]{0,20}\\.){1,3}[a-z]{2,10}:[1-9][0-9]{0,3}$",
    description="host:port; *.domain:port, address/bits:port and name:port@address/bits are fine too",
    examples=["api.example.com:443"],
)
SIZE = {"type": ["string", "integer"], "description": "256M or 1G; a bare number is MiB"}
