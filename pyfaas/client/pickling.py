"""Functions that travel by value: those of `__main__`, of a notebook, of another function's inside.

A pickle made here is opened in the function's own container and nowhere else; it stands behind a line that names the
Python that wrote it, because its bytecode means nothing to another. What a pickle refers to by name is noted while it is
written: those modules must travel beside it.
"""

from __future__ import annotations

import dis
import functools
import importlib
import inspect
import io
import pickle
import sys
import types
import typing
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import cloudpickle

from pyfaas.client.errors import invalid

LARGEST_BYTES = 50 << 20  # what a server takes as a bundle unless its operator allows more
_DEEPEST = 6
_MIB = 1 << 20
# What cloudpickle and the reducers of users' objects raise for what cannot be written.
REFUSALS = (pickle.PicklingError, TypeError, ValueError, AttributeError, LookupError, RuntimeError, ImportError, OSError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pickled:
    """A function as bytes, and the modules that it names."""

    content: bytes
    needs: frozenset[str]


def pickled(function: Callable[..., Any]) -> Pickled:
    """Return a function by value; raises InvalidRequest naming the variable that cannot travel, or is too large."""
    try:
        content, needs = _dump(function)
    except REFUSALS as error:
        raise _cannot(function, error) from None
    if len(content) > LARGEST_BYTES:
        raise _too_large(function, len(content))
    return Pickled(content=f"#{python()}\n".encode() + content, needs=frozenset(needs))


def python() -> str:
    """Return this Python as a pickle's first line names it, such as 3.11."""
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def trusting(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function so that its arguments and its results travel as pickles; for `trust_results`."""

    def read(payload: bytes, context: Any) -> Any:
        if context.caller != context.account:
            raise PermissionError("only the account that owns this function may call it")
        return pickle.loads(payload)  # noqa: S301 - from the function's own account, in its own container

    streams = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
    made = _trusting_items(function, read) if streams else _trusting_call(function, read)
    made.__name__ = made.__qualname__ = function.__name__
    # Not as text: the container reads them where nothing of this module is. Its own Context goes by this name.
    made.__annotations__ = {"payload": bytes, "context": importlib.import_module("pyfaas").Context}
    return made


def _trusting_call(function: Callable[..., Any], read: Callable[[bytes, Any], Any]) -> Callable[..., Any]:
    def plain(payload: bytes, context: Any) -> Any:
        args, kwargs = read(payload, context)
        return cloudpickle.dumps(function(*args, **kwargs))

    async def asynchronous(payload: bytes, context: Any) -> Any:
        args, kwargs = read(payload, context)
        return cloudpickle.dumps(await function(*args, **kwargs))

    return asynchronous if inspect.iscoroutinefunction(function) else plain


def _trusting_items(function: Callable[..., Any], read: Callable[[bytes, Any], Any]) -> Callable[..., Any]:
    # Each item in a list: bare bytes would be one stream without ends.
    def plain(payload: bytes, context: Any) -> Iterator[Any]:
        args, kwargs = read(payload, context)
        for item in function(*args, **kwargs):
            yield [cloudpickle.dumps(item)]

    async def asynchronous(payload: bytes, context: Any) -> AsyncIterator[Any]:
        args, kwargs = read(payload, context)
        async for item in function(*args, **kwargs):
            yield [cloudpickle.dumps(item)]

    return asynchronous if inspect.isasyncgenfunction(function) else plain


def _caching() -> Callable[..., Any]:
    def cache_again(wrapped: Callable[..., Any], parameters: dict[str, Any]) -> Any:
        return functools.lru_cache(**parameters)(wrapped)

    return cache_again


_Cached = type(functools.cache(len))
_cache_again = _caching()  # an inner function, so that it travels by value: the container has no module of ours


def _is_importable(thing: Any) -> bool:
    module = sys.modules.get(thing.__module__)
    return thing.__module__ != "__main__" and getattr(module, thing.__qualname__, None) is thing


class _Noting(cloudpickle.Pickler):  # type: ignore[misc] # ships no types
    """Writes, and keeps the names of the modules that reading will import."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.needs: set[str] = set()

    def reducer_override(self, obj: Any) -> Any:
        """Note what is written by name: modules, their functions and classes, and what code imports when it runs."""
        if isinstance(obj, _Cached) and not _is_importable(obj):
            return _cache_again, (obj.__wrapped__, obj.cache_parameters())  # by name it would be looked for in __main__
        reduced = super().reducer_override(obj)
        if isinstance(obj, types.ModuleType):
            self.needs.add(obj.__name__)
        elif isinstance(obj, types.CodeType):
            self.needs |= {
                str(step.argval) for step in dis.get_instructions(obj) if step.opname == "IMPORT_NAME" and step.argval
            }
        elif isinstance(obj, type | types.FunctionType):
            if reduced is NotImplemented:
                self.needs.add(obj.__module__ or "")
            else:
                _resolve_annotations(obj, reduced)
        return reduced


def _resolve_annotations(thing: Any, reduced: Any) -> None:
    """Replace annotations that are text in what is about to be written: the container lacks the names to evaluate them.

    cloudpickle's state of a function or class is a pair of dictionaries made for the purpose, one of which has them.
    """
    for part in reduced[2] if isinstance(reduced, tuple) and len(reduced) > 2 else ():
        raw = part.get("__annotations__") if isinstance(part, dict) else None
        if raw:
            free = getattr(getattr(thing, "__code__", None), "co_freevars", ())
            cells = dict(zip(free, getattr(thing, "__closure__", None) or (), strict=False))
            nearby = {name: cell.cell_contents for name, cell in cells.items() if cell != types.CellType()}
            try:
                known = typing.get_type_hints(thing, localns=nearby or None, include_extras=True)
            except (NameError, TypeError, AttributeError, SyntaxError):  # imported for type checkers only, say
                continue
            part["__annotations__"] = {name: known.get(name, each) for name, each in raw.items()}


def _dump(value: Any) -> tuple[bytes, set[str]]:
    file = io.BytesIO()
    writer = _Noting(file)
    writer.dump(value)
    return file.getvalue(), writer.needs


# ---- finding whose fault it is


def variables(function: Any) -> Mapping[str, Any]:
    """Return the variables that a function takes along, by name: globals that its code names, closure, defaults."""
    plain = getattr(function, "local", function)
    if isinstance(plain, _Cached):
        plain = plain.__wrapped__
    if not isinstance(plain, types.FunctionType):
        return {}
    free = zip(plain.__code__.co_freevars, plain.__closure__ or (), strict=False)
    found = {name: cell.cell_contents for name, cell in free if cell != types.CellType()}
    found |= {name: plain.__globals__[name] for name in _names(plain.__code__) if name in plain.__globals__}
    defaults = plain.__code__.co_varnames[: plain.__code__.co_argcount][::-1]
    found |= dict(zip(defaults, (plain.__defaults__ or ())[::-1], strict=False))
    return found | (plain.__kwdefaults__ or {})


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _cannot(function: Callable[..., Any], error: BaseException) -> Exception:
    found = _culprit(variables(function), "", {id(function)}, 0)
    name = getattr(function, "__qualname__", repr(function))
    hint = "make it inside the function, or put it into a module beside this file and import that"
    if found is None:
        return invalid(f"{name} cannot travel: {error}", hint)
    path, value = found
    kind = type(value)
    named = kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    return invalid(f"{name} cannot travel: its variable `{path}` holds a {named}, which cannot be pickled", hint)


def _culprit(held: Mapping[str, Any], path: str, seen: set[int], depth: int) -> tuple[str, Any] | None:
    for name, value in held.items():
        if id(value) in seen or depth > _DEEPEST:
            continue
        seen.add(id(value))
        try:
            _dump(value)
        except REFUSALS:
            deeper = _culprit(_inside(value), path + name, seen, depth + 1)
            return deeper or (path + name, value)
    return None


def _inside(value: Any) -> dict[str, Any]:
    if isinstance(value, types.FunctionType) or hasattr(value, "__wrapped__"):
        return {f" → {name}": each for name, each in variables(value).items()}
    if isinstance(value, Mapping):
        return {f"[{key!r}]": each for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return {f"[{index}]": each for index, each in enumerate(value)}
    if any("__reduce__" in vars(kind) for kind in type(value).__mro__[:-1]):  # it decides itself, and says why
        return {}
    return {f".{name}": each for name, each in getattr(value, "__dict__", {}).items()}


def _too_large(function: Callable[..., Any], size: int) -> Exception:
    sizes = {name: len(_dump(value)[0]) for name, value in variables(function).items()}
    largest = max(sizes, key=lambda name: sizes[name], default="")
    what = f", {sizes[largest] / _MIB:.1f} MiB of it its variable `{largest}`" if largest else ""
    return invalid(
        f"{function.__qualname__} would take {size / _MIB:.1f} MiB along{what}; at most {LARGEST_BYTES / _MIB:g} MiB travel",
        "pass it as an argument, or make it inside the function",
    )
