"""Events checked by the JSON Schema of their operation, before anything runs.

The engine is jsonschema-rs: no backtracking, nothing fetched. What a refusal tells is the place in the event and the rule, not the
value, and nothing that the API's document does not tell everybody who may call it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import jsonschema_rs

from pyfaas.decisions.inputs import MAX_EVENT_BYTES, Weight, check_form, check_work, member_weights, weigh, work_of
from pyfaas.decisions.operations import pointer_of
from pyfaas.errors import Code, PyfaasError

_PATTERN_BYTES = 16 << 10  # of one compiled pattern: what makes the dearest one 1 µs a byte (measured)
_CACHE_BYTES = 1 << 20
_MAX_TOLD = 300


class Input:
    """A schema, compiled."""

    def __init__(self, schema: Mapping[str, Any], key: str) -> None:
        """Compile; raises invalid_request, naming `key`, for what is no JSON Schema or has what one must not have here."""
        self._weight = weigh(schema, key)
        self._members = member_weights(schema, key)
        self._validator = _compiled(schema, key)

    def check(self, event: Any, text: bytes) -> None:
        """Raise invalid_event when an event does not fit, payload_too_large when it is too much to check; `text` is its JSON text."""
        if len(text) > MAX_EVENT_BYTES:
            evidence = {"limit": "validated event", "value": MAX_EVENT_BYTES, "observed": len(text), "unit": "bytes"}
            message = f"the event has {len(text)} bytes; {MAX_EVENT_BYTES} are checked by a schema at most"
            raise PyfaasError(Code.PAYLOAD_TOO_LARGE, message, evidence=evidence)
        check_work(self._work(event, text))
        try:
            self._validator.validate(event)
        except (jsonschema_rs.ValidationError, ValueError, RecursionError) as error:
            raise _misfit(error) from None

    def _work(self, event: Any, text: bytes) -> int:
        work = work_of(self._weight, text)
        if self._members is None or not isinstance(event, Mapping):
            return work
        try:
            check_work(work)
        except PyfaasError:  # counted member by member: a long text is not looked at by its neighbour's pattern
            nothing = Weight(1)
            return sum(work_of(self._members.get(name, nothing), encoded(value)) for name, value in event.items())
        return work


def check_output(schema: Mapping[str, Any], key: str) -> None:
    """Raise invalid_request, naming `key`, for what is no JSON Schema; results are not checked, so it may refer to itself."""
    check_form(schema, key)
    _compiled(schema, key)


def _compiled(schema: Mapping[str, Any], key: str) -> Any:
    options = jsonschema_rs.RegexOptions(size_limit=_PATTERN_BYTES, dfa_size_limit=_CACHE_BYTES)
    try:
        return jsonschema_rs.Draft202012Validator(dict(schema), pattern_options=options, mask="the value", offline=True)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        where = pointer_of(getattr(error, "instance_path", ())) or "/"
        message = f"{key} is no JSON Schema that this server takes: at {where}, {_short(error)}"
        hint = "JSON Schema 2020-12; patterns have no look-around and no back references, and are short"
        raise PyfaasError(Code.INVALID_REQUEST, message, hint=hint, evidence={"key": key}) from error


def parsed(body: bytes) -> Any:
    """Return a body's JSON value, read as a container would read it; raises invalid_event."""
    try:
        return json.loads(body or b"{}", parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise _no_json() from None


def encoded(event: Any) -> bytes:
    """Return an event as JSON text; raises invalid_event for what has none, such as a number that only a reader could make infinite."""
    try:
        return json.dumps(event, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode()
    except (ValueError, RecursionError):
        raise _no_json() from None


def _no_json() -> PyfaasError:
    return PyfaasError(Code.INVALID_EVENT, "the body is no JSON, or nested too deeply", evidence={"pointer": "", "rule": "json"})


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)


def _misfit(error: Exception) -> PyfaasError:
    pointer, rule = pointer_of(getattr(error, "instance_path", ())), _rule(error)
    message = f"{pointer or 'the event'}: {_short(error)}"
    return PyfaasError(Code.INVALID_EVENT, message, hint="the API's openapi.json tells what fits", evidence={"pointer": pointer, "rule": rule})


def _rule(error: Exception) -> str:
    words = [part for part in getattr(error, "schema_path", ()) if isinstance(part, str)]
    return words[-1] if words else "schema"


def _short(error: Exception) -> str:
    text = str(getattr(error, "message", error)).partition("\n")[0]
    return text if len(text) <= _MAX_TOLD else text[: _MAX_TOLD - 1] + "…"
