"""What a failure looks like on a terminal, and which exit code it has.

0 ok; 1 a failed outcome or version, any failed item of `map`; 2 usage and other 4xx; 3 unreachable, 429, other 5xx,
`serve` refusing; 4 not allowed; 5 timeout, expired, own wait over; 130 Ctrl-C.

An outcome is asked before the status. A run that was `lost` (503), `cancelled` (409) or stopped at a limit (502) began
and did not end well, which is 1; 3 is for what the platform did not begin or could not do, where the same command may
be tried again. Only `timeout` has a code of its own, with every other time that ran out.
"""

from __future__ import annotations

import json
from typing import Any

from pyfaas.cli import console
from pyfaas.cli.options import Globals, Output
from pyfaas.client.errors import (
    Error,
    FunctionError,
    InvalidRequest,
    NotAllowed,
    NotFound,
)

FAILED, USAGE, SERVER, NOT_ALLOWED, TIMED_OUT, INTERRUPTED = 1, 2, 3, 4, 5, 130
_LONGEST_LINE = 2000


def exit_code(error: BaseException) -> int:
    """Return the exit code for what the SDK raised."""
    if isinstance(error, TimeoutError):
        return TIMED_OUT
    if isinstance(error, FunctionError):
        return FAILED
    if isinstance(error, NotAllowed):
        return NOT_ALLOWED
    return USAGE if isinstance(error, InvalidRequest | NotFound) else SERVER


def tell(error: Error, chosen: Globals) -> None:
    """Write a failure on stderr: the document for programs, or a line, a hint and the function's stack for people."""
    if chosen.output is not Output.TABLE:
        console.err(console.render(error.problem, chosen.output))
        return
    first, _, rest = str(error).partition("\n")
    console.err(f"error: {first[:_LONGEST_LINE]}")
    if error.hint:
        console.err(f"hint: {error.hint}")
    for line in rest.splitlines() if chosen.verbose else ():
        console.err(f"  {line}")
    if isinstance(error, FunctionError):
        for line in _stack(error):
            console.err(f"  {line}")
    if chosen.verbose and error.problem.get("evidence"):
        console.err(f"evidence: {json.dumps(error.problem['evidence'])}")


def _stack(error: FunctionError) -> list[str]:
    return [line for entry in error.stack_trace for line in _frame(entry)]


def _frame(entry: Any) -> list[str]:
    return str(entry).rstrip("\n").splitlines()
