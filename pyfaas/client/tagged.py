"""JSON with tags for bytes, dates and numpy arrays: what the SDK sends and reads back.

The form is the container's (`{"$bytes": base64}`, `{"$datetime": …}`, `{"$date": …}`, `{"$ndarray": {dtype, shape,
data}}`). Reading constructs nothing but these types; what looks like a tag and is none stays as it is, because an event
handler may return any object.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import importlib
import json
import sys
from collections.abc import Callable
from typing import Any

from pyfaas.client.errors import invalid

_PLAIN_KINDS = "biufcSUmM"  # array kinds whose bytes are their values; never objects


def dumps(value: Any) -> bytes:
    """Write a value as JSON; raises InvalidRequest naming a type that has no form."""
    try:
        return json.dumps(value, default=_encode, allow_nan=False, separators=(",", ":"), ensure_ascii=False).encode()
    except (ValueError, RecursionError, UnicodeEncodeError) as error:
        raise invalid(f"the event cannot be written as JSON: {error}") from None


def loads(text: bytes | str) -> Any:
    """Read JSON and replace its tags; raises ValueError when it is no JSON."""
    return decode(json.loads(text))


def decode(value: Any) -> Any:
    """Replace the tags in parsed JSON."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((key, inner),) = value.items()
        if key in _READERS:
            try:
                return _READERS[key](inner)
            except (ValueError, TypeError, KeyError, ImportError, binascii.Error):
                return value
    return {key: decode(item) for key, item in value.items()}


def _encode(value: Any) -> Any:
    if isinstance(value, bytes | bytearray | memoryview):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, datetime.datetime):
        return {"$datetime": value.isoformat()}
    if isinstance(value, datetime.date):
        return {"$date": value.isoformat()}
    if isinstance(value, set | frozenset):
        return list(value)
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic):
        return value.item()
    if numpy is not None and isinstance(value, numpy.ndarray) and value.dtype.kind in _PLAIN_KINDS:
        data = base64.b64encode(value.tobytes()).decode()
        return {"$ndarray": {"dtype": value.dtype.str, "shape": list(value.shape), "data": data}}
    raise invalid(
        f"a value of type {type(value).__name__} has no form in JSON",
        "pass numbers, text, lists, dicts, bytes, dates or numpy arrays",
    )


def _bytes(inner: str) -> bytes:
    return base64.b64decode(inner, validate=True)


def _ndarray(inner: dict[str, Any]) -> Any:
    np = importlib.import_module("numpy")  # only who has it can be given an array
    dtype = np.dtype(str(inner["dtype"]))
    if dtype.kind not in _PLAIN_KINDS:
        raise ValueError(f"an array of dtype {dtype}")
    return np.frombuffer(_bytes(inner["data"]), dtype=dtype).reshape([int(n) for n in inner["shape"]]).copy()


_READERS: dict[str, Callable[[Any], Any]] = {
    "$bytes": _bytes,
    "$datetime": datetime.datetime.fromisoformat,
    "$date": datetime.date.fromisoformat,
    "$ndarray": _ndarray,
}
