"""The tags that both ends share: what they carry, and that both ends read and write alike."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import importlib
import json
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pyfaas
from pyfaas import tagged
from pyfaas.client import tagged as client
from pyfaas.client.errors import InvalidRequest
from pyfaas.runtime import tagged as container
from pyfaas.runtime.codec import InvalidEvent, InvalidResult

BERLIN = datetime.timezone(datetime.timedelta(hours=1), "CET")
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.binary()
    | st.datetimes()
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.sets(st.integers() | st.text() | st.dates())
    | st.frozensets(st.binary())
)
KEYS = st.text().filter(lambda key: not key.startswith("$"))
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)


def to_container(value: Any) -> Any:
    """Take a value the way of an argument."""
    return container.decode(json.loads(client.dumps(value)))


def to_client(value: Any) -> Any:
    """Take a value the way of a result."""
    return client.loads(container.encode(value))


@pytest.mark.parametrize("way", [to_container, to_client])
@given(value=VALUES)
def test_what_goes_comes_equal(way: Callable[[Any], Any], value: object) -> None:
    """Arguments and results arrive equal, and of the same types, whatever they are made of."""
    came = way(value)
    assert came == value
    assert type(came) is type(value)


class Colour(enum.Enum):
    """Not an enum of a JSON type."""

    RED = "red"


@dataclasses.dataclass
class Point:
    """Holds a value that needs a tag."""

    x: int
    when: datetime.date


@pytest.mark.parametrize("way", [to_container, to_client])
@pytest.mark.parametrize(
    ("value", "came"),
    [
        ((1, (2,)), [1, [2]]),
        ({1: "a", None: "b"}, {"1": "a", "null": "b"}),
        (Colour.RED, "red"),
        (Point(1, datetime.date(2026, 1, 2)), {"x": 1, "when": datetime.date(2026, 1, 2)}),
        (bytearray(b"a"), b"a"),
        (2**200, 2**200),
        ("half \ud800", "half \ud800"),
        (datetime.datetime(2026, 1, 2, 3, tzinfo=BERLIN), datetime.datetime(2026, 1, 2, 2, tzinfo=datetime.UTC)),
        ({frozenset({1, 2})}, {frozenset({1, 2})}),
        (decimal.Decimal("NaN"), decimal.Decimal("NaN")),
    ],
)
def test_what_has_no_tag_is_plain_data(way: Callable[[Any], Any], value: object, came: object) -> None:
    """Tuples become lists, keys text, enums and dataclasses what they hold; big numbers and half surrogates survive."""
    assert str(way(value)) == str(came) if value != value else way(value) == came  # noqa: PLR0124 - NaN is not itself


@pytest.mark.parametrize("value", [1j, object(), range(3), {}.keys(), int, float("nan"), [float("inf")], {(1, 2): 3}])
def test_what_has_no_form_is_refused_by_both(value: object) -> None:
    """Neither end writes what the other could not read; the sentence names the type or the number."""
    with pytest.raises(InvalidRequest, match=r"not JSON|JSON compliant|as JSON"):
        client.dumps({"a": value})
    with pytest.raises((InvalidResult, ValueError, TypeError)):
        container.encode({"a": value})


def test_a_circle_is_refused() -> None:
    """A value that contains itself has no text."""
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(InvalidRequest):
        client.dumps(circle)
    with pytest.raises(RecursionError):
        container.encode(circle)


BROKEN = [
    *({"$bytes": "no base64!"}, {"$bytes": 3}, {"$datetime": "soon"}, {"$date": None}, {"$time": 1}, {"$ndarray": {}}),
    *({"$timedelta": [1]}, {"$decimal": "x"}, {"$decimal": [0]}, {"$uuid": "1"}, {"$uuid": 5}, {"$set": "abc"}),
    *({"$set": [[1]]}, {"$frozenset": {}}, {"$ndarray": {"dtype": "O", "shape": [1], "data": ""}}),
]


@pytest.mark.parametrize("value", BROKEN)
def test_a_broken_tag_is_the_callers_in_a_container_and_data_in_the_client(value: dict[str, Any]) -> None:
    """An argument that cannot be read is refused by its tag; a result that only looks like a tag is the function's own."""
    with pytest.raises(InvalidEvent, match=r"\$\w+"):
        container.decode([value])
    assert client.decode([value]) == [value]


def test_every_tag_is_written_and_read() -> None:
    """The two directions have the same tags."""
    numpy = importlib.import_module("numpy")
    values = (
        *(b"", datetime.datetime(1, 1, 1), datetime.date(1, 1, 1), datetime.time(1), datetime.timedelta(1)),  # noqa: DTZ001
        *(decimal.Decimal(1), uuid.UUID(int=1), set(), frozenset(), numpy.zeros(1)),
    )
    assert {key for value in values for key in tagged.tag(value)} == set(tagged.TAGS)


def test_arrays_arrive_as_they_were() -> None:
    """Kind, shape and values of an array survive, with NaN and numpy's own times; scalars become Python's."""
    numpy = importlib.import_module("numpy")
    arrays = [
        *(numpy.arange(6).reshape(2, 3).T, numpy.array([float("nan"), 1.5]), numpy.zeros((0, 3), "u1")),
        *(numpy.array(["a", "bc"]), numpy.array([1j]), numpy.array(["2026-01-02"], "M8[D]")),
    ]
    for array in arrays:
        came = to_client({"a": [to_container(array)]})["a"][0]
        assert (came.dtype, came.shape) == (array.dtype, array.shape)
        numpy.testing.assert_array_equal(came, array)
        assert came.flags.writeable
    assert to_client([numpy.int64(3), numpy.bool_(True), numpy.float32(0.5)]) == [3, True, 0.5]  # noqa: FBT003
    assert to_client(numpy.datetime64("2026-01-02")) == numpy.datetime64("2026-01-02")
    with pytest.raises(InvalidRequest, match="dtype object"):
        client.dumps(numpy.array([object()]))


def test_who_sends_no_array_needs_no_numpy() -> None:
    """Both ends work without numpy, decimal and uuid loaded; a tag that needs numpy is kept, or refused, where it is not."""
    program = f"""
import sys
sys.path.insert(0, {str(Path(pyfaas.__file__).resolve().parents[1])!r})
sys.modules["numpy"] = None
from pyfaas import tagged
assert tagged.untag({{"$set": [1]}}) == {{1}} and tagged.tag(b"") == {{"$bytes": ""}}
assert not {{"decimal", "uuid"}} & set(sys.modules), "loaded for nothing"
assert str(tagged.untag({{"$decimal": "1.10"}})) == "1.10"
tag = {{"$ndarray": {{"dtype": "<i8", "shape": [0], "data": ""}}}}
assert tagged.untag_what_fits(tag) == tag
try:
    tagged.untag(tag)
except tagged.BrokenTag as error:
    assert "no numpy" in str(error)
else:
    raise SystemExit("read without numpy")
"""
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
