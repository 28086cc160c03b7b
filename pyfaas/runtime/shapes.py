"""Which way a handler wants to be called: event, typed or ASGI.

The shape is found once, when the code is loaded, from the handler's parameters: `scope, receive,
send` is an ASGI app; a first parameter named `event`, or one or two parameters with none annotated,
is `handler(event, context)`; everything else is a plain typed function. A `shape` in the version's
configuration overrides what is found.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import FunctionType
from typing import Any, TypeGuard

from pyfaas.runtime import codec, tagged, typed
from pyfaas.runtime.context import Context

Call = Callable[[Any, Context], Any]
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_SPECIAL = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR | inspect.CO_ITERABLE_COROUTINE


class Shape(StrEnum):
    """The closed set of shapes."""

    EVENT = "event"
    TYPED = "typed"
    ASGI = "asgi"


class ShapeError(Exception):
    """The handler cannot be called in the shape that was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A handler made ready: `call(event, context)` is all that the loop knows of it."""

    shape: Shape
    call: Call
    asynchronous: bool
    generator: bool
    encode: codec.Encode
    signature: Mapping[str, Any] | None = None


def detect(handler: Callable[..., Any]) -> Shape:
    """Find a handler's shape from its parameters."""
    parameters = _parameters(handler)
    if parameters is None:
        return Shape.EVENT
    names = [parameter.name for parameter in parameters]
    if names[:3] == ["scope", "receive", "send"]:
        return Shape.ASGI
    if names[:1] == ["event"]:
        return Shape.EVENT
    plain = all(parameter.kind in _POSITIONAL for parameter in parameters)
    annotated = any(parameter.annotation is not inspect.Parameter.empty for parameter in parameters)
    return Shape.EVENT if plain and not annotated and len(names) in (1, 2) else Shape.TYPED


def bind(handler: Callable[..., Any], shape: Shape | None = None) -> Bound:
    """Make a handler ready to be called; raises ShapeError when it cannot have the shape asked for."""
    if not callable(handler):
        raise ShapeError(f"the handler is of type {type(handler).__name__!r}, which cannot be called")
    found = shape or detect(handler)
    plain = _unwrapped(handler)
    if _is_bare(plain) and not plain.__code__.co_flags & _SPECIAL:
        asynchronous = generator = False  # what nearly all are, without four questions
    else:
        asynchronous = inspect.iscoroutinefunction(plain)
        generator = inspect.isgeneratorfunction(plain) or inspect.isasyncgenfunction(plain)
    if found is Shape.TYPED:
        convention = typed.Convention.of(handler)
        return Bound(
            shape=found,
            call=convention.call,
            asynchronous=asynchronous,
            generator=generator,
            encode=tagged.encode,
            signature=convention.schema(),
        )
    call: Call = handler if found is Shape.ASGI else _event_call(handler)
    return Bound(shape=found, call=call, asynchronous=asynchronous, generator=generator, encode=codec.encode_plain)


def _event_call(handler: Callable[..., Any]) -> Call:
    if _is_bare(handler) and handler.__code__.co_argcount >= 2:
        return handler  # as `inspect.signature` would find, which costs a first call a tenth of a millisecond
    parameters = _parameters(handler)
    if parameters is None or any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters):
        return handler
    count = sum(parameter.kind in _POSITIONAL for parameter in parameters)
    if count >= 2:  # noqa: PLR2004 -- event and context
        return handler
    if count == 1:
        return lambda event, _context: handler(event)
    return lambda _event, _context: handler()


def _is_bare(handler: Callable[..., Any]) -> TypeGuard[FunctionType]:
    return type(handler) is FunctionType and not handler.__dict__  # nothing that wraps or marks it


def _unwrapped(handler: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.isroutine(handler):
        return handler
    call: Callable[..., Any] = getattr(handler, "func", None) or type(handler).__call__
    return call


def _parameters(handler: Callable[..., Any]) -> list[inspect.Parameter] | None:
    try:
        return list(inspect.signature(handler).parameters.values())
    except (ValueError, TypeError):  # written in C, or lying about its signature
        return None
