"""Errors as RFC 9457 problem documents: `code`, whose `fault`, a `hint`, the `evidence`. Never a traceback."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from pyfaas.contract import OUTCOME_FAULT, OUTCOME_STATUS, STATUS
from pyfaas.errors import Code, PyfaasError
from pyfaas.model import Outcome

_TYPE = "application/problem+json"


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


def of_outcome(outcome: Outcome, message: str, hint: str, evidence: Any, invocation: str) -> tuple[int, dict[str, Any]]:
    """Return status and document of a run that did not end well."""
    status = OUTCOME_STATUS[outcome]
    fault = OUTCOME_FAULT[outcome].value
    return status, document(outcome.value, status, message, fault=fault, hint=hint, evidence=evidence, invocationId=invocation)


def response(error: PyfaasError) -> web.Response:
    """Return an error as an HTTP answer."""
    status, shown = of_error(error)
    headers = {}
    if error.retry_after is not None and status in (429, 503):
        headers["Retry-After"] = str(max(1, round(error.retry_after)))
    if error.code is Code.UNAUTHENTICATED:
        headers["WWW-Authenticate"] = 'Bearer realm="pyfaas"'
    return web.Response(status=status, body=json.dumps(shown).encode(), content_type=_TYPE, headers=headers)


CONTENT_TYPE = _TYPE
