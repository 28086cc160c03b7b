"""Typed functions: a JSON object becomes keyword arguments, checked against the annotations.

Theory of operation. When the code is loaded, each parameter's annotation is turned once into a
*reader*: a function from a JSON value to the argument, which raises Mismatch with the path of the
value that does not fit. At a call only readers run. Unknown annotations accept anything: the
annotation is the tenant's, and a reader never guesses. Values are not coerced (the text "3" is no
int), except where JSON has no such type: bytes, dates, enums, sets, tuples and dataclasses.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pyfaas.runtime import tagged
from pyfaas.runtime.codec import InvalidEvent
from pyfaas.runtime.context import Context
from pyfaas.runtime.readers import Mismatch, Reader, make_reader, schema_of

_EMPTY = inspect.Parameter.empty
_KINDS = inspect.Parameter


@dataclass(frozen=True, slots=True, kw_only=True)
class Param:
    """One parameter: how its argument is read, and whether it may be left out."""

    name: str
    read: Reader
    annotation: Any
    required: bool
    keyword: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Convention:
    """How one typed function is called."""

    function: Callable[..., Any]
    params: Mapping[str, Param]
    positional: tuple[Param, ...]
    rest: Reader | None  # *args
    more: Reader | None  # **kwargs
    takes_context: bool

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Convention:
        """Read a function's signature; raises whatever evaluating its annotations raises."""
        hints = _hints(function)
        params: dict[str, Param] = {}
        positional: list[Param] = []
        rest = more = None
        takes_context = False
        for parameter in inspect.signature(function).parameters.values():
            annotation = hints.get(parameter.name, parameter.annotation)
            read = make_reader(Any if annotation is _EMPTY else annotation)
            if parameter.kind is _KINDS.VAR_POSITIONAL:
                rest = read
            elif parameter.kind is _KINDS.VAR_KEYWORD:
                more = read
            elif annotation is Context:
                takes_context = True
            else:
                param = Param(
                    name=parameter.name,
                    read=read,
                    annotation=Any if annotation is _EMPTY else annotation,
                    required=parameter.default is _EMPTY,
                    keyword=parameter.kind is not _KINDS.POSITIONAL_ONLY,
                )
                params[param.name] = param
                if parameter.kind is not _KINDS.KEYWORD_ONLY:
                    positional.append(param)
        return cls(
            function=function,
            params=params,
            positional=tuple(positional),
            rest=rest,
            more=more,
            takes_context=takes_context,
        )

    def call(self, event: Any, context: Context) -> Any:
        """Call the function with an event's values; raises InvalidEvent when they do not fit."""
        args, kwargs = self.arguments(event)
        if self.takes_context:
            kwargs["context"] = context
        return self.function(*args, **kwargs)

    def arguments(self, event: Any) -> tuple[list[Any], dict[str, Any]]:
        """Read an event's values into arguments; raises InvalidEvent naming every key that does not fit."""
        given, named = self._given(event)
        problems: list[str] = []
        args = self._read_positional(given, problems)
        taken = {param.name for param in self.positional[: len(given)]}
        values = self._read_named(named, taken, problems)
        missing = [
            param.name
            for param in self.params.values()
            if param.required and param.name not in taken and param.name not in values and param.name not in named
        ]
        if missing:
            problems.append(f"missing {', '.join(map(repr, missing))}")
        if problems:
            raise InvalidEvent(f"the event does not fit the function: {'; '.join(problems[:10])}")
        return args + self._positional_only(len(args), values), values

    def schema(self) -> dict[str, Any]:
        """Describe the parameters in the manner of JSON Schema."""
        return {
            "type": "object",
            "properties": {param.name: schema_of(param.annotation) for param in self.params.values()},
            "required": [param.name for param in self.params.values() if param.required],
            "additionalProperties": self.more is not None,
        }

    def _given(self, event: Any) -> tuple[list[Any], dict[str, Any]]:
        if isinstance(event, bytes):
            wanted = [param for param in self.params.values() if param.required]
            if len(wanted) == 1 and wanted[0].annotation is bytes:
                return [], {wanted[0].name: event}
            raise InvalidEvent("the event is bytes; a typed function takes a JSON object")
        if not isinstance(event, dict):
            raise InvalidEvent(f"a typed function takes a JSON object, not {_json_name(event)}")
        if is_spelled_out(event):
            args, kwargs = event.get("$args", []), event.get("$kwargs", {})
            if not isinstance(args, list) or not isinstance(kwargs, dict):
                raise InvalidEvent("$args must be an array and $kwargs an object")
            return tagged.decode(args), {key: tagged.decode(value) for key, value in kwargs.items()}
        return [], {key: tagged.decode(value) for key, value in event.items()}

    def _read_positional(self, given: list[Any], problems: list[str]) -> list[Any]:
        args: list[Any] = []
        for index, value in enumerate(given):
            if index < len(self.positional):
                param = self.positional[index]
                args.append(_read(param.read, value, param.name, problems))
            elif self.rest is not None:
                args.append(_read(self.rest, value, f"$args[{index}]", problems))
            else:
                problems.append(f"{len(given)} positional arguments where at most {len(self.positional)} are taken")
                break
        return args

    def _read_named(self, named: dict[str, Any], taken: set[str], problems: list[str]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, value in named.items():
            param = self.params.get(key)
            if key in taken:
                problems.append(f"{key!r} is given twice")
            elif param is not None:
                values[key] = _read(param.read, value, key, problems)
            elif self.more is not None:
                values[key] = _read(self.more, value, key, problems)
            else:
                problems.append(f"unknown key {key!r}")
        return values

    def _positional_only(self, start: int, values: dict[str, Any]) -> list[Any]:
        """Move the values of positional-only parameters out of `values`, in order."""
        moved: list[Any] = []
        for param in self.positional[start:]:
            if param.keyword or param.name not in values:
                break
            moved.append(values.pop(param.name))
        return moved


def is_spelled_out(event: Any) -> bool:
    """Tell whether an event is a call as our SDK writes it: `$args` and `$kwargs` instead of the arguments by name."""
    return isinstance(event, dict) and bool(event) and event.keys() <= {"$args", "$kwargs"}


def _read(read: Reader, value: Any, path: str, problems: list[str]) -> Any:
    try:
        return read(value, path)
    except Mismatch as mismatch:
        problems.append(str(mismatch))
    return None


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    plain = function if inspect.isroutine(function) else getattr(function, "func", type(function).__call__)
    try:
        return typing.get_type_hints(inspect.unwrap(plain), include_extras=False)
    except NameError:  # an annotation imported for type checkers only: that one accepts anything
        return {}


def _json_name(value: Any) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "null")
