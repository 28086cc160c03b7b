"""A call as it passes through the server: what is asked, and how it is answered, without a task or a future.

A face fills a `Request`, hands it to `Invoker.submit` with a `Sink`, and the sink is called back, in the
event loop, when the container has answered. Bodies are bytes on the whole way: only the container parses
them. `submit` raises `PyfaasError` when the call is refused before anything was reserved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pyfaas.errors import Code
from pyfaas.model import Caller, InvocationId, Outcome, UsageRow


@dataclass(slots=True, kw_only=True)
class Request:
    """One invocation asked for. `timeout_ms` covers everything, waiting included; it can only shorten.

    `http` is the head of a request that came under /f/ (see the runtime's README); `account` is the
    function's owner there, and the caller is None when the function is public. `name` is a function, an account alias, or
    `SUBSCRIPTION/OPERATION`, of the newest API version that has it unless `api_version` says which.
    """

    caller: Caller | None
    name: str
    api_version: str | None = None
    id: InvocationId | None = None  # None: a new one
    qualifier: str | None = None
    body: bytes = b""
    is_bytes: bool = False
    wants_stream: bool = False
    timeout_ms: int | None = None
    stale: str | None = None
    sticky_key: str | None = None
    http: Mapping[str, Any] | None = None
    owner: str | None = None  # account name or id, for /f/ only
    traceparent: str | None = None
    cancel_on_disconnect: bool = False
    is_job: bool = False  # an attempt at an asynchronous call: its usage is written with its end


@dataclass(slots=True, kw_only=True)
class Result:
    """How a call ended. `kind` says what `body` is: json, bytes, http (a whole answer: see sandbox.wire), stream, or none.

    For outcomes `error` and `init_error` the body is JSON `{errorType, errorMessage, stackTrace}`; for the others
    `code`, `message`, `hint` and `evidence` make the problem document. Times are in seconds.
    """

    id: InvocationId
    outcome: Outcome
    kind: str = "none"
    body: bytes = b""
    http: Mapping[str, Any] | None = None
    requested: int | None = None
    executed: int | None = None
    queue_s: float = 0.0
    init_s: float = 0.0
    exec_s: float = 0.0
    code: Code | None = None
    message: str = ""
    hint: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    retry_after: float | None = None
    vm: str = ""
    container: str = ""
    why: str = ""  # which step of the placement cascade gave the container
    usage: Sequence[UsageRow] = ()  # of an attempt at an asynchronous call: to be written with its end
    is_callers_word: bool = False  # `message` speaks of what the caller sent, and of nothing else


class Sink(Protocol):
    """Who takes the answer. All three are called in the event loop and must not block."""

    def head(self, call: Running, head: Mapping[str, Any]) -> None:
        """Take the start of a streamed answer: {"kind": json|bytes} or {"kind": "http", "status", "headers"}."""

    def item(self, item: bytes) -> None:
        """Take one piece of a streamed answer."""

    def done(self, result: Result) -> None:
        """Take the end; called exactly once."""


class Running(Protocol):
    """A call that was accepted."""

    id: InvocationId
    requested: int | None

    @property
    def executed(self) -> int | None:
        """The version that runs it, once that is decided."""

    def left(self) -> None:
        """Say that the client has gone: what waits is removed, a stream is cancelled, a run ends as was asked."""

    def cancel(self) -> None:
        """End the call now, with outcome `cancelled`."""

    def pause(self) -> None:
        """Stop taking items: the client is slower than the function."""

    def resume(self) -> None:
        """Go on taking items."""
