"""Shapes: how a handler is found, detected, and given its arguments; typed values and their tags."""

from __future__ import annotations

import base64
import datetime
import json
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyfaas.runtime import readers, shapes, tagged
from pyfaas.runtime.codec import InvalidEvent
from sandbox.wire import Flag, Status

from .conftest import Guest


def _event_one(event: Any) -> Any: ...
def _plain_two(a, b): ...  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202 -- what is tested
def _plain_three(a, b, c): ...  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
def _annotated(a: int) -> None: ...
def _nothing() -> None: ...
def _keyword(*, a): ...  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
async def _app(scope: Any, receive: Any, send: Any) -> None: ...


class _Application:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


@pytest.mark.parametrize(
    ("handler", "shape"),
    [
        (_event_one, "event"),
        (_plain_two, "event"),
        (_plain_three, "typed"),
        (_annotated, "typed"),
        (_nothing, "typed"),
        (_keyword, "typed"),
        (_app, "asgi"),
        (_Application(), "asgi"),
        (dict, "event"),
    ],
)
def test_detect(handler: Callable[..., Any], shape: str) -> None:
    """The parameters decide the shape, as the interface says."""
    assert shapes.detect(handler) == shape


@pytest.mark.parametrize(
    ("files", "order", "name"),
    [
        ({"main.py": "def handler(e, c): return 1\ndef other(e, c): ..."}, {}, "main:handler"),
        ({"thing.py": "def handler(e, c): return 1"}, {}, "thing:handler"),
        ({"thing.py": "def app(e, c): return 1"}, {}, "thing:app"),
        ({"thing.py": "from os.path import join\ndef _no(): ...\ndef only(e, c): return 1"}, {}, "thing:only"),
        (
            {"a.py": "", "pkg/mod.py": "class K:\n  @staticmethod\n  def f(e, c): return 1"},
            {"handler": "pkg.mod:K.f"},
            "pkg.mod:K.f",
        ),
        ({"pkg/mod.py": "def f(e, c): return 1"}, {"handler": "pkg/mod.f"}, "pkg.mod:f"),
    ],
)
def test_handler_is_found(guest: Guest, files: dict[str, str], order: dict[str, Any], name: str) -> None:
    """A handler is found by its name, by Lambda's spelling, or by the rules for a single file."""
    for path, text in files.items():
        (guest.code / path).parent.mkdir(exist_ok=True)
        (guest.code / path).write_text(text)
    kind, loaded = guest.load(**order)
    assert (kind, loaded["handler"]) == ("R", name)
    assert guest.call().json == 1


@pytest.mark.parametrize(
    ("source", "order", "kind", "word"),
    [
        ("x = 1", {"handler": "main:nothing"}, "HandlerNotFound", "no 'nothing'"),
        ("x = 1", {"handler": "other:f"}, "HandlerNotFound", "main.py"),
        ("def a(): ...\ndef b(): ...", {}, "HandlerNotFound", "a, b"),
        ("handler = 7", {"handler": "main:handler"}, "InvalidHandler", "'int'"),
        ("import nowhere", {}, "ModuleNotFoundError", "nowhere"),
        ("def handler(:", {}, "SyntaxError", "main.py"),
        ("raise SystemExit(4)", {}, "SystemExit", "4"),
        ("def f(): 1 / 0\nf()", {}, "ZeroDivisionError", "division"),
    ],
)
def test_load_failure(guest: Guest, source: str, order: dict[str, Any], kind: str, word: str) -> None:
    """Code that cannot be loaded is FAILED with what its owner needs to know."""
    letter, failed = guest.load(source, **order)
    assert (letter, failed["errorType"]) == ("F", kind)
    assert word in failed["errorMessage"]
    assert all("pyfaas" not in line and "importlib" not in line for line in failed["stackTrace"])


def test_search_path_is_code_then_standard_library(guest: Guest) -> None:
    """The host's own packages cannot be imported; the code shadows, the standard library is there."""
    source = "import sys, json\ndef handler(event, context): return sys.path\n"
    guest.load(source)
    path = guest.call().json
    assert path[0] == str(guest.code)
    assert not [entry for entry in path if "-packages" in entry]


def test_names_of_ours_belong_to_the_code(guest: Guest) -> None:
    """A module of the code named like one of our packages is the one that is imported."""
    (guest.code / "sandbox.py").write_text("MINE = 1\n")
    (guest.code / "pyfaas").mkdir()
    (guest.code / "pyfaas" / "__init__.py").write_text("MINE = 2\n")
    guest.load("import sandbox, pyfaas\ndef handler(event, context): return [sandbox.MINE, pyfaas.MINE]\n")
    assert guest.call().json == [1, 2]


def test_sdk_decorators_keep_the_function(guest: Guest) -> None:
    """A file written for the SDK defines plain functions in a container; Context is given where it is asked for."""
    source = """
    import pyfaas
    app = pyfaas.App("reports")
    @app.function(requirements=["pandas"], memory="512M")
    def total(values: list[int], context: pyfaas.Context) -> str: return f"{sum(values)} {context.function_name}"
    """
    _, loaded = guest.load(source, handler="main:total")
    assert loaded["shape"] == "typed"
    assert guest.call({"$args": [[1, 2]]}).json == "3 f"


TYPED = """
from __future__ import annotations
import dataclasses, datetime, enum, typing
class Colour(enum.Enum):
    RED = "red"
@dataclasses.dataclass
class Point:
    x: int
    y: float = 0.0
class Card(typing.TypedDict, total=False):
    name: typing.Required[str]
    size: int
def show(number: int, text: str = "t", items: list[float] = [], point: Point | None = None, colour: Colour = Colour.RED,
         mode: typing.Literal["a", "b"] = "a", card: Card = {}, when: datetime.datetime | None = None, raw: bytes = b"",
         table: dict[str, list[int]] = {}):
    return repr((number, text, items, point, colour, mode, card, when, raw, table))
"""


@pytest.mark.parametrize(
    ("event", "shown"),
    [
        ({"number": 1}, "(1, 't', [], None, <Colour.RED: 'red'>, 'a', {}, None, b'', {})"),
        ({"number": 1, "point": {"x": 2}}, "Point(x=2, y=0.0)"),
        ({"$args": [1, "z"], "$kwargs": {"mode": "b"}}, "(1, 'z', [], None, <Colour.RED: 'red'>, 'b'"),
        ({"number": 1, "items": [1, 2.5]}, "[1.0, 2.5]"),
        ({"number": 1, "colour": "red", "card": {"name": "n"}}, "{'name': 'n'}"),
        ({"number": 1, "when": "2026-01-02T03:04:05"}, "datetime.datetime(2026, 1, 2, 3, 4, 5)"),
        ({"number": 1, "when": {"$datetime": "2026-01-02T03:04:05"}}, "datetime.datetime(2026, 1, 2, 3, 4, 5)"),
        ({"number": 1, "raw": {"$bytes": "aGk="}}, "b'hi'"),
        ({"number": 1, "table": {"a": [1]}}, "{'a': [1]}"),
    ],
)
def test_typed_arguments(guest: Guest, event: Any, shown: str) -> None:
    """A JSON object becomes keyword arguments of the annotated types."""
    guest.load(TYPED)
    answered = guest.call(event)
    assert answered.status is Status.OK_JSON, answered.result
    assert shown in answered.json


@pytest.mark.parametrize(
    ("event", "words"),
    [
        ({}, ["missing 'number'"]),
        ({"number": "1"}, ["'number' must be an integer, not a string"]),
        ({"number": True}, ["an integer"]),
        ({"number": 1, "nubmer": 2, "text": 5}, ["unknown key 'nubmer'", "'text' must be a string"]),
        ({"number": 1, "items": [1, "x"]}, ["'items[1]' must be a number"]),
        ({"number": 1, "point": {"y": 1}}, ["lacks 'x'"]),
        ({"number": 1, "point": {"x": 1, "z": 1}}, ["unknown key 'z'"]),
        ({"number": 1, "mode": "c"}, ["'mode' must be one of 'a', 'b'"]),
        ({"number": 1, "colour": "blue"}, ["'red'"]),
        ({"number": 1, "card": {}}, ["lacks 'name'"]),
        ({"number": 1, "when": "yesterday"}, ["ISO 8601"]),
        ({"$args": [1], "$kwargs": {"number": 2}}, ["given twice"]),
        ({"$args": list(range(11))}, ["at most 10"]),
        ({"$args": 1}, ["$args must be an array"]),
        ([1], ["not an array"]),
        (None, ["not null"]),
        ({"number": 1, "raw": {"$bytes": "?"}}, ["$bytes"]),
    ],
)
def test_typed_mismatch(guest: Guest, event: Any, words: list[str]) -> None:
    """An event that does not fit is the caller's mistake, and each misfit is named."""
    guest.load(TYPED)
    answered = guest.call(body=json.dumps(event).encode())
    assert answered.status is Status.INVALID_EVENT
    for word in words:
        assert word in answered.json["errorMessage"]


def test_typed_signature_is_told(guest: Guest) -> None:
    """LOADED carries the parameters of a typed function as a schema."""
    _, loaded = guest.load("def add(a: int, b: float = 1.0) -> float: return a + b\n")
    assert loaded["shape"] == "typed"
    assert loaded["signature"]["properties"] == {"a": {"type": "integer"}, "b": {"type": "number"}}
    assert loaded["signature"]["required"] == ["a"]
    assert guest.call({"a": 2}).json == 3.0


def test_shape_is_overridden(guest: Guest) -> None:
    """The configuration's shape wins over what was found."""
    _, loaded = guest.load("def handler(a, b): return [a, b]\n", shape="typed")
    assert loaded["shape"] == "typed"
    assert guest.call({"b": 1, "a": 2}).json == [2, 1]


def test_bytes_go_to_the_one_bytes_parameter(guest: Guest) -> None:
    """A body of bytes is the argument of a function that requires bytes only, and no other typed function's."""
    guest.load("def size(raw: bytes) -> int: return len(raw)\n")
    assert guest.call(body=b"\x00\x01", flags=Flag.BYTES).json == 2


def test_positional_only_and_variadic(guest: Guest) -> None:
    """Positional-only, *args and **kwargs parameters take what the convention gives them."""
    guest.load("def f(a: int, /, *rest: int, **more: str): return [a, list(rest), more]\n")
    assert guest.call({"a": 1, "k": "v"}).json == [1, [], {"k": "v"}]
    assert guest.call({"$args": [1, 2, 3]}).json == [1, [2, 3], {}]
    assert guest.call({"$args": [1, "2"]}).status is Status.INVALID_EVENT


def test_typed_results_are_tagged(guest: Guest) -> None:
    """What a typed function returns beyond JSON leaves as tags; whole bytes leave as bytes."""
    source = """
    import datetime, dataclasses
    @dataclasses.dataclass
    class P:
        x: int
    def f(kind: str):
        return {"all": [b"hi", datetime.datetime(2026, 1, 2), P(1)], "raw": b"raw", "complex": 1j}[kind]
    """
    guest.load(source)
    assert guest.call({"kind": "all"}).json == [{"$bytes": "aGk="}, {"$datetime": "2026-01-02T00:00:00"}, {"x": 1}]
    raw = guest.call({"kind": "raw"})
    assert (raw.status, raw.result) == (Status.OK_BYTES, b"raw")
    assert "'complex'" in guest.call({"kind": "complex"}).json["errorMessage"]


def test_async_handlers_share_one_loop(guest: Guest) -> None:
    """async def works in both shapes, and the loop is the same in every call."""
    source = """
    import asyncio
    async def handler(event, context):
        await asyncio.sleep(0)
        return id(asyncio.get_running_loop())
    """
    guest.load(source)
    assert guest.call().json == guest.call().json


def test_async_error_has_the_codes_stack(guest: Guest) -> None:
    """An exception of a coroutine is reported from the code's first frame."""
    guest.load("async def handler(event, context):\n    raise KeyError('x')\n")
    answered = guest.call()
    assert answered.json["errorType"] == "KeyError"
    assert len(answered.json["stackTrace"]) == 1


def test_pickled_function(guest: Guest) -> None:
    """A pickled function is loaded when this Python wrote it; another minor is named."""
    (guest.code / "mod.py").write_text("def double(n: int): return 2 * n\n")
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    body = b"#" + version.encode() + b"\ncmod\ndouble\n."
    assert pickle.dumps(len)  # the module is there: the line above is protocol 0, written by hand
    (guest.code / "function.pkl").write_bytes(body)
    kind, loaded = guest.load(pickled=True, shape="typed")
    assert (kind, loaded["shape"]) == ("R", "typed")
    assert guest.call({"$args": [4]}).json == 8


def test_cloudpickled_closure(guest: Guest) -> None:
    """A function of no module travels by cloudpickle, with what it closes over and its defaults."""
    cloudpickle = pytest.importorskip("cloudpickle")
    factor = 3
    scope: dict[str, Any] = {"__name__": "__main__", "factor": factor}
    exec("def scale(n: int, by: int = 1): return n * factor * by", scope)  # noqa: S102 -- a function of no module
    (guest.code / "function.pkl").write_bytes(cloudpickle.dumps(scope["scale"]))
    shutil.copytree(Path(cloudpickle.__file__).parent, guest.code / "cloudpickle")
    kind, loaded = guest.load(pickled=True, shape="typed")
    assert (kind, loaded["shape"]) == ("R", "typed")
    assert guest.call({"$args": [2], "$kwargs": {"by": 5}}).json == 30


def test_cloudpickle_is_missing(guest: Guest) -> None:
    """A pickle that needs cloudpickle names it when the container has none."""
    (guest.code / "function.pkl").write_bytes(b"ccloudpickle.cloudpickle\n_make_function\n.")
    kind, failed = guest.load(pickled=True)
    assert kind == "F"
    assert "need cloudpickle" in failed["errorMessage"]


def test_pickled_by_another_python(guest: Guest) -> None:
    """A function pickled by another Python is refused with both versions."""
    (guest.code / "function.pkl").write_bytes(b"#2.7\n.")
    kind, failed = guest.load(pickled=True)
    assert (kind, failed["errorType"]) == ("F", "PythonMismatch")
    assert "2.7" in failed["errorMessage"]


def test_tags_are_data() -> None:
    """A broken tag is the caller's mistake; an object with more keys is no tag."""
    assert tagged.decode({"$bytes": base64.b64encode(b"x").decode()}) == b"x"
    assert tagged.decode([{"$date": "2026-01-02"}]) == [datetime.date(2026, 1, 2)]
    assert tagged.decode({"$bytes": "eA==", "other": 1}) == {"$bytes": "eA==", "other": 1}
    broken: dict[str, Any]
    for broken in ({"$bytes": 5}, {"$datetime": "x"}, {"$ndarray": {}}):
        with pytest.raises(InvalidEvent):
            tagged.decode(broken)


def test_union_keeps_exact_types() -> None:
    """In a union a value that has one of the types already is not converted to another."""
    read = readers.make_reader(bytes | str | None)
    assert read("aGk=", "x") == "aGk="
    assert read(None, "x") is None
    with pytest.raises(readers.Mismatch):
        read(1.5, "x")
