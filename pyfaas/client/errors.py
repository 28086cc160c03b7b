"""What the SDK raises, built from what the server answered.

An answer says whose fault a failure is by its shape: a run that failed carries `Pyfaas-Outcome` or an `errorType`, and
is a FunctionError; everything else is a problem document (RFC 9457) and is filed by its status. The exception keeps the
document, so that `-o json` can show exactly what the server said.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any

from pyfaas.contract import OUTCOME_STATUS, STATUS
from pyfaas.errors import Code, PyfaasError
from pyfaas.model import Outcome

_NOT_A_FAILED_RUN = frozenset({"", Outcome.OK.value, Outcome.REJECTED.value})
_UNAUTHORIZED, _FORBIDDEN = 401, 403
_CLIENT_ERRORS, _SERVER_ERRORS = 400, 500


class Error(Exception):
    """Root of what the SDK raises.

    `problem` is the document behind it, `status` the HTTP status (0 when there was no answer), `code` and `hint` the
    document's.
    """

    def __init__(self, message: str, *, status: int = 0, problem: Mapping[str, Any] | None = None) -> None:
        """Keep the sentence and the document."""
        super().__init__(message)
        self.message = message
        self.status = status
        self.problem: dict[str, Any] = dict(problem or {"code": Code.INTERNAL.value, "detail": message})
        self.code = str(self.problem.get("code") or "")
        self.hint = str(self.problem.get("hint") or "")
        if self.hint:
            self.add_note(f"hint: {self.hint}")  # what Python prints below a traceback

    def __repr__(self) -> str:
        """Show the sentence, and what it was filed by."""
        return f"{type(self).__name__}({str(self)!r}, status={self.status}, code={self.code!r})"


class FunctionError(Error):
    """The function ran and failed, or was stopped; `outcome` says how.

    `message` is what the function said, without its type; `str()` has both.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        problem: Mapping[str, Any] | None = None,
        outcome: str = Outcome.ERROR.value,
        invocation_id: str = "",
    ) -> None:
        """Keep what the function said of itself."""
        super().__init__(message, status=status, problem=problem)
        if isinstance(self.problem.get("errorMessage"), str):
            self.message = self.problem["errorMessage"]
        self.error_type = str(self.problem.get("errorType") or outcome)
        self.stack_trace: list[Any] = list(self.problem.get("stackTrace") or [])
        self.outcome = outcome
        self.invocation_id = str(self.problem.get("invocationId") or invocation_id)
        if self.stack_trace:
            self.add_note("in the container:\n" + "\n".join(str(entry).rstrip("\n") for entry in self.stack_trace))
        if self.error_type == ModuleNotFoundError.__name__ and not self.hint:
            self.add_note("hint: name the distribution that it is in: requirements=[…]")

    def __repr__(self) -> str:
        """Show the sentence, how the run ended, and which it was."""
        return f"{type(self).__name__}({str(self)!r}, outcome={self.outcome!r}, invocation_id={self.invocation_id!r})"


class FunctionTimeout(FunctionError, TimeoutError):
    """The run was stopped at its timeout or its deadline."""


class WaitTimeout(Error, TimeoutError):
    """The caller's own wait is over; what it waited for goes on."""


class NotAllowed(Error):
    """The token is missing, unknown, expired or revoked (401), or lacks the scope (403)."""


class NotFound(Error):
    """There is nothing of that name that belongs to the caller (404)."""


class Gone(NotFound):
    """What the caller was lent, or subscribed to, was taken back or retired (410)."""


class InvalidRequest(Error):
    """The request is wrong in itself: another 4xx, or something that was refused before it was sent."""


class Throttled(Error):
    """Too many calls (429); `retry_after` is in seconds, None when the server named no time."""

    retry_after: float | None = None


class ServerError(Error):
    """The platform failed (5xx); `retry_after` as in Throttled."""

    retry_after: float | None = None


class Unreachable(ServerError):
    """No server answered."""


for _public in (Error, FunctionError, NotAllowed, NotFound, Gone, InvalidRequest, Throttled, ServerError):
    _public.__module__ = "pyfaas"  # the name that a traceback shows is the one to catch


def from_answer(status: int, headers: Mapping[str, str], body: bytes) -> Error:
    """Build the exception for an answer whose status is 400 or above; `headers` have lower-case names."""
    document = _document(body)
    outcome = headers.get("pyfaas-outcome") or ("error" if "errorType" in document else "")
    if outcome not in _NOT_A_FAILED_RUN:
        return from_outcome(outcome, document, status=status, invocation_id=headers.get("pyfaas-invocation-id", ""))
    if not document:
        text = body[:200].decode("utf-8", "replace").strip()
        document = {"status": status, "code": "", "detail": text or f"the server answered {status}"}
    error = from_problem(document, status)
    if isinstance(error, Throttled | ServerError):
        with contextlib.suppress(ValueError):
            error.retry_after = float(headers["retry-after"]) if "retry-after" in headers else None
    return error


def from_outcome(
    outcome: str, document: Mapping[str, Any], *, status: int = 0, invocation_id: str = ""
) -> FunctionError:
    """Build the exception for a run that ended in anything but `ok`."""
    kind = FunctionTimeout if outcome == Outcome.TIMEOUT.value else FunctionError
    message = _sentence(document) or f"the run ended as {outcome}"
    if document.get("errorType") and document.get("errorMessage") is not None:
        message = f"{document['errorType']}: {document['errorMessage']}"
    status = status or OUTCOME_STATUS.get(Outcome(outcome), 0) if outcome in set(Outcome) else status
    return kind(message, status=status, problem=document, outcome=outcome, invocation_id=invocation_id)


def from_problem(document: Mapping[str, Any], status: int = 0) -> Error:
    """Build the exception for a problem document, which may have come in a stream without a status."""
    code = str(document.get("code") or "")
    if "errorType" in document or (code in set(Outcome) and code != Outcome.REJECTED.value):
        return from_outcome(code if code in set(Outcome) else "error", document, status=status)
    status = status or int(document.get("status") or 0) or (STATUS[Code(code)] if code in set(Code) else _SERVER_ERRORS)
    return _kind(status)(
        _sentence(document) or code or f"the server answered {status}", status=status, problem=document
    )


def from_refusal(error: PyfaasError) -> Error:
    """Build the exception for a rule of pyfaas that was applied on this side, before anything was sent."""
    problem = {
        "code": error.code.value,
        "fault": error.code.fault.value,
        "detail": error.message,
        "hint": error.hint,
        "evidence": dict(error.evidence),
    }
    return from_problem(problem, STATUS[error.code])


def invalid(message: str, hint: str = "") -> InvalidRequest:
    """Build the exception for a request that makes no sense, refused before it was sent."""
    code = Code.INVALID_REQUEST
    problem = {"code": code.value, "fault": code.fault.value, "detail": message, "hint": hint}
    return InvalidRequest(message, status=STATUS[code], problem=problem)


def _kind(status: int) -> type[Error]:
    if status in (_UNAUTHORIZED, _FORBIDDEN):
        return NotAllowed
    if status == STATUS[Code.GONE]:
        return Gone
    if status == STATUS[Code.NOT_FOUND]:
        return NotFound
    if status == STATUS[Code.THROTTLED]:
        return Throttled
    return InvalidRequest if _CLIENT_ERRORS <= status < _SERVER_ERRORS else ServerError


def _document(body: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(body)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _sentence(document: Mapping[str, Any]) -> str:
    for key in ("detail", "errorMessage", "message", "title"):
        if document.get(key):
            return str(document[key])
    return ""
