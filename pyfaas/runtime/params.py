"""Parameters: what owners lock, what account aliases store and what a call gives, merged into one set.

Theory of operation. Each hop between a caller and the function is a *layer*: what its owner's grant says of parameters, and what
the account alias stores. Layers are merged from the outermost, the caller's, to the innermost, the function's; what one comes to is
what the next one is called with. In a layer, by falling rank: what is locked, the call's where that may override, what is stored, the call's.
The *declared* keys, those that any layer names, are read from an event that is an object, written into it, and are `context.params`.

What must stay true: a refusal names a key, never a value; and what it says is the same whoever set the value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyfaas.runtime.codec import InvalidEvent

_LONGEST = 128  # characters of a key in a refusal
_NAMING = ("lock", "require", "allow", "stored")  # the parts of a layer whose keys are declared
_NOTHING: Mapping[str, Any] = {}


class InvalidParameter(InvalidEvent):
    """A call contradicts a locked parameter or lacks a required one; the text names the key."""

    kind = "InvalidParameter"


def merge(layers: Sequence[Mapping[str, Any]], event: Any) -> tuple[Any, dict[str, Any]]:
    """Return the event with the parameters in it, and the parameters. Raises InvalidParameter.

    A layer has `lock`, `stored`: values by key; `require`, `allow`: keys; `declares`: whether nothing but what the owner named is
    stored. Each may be absent. An event that is no object stays as it is, and gives no parameter.
    """
    declared: set[str] = set()
    for layer in layers:
        declared.update(*[layer[name] for name in _NAMING if name in layer])
    is_object = isinstance(event, dict)
    params = {key: event[key] for key in declared if key in event} if is_object else {}
    for layer in layers:
        params = _merged(layer, params)
    return ({**event, **params} if is_object else event), params


def _merged(layer: Mapping[str, Any], call: Mapping[str, Any]) -> dict[str, Any]:
    lock, stored, allow = layer.get("lock") or _NOTHING, layer.get("stored") or _NOTHING, layer.get("allow") or ()
    if layer.get("declares"):
        named = (*allow, *(layer.get("require") or ()))
        stored = {key: value for key, value in stored.items() if key in named}
    params = {**call, **{key: value for key, value in stored.items() if not (key in call and key in allow)}}
    for key, value in lock.items():
        if key in call and not same(call[key], value):
            raise InvalidParameter(f"the parameter {key[:_LONGEST]!r} is set by the owner")
        params[key] = value
    for key in layer.get("require") or ():
        if key not in params:
            raise InvalidParameter(f"the parameter {key[:_LONGEST]!r} is missing")
    return params


def same(one: Any, other: Any) -> bool:
    """Tell whether two values are the same JSON: true is not 1, 1.0 is 1, an object's order does not matter."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return isinstance(one, bool) is isinstance(other, bool) and bool(one == other)
