"""Results of calls as HTTP: status, headers and body of what ended, and of what a function shaped itself under /f/."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from pyfaas.calls import Result
from pyfaas.contract import OUTCOME_STATUS, STATUS
from pyfaas.model import Outcome
from pyfaas.web import problems

_OURS = frozenset({"connection", "keep-alive", "transfer-encoding", "upgrade", "content-length", "server", "date", "te", "trailer"})
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_MAX_OWN_HEADERS, _MAX_OWN_BYTES = 128, 32 << 10


def headers_of(result: Result, *, debug: bool = False) -> dict[str, str]:
    """Return the headers that tell of a call."""
    timing = [f"queue;dur={result.queue_s * 1000:.1f}", f"exec;dur={result.exec_s * 1000:.1f}"]
    if result.init_s:
        timing.insert(1, f"init;dur={result.init_s * 1000:.1f}")
    headers = {"Pyfaas-Invocation-Id": result.id, "Pyfaas-Outcome": result.outcome.value, "Server-Timing": ", ".join(timing)}
    if result.requested is not None:
        headers["Pyfaas-Requested-Version"] = str(result.requested)
    if result.executed is not None:
        headers["Pyfaas-Executed-Version"] = str(result.executed)
    if debug:
        headers["Pyfaas-Placement"] = f"vm={result.vm}; container={result.container}; why={result.why}"
    return headers


def plain(result: Result) -> tuple[int, str, bytes, dict[str, str]]:
    """Return status, content type, body and further headers of a whole answer."""
    if result.kind == "json":
        return 200, "application/json", result.body, {}
    if result.kind == "bytes":
        return 200, "application/octet-stream", result.body, {}
    if result.kind == "error":
        return OUTCOME_STATUS[result.outcome], "application/json", result.body, {}
    status, shown = problem_of(result)
    return status, problems.CONTENT_TYPE, json.dumps(shown).encode(), problems.retry_after(status, result.retry_after)


def problem_of(result: Result) -> tuple[int, dict[str, Any]]:
    """Return status and problem document of a call that did not end well; an `error`'s data are members of it."""
    if result.code is None:
        data = json.loads(result.body) if result.kind == "error" else {}
        message = result.message or str(data.get("errorMessage", ""))
        return problems.of_outcome(result.outcome, message, result.hint, result.evidence, **{"invocationId": result.id, **data})
    status = STATUS[result.code]
    return status, problems.document(
        result.code.value,
        status,
        result.message,
        fault=result.code.fault.value,
        hint=result.hint,
        evidence=result.evidence,
        invocationId=result.id,
    )


def whole(result: Result, *, debug: bool = False, under_url: bool = False) -> web.Response:
    """Return a call's result as one answer; `under_url` is for /f/, where the function shapes it itself."""
    headers = headers_of(result, debug=debug)
    if result.kind == "http" and under_url:
        head = own_head(result.http or {})
        if head is None:
            return not_http(headers)
        response = web.Response(status=head[0], body=result.body)
        put_headers(response, head[1])
        response.headers.update(headers)
        return response
    status, kind, body, further = plain(result)
    return web.Response(status=status, body=body, content_type=kind, headers={**headers, **further})


def own_head(head: Mapping[str, Any]) -> tuple[int, list[tuple[str, str]]] | None:
    """Return the status and headers that a function gave, without those that belong to the connection or to us.

    None when they cannot be sent: what comes out of a container is not trusted to be HTTP.
    """
    status, given = head.get("status", 200), head.get("headers", [])
    if not isinstance(status, int) or isinstance(status, bool) or not 200 <= status <= 599 or not isinstance(given, list):
        return None
    pairs: list[tuple[str, str]] = []
    for pair in given:
        if not (isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            return None
        name, value = pair
        if not _TOKEN.fullmatch(name) or _CONTROL.search(value):
            return None
        if name.lower() not in _OURS and not name.lower().startswith("pyfaas-"):
            pairs.append((name, value))
    if len(pairs) > _MAX_OWN_HEADERS or sum(len(name) + len(value) for name, value in pairs) > _MAX_OWN_BYTES:
        return None
    return status, pairs


def put_headers(response: web.StreamResponse, pairs: list[tuple[str, str]]) -> None:
    """Set a function's headers on an answer: the first of a name replaces ours, further ones are added."""
    for name in {name.lower() for name, _ in pairs}:
        response.headers.pop(name, None)
    for name, value in pairs:
        response.headers.add(name, value)


def not_http(headers: Mapping[str, str]) -> web.Response:
    """Return the answer for a function whose own answer cannot be sent."""
    status, shown = problems.of_outcome(
        Outcome.CRASHED,
        "the function's answer is no HTTP answer",
        "status is a number from 200 to 599, headers are pairs of text without line breaks",
        {},
        invocationId=headers.get("Pyfaas-Invocation-Id"),
    )
    return web.Response(status=status, body=json.dumps(shown).encode(), content_type=problems.CONTENT_TYPE, headers=headers)
