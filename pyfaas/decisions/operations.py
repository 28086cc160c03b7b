"""Which operation of an API answers a request, and the event that the request's parts make.

A path is matched segment by segment as it was sent, each segment unquoted once and only then: an encoded slash is part of a value,
never a place to cut. A fixed segment wins over a parameter, the first difference from the left deciding.

The event is the body with the path's and the query's parameters beside its members; the path wins over the query, the query over the
body. Text from path and query becomes what the operation's schema declares for it; what does not read as that stays text, so the
schema's own rule is what refuses it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from pyfaas.errors import Code, PyfaasError
from pyfaas.sharing import Operation

_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,30})")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,2})?")
_FLAGS = {"true": True, "false": False}
_MAX_REFS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """The operation that answers, with its path's parameters as text; without one, the methods that the path has (none: no such path)."""

    operation: Operation | None = None
    parameters: Mapping[str, str] | None = None
    allowed: tuple[str, ...] = ()


def match(operations: Iterable[Operation], method: str, raw_path: str) -> Match:
    """Find the operation for a method and a path below the API's version, in its encoded form and without the first slash."""
    parts = raw_path.split("/")
    found = [(operation, _bound(operation.path, parts)) for operation in operations]
    there = [(operation, bound) for operation, bound in found if bound is not None]
    if not there:
        return Match()
    most = min(_order(operation.path) for operation, _ in there)
    there = [(operation, bound) for operation, bound in there if _order(operation.path) == most]
    for operation, bound in there:
        if operation.method == method:
            return Match(operation=operation, parameters=bound)
    return Match(allowed=tuple(sorted(operation.method for operation, _ in there)))


def _order(path: str) -> tuple[bool, ...]:
    return tuple(part.startswith("{") for part in path[1:].split("/"))


def _bound(path: str, parts: Sequence[str]) -> dict[str, str] | None:
    wanted = path[1:].split("/")
    if len(wanted) != len(parts):
        return None
    bound = {}
    for want, part in zip(wanted, parts, strict=True):
        if want.startswith("{"):
            if not part:
                return None
            bound[want[1:-1]] = _text(part, want[1:-1])
        elif unquote(part) != want:
            return None
    return bound


def _text(part: str, name: str) -> str:
    try:
        return unquote(part, errors="strict")
    except UnicodeDecodeError:
        raise PyfaasError(Code.INVALID_EVENT, f"/{name}: the path is no UTF-8") from None


def event_of(
    schema: Mapping[str, Any] | None, path: Mapping[str, str], query: Sequence[tuple[str, str]], body: Any
) -> dict[str, Any]:
    """Join a request's parts to one object.

    Raises invalid_event for a body that is no object, for one that contradicts the path, and for a query parameter that is there
    twice where the schema declares no array; it names the JSON pointer.
    """
    if not isinstance(body, Mapping):
        raise PyfaasError(Code.INVALID_EVENT, "the body must be a JSON object: the parameters of path and query join it", evidence=_at("", "type"))
    given = _joined(schema, query)
    bound = {name: coerced(_property(schema, name), text) for name, text in path.items()}
    for name, value in bound.items():
        if name in body and not _is_same(body[name], value):
            pointer = pointer_of([name])
            raise PyfaasError(Code.INVALID_EVENT, f"{pointer}: the body contradicts the path", hint="leave it out of the body", evidence=_at(pointer, "path"))
    return {**body, **given, **bound}


def _joined(schema: Mapping[str, Any] | None, query: Sequence[tuple[str, str]]) -> dict[str, Any]:
    texts: dict[str, list[str]] = {}
    for name, text in query:
        texts.setdefault(name, []).append(text)
    joined: dict[str, Any] = {}
    for name, all_of in texts.items():
        declared = _property(schema, name)
        if "array" in _types(declared):
            items = resolved(schema, declared.get("items")) if declared is not None else None
            joined[name] = [coerced(items, text) for text in all_of]
        elif len(all_of) > 1:
            pointer = pointer_of([name])
            raise PyfaasError(Code.INVALID_EVENT, f"{pointer}: the query has it {len(all_of)} times, and it is no array", evidence=_at(pointer, "type"))
        else:
            joined[name] = coerced(declared, all_of[0])
    return joined


def coerced(declared: Mapping[str, Any] | None, text: str) -> Any:
    """Return text as the integer, number or boolean that a schema declares; unchanged when it declares text, nothing, or does not read as that."""
    types = _types(declared)
    if "string" in types:
        return text
    if "integer" in types and _INTEGER.fullmatch(text):
        return int(text)
    if "number" in types and _NUMBER.fullmatch(text):
        return int(text) if _INTEGER.fullmatch(text) else float(text)
    if "boolean" in types and text in _FLAGS:
        return _FLAGS[text]
    return text


def properties(schema: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return what a schema declares of an object's members, through references at its top."""
    found = resolved(schema, schema)
    declared = found.get("properties") if found is not None else None
    return declared if isinstance(declared, Mapping) else {}


def resolved(root: Mapping[str, Any] | None, schema: Any) -> Mapping[str, Any] | None:
    """Follow a schema's `$ref`s inside `root`; None for what is no object, or leads nowhere."""
    for _ in range(_MAX_REFS):
        if not isinstance(schema, Mapping):
            return None
        if "$ref" not in schema or "properties" in schema:
            return schema
        schema = pointed(root, schema["$ref"])
    return None


def pointed(root: Any, reference: Any) -> Any:
    """Return what a reference `#/…` names (RFC 6901), or None."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    found = root
    for token in reference[1:].split("/")[1:]:
        key = unquote(token).replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping):
            found = found.get(key)
        elif isinstance(found, list) and key.isdigit() and int(key) < len(found):
            found = found[int(key)]
        else:
            return None
    return found


def pointer_of(path: Iterable[str | int]) -> str:
    """Return a JSON pointer (RFC 6901); the whole document's is empty."""
    return "".join("/" + str(part)[:64].replace("~", "~0").replace("/", "~1") for part in path)


def _property(schema: Mapping[str, Any] | None, name: str) -> Mapping[str, Any] | None:
    return resolved(schema, properties(schema).get(name))


def _types(declared: Mapping[str, Any] | None) -> tuple[str, ...]:
    kind = declared.get("type") if declared is not None else None
    return tuple(kind) if isinstance(kind, list | tuple) else (kind,) if isinstance(kind, str) else ()


def _is_same(one: Any, other: Any) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _at(pointer: str, rule: str) -> dict[str, str]:
    return {"pointer": pointer, "rule": rule}
