"""api.toml's grammar, and what is told of a definition that has not that form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pyfaas.apifile import load, normal, parameters, parse
from pyfaas.errors import Code, PyfaasError
from pyfaas.sharing import Access

GOOD: dict[str, Any] = {
    "name": "text",
    "version": "1",
    "operations": [{"name": "summarise", "method": "POST", "path": "/summaries/{id}", "function": "summarise:3", "timeout": "10s"}],
}


def test_a_definition_is_read() -> None:
    """Keys that are absent have their defaults; terms are left as they are for their own reader."""
    made = parse({**GOOD, "rate": 5, "directory": False})
    assert (made.name, made.version, made.access, made.is_public, made.terms) == ("text", "1", Access.OPEN, False, {"rate": 5})
    [operation] = made.operations
    assert (operation.function, operation.qualifier, operation.timeout_ms, operation.method) == ("summarise", "3", 10_000, "POST")


def _operation(**more: Any) -> dict[str, Any]:
    return {"name": "a", "path": "/a", "function": "f", **more}


BAD: list[tuple[dict[str, Any], Code, str]] = [
    ({"acess": "open"}, Code.UNKNOWN_KEY, "'acess'"),
    ({"operations": [_operation(functon="f")]}, Code.UNKNOWN_KEY, "operations[0].functon"),
    ({"operations": []}, Code.INVALID_REQUEST, "operations"),
    ({"operations": [_operation(name=f"n{i}", path=f"/{i}") for i in range(101)]}, Code.INVALID_REQUEST, "1 to 100"),
    ({"operations": [{"name": "a", "path": "/a"}]}, Code.INVALID_REQUEST, "operations[0].function is missing"),
    ({"operations": [_operation(), _operation(path="/b")]}, Code.INVALID_REQUEST, "the name of operations[0]: a"),
    ({"operations": [_operation(path="/{x}"), _operation(name="b", path="/{y}")]}, Code.INVALID_REQUEST, "the method and path of operations[0]: POST /{}"),
    ({"operations": [_operation(method="post")]}, Code.INVALID_REQUEST, "operations[0].method"),
    ({"operations": [_operation(function="other/f")]}, Code.INVALID_REQUEST, "a function of your own"),
    ({"operations": [_operation(function="f:a b")]}, Code.INVALID_NAME, "qualifier"),
    ({"operations": [_operation(timeout="1000s")]}, Code.INVALID_REQUEST, "operations[0].timeout"),
    ({"operations": [_operation(input="file.json")]}, Code.INVALID_REQUEST, "operations[0].input"),
    ({"version": "1/2"}, Code.INVALID_NAME, "version"),
    ({"version": ".."}, Code.INVALID_NAME, "version"),
    ({"version": 1}, Code.INVALID_REQUEST, "version"),
    ({"name": "approvals"}, Code.INVALID_NAME, "approvals"),
    ({"name": "a b"}, Code.INVALID_NAME, "name for an api"),
    ({"access": "everyone"}, Code.INVALID_REQUEST, "open or listed or approval"),
    ({"accounts": ["bob"]}, Code.INVALID_REQUEST, "accounts"),
    ({"access": "listed", "accounts": "bob"}, Code.INVALID_REQUEST, "accounts"),
    ({"description": "x" * 300_000}, Code.PAYLOAD_TOO_LARGE, "262144"),
    ({"rate": float("nan")}, Code.INVALID_REQUEST, "what JSON has"),
    *[
        ({"operations": [_operation(path=path)]}, Code.INVALID_REQUEST, "operations[0].path")
        for path in ("a", "", "/", "/a/", "//a", "/a b", "/a/../b", "/{a}{b}", "/{a}.json", "/{1a}", "/{a}/{a}", "/openapi.json", "/ä", "/a%20b", "/a" * 17, 5)
    ],
]


@pytest.mark.parametrize(("change", "code", "says"), BAD)
def test_what_is_not_of_the_grammar_is_refused(change: dict[str, Any], code: Code, says: str) -> None:
    """Each mistake is told by its key, with what is expected there."""
    with pytest.raises(PyfaasError) as refused:
        parse({**GOOD, **change})
    assert refused.value.code is code
    assert says in refused.value.message


@pytest.mark.parametrize("key", ["version", "operations"])
def test_what_is_missing_is_told(key: str) -> None:
    """The keys that a definition must have are asked for by name."""
    with pytest.raises(PyfaasError, match=f"{key} is missing"):
        parse({k: v for k, v in GOOD.items() if k != key})


def test_paths_are_taken_apart() -> None:
    """Parameters come in order; two paths that differ in their names alone are the same."""
    assert parameters("/a/{b}/c/{d}") == ("b", "d")
    assert normal("/a/{b}/c") == normal("/a/{x}/c") == "/a/{}/c"


def test_a_file_is_loaded_with_its_schemas(tmp_path: Path) -> None:
    """`input` and `output` name files beside api.toml, and their content takes the names' place."""
    (tmp_path / "in.json").write_text('{"type": "object"}')
    (tmp_path / "api.toml").write_text('version = "1"\n[[operations]]\nname = "a"\npath = "/a"\nfunction = "f"\ninput = "in.json"\n')
    table = load(tmp_path / "api.toml")
    assert json.loads(json.dumps(table)) == {
        "version": "1",
        "operations": [{"name": "a", "path": "/a", "function": "f", "input": {"type": "object"}}],
    }
    assert parse(table).operations[0].input == {"type": "object"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("version = ", "it must be TOML"),
        ('[[operations]]\ninput = "none.json"\n', "cannot be read"),
        ('[[operations]]\ninput = "api.toml"\n', "is no JSON"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: str, says: str) -> None:
    """A file that is missing or of another form is told by its path."""
    (tmp_path / "api.toml").write_text(content)
    with pytest.raises(PyfaasError) as refused:
        load(tmp_path / "api.toml")
    assert says in refused.value.message + refused.value.hint
    assert str(tmp_path) in refused.value.message
