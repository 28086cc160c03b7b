"""Errors as RFC 9457 problem documents: `code`, whose `fault`, a `hint`, the `evidence`. Never a traceback."""

from __future__ import annotations

import json
import logging
from typing import Any

from aiohttp import web

from pyfaas.contract import OUTCOME_FAULT, OUTCOME_STATUS, STATUS
from pyfaas.errors import Code, Fault, PyfaasError
from pyfaas.model import Outcome

CONTENT_TYPE = "application/problem+json"
log = logging.getLogger(__name__)


def document(code: str, status: int, message: str, *, fault: str, hint: str = "", evidence: Any = None, **more: Any) -> dict[str, Any]:
    """Return a problem document."""
    shown = {"type": "about:blank", "title": code.replace("_", " "), "status": status, "detail": message, "code": code, "fault": fault}
    return {**shown, "hint": hint, "evidence": dict(evidence or {}), **more}


def of_error(error: PyfaasError) -> tuple[int, dict[str, Any]]:
    """Return status and document of an error."""
    status = STATUS[error.code]
    return status, document(
        error.code.value, status, error.message, fault=error.code.fault.value, hint=error.hint, evidence=error.evidence
    )


def of_outcome(outcome: Outcome, message: str, hint: str, evidence: Any, **more: Any) -> tuple[int, dict[str, Any]]:
    """Return status and document of a run that did not end well."""
    status = OUTCOME_STATUS.get(outcome, STATUS[Code.INTERNAL])
    fault = OUTCOME_FAULT.get(outcome, Fault.PLATFORM).value
    return status, document(outcome.value, status, message, fault=fault, hint=hint, evidence=evidence, **more)


def retry_after(status: int, seconds: float | None) -> dict[str, str]:
    """Return the header that tells when to try again, which every 429 and 503 has."""
    return {"Retry-After": str(max(1, round(seconds or 1.0)))} if status in (429, 503) else {}


def answer(error: PyfaasError) -> tuple[int, bytes, dict[str, str]]:
    """Return status, body and further headers of an error."""
    status, shown = of_error(error)
    headers = retry_after(status, error.retry_after)
    if error.code is Code.UNAUTHENTICATED:
        headers["WWW-Authenticate"] = 'Bearer realm="pyfaas"'
    return status, json.dumps(shown).encode(), headers


def response(error: PyfaasError) -> web.Response:
    """Return an error as an HTTP answer."""
    status, body, headers = answer(error)
    return web.Response(status=status, body=body, content_type=CONTENT_TYPE, headers=headers)


def internal() -> PyfaasError:
    """Return what a client is told of a mistake of ours; whoever caught it has logged it."""
    return PyfaasError(Code.INTERNAL, "the server failed", hint="the operator finds the cause in the log")


class Defects:
    """A context in which a mistake of ours becomes a PyfaasError, logged; PyfaasErrors pass."""

    def __init__(self, where: str) -> None:
        """Name the place for the log."""
        self._where = where

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Translate; raises internal."""
        if kind is not None and isinstance(error, Exception) and not isinstance(error, PyfaasError):
            log.error("request_failed", exc_info=error, extra={"where": self._where})
            raise internal() from None
