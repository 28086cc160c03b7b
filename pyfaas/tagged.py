"""JSON with tags for what Python also passes around: bytes, times, exact numbers, sets, numpy arrays.

A tagged value is an object with exactly one key, one of `TAGS`: `{"$bytes": base64}`, `{"$datetime": ISO 8601}`,
`{"$ndarray": {"dtype", "shape", "data": base64}}` in C order, and so on. Tags are data: reading constructs nothing but
these types. The SDK and the container both use this table, so it stands on the standard library alone, and what is seldom
needed (decimal, uuid, the reader's own numpy) is loaded by whoever is given such a value.

What has no tag keeps JSON's ways: a tuple comes back as a list, a dict's keys as text. Enums, dataclasses and pydantic
models are written as the plain data they hold.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import datetime
import enum
import importlib
import sys
from collections.abc import Callable
from typing import Any

_PLAIN_KINDS = "biufcSUmM"  # array kinds whose bytes are their values; never objects
_TIMES = "mM"  # numpy's own times, which have no equal in Python


class NoForm(TypeError):
    """A value that neither JSON nor a tag can carry; the text names its type."""


class BrokenTag(ValueError):
    """An object that looks like a tag and cannot be read."""


def tag(value: Any) -> Any:
    """Return what stands in JSON for a value that JSON lacks; raises NoForm naming any other type."""
    writer = _WRITERS.get(type(value))
    if writer is not None:
        return writer(value)
    for kind, write in _WRITERS.items():
        if isinstance(value, kind):
            return write(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    dump = getattr(value, "model_dump", None)
    if callable(dump) and not isinstance(value, type):  # a pydantic model, of whatever copy
        return dump(mode="json")
    return _tag_loaded(value)


def untag(value: Any) -> Any:
    """Replace the tags in parsed JSON; raises BrokenTag naming one that cannot be read."""
    return _untag(value, _strict)


def untag_what_fits(value: Any) -> Any:
    """Replace the tags in parsed JSON; what only looks like one is kept: an event handler may return any object."""
    return _untag(value, _lenient)


def _untag(value: Any, read: Callable[[str, Any], Any]) -> Any:
    if isinstance(value, list):
        return [_untag(item, read) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((key, inner),) = value.items()
        if key in _SETS and isinstance(inner, list):
            inner = [_untag(item, read) for item in inner]
        if key in TAGS:
            return read(key, inner)
    return {key: _untag(item, read) for key, item in value.items()}


def _strict(key: str, inner: Any) -> Any:
    try:
        return TAGS[key](inner)
    except ImportError:
        raise BrokenTag(f"an {key} was sent, but there is no numpy to read it") from None
    except (ValueError, TypeError, KeyError, ArithmeticError, binascii.Error) as error:
        raise BrokenTag(f"a broken {key}: {error}") from None


def _lenient(key: str, inner: Any) -> Any:
    try:
        return TAGS[key](inner)
    except (ValueError, TypeError, KeyError, ArithmeticError, ImportError, binascii.Error):
        return {key: inner}


def _tag_loaded(value: Any) -> Any:
    """Write a value whose type's module is loaded when there is such a value."""
    for module, name, key in (("decimal", "Decimal", "$decimal"), ("uuid", "UUID", "$uuid")):
        loaded = sys.modules.get(module)
        if loaded is not None and isinstance(value, getattr(loaded, name)):
            return {key: str(value)}
    numpy = sys.modules.get("numpy")
    if numpy is None or not isinstance(value, numpy.ndarray | numpy.generic):
        raise NoForm(f"an object of type {type(value).__name__!r} is not JSON")
    if isinstance(value, numpy.generic) and value.dtype.kind not in _TIMES:
        return value.item()
    if value.dtype.kind not in _PLAIN_KINDS:
        raise NoForm(f"an array of dtype {value.dtype} is not JSON")
    data = base64.b64encode(value.tobytes()).decode()
    return {"$ndarray": {"dtype": value.dtype.str, "shape": list(value.shape), "data": data}}


def _bytes(inner: str) -> bytes:
    return base64.b64decode(inner, validate=True)


def _ndarray(inner: dict[str, Any]) -> Any:
    np = importlib.import_module("numpy")  # the reader's own copy, where it has one
    dtype = np.dtype(str(inner["dtype"]))
    if dtype.kind not in _PLAIN_KINDS:
        raise ValueError(f"dtype {dtype} is not accepted")
    flat = np.frombuffer(_bytes(inner["data"]), dtype=dtype)
    # `[()]` makes a scalar of an array without dimensions, and leaves others as they are.
    return flat.reshape([int(length) for length in inner["shape"]]).copy()[()]


def _named(module: str, name: str) -> Callable[[Any], Any]:
    def read(inner: Any) -> Any:
        if not isinstance(inner, str):
            raise TypeError(f"{name} is written as text")
        return getattr(importlib.import_module(module), name)(inner)

    return read


def _set(kind: Callable[[list[Any]], Any]) -> Callable[[Any], Any]:
    def read(inner: Any) -> Any:
        if not isinstance(inner, list):
            raise TypeError("a set is written as an array")
        return kind(inner)

    return read


def _timedelta(inner: list[int]) -> datetime.timedelta:
    days, seconds, microseconds = inner
    return datetime.timedelta(days=days, seconds=seconds, microseconds=microseconds)


_SETS = frozenset({"$set", "$frozenset"})
TAGS: dict[str, Callable[[Any], Any]] = {
    "$bytes": _bytes,
    "$datetime": datetime.datetime.fromisoformat,
    "$date": datetime.date.fromisoformat,
    "$time": datetime.time.fromisoformat,
    "$timedelta": _timedelta,
    "$decimal": _named("decimal", "Decimal"),
    "$uuid": _named("uuid", "UUID"),
    "$set": _set(set),
    "$frozenset": _set(frozenset),
    "$ndarray": _ndarray,
}
# In this order for subclasses: a datetime is a date too.
_WRITERS: dict[type, Callable[[Any], Any]] = {
    bytes: lambda value: {"$bytes": base64.b64encode(value).decode()},
    bytearray: lambda value: {"$bytes": base64.b64encode(value).decode()},
    memoryview: lambda value: {"$bytes": base64.b64encode(value).decode()},
    datetime.datetime: lambda value: {"$datetime": value.isoformat()},
    datetime.date: lambda value: {"$date": value.isoformat()},
    datetime.time: lambda value: {"$time": value.isoformat()},
    datetime.timedelta: lambda value: {"$timedelta": [value.days, value.seconds, value.microseconds]},
    enum.Enum: lambda value: value.value,
    frozenset: lambda value: {"$frozenset": list(value)},
    set: lambda value: {"$set": list(value)},
}
