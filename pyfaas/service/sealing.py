"""What a caller is told of a lent run that did not end well: that it did not, and no more.

Tracebacks, messages and the evidence of a crash speak of the owner's code; whatever the container says of itself may too. What the caller
did itself (a parameter, a body that is no JSON, a deadline, a limit it knows) it is told.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pyfaas.calls import Result
from pyfaas.errors import Code
from pyfaas.model import Outcome

_SENTENCES = {
    Outcome.ERROR: "the function raised an error",
    Outcome.INIT_ERROR: "the function could not be loaded",
    Outcome.LIMIT: "the run reached a limit",
    Outcome.FORBIDDEN_SYSCALL: "the function did what is forbidden here",
    Outcome.CRASHED: "the function's process ended before it answered",
}
_KNOWN_LIMITS = frozenset({"pids", "disk", "output", "cpu"})
_LONGEST_KEY = 128  # as in the container, whose sentences these are
_EVENT = "the event does not fit the function's parameters"


def is_refusal_of_parameters(layers: Iterable[Mapping[str, Any]], message: str) -> bool:
    """Tell whether a container's sentence is one of those that merging these parameters can end in: it names a declared key, and no value."""
    for layer in layers:
        for key in layer.get("lock", ()):
            if message == f"the parameter {key[:_LONGEST_KEY]!r} is set by the owner":
                return True
        for key in layer.get("require", ()):
            if message == f"the parameter {key[:_LONGEST_KEY]!r} is missing":
                return True
    return False


def seal(result: Result) -> None:
    """Take out of a result what is the owner's; a good one stays as it is."""
    result.vm = result.container = result.why = ""
    if result.outcome is Outcome.OK:
        return
    if result.outcome in (Outcome.ERROR, Outcome.INIT_ERROR):
        result.kind = "error"
        result.body = json.dumps({"errorType": "FunctionError", "invocationId": result.id}).encode()
        result.message, result.hint, result.evidence = "", "", {}
    elif result.outcome in _SENTENCES:
        limit = result.evidence.get("limit")
        result.evidence = {"limit": limit} if limit in _KNOWN_LIMITS else {}
        result.message, result.hint, result.body = _SENTENCES[result.outcome], "", b""
    elif result.outcome is Outcome.REJECTED and result.code is Code.INVALID_EVENT and not result.is_callers_word:
        result.message = _EVENT
