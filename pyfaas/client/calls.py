"""What the clients send and read, as plain functions over plain values: calls, their headers, and what comes back."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import quote

from pyfaas.client import tagged
from pyfaas.client.errors import WaitTimeout, from_outcome, from_problem, from_refusal, invalid
from pyfaas.client.http import Call, Reply
from pyfaas.errors import PyfaasError
from pyfaas.model import JobState
from pyfaas.names import check_name, split_target

NDJSON = "application/x-ndjson"
POLL_S = 30  # an answer that is held back for longer might be cut off by what is between


def invocation(
    name: str, event: Any = None, *, qualifier: str | int | None = None, headers: Mapping[str, str] | None = None
) -> Call:
    """Return the call that runs a function, an account alias, or `SUBSCRIPTION/OPERATION`."""
    sent = dict(headers or {})
    if isinstance(event, bytes | bytearray | memoryview):
        body = bytes(event)
        sent.setdefault("Content-Type", "application/octet-stream")
    else:
        body = tagged.dumps({} if event is None else event)
        sent.setdefault("Content-Type", "application/json")
    query = {"qualifier": str(qualifier)} if qualifier is not None else {}
    return Call(method="POST", path=f"{called_path(name)}/invoke", query=query, headers=sent, body=body)


def call_headers(
    *, timeout: float | None = None, stale: str | None = None, headers: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the headers of a call whose caller stays: leaving cancels the run."""
    sent = {"Pyfaas-On-Disconnect": "cancel", **(headers or {})}
    if timeout is not None:
        sent["Pyfaas-Timeout"] = f"{max(1, round(timeout * 1000))}ms"
    if stale is not None:
        sent["Pyfaas-Stale"] = stale
    return sent


async def items(reply: Reply) -> AsyncIterator[Any]:
    """Yield what a stream carries: JSON values, or pieces of bytes; raises what an `$error` line says."""
    if reply.kind != NDJSON:
        if reply.kind.endswith("json"):  # a plain function: one item
            yield tagged.loads(await reply.read())
            return
        async for piece in reply.pieces():
            yield piece
        return
    async for line in reply.lines():
        value = json.loads(line)
        if isinstance(value, dict) and value.keys() == {"$error"} and isinstance(value["$error"], dict):
            raise from_problem(value["$error"])
        yield tagged.decode(value)


def job_result(shown: Mapping[str, Any]) -> Any:
    """Return the result of an ended invocation; raises FunctionError when it failed."""
    if shown["state"] == JobState.SUCCEEDED.value:
        return tagged.decode(shown.get("result"))
    outcome = "timeout" if shown["state"] == JobState.EXPIRED.value else shown.get("outcome") or str(shown["state"])
    error = shown.get("error")
    document = error if isinstance(error, dict) else {"detail": error or f"the invocation ended as {shown['state']}"}
    raise from_outcome(str(outcome), document, invocation_id=str(shown.get("id") or ""))


def segment(text: str) -> str:
    """Return a path's segment; what would name another path is refused."""
    if text in ("", ".", ".."):
        raise invalid(f"{text!r} names nothing")
    return quote(text, safe="*")  # as a path has it: it stands for everybody there


def function_path(name: str) -> str:
    """Return the path of a function; raises InvalidRequest for what is no name."""
    try:
        return f"/v1/functions/{check_name(name)}"
    except PyfaasError as error:
        raise from_refusal(error) from None


def called_path(name: str) -> str:
    """Return the path of what can be called: a name, or `SUBSCRIPTION/OPERATION`; raises InvalidRequest for neither."""
    subscription, slash, operation = name.partition("/")
    if not slash:
        return function_path(name)
    try:
        return f"{function_path(subscription)}/{check_name(operation, 'operation')}"
    except PyfaasError as error:
        raise from_refusal(error) from None


def split_called(text: str) -> tuple[str, str | None]:
    """Split `NAME[:QUALIFIER]`, or `SUBSCRIPTION/OPERATION`, which has none; raises InvalidRequest for what is neither."""
    try:
        name, qualifier = (text, None) if "/" in text else split_target(text)
    except PyfaasError as error:
        raise from_refusal(error) from None
    called_path(name)
    return name, qualifier


def whole_seconds(until: float | None, now: float) -> int:
    """Return for how many whole seconds the next answer may be held back."""
    return POLL_S if until is None else max(1, min(POLL_S, math.ceil(until - now)))


def waited(message: str, hint: str) -> WaitTimeout:
    """Return what to raise when the caller's own wait is over."""
    return WaitTimeout(message, problem={"code": "timeout", "fault": "caller", "detail": message, "hint": hint})
