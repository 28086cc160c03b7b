"""Which JSON Schemas an operation's event may be checked by, and how much work a check is.

The check runs in the server, on the way of a call, so a schema is another account's program and has the bounds of one: it refers to
nothing outside itself, it does not refer to itself in a circle, and its work for one value of the event is counted before it is taken.
Without circles every value is looked at by a bounded number of rules, whatever the event; so work is values × rules at most. Patterns
are matched in time linear in the text (the engine has no backtracking), and count by the text's length.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyfaas.decisions.operations import pointed
from pyfaas.errors import Code, PyfaasError

MAX_SCHEMA_BYTES, MAX_DEPTH, MAX_RULES, MAX_PATTERNS = 64 << 10, 32, 1000, 100
MAX_EVENT_BYTES = 1 << 20
MAX_WORK = 8_000_000  # rules of some 12 ns each (measured): a tenth of a second
_BYTE_WORK = 80  # of the dearest pattern that the engine takes, for each byte of text (measured: 1 µs)
_MAX_UNIQUE = 1000
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_PLAIN = {"$schema", "$defs", "type", "title", "description", "properties", "required", "additionalProperties"}
_HERE_MANY, _HERE_ONE = ("allOf", "anyOf", "oneOf"), ("not", "if", "then", "else")
_BELOW_ONE = ("additionalProperties", "unevaluatedProperties", "propertyNames", "items", "unevaluatedItems", "contains")
_ELSEWHERE = ("$id", "$anchor", "$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$vocabulary")


@dataclass(frozen=True, slots=True)
class Weight:
    """How many rules, and how many patterns among them, look at one value of an event at most."""

    rules: int
    patterns: int = 0

    def __add__(self, other: Weight) -> Weight:
        return Weight(self.rules + other.rules, self.patterns + other.patterns)

    def __or__(self, other: Weight) -> Weight:
        return Weight(max(self.rules, other.rules), max(self.patterns, other.patterns))


def weigh(schema: Mapping[str, Any], key: str) -> Weight:
    """Return a schema's weight; raises invalid_request, naming `key`, for what a schema must not have."""
    check_form(schema, key)
    if schema.get("$schema", _DIALECT) not in (_DIALECT, _DIALECT + "#"):
        raise _refused(key, f"$schema is {_DIALECT}, or left out")
    return _Weighing(schema, key).total(schema, 0, ())


def check_form(schema: Mapping[str, Any], key: str) -> None:
    """Raise invalid_request, naming `key`, for a schema that is too long or too deep, or has more patterns than are compiled in passing."""
    if len(json.dumps(schema)) > MAX_SCHEMA_BYTES:
        raise _refused(key, f"the schema has more than {MAX_SCHEMA_BYTES} bytes")
    level: list[Any] = [schema]
    patterns = depth = 0
    while level:
        if depth > 2 * MAX_DEPTH:  # a level of rules is two of JSON
            raise _refused(key, f"the schema is more than {MAX_DEPTH} levels deep")
        tables = [part for part in level if isinstance(part, Mapping)]
        patterns += sum("pattern" in table for table in tables) + sum(len(_table(table.get("patternProperties"))) for table in tables)
        level = [below for part in level for below in (part.values() if isinstance(part, Mapping) else part) if isinstance(below, Mapping | list)]
        depth += 1
    if patterns > MAX_PATTERNS:
        raise _refused(key, f"the schema has {patterns} patterns; {MAX_PATTERNS} are taken")


class _Weighing:
    """One walk over a schema with its references followed."""

    def __init__(self, root: Mapping[str, Any], key: str) -> None:
        self.root, self.key = root, key
        self.seen = 0

    def total(self, schema: Any, depth: int, inside: tuple[str, ...]) -> Weight:
        here, below = self.both(schema, depth, inside)
        return here | below

    def both(self, schema: Any, depth: int, inside: tuple[str, ...]) -> tuple[Weight, Weight]:
        """Weigh what a schema does to a value itself, and to any one value below it."""
        self.seen += 1
        if self.seen > MAX_RULES:
            raise _refused(self.key, f"the schema has more than {MAX_RULES} rules, references counted each time")
        if depth > MAX_DEPTH:
            raise _refused(self.key, f"the schema is more than {MAX_DEPTH} levels deep")
        if not isinstance(schema, Mapping):
            return Weight(1), Weight(0)
        self._refuse(schema)
        here = Weight(1 + len(schema) + len(schema.get("properties") or ()), int("pattern" in schema))
        below = self._below(schema, depth + 1, inside)
        for part, known in self._beside(schema, inside):
            more_here, more_below = self.both(part, depth + 1, known)
            here, below = here + more_here, below + more_below
        return here, below

    def _beside(self, schema: Mapping[str, Any], inside: tuple[str, ...]) -> Iterator[tuple[Any, tuple[str, ...]]]:
        """Yield the schemas that look at the same value, with the references that led there."""
        for word in _HERE_MANY:
            yield from ((part, inside) for part in _list(schema.get(word)))
        yield from ((schema[word], inside) for word in _HERE_ONE if word in schema)
        yield from ((part, inside) for part in _table(schema.get("dependentSchemas")).values())
        reference = schema.get("$ref")
        if reference is not None:
            if reference in inside:
                raise _refused(self.key, f"the schema refers to itself: {reference[:80]}", "say how deep it goes instead")
            target = pointed(self.root, reference)
            if target is None:
                raise _refused(self.key, f"$ref {str(reference)[:80]!r} leads nowhere", "a $ref begins with '#': nothing outside the schema is read")
            yield target, (*inside, reference)

    def _below(self, schema: Mapping[str, Any], depth: int, inside: tuple[str, ...]) -> Weight:
        """Weigh what looks at a member or an item: one of `properties`, and all that may look at it besides."""
        named = Weight(0)
        for part in (*_table(schema.get("properties")).values(), *_list(schema.get("prefixItems"))):
            named |= self.total(part, depth, inside)
        for part in _table(schema.get("patternProperties")).values():
            named += self.total(part, depth, inside) + Weight(1, 1)
        for word in _BELOW_ONE:
            if word in schema:
                named += self.total(schema[word], depth, inside)
        return named

    def _refuse(self, schema: Mapping[str, Any]) -> None:
        for word in _ELSEWHERE:
            if word in schema:
                raise _refused(self.key, f"{word} is not possible in a schema here", "name parts in $defs, and refer to them as #/$defs/NAME")
        if schema.get("uniqueItems") is True and not _is_small(schema.get("maxItems")):
            raise _refused(self.key, f"uniqueItems needs a maxItems of {_MAX_UNIQUE} or less")
        reference = schema.get("$ref", "#")
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise _refused(self.key, f"$ref {str(reference)[:80]!r} leads out of the schema", "nothing outside the schema is read")


def work_of(weight: Weight, encoded: bytes) -> int:
    """Return how much work the check of an event is at most, from its JSON text."""
    values = 1 + encoded.count(b",") + encoded.count(b"{") + encoded.count(b"[")
    return values * weight.rules + len(encoded) * weight.patterns * _BYTE_WORK


def member_weights(schema: Mapping[str, Any], key: str) -> dict[str, Weight] | None:
    """Return what looks at each declared member, for a schema that says nothing else about members; else None."""
    if not {"properties"} <= set(schema) <= _PLAIN or schema.get("additionalProperties", False) is not False:
        return None
    weighing = _Weighing(schema, key)
    return {name: weighing.total(part, 1, ()) for name, part in _table(schema["properties"]).items()}


def check_work(work: int) -> None:
    """Raise payload_too_large when a check is more work than is done for one call."""
    if work > MAX_WORK:
        evidence = {"limit": "validation", "value": MAX_WORK, "observed": work, "unit": "rules"}
        raise PyfaasError(Code.PAYLOAD_TOO_LARGE, "the event is too large for the rules that it is checked by", hint="send less at once", evidence=evidence)


def _is_small(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value <= _MAX_UNIQUE


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _refused(key: str, message: str, hint: str = "") -> PyfaasError:
    return PyfaasError(Code.INVALID_REQUEST, f"{key}: {message}", hint=hint, evidence={"key": key})
