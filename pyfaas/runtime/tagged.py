"""JSON with tags for what typed functions also pass: bytes, dates and arrays.

A tagged value is an object with exactly one key that starts with `$`:
`{"$bytes": base64}`, `{"$datetime": ISO 8601}`, `{"$date": …}`, and
`{"$ndarray": {"dtype", "shape", "data": base64}}` for a numpy array in C order. Tags are data:
nothing is constructed but these types, and numpy is only used when the tenant has it.
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

from pyfaas.runtime import codec
from pyfaas.runtime.codec import InvalidEvent

_PLAIN_KINDS = "biufcSUmM"  # array kinds whose bytes are their values; never objects


def encode_default(value: Any) -> Any:
    """Write what JSON lacks as a tag; raises InvalidResult naming any other type."""
    if isinstance(value, bytes | bytearray | memoryview):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, datetime.datetime):
        return {"$datetime": value.isoformat()}
    if isinstance(value, datetime.date):
        return {"$date": value.isoformat()}
    if isinstance(value, enum.Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    dump = getattr(value, "model_dump", None)
    if callable(dump):  # a pydantic model of the tenant's own copy
        return dump(mode="json")
    return _encode_numpy(value)


def _encode_numpy(value: Any) -> Any:
    numpy = sys.modules.get("numpy")
    if numpy is None or not isinstance(value, numpy.ndarray | numpy.generic):
        codec.refuse(value)
    if isinstance(value, numpy.generic):
        return value.item()
    if value.dtype.kind not in _PLAIN_KINDS:
        raise codec.InvalidResult(f"an array of dtype {value.dtype} is not JSON")
    data = base64.b64encode(value.tobytes()).decode()
    return {"$ndarray": {"dtype": value.dtype.str, "shape": list(value.shape), "data": data}}


encode: codec.Encode = codec.make_encode(encode_default)


def decode(value: Any) -> Any:
    """Replace the tags in a parsed event; raises InvalidEvent for a broken tag."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((key, inner),) = value.items()
        read = _READERS.get(key)
        if read is not None:
            return _read(key, read, inner)
    return {key: decode(item) for key, item in value.items()}


def _read(key: str, read: Callable[[Any], Any], inner: Any) -> Any:
    try:
        return read(inner)
    except (ValueError, TypeError, KeyError, binascii.Error) as error:
        raise InvalidEvent(f"a broken {key}: {error}") from None


def _ndarray(inner: dict[str, Any]) -> Any:
    try:
        np = importlib.import_module("numpy")  # the tenant's own copy, when it has one
    except ImportError:
        raise InvalidEvent("an $ndarray was sent, but the function has no numpy") from None
    dtype = np.dtype(str(inner["dtype"]))
    if dtype.kind not in _PLAIN_KINDS:
        raise InvalidEvent(f"an $ndarray of dtype {dtype} is not accepted")
    flat = np.frombuffer(_bytes(inner["data"]), dtype=dtype)
    return flat.reshape([int(length) for length in inner["shape"]]).copy()


def _bytes(inner: str) -> bytes:
    return base64.b64decode(inner, validate=True)


_READERS: dict[str, Callable[[Any], Any]] = {
    "$bytes": _bytes,
    "$datetime": datetime.datetime.fromisoformat,
    "$date": datetime.date.fromisoformat,
    "$ndarray": _ndarray,
}
