"""Which operation answers a request, what event its parts make, and how much work an event's check may be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pyfaas.decisions.inputs import MAX_WORK, Weight, member_weights, weigh, work_of
from pyfaas.decisions.operations import coerced, event_of, match, pointed, pointer_of
from pyfaas.errors import Code, PyfaasError
from pyfaas.model import FunctionId
from pyfaas.sharing import Operation


def operation(name: str, method: str, path: str) -> Operation:
    """Make an operation of some function."""
    return Operation(name=name, method=method, path=path, function=FunctionId("f"), function_name="f")


OPERATIONS = (
    operation("list", "GET", "/texts"),
    operation("add", "POST", "/texts"),
    operation("show", "GET", "/texts/{id}"),
    operation("newest", "GET", "/texts/newest"),
    operation("part", "GET", "/texts/{id}/parts/{part}"),
)


@pytest.mark.parametrize(
    ("method", "path", "name", "parameters"),
    [
        ("GET", "texts", "list", {}),
        ("POST", "texts", "add", {}),
        ("GET", "texts/7", "show", {"id": "7"}),
        ("GET", "texts/newest", "newest", {}),  # what is fixed wins
        ("GET", "texts/newes%74", "newest", {}),  # however it is written
        ("GET", "texts/a%2Fb", "show", {"id": "a/b"}),  # an encoded slash is part of a value
        ("GET", "texts/a%252Fb", "show", {"id": "a%2Fb"}),  # unquoted once
        ("GET", "texts/..", "show", {"id": ".."}),
        ("GET", "texts/gr%C3%BC%C3%9Fe", "show", {"id": "grüße"}),
        ("GET", "texts/7/parts/2", "part", {"id": "7", "part": "2"}),
    ],
)
def test_a_path_leads_to_one_operation(method: str, path: str, name: str, parameters: dict[str, str]) -> None:
    """The operation and its parameters follow from the path's segments, each unquoted once."""
    found = match(OPERATIONS, method, path)
    assert found.operation is not None
    assert (found.operation.name, found.parameters) == (name, parameters)


@pytest.mark.parametrize("path", ["", "text", "texts/", "texts//", "texts/7/", "texts/7/parts", "texts/7/parts/", "Texts", "a/texts"])
def test_another_path_leads_nowhere(path: str) -> None:
    """A path that no operation has allows no method."""
    assert match(OPERATIONS, "GET", path) == match((), "GET", path)


@pytest.mark.parametrize(("method", "path", "allowed"), [("DELETE", "texts", ("GET", "POST")), ("POST", "texts/newest", ("GET",)), ("HEAD", "texts/7", ("GET",))])
def test_another_method_is_told_which_there_are(method: str, path: str, allowed: tuple[str, ...]) -> None:
    """A path with another method has no operation, and says which methods it has."""
    assert match(OPERATIONS, method, path).allowed == allowed


def test_what_is_no_utf8_is_refused() -> None:
    """A segment that does not decode is the caller's mistake, by its name."""
    with pytest.raises(PyfaasError, match="/id: the path is no UTF-8") as refused:
        match(OPERATIONS, "GET", "texts/%ff")
    assert refused.value.code is Code.INVALID_EVENT


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "id": {"type": "integer"},
        "ratio": {"type": "number"},
        "is_short": {"type": "boolean"},
        "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}},
        "name": {"type": "string"},
        "either": {"type": ["integer", "null"]},
        "any": {"type": ["integer", "string"]},
        "far": {"$ref": "#/$defs/tag"},
    },
    "$defs": {"tag": {"type": "integer"}},
}


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("id", "7", 7),
        ("id", "-7", -7),
        ("id", "007", "007"),
        ("id", "7.0", "7.0"),
        ("id", "", ""),
        ("id", "٧", "٧"),  # Arabic digits are text
        ("ratio", "0.5", 0.5),
        ("ratio", "1e3", 1000.0),
        ("ratio", "7", 7),
        ("ratio", "nan", "nan"),
        ("ratio", "1e999", "1e999"),
        ("is_short", "true", True),
        ("is_short", "True", "True"),
        ("name", "7", "7"),
        ("either", "7", 7),
        ("any", "7", "7"),
        ("far", "7", 7),
        ("unknown", "7", "7"),
    ],
)
def test_text_becomes_what_the_schema_declares(key: str, text: str, value: Any) -> None:
    """A parameter of path or query is read as its type, and stays text when it does not read as that."""
    for made in (event_of(SCHEMA, {key: text}, [], {}), event_of(SCHEMA, {}, [(key, text)], {})):
        assert made == {key: value}
        assert type(made[key]) is type(value)


def test_the_path_wins_over_the_query_and_that_over_the_body() -> None:
    """Each part of a request gives what no stronger one does."""
    made = event_of(SCHEMA, {"id": "1"}, [("id", "2"), ("name", "query")], {"name": "body", "other": [1], "id": 1})
    assert made == {"id": 1, "name": "query", "other": [1]}


def test_repeated_keys_are_a_list_where_one_is_declared() -> None:
    """A list takes one text or many, each read as the items are."""
    assert event_of(SCHEMA, {}, [("tags", "1"), ("tags", "2")], {}) == {"tags": [1, 2]}
    assert event_of(SCHEMA, {}, [("tags", "1")], {}) == {"tags": [1]}


@pytest.mark.parametrize(
    ("path", "query", "body", "pointer"),
    [
        ({}, [("id", "1"), ("id", "2")], {}, "/id"),
        ({}, [("what/is~it", "1"), ("what/is~it", "1")], {}, "/what~1is~0it"),
        ({"id": "1"}, [], {"id": 2}, "/id"),
        ({"id": "1"}, [], {"id": True}, "/id"),
        ({"id": "1"}, [], [1], ""),
        ({"id": "1"}, [], None, ""),
        ({}, [("a", "1")], "text", ""),
    ],
)
def test_what_contradicts_itself_is_refused(path: dict[str, str], query: list[tuple[str, str]], body: Any, pointer: str) -> None:
    """A refusal names the place in the event."""
    with pytest.raises(PyfaasError) as refused:
        event_of(SCHEMA, path, query, body)
    assert (refused.value.code, refused.value.evidence["pointer"]) == (Code.INVALID_EVENT, pointer)


def test_without_a_schema_all_is_text() -> None:
    """Nothing is read as a number when nothing says so."""
    assert event_of(None, {"id": "7"}, [("n", "8")], {}) == {"id": "7", "n": "8"}
    assert coerced(None, "true") == "true"


def test_pointers_lead_where_they_say() -> None:
    """A reference follows RFC 6901, and leads nowhere when something is missing."""
    root = {"a/b": [{"~": 1}], "c": 2}
    assert pointed(root, "#/a~1b/0/~0") == 1
    assert pointed(root, "#") == root
    assert [pointed(root, reference) for reference in ("#/x", "#/a~1b/9", "#/c/d", "other#/c", 5)] == [None] * 5
    assert pointer_of(["a/b", 0, "~"]) == "/a~1b/0/~0"


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"$ref": "https://example.com/a.json"}, "leads out of the schema"),
        ({"$ref": "file:///etc/passwd"}, "leads out of the schema"),
        ({"properties": {"a": {"$ref": "other.json#/a"}}}, "leads out of the schema"),
        ({"$ref": "#/$defs/none"}, "leads nowhere"),
        ({"$ref": "#"}, "refers to itself"),
        ({"properties": {"next": {"$ref": "#"}}}, "refers to itself"),
        ({"$defs": {"a": {"items": {"$ref": "#/$defs/b"}}, "b": {"not": {"$ref": "#/$defs/a"}}}, "$ref": "#/$defs/a"}, "refers to itself"),
        ({"$id": "https://example.com/a"}, "$id is not possible"),
        ({"items": {"$dynamicRef": "#a"}}, "$dynamicRef is not possible"),
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, "$schema is"),
        ({"uniqueItems": True}, "uniqueItems needs a maxItems"),
        ({"uniqueItems": True, "maxItems": 100_000}, "uniqueItems needs a maxItems"),
        ({"enum": ["x" * 70_000]}, "more than 65536 bytes"),
        (json.loads('{"not":' * 40 + "{}" + "}" * 40), "more than 32 levels deep"),
        (json.loads('{"$defs":{"a":' * 40 + "{}" + "}}" * 40), "more than 32 levels deep"),
        ({"$defs": {str(i): {"pattern": "a"} for i in range(101)}}, "has 101 patterns"),
        ({"patternProperties": {f"^{i}": {} for i in range(101)}}, "has 101 patterns"),
        ({"properties": {str(i): {"type": "string"} for i in range(1001)}}, "more than 1000 rules"),
        (
            {"$defs": {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(14)} | {"d14": {}}, "$ref": "#/$defs/d0"},
            "more than 1000 rules",  # 2^14, were the references followed at a call
        ),
    ],
)
def test_a_schema_that_could_take_long_is_refused(schema: dict[str, Any], says: str) -> None:
    """What refers outside or to itself, or is too large, deep or wide is refused when it is published."""
    with pytest.raises(PyfaasError) as refused:
        weigh(schema, "operations[0].input")
    assert says in refused.value.message
    assert refused.value.evidence == {"key": "operations[0].input"}


def test_work_grows_with_the_rules_that_look_at_one_value() -> None:
    """Rules side by side in an object do not add up, those that look at the same value do."""
    wide = weigh({"properties": {str(i): {"type": "string", "pattern": "^a"} for i in range(50)}}, "input")
    tall = weigh({"additionalProperties": {"allOf": [{"type": "string", "pattern": "^a"}] * 50}}, "input")
    assert (wide.patterns, tall.patterns) == (1, 50)
    assert tall.rules > 50
    assert work_of(Weight(10, 0), b"[1,2,3]") == 10 * 4
    assert work_of(tall, b'{"a":"' + b"a" * 100_000 + b'"}') > MAX_WORK


def test_members_are_weighed_alone_where_nothing_else_looks_at_them() -> None:
    """A plain object's members have weights of their own; one with further rules has none."""
    plain = {"type": "object", "properties": {"id": {"pattern": "^a"}, "text": {"type": "string"}}, "required": ["id"]}
    weights = member_weights(plain, "input")
    assert weights is not None
    assert (weights["id"].patterns, weights["text"].patterns) == (1, 0)
    assert member_weights({**plain, "patternProperties": {"^t": {"pattern": "^b"}}}, "input") is None
