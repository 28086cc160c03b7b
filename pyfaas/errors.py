"""Every failure that has a name: its code, whose mistake it is, and what the reader may do about it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any


class Fault(StrEnum):
    """Whose mistake a failure is."""

    CALLER = "caller"
    FUNCTION = "function"
    PLATFORM = "platform"


class Code(StrEnum):
    """The closed set of error codes that are not outcomes of a run."""

    INVALID_REQUEST = "invalid_request"
    INVALID_NAME = "invalid_name"
    INVALID_HEADER = "invalid_header"
    INVALID_EVENT = "invalid_event"
    UNKNOWN_KEY = "unknown_key"
    UNAUTHENTICATED = "unauthenticated"
    NOT_ALLOWED = "not_allowed"
    NOT_FOUND = "not_found"
    GONE = "gone"
    CONFLICT = "conflict"
    PAYLOAD_TOO_LARGE = "payload_too_large"
    IDEMPOTENCY_MISMATCH = "idempotency_mismatch"
    THROTTLED = "throttled"
    NO_CAPACITY = "no_capacity"
    NOT_READY = "not_ready"
    STORAGE_FULL = "storage_full"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    INTERNAL = "internal"

    @property
    def fault(self) -> Fault:
        """Whose mistake a failure with this code is."""
        return Fault.PLATFORM if self in _PLATFORM else Fault.CALLER


_PLATFORM = frozenset({Code.NO_CAPACITY, Code.NOT_READY, Code.STORAGE_FULL, Code.INTERNAL})


class PyfaasError(Exception):
    """Root of what pyfaas raises: a code, a sentence for the reader, a hint, and the evidence.

    `hint` says what to do next; `evidence` holds observed values (a limit's name, value and unit, say);
    `retry_after` is in seconds, for 429 and 503.
    """

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        hint: str = "",
        evidence: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> None:
        """Keep what the face needs to tell the caller."""
        self.code, self.message, self.hint = code, message, hint
        self.evidence: Mapping[str, Any] = evidence or {}
        self.retry_after = retry_after
        super().__init__(message)


def not_found(what: str, name: str) -> PyfaasError:
    """Say that something is not there, in the words used for what belongs to somebody else too."""
    return PyfaasError(Code.NOT_FOUND, f"no {what} {name!r}")
