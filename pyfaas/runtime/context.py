"""What a handler learns about its call: the attributes of an AWS Lambda context, and pyfaas's own.

One is made for every call of an event handler, so making it stores five references and
nothing more; everything else is worked out when it is read.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What stays the same for all calls of a loaded version."""

    function: str
    version: str
    account: str
    memory_mib: int
    qualifier: str | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """Cognito's fields, always absent here; handlers written for Lambda read them."""

    cognito_identity_id: None = None
    cognito_identity_pool_id: None = None


class Context:
    """The second argument of an event handler; `deadline` is in seconds since the epoch."""

    __module__ = "pyfaas"  # where the author's code, here and at home, finds it
    # __dict__ lets middleware hang its own attributes on the context; it costs nothing until somebody does.
    __slots__ = ("__dict__", "_assignment", "_call_id", "_document", "_meta", "deadline")

    def __init__(self, call_id: bytes, deadline: float, assignment: Assignment, meta: bytes, document: dict[str, Any] | None = None) -> None:
        """Keep the references; `meta` is the call's meta JSON, parsed when first read, unless the `document` is given that it is."""
        self._call_id = call_id
        self.deadline = deadline
        self._assignment = assignment
        self._meta = meta
        self._document = document

    def _said(self, key: str, default: Any) -> Any:
        if self._document is None:
            self._document, self._meta = json.loads(self._meta) if self._meta else {}, b""
        return self._document.get(key, default)

    @property
    def aws_request_id(self) -> str:
        """The invocation's id."""
        return self._call_id.decode("ascii", "replace")

    @property
    def function_name(self) -> str:
        """The function's name, as its owner calls it."""
        return self._assignment.function

    @property
    def function_version(self) -> str:
        """The version that runs, in decimal."""
        return self._assignment.version

    @property
    def memory_limit_in_mb(self) -> int:
        """The container's memory, in MiB."""
        return self._assignment.memory_mib

    @property
    def invoked_function_arn(self) -> str:
        """The function as it was named by the caller, in the form of an AWS resource name."""
        qualifier = self._said("qualifier", self._assignment.qualifier)
        arn = f"arn:aws:lambda:local:{self._assignment.account}:function:{self._assignment.function}"
        return f"{arn}:{qualifier}" if qualifier else arn

    @property
    def log_group_name(self) -> str:
        """Where the logs of the function are, in the form of AWS."""
        return f"/pyfaas/{self._assignment.account}/{self._assignment.function}"

    @property
    def log_stream_name(self) -> str:
        """Where the logs of the version are, in the form of AWS."""
        return f"[{self._assignment.version}]"

    @property
    def identity(self) -> Identity:
        """An empty Cognito identity."""
        return Identity()

    @property
    def client_context(self) -> Any:
        """What the caller sent as client context, or None."""
        return self._said("client_context", None)

    @property
    def account(self) -> str:
        """The account that owns the function."""
        return self._assignment.account

    @property
    def caller(self) -> str:
        """The id of the account that called, the outermost one; the owner itself unless the function is lent."""
        return str(self._said("caller", None) or self._assignment.account)

    @property
    def alias(self) -> str | None:
        """The account alias or subscription through which the call came, as the caller names it, or None."""
        alias = self._said("alias", None)
        return None if alias is None else str(alias)

    @property
    def params(self) -> dict[str, Any]:
        """The parameters that owners, account aliases and subscriptions declare, with the values that hold for this call."""
        return dict(self._said("params", None) or {})

    @property
    def secrets(self) -> dict[str, str]:
        """The function's secrets and those that the caller gave along, by key; gone with the call."""
        return dict(self._said("secrets", None) or {})

    def get_remaining_time_in_millis(self) -> int:
        """Return the milliseconds left until the deadline, never below 0."""
        return max(0, int((self.deadline - time.time()) * 1000))

    def __repr__(self) -> str:
        """Show which call this is, and no secret."""
        return f"<Context {self.function_name}:{self.function_version} {self.aws_request_id}>"
