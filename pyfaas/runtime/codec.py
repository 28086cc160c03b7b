"""JSON as the container reads events and writes results.

Theory of operation. The standard library's C scanner and encoder are made once and kept:
`json.loads` and `json.dumps` build or look up as much again on each call. The kept pair takes
the usual case only (no white space around the document, no surprise in the result); whatever
it refuses goes through `decode_slowly` and `explain`, which find the sentence for the reader.
No third-party parser is used: it would shadow the tenant's own copy of that package and
differ from `json` on NaN, surrogates and bytes.

An event must be JSON in UTF-8: NaN, Infinity, numbers beyond a float, a byte order mark and
UTF-16 are refused. Of repeated keys the last one counts, as in `json`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from json import encoder as _encoder
from typing import Any, Never


class InvalidEvent(Exception):
    """The caller's body cannot be given to the function; the text says why."""

    kind = "InvalidEvent"


class InvalidResult(Exception):
    """The function returned what is not JSON; the text names the type."""


def _refuse_constant(name: str) -> Never:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if value - value != 0.0:  # infinite: the literal does not fit a float, and could not be written back
        raise ValueError(f"the number {text[:40]} does not fit a float")
    return value


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)
# Public since Python 2.6, though not in the type stubs.
scan: Callable[[str, int], tuple[Any, int]] = _DECODER.scan_once  # type: ignore[attr-defined]


def decode(body: bytes) -> Any:
    """Parse an event's JSON; raises InvalidEvent with a sentence for the caller."""
    try:
        text = str(body, "utf-8")
        if text.startswith("\ufeff"):
            raise InvalidEvent("the event is not JSON: it begins with a byte order mark (BOM)")
        return _DECODER.decode(text)
    except RecursionError:
        raise InvalidEvent("the event is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise InvalidEvent(f"the event is not UTF-8: byte {error.start} cannot be read") from None
    except ValueError as error:
        raise InvalidEvent(f"the event is not JSON: {error}") from None


Default = Callable[[Any], Any]
Encode = Callable[[Any], bytes]


def refuse(value: object) -> Never:
    """Name the type that JSON does not have; raises InvalidResult."""
    raise InvalidResult(f"an object of type {type(value).__name__!r} is not JSON")


def make_encode(default: Default) -> Encode:
    """Return a kept function from a value to JSON bytes; it raises whatever the value's parts raise.

    Text leaves as UTF-8 unescaped; a lone surrogate, which UTF-8 lacks, makes the whole
    document ASCII with escapes.
    """
    chunks = _chunks(default, ensure_ascii=False)
    join = "".join

    def encode(value: Any) -> bytes:
        try:
            return join(chunks(value, 0)).encode()
        except UnicodeEncodeError:
            return join(_chunks(default, ensure_ascii=True)(value, 0)).encode()

    return encode


def _chunks(default: Default, *, ensure_ascii: bool) -> Callable[[Any, int], Any]:
    make = getattr(_encoder, "c_make_encoder", None)
    text = _encoder.encode_basestring_ascii if ensure_ascii else _encoder.encode_basestring
    if make is not None:
        try:
            # No marker dictionary: a cycle ends in RecursionError, which `explain` tells apart.
            chunks: Callable[[Any, int], Any] = make(None, default, text, None, ":", ",", False, False, False)
            chunks([{"probe": 1}], 0)
        except (TypeError, ValueError):  # another Python's signature
            pass
        else:
            return chunks
    plain = json.JSONEncoder(ensure_ascii=ensure_ascii, allow_nan=False, separators=(",", ":"), default=default)
    return lambda value, _indent: (plain.encode(value),)


encode_plain: Encode = make_encode(refuse)
chunks_plain = _chunks(refuse, ensure_ascii=False)


def explain(error: BaseException) -> str:
    """Say in one sentence why a result could not be written as JSON."""
    if isinstance(error, InvalidResult):
        return f"the result cannot be returned: {error}"
    if isinstance(error, RecursionError):
        return "the result cannot be returned: it is nested too deeply, or contains itself"
    if isinstance(error, ValueError) and "JSON compliant" in str(error):
        return "the result cannot be returned: a float that is NaN or infinite is not JSON"
    return f"the result cannot be returned: {type(error).__name__}: {error}"
