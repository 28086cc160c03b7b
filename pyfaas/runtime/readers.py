"""Readers: from an annotation to a function that checks and converts one JSON value."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import datetime
import enum
import functools
import inspect
import types
import typing
from collections import abc
from collections.abc import Callable
from typing import Any

Reader = Callable[[Any, str], Any]
_NAMES = {str: "a string", bool: "a boolean", int: "an integer", float: "a number", list: "an array", dict: "an object"}


class Mismatch(Exception):
    """A value does not fit its annotation; the text has its path and both types."""


def mismatch(path: str, wanted: str, value: Any) -> Mismatch:
    """Say what was wanted at a path, and what came."""
    came = "null" if value is None else _NAMES.get(type(value), type(value).__name__)
    return Mismatch(f"{path!r} must be {wanted}, not {came}")


def make_reader(annotation: Any) -> Reader:
    """Return the reader for an annotation; one that is not known accepts every value as it is."""
    origin = typing.get_origin(annotation)
    if origin is not None:
        return _generic_reader(origin, typing.get_args(annotation))
    if annotation is None or annotation is type(None):
        return _read_none
    simple = _SIMPLE.get(annotation) if isinstance(annotation, abc.Hashable) else None
    if simple is not None:
        return simple
    if typing.is_typeddict(annotation):
        return _typed_dict_reader(annotation)
    if isinstance(annotation, type):
        return _class_reader(annotation)
    supertype = getattr(annotation, "__supertype__", None)  # NewType
    return make_reader(supertype) if supertype is not None else _read_any


def _class_reader(annotation: type) -> Reader:
    if issubclass(annotation, enum.Enum):
        return _enum_reader(annotation)
    if dataclasses.is_dataclass(annotation):
        return _dataclass_reader(annotation)
    named = _BY_NAME.get(f"{annotation.__module__}.{annotation.__qualname__}")
    if named is not None:
        return _text_reader(annotation, named)
    validate = getattr(annotation, "model_validate", None)
    return _pydantic_reader(validate) if callable(validate) else _read_any


def _generic_reader(origin: Any, args: tuple[Any, ...]) -> Reader:
    if origin is typing.Union or origin is types.UnionType:
        return _union_reader(args)
    if origin is typing.Literal:
        return _literal_reader(args)
    if origin is typing.Annotated:
        return make_reader(args[0])
    if origin in (dict, abc.Mapping, abc.MutableMapping):
        return _dict_reader(*args)
    if origin is tuple:
        return _tuple_reader(args)
    build = _SEQUENCES.get(origin)
    return _sequence_reader(build, make_reader(args[0])) if build is not None else _read_any


def _read_any(value: Any, _path: str) -> Any:
    return value


def _read_none(value: Any, path: str) -> None:
    if value is not None:
        raise mismatch(path, "null", value)


def _read_int(value: Any, path: str) -> int:
    if type(value) is int:
        return value
    if type(value) is float and value.is_integer():  # JSON has one number type: 3.0 is 3
        return int(value)
    raise mismatch(path, "an integer", value)


def _read_float(value: Any, path: str) -> float:
    if type(value) is float or type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise Mismatch(f"{path!r} does not fit a float") from None
    raise mismatch(path, "a number", value)


def _exact(kind: type, wanted: str) -> Reader:
    def read(value: Any, path: str) -> Any:
        if type(value) is not kind:
            raise mismatch(path, wanted, value)
        return value

    return read


def _read_bytes(value: Any, path: str) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except (ValueError, binascii.Error):
            raise Mismatch(f"{path!r} must be bytes: base64, or a $bytes tag") from None
    raise mismatch(path, "bytes (base64, or a $bytes tag)", value)


def _iso_reader(kind: Any, wanted: str) -> Reader:
    def read(value: Any, path: str) -> Any:
        if type(value) is kind:
            return value
        try:
            return kind.fromisoformat(value)
        except (TypeError, ValueError):
            raise mismatch(path, wanted, value) from None

    return read


def _read_timedelta(value: Any, path: str) -> datetime.timedelta:
    if isinstance(value, datetime.timedelta):
        return value
    return datetime.timedelta(seconds=_read_float(value, path))


def _text_reader(kind: Any, wanted: str) -> Reader:
    def read(value: Any, path: str) -> Any:
        if type(value) is kind:
            return value
        if isinstance(value, str) or (type(value) is int and kind.__name__ == "Decimal"):
            try:
                return kind(value)
            except (ValueError, ArithmeticError):
                pass
        raise mismatch(path, wanted, value)

    return read


def _union_reader(args: tuple[Any, ...]) -> Reader:
    readers = [make_reader(arg) for arg in args]
    # A value that already has one of the types exactly is taken as it is: in `str | bytes` a string stays a string.
    exact = {arg for arg in args if arg in (str, bool, int, float, bytes)}

    def read(value: Any, path: str) -> Any:
        if type(value) in exact:
            return value
        problems: list[str] = []
        for each in readers:
            try:
                return each(value, path)
            except Mismatch as problem:
                problems.append(str(problem))
        raise Mismatch(" or ".join(problems))

    return read


def _literal_reader(choices: tuple[Any, ...]) -> Reader:
    def read(value: Any, path: str) -> Any:
        for choice in choices:
            if type(choice) is type(value) and choice == value:
                return choice
        raise Mismatch(f"{path!r} must be one of {', '.join(map(repr, choices))}")

    return read


def _dict_reader(key: Any = Any, item: Any = Any) -> Reader:
    read_key, read_item = _key_reader(key), make_reader(item)

    def read(value: Any, path: str) -> dict[Any, Any]:
        if type(value) is not dict:
            raise mismatch(path, "an object", value)
        return {read_key(name, path): read_item(inner, f"{path}.{name}") for name, inner in value.items()}

    return read


def _key_reader(key: Any) -> Reader:
    if key is not int and key is not float:
        return make_reader(key)

    def read(name: Any, path: str) -> Any:  # JSON's keys are strings
        try:
            return key(name)
        except ValueError:
            raise Mismatch(f"the key {name!r} of {path!r} must be {_NAMES[key]}") from None

    return read


def _sequence_reader(build: Callable[[Any], Any], read_item: Reader) -> Reader:
    def read(value: Any, path: str) -> Any:
        if type(value) is not list and not (build in (set, frozenset) and isinstance(value, set | frozenset)):
            raise mismatch(path, "an array", value)
        return build([read_item(item, f"{path}[{index}]") for index, item in enumerate(value)])

    return read


def _tuple_reader(args: tuple[Any, ...]) -> Reader:
    if len(args) == 2 and args[1] is Ellipsis:  # noqa: PLR2004 -- tuple[X, ...]
        return _sequence_reader(tuple, make_reader(args[0]))
    readers = [make_reader(arg) for arg in args]

    def read(value: Any, path: str) -> Any:
        if type(value) is not list or len(value) != len(readers):
            raise Mismatch(f"{path!r} must be an array of {len(readers)} values")
        return tuple(each(item, f"{path}[{i}]") for i, (each, item) in enumerate(zip(readers, value, strict=True)))

    return read


def _enum_reader(kind: type[enum.Enum]) -> Reader:
    def read(value: Any, path: str) -> Any:
        try:
            return kind(value)
        except ValueError:
            pass
        if isinstance(value, str) and value in kind.__members__:
            return kind[value]
        raise Mismatch(f"{path!r} must be one of {', '.join(repr(member.value) for member in kind)}")

    return read


def _fields_reader(build: Callable[..., Any], fields: abc.Mapping[str, tuple[Callable[[], Reader], bool]]) -> Reader:
    readers: dict[str, Reader] = {}

    def read(value: Any, path: str) -> Any:
        if type(value) is not dict:
            raise mismatch(path, "an object", value)
        for name in value:
            if name not in fields:
                raise Mismatch(f"{path!r} has the unknown key {name!r}")
        for name, (_, required) in fields.items():
            if required and name not in value:
                raise Mismatch(f"{path!r} lacks {name!r}")
        if not readers:  # made late: a class may name itself
            readers.update({name: make() for name, (make, _) in fields.items()})
        return build(**{name: readers[name](inner, f"{path}.{name}") for name, inner in value.items()})

    return read


def _dataclass_reader(kind: Any) -> Reader:
    def late(name: str) -> Reader:
        return make_reader(_hints(kind).get(name, Any))

    missing = type(dataclasses.MISSING)  # by its type: a class that travelled by value has another one of it
    fields = {
        field.name: (
            functools.partial(late, field.name),
            isinstance(field.default, missing) and isinstance(field.default_factory, missing),
        )
        for field in dataclasses.fields(kind)
        if field.init
    }
    build_fields = _fields_reader(kind, fields)

    def read(value: Any, path: str) -> Any:
        try:
            return build_fields(value, path)
        except (TypeError, ValueError) as error:  # what a __post_init__ refuses
            raise Mismatch(f"{path!r}: {error}") from None

    return read


def _typed_dict_reader(kind: Any) -> Reader:
    # __required_keys__ is wrong where annotations are text (`from __future__ import annotations`): the hints decide.
    try:
        extras = typing.get_type_hints(kind, include_extras=True)
        marks = {name: typing.get_origin(hint) for name, hint in extras.items()}
    except NameError:
        marks = {}
    fields = {}
    for name, hint in _hints(kind).items():
        mark = marks.get(name)
        required = mark is typing.Required or (mark is not typing.NotRequired and name in kind.__required_keys__)
        fields[name] = (functools.partial(make_reader, hint), required)
    return _fields_reader(dict, fields)


def _pydantic_reader(validate: Callable[[Any], Any]) -> Reader:
    def read(value: Any, path: str) -> Any:
        try:
            return validate(value)
        except ValueError as error:  # pydantic's ValidationError is one
            raise Mismatch(f"{path!r}: {_without_values(error)}") from None

    return read


def _without_values(error: ValueError) -> str:
    """Return what pydantic has against a value by place and rule; its own text repeats the value, which may be somebody else's parameter."""
    found = getattr(error, "errors", None)
    if not callable(found):
        return str(error)
    return "; ".join(": ".join(filter(None, (".".join(map(str, each["loc"])), each["msg"]))) for each in found())


def _hints(kind: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(kind)
    except NameError:
        return {}


_SIMPLE: dict[Any, Reader] = {
    Any: _read_any,
    object: _read_any,
    inspect.Parameter.empty: _read_any,
    int: _read_int,
    float: _read_float,
    str: _exact(str, "a string"),
    bool: _exact(bool, "a boolean"),
    list: _exact(list, "an array"),
    dict: _exact(dict, "an object"),
    bytes: _read_bytes,
    datetime.datetime: _iso_reader(datetime.datetime, "a date and time (ISO 8601)"),
    datetime.date: _iso_reader(datetime.date, "a date (ISO 8601)"),
    datetime.time: _iso_reader(datetime.time, "a time (ISO 8601)"),
    datetime.timedelta: _read_timedelta,
    tuple: _sequence_reader(tuple, _read_any),
    set: _sequence_reader(set, _read_any),
    frozenset: _sequence_reader(frozenset, _read_any),
}
# By name: who has such a parameter has loaded the module, and nobody else needs it.
_BY_NAME = {"decimal.Decimal": "a decimal number (as text)", "uuid.UUID": "a UUID"}
_SEQUENCES: dict[Any, Callable[[Any], Any]] = {
    list: list,
    set: set,
    frozenset: frozenset,
    abc.Sequence: list,
    abc.MutableSequence: list,
    abc.Iterable: list,
    abc.Collection: list,
    abc.Set: set,
}
_JSON_TYPES = {
    int: "integer",
    float: "number",
    str: "string",
    bool: "boolean",
    list: "array",
    dict: "object",
    bytes: "string",
    type(None): "null",
}


def schema_of(annotation: Any) -> dict[str, Any]:
    """Describe an annotation in the manner of JSON Schema; what is not known is `{}`, anything."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if isinstance(annotation, abc.Hashable) and annotation in _JSON_TYPES:
        return {"type": _JSON_TYPES[annotation]}
    if origin is typing.Union or origin is types.UnionType:
        return {"anyOf": [schema_of(arg) for arg in args]}
    if origin is typing.Literal:
        return {"enum": [arg for arg in args if isinstance(arg, str | int | bool | None)]}
    if origin in _SEQUENCES:
        return {"type": "array", "items": schema_of(args[0])}
    if origin in (dict, abc.Mapping):
        return {"type": "object", "additionalProperties": schema_of(args[1])}
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return {"enum": [member.value for member in annotation]}
    if annotation is datetime.datetime:
        return {"type": "string", "format": "date-time"}
    return {"type": "object"} if dataclasses.is_dataclass(annotation) or typing.is_typeddict(annotation) else {}
