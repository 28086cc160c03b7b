"""Values as data: what a worker returns, written so that reading it runs nobody's code.

The text is JSON. What JSON has no form for is an object with the one key `$`: `{"$": ["tuple", 1, 2]}`. Bytes are not in
the text: they follow it in its order, and the tag says how many. A value that is read has the types that were written, in every depth.

    whole = 4 bytes: length of the text · the text, UTF-8 · the bytes, one after the other

`encode` runs in the worker, on objects of its owner's; `decode` runs in the caller, on whatever a hostile worker sent: it
builds values of the types below, nothing else, and raises `BrokenValue` and nothing else. Only exact types are written: a
subclass would come back as something else.
"""

from __future__ import annotations

import datetime
import decimal
import importlib
import json
import struct
import sys
import uuid
from collections.abc import Callable
from typing import Any

_LENGTH = struct.Struct("<I")
_KEY, _MARK = "$", '"$"'
_ENCODER = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":"))
_DECODER = json.JSONDecoder()
_PLAIN = frozenset((str, int, bool, type(None), float))
_TEXT = frozenset((str,))
_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, OSError, struct.error)
_SMALL_BITS = 1_024  # an integer with more is written in hexadecimal: reading long decimals is slow, and Python limits it


class NoForm(TypeError):
    """A value, or something inside it, has no form as data; the message names its type."""


class BrokenValue(ValueError):
    """What is to be read was not written by `encode`."""


def encode(value: object) -> bytes:
    """Return a value as data; raises NoForm naming the first type that has no form, or the nesting that is too deep."""
    blobs: list[bytes] = []
    try:
        text = _ENCODER.encode(_Writer(blobs).write(value))
    except RecursionError:
        raise NoForm("the value is nested too deeply, or contains itself") from None
    written = text.encode("utf-8", "surrogatepass")
    return b"".join((_LENGTH.pack(len(written)), written, *blobs))


def decode(whole: bytes) -> Any:
    """Return the value that `encode` wrote; raises BrokenValue for anything else."""
    try:
        start = _LENGTH.size + _LENGTH.unpack_from(whole)[0]
        text = whole[_LENGTH.size : start].decode("utf-8", "surrogatepass")
        reader = _Reader(whole, start)
        value = json.loads(text, object_hook=reader.read) if _MARK in text else _DECODER.decode(text)
        if not reader.is_done:
            raise BrokenValue("more bytes than it has")
    except _UNREADABLE as error:
        raise BrokenValue(f"this is no value: {error}") from None
    else:
        return value


class _Writer:
    """Makes a value into what json.dumps writes as it is; bytes go to `blobs`."""

    def __init__(self, blobs: list[bytes]) -> None:
        self._blobs = blobs

    def write(self, value: Any) -> Any:
        kind = type(value)
        if kind is int:
            return value if value.bit_length() <= _SMALL_BITS else {_KEY: ["int", hex(value)]}
        if kind in _PLAIN:
            return value
        form = _FORMS.get(kind)
        if form is None:
            raise NoForm(f"{_named(kind)} has no form as data")
        return form(self, value)

    def items(self, values: Any) -> list[Any]:
        """Write the items of a sequence; one of plain values only is done without a look at each."""
        kinds = set(map(type, values))
        if kinds <= _PLAIN and (int not in kinds or _are_small(values)):
            return list(values)
        return list(map(self.write, values))

    def mapping(self, value: dict[Any, Any]) -> Any:
        if set(map(type, value)) <= _TEXT and _KEY not in value:
            return dict(zip(value, self.items(value.values()), strict=True))
        return {_KEY: ["dict", *([self.write(key), self.write(item)] for key, item in value.items())]}

    def blob(self, kind: str, value: bytes) -> Any:
        self._blobs.append(value)
        return {_KEY: [kind, len(value)]}


def _are_small(values: Any) -> bool:
    return all(value.bit_length() <= _SMALL_BITS for value in values if type(value) is int)


def _named(kind: type) -> str:
    module = kind.__module__
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"


def _of_zone(zone: datetime.tzinfo | None) -> Any:
    if zone is None:
        return None
    key = getattr(zone, "key", None)
    if key and type(zone) is getattr(sys.modules.get("zoneinfo"), "ZoneInfo", None):
        return key
    if type(zone) is datetime.timezone:
        return _of_delta(zone.utcoffset(None))
    raise NoForm(f"{_named(type(zone))} has no form as data")


def _of_delta(delta: datetime.timedelta) -> list[int]:
    return [delta.days, delta.seconds, delta.microseconds]


def _of_time(value: datetime.datetime | datetime.time) -> list[Any]:
    return [value.hour, value.minute, value.second, value.microsecond, value.fold, _of_zone(value.tzinfo)]


def _of_datetime(value: datetime.datetime) -> list[Any]:
    return [value.year, value.month, value.day, *_of_time(value)]


_FORMS: dict[type, Callable[[_Writer, Any], Any]] = {
    list: lambda writer, value: writer.items(value),
    dict: lambda writer, value: writer.mapping(value),
    tuple: lambda writer, value: {_KEY: ["tuple", *writer.items(value)]},
    set: lambda writer, value: {_KEY: ["set", *writer.items(value)]},
    frozenset: lambda writer, value: {_KEY: ["frozenset", *writer.items(value)]},
    bytes: lambda writer, value: writer.blob("bytes", value),
    bytearray: lambda writer, value: writer.blob("bytearray", bytes(value)),
    complex: lambda _, value: {_KEY: ["complex", value.real, value.imag]},
    range: lambda writer, value: {_KEY: ["range", *writer.items((value.start, value.stop, value.step))]},
    type(Ellipsis): lambda _, __: {_KEY: ["..."]},
    datetime.datetime: lambda _, value: {_KEY: ["datetime", *_of_datetime(value)]},
    datetime.date: lambda _, value: {_KEY: ["date", value.year, value.month, value.day]},
    datetime.time: lambda _, value: {_KEY: ["time", *_of_time(value)]},
    datetime.timedelta: lambda _, value: {_KEY: ["timedelta", *_of_delta(value)]},
    datetime.timezone: lambda _, value: {_KEY: ["timezone", _of_zone(value)]},
    decimal.Decimal: lambda _, value: {_KEY: ["decimal", str(value)]},
    uuid.UUID: lambda _, value: {_KEY: ["uuid", value.hex]},
}


class _Reader:
    """Makes tagged objects into values, innermost first, as json.loads meets them."""

    def __init__(self, whole: bytes, start: int) -> None:
        self._whole, self._at = whole, start

    @property
    def is_done(self) -> bool:
        return self._at == len(self._whole)

    def read(self, found: dict[str, Any]) -> Any:
        tag = found.get(_KEY)
        if tag is None or len(found) != 1:
            return found
        kind, *parts = tag
        if kind in ("bytes", "bytearray"):
            return self._blob(kind, *parts)
        return _READERS[kind](parts)

    def _blob(self, kind: str, length: int) -> bytes | bytearray:
        """Take the next bytes; each are taken once, so that no value is larger than what was sent."""
        begin = self._at
        if type(length) is not int or not 0 <= length <= len(self._whole) - begin:
            raise BrokenValue("bytes that were not sent")
        self._at += length
        part = self._whole[begin : self._at]
        return part if kind == "bytes" else bytearray(part)


def _zone(told: Any) -> datetime.tzinfo | None:
    if told is None:
        return None
    if isinstance(told, str):
        # Imported when there is one: it brings the build's settings along. It refuses names that lead out of its directories.
        named: datetime.tzinfo = importlib.import_module("zoneinfo").ZoneInfo(told)
        return named
    offset = datetime.timedelta(*told)
    return datetime.UTC if not offset else datetime.timezone(offset)


def _datetime(parts: list[Any]) -> datetime.datetime:
    *numbers, fold, zone = parts
    return datetime.datetime(*numbers).replace(tzinfo=_zone(zone), fold=fold)  # noqa: DTZ001 - the zone follows


def _clock(parts: list[Any]) -> datetime.time:
    *numbers, fold, zone = parts
    return datetime.time(*numbers).replace(tzinfo=_zone(zone), fold=fold)


_READERS: dict[str, Callable[[list[Any]], Any]] = {
    "int": lambda parts: int(parts[0], 16),
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "dict": lambda parts: {key: item for key, item in parts},  # noqa: C416 - dict() would also take strings of two letters
    "complex": lambda parts: complex(*parts),
    "range": lambda parts: range(*parts),
    "...": lambda _: ...,
    "datetime": _datetime,
    "date": lambda parts: datetime.date(*parts),
    "time": _clock,
    "timedelta": lambda parts: datetime.timedelta(*parts),
    "timezone": lambda parts: _zone(parts[0]),
    "decimal": lambda parts: decimal.Decimal(parts[0]),
    "uuid": lambda parts: uuid.UUID(hex=parts[0]),
}
