"""Values as data: what is written comes back as it was, and nothing but values is ever made of what a worker sends."""

from __future__ import annotations

import datetime
import json
import math
import pickle
import struct
import tracemalloc
import zoneinfo
from collections import OrderedDict
from collections.abc import Hashable
from enum import IntEnum
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sandbox import remote, values
from sandbox.spec import Ending, Fate

# The same examples in every run, however slow the machine is.
ALIKE = settings(max_examples=60, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
ATOMS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters())
    | st.binary()
    | st.complex_numbers(allow_nan=False)
    | st.datetimes(timezones=st.none() | st.timezones() | st.just(datetime.UTC))
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.uuids()
)
KEYS = st.none() | st.integers() | st.text() | st.binary() | st.tuples(st.integers(), st.text())
TREES = st.recursive(
    ATOMS,
    lambda inner: (
        st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(KEYS, inner) | st.sets(KEYS) | st.frozensets(KEYS)
    ),
)


def same(one: Any, other: Any) -> bool:
    """Tell whether two values are equal with all types inside."""
    if type(one) is not type(other):
        return False
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return list(map(repr, one)) == list(map(repr, other)) and all(map(same, one.values(), other.values()))
    return bool(one == other) and (repr(one) == repr(other) or isinstance(one, (set, frozenset)))


@ALIKE
@given(TREES)
@example({"$": 1})
@example([{"$": ["tuple", 1]}])
@example("\ud83d\ude00")
@example([2**1024, -(2**5000), True, 1])
def test_what_is_written_comes_back(value: Any) -> None:
    """Each value is read as what was written, its types included, in any depth."""
    assert same(values.decode(values.encode(value)), value)


def test_what_equals_nothing_comes_back() -> None:
    """Not-a-number, the infinities and the ellipsis are written too."""
    back = values.decode(values.encode([math.nan, math.inf, -math.inf, ..., range(1, 9, 2)]))
    assert math.isnan(back[0])
    assert back[1:] == [math.inf, -math.inf, ..., range(1, 9, 2)]


def test_times_keep_zone_and_fold() -> None:
    """A time in a named zone, in its repeated hour, is the same time again."""
    zone = zoneinfo.ZoneInfo("Europe/Berlin")
    for value in (datetime.datetime(2026, 10, 25, 2, 30, tzinfo=zone, fold=1), datetime.time(2, 3, fold=1), datetime.UTC):
        back = values.decode(values.encode(value))
        assert (repr(back), getattr(back, "fold", 0)) == (repr(value), getattr(value, "fold", 0))


Colour = IntEnum("Colour", "RED")


class Point(NamedTuple):
    """A tuple that is more than a tuple."""

    x: int
    y: int


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (object(), "object"),
        (Colour.RED, "Colour"),
        (Point(1, 2), "Point"),
        (OrderedDict(), "collections.OrderedDict"),
        ([1, ({2: len},)], "builtin_function_or_method"),
        (ValueError("x"), "ValueError"),
    ],
)
def test_what_has_no_form_is_named(value: Any, name: str) -> None:
    """A value of another type, a subclass included, is refused by the name of its type."""
    with pytest.raises(values.NoForm, match=name):
        values.encode(value)


def test_what_contains_itself_is_refused() -> None:
    """A value without end is refused, and so is one that is too deep to write."""
    endless: list[Any] = []
    endless.append(endless)
    deep: list[Any] = []
    for _ in range(5_000):
        deep = [deep]
    for value in (endless, deep):
        with pytest.raises(values.NoForm, match="too deeply"):
            values.encode(value)


@ALIKE
@given(st.binary())
@example(b"")
@example(struct.pack("<I", 1 << 31))
def test_garbage_is_no_value(whole: bytes) -> None:
    """Arbitrary bytes are a BrokenValue or a value, never another exception."""
    _read(whole)


PARTS = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(list(values._READERS)),
    lambda inner: st.lists(inner, max_size=9) | st.fixed_dictionaries({"$": st.lists(inner, max_size=9)}),
    max_leaves=20,
)


@ALIKE
@given(st.sampled_from([*values._READERS, "bytes", "bytearray", "no"]), st.lists(PARTS, max_size=9), st.binary(max_size=9))
@example("datetime", [1, 1, 1, 1, 1, 1, 1, 0, "Europe"], b"")
@example("datetime", [1, 1, 1, 1, 1, 1, 1, 0, "../../etc/passwd"], b"")
@example("set", [[1]], b"")
@example("bytes", [-1], b"xx")
@example("uuid", [5], b"")
def test_broken_tags_are_no_values(kind: str, parts: list[Any], rest: bytes) -> None:
    """A tag with other parts than it should have is a BrokenValue or a value, never another exception."""
    text = json.dumps({"$": [kind, *parts]}).encode()
    _read(struct.pack("<I", len(text)) + text + rest)


def _read(whole: bytes) -> None:
    try:
        read = values.decode(whole)
    except values.BrokenValue:
        return
    assert isinstance(read, (Hashable, list, dict, set, bytearray))


def test_bytes_are_taken_once() -> None:
    """Text that names the same bytes again and again does not make them many: a small answer is no large value."""
    text = json.dumps([{"$": ["bytes", 1_000_000]}] * 1_000).encode()
    tracemalloc.start()
    try:
        with pytest.raises(values.BrokenValue, match="bytes that were not sent"):
            values.decode(struct.pack("<I", len(text)) + text + b"x" * 1_000_000)
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()


def test_deep_text_is_no_value() -> None:
    """Nesting that would exhaust the stack is a BrokenValue."""
    text = b"[" * 1_000_000
    with pytest.raises(values.BrokenValue):
        values.decode(struct.pack("<I", len(text)) + text)


# ---- exceptions


def failure(**told: Any) -> Exception:
    """Make the exception of what a worker might tell."""
    return remote.failure(values.encode(told))


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"module": "builtins", "type": "eval", "arguments": ("1",)},
        {"module": "builtins", "type": "SystemExit", "arguments": (1,)},
        {"module": "builtins", "type": "UnicodeDecodeError", "arguments": (1,)},
        {"module": "builtins", "type": "ValueError", "arguments": 5},
        {"module": "os", "type": "system", "arguments": ("true",)},
        {"module": "builtins", "type": 5, "arguments": None, "notes": 7, "names": [], "traceback": [], "message": None},
    ],
)
def test_only_built_in_exceptions_are_made(told: dict[str, Any]) -> None:
    """Whatever else a worker names, nothing of that name is called: it is a RemoteError."""
    assert type(failure(**told)) is remote.RemoteError


def test_attributes_are_given_to_those_that_have_them() -> None:
    """`name` and `path` are set where the exception has such attributes, no other is set on any."""
    error = failure(module="builtins", type="ImportError", arguments=("x",), names={"name": "n", "path": "p", "__class__": "q"})
    assert isinstance(error, ImportError)
    assert (error.name, error.path) == ("n", "p")
    assert not hasattr(failure(module="builtins", type="ValueError", arguments=(), names={"name": "n"}), "name")


def test_no_foreign_file_is_opened_for_a_traceback(tmp_path: Any) -> None:
    """Only files of which code was sent have their lines shown: a worker's text may name any file."""
    secret = tmp_path / "secret.py"
    secret.write_text("the_secret = 1\n")
    text = f'  File "{secret}", line 1, in f\nValueError: x'
    assert "the_secret" not in remote.with_lines(text, ())
    assert "the_secret = 1" in remote.with_lines(text, {str(secret)})


def test_a_line_that_is_shown_already_is_not_shown_twice() -> None:
    """Where the worker could read the source itself, its text stays as it is."""
    text = f'  File "{__file__}", line 1, in f\n    """Values\nValueError: x'
    assert remote.with_lines(text, {__file__}) == text




@pytest.mark.parametrize(
    "error",
    [
        remote.RemoteError("mine.Odd", "told", "traceback"),
        remote.WorkerDied("it exited", Ending(fate=Fate.EXITED, status=3)),
        remote.LimitExceeded("memory", "too much", Ending(fate=Fate.OOM, evidence={"oom_kills": 1})),
    ],
)
def test_errors_pass_through_another_executor(error: remote.RemoteError) -> None:
    """An error that is pickled on its way is the same error again."""
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (str(again), vars(again)) == (str(error), vars(error))
