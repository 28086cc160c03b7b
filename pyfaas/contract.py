"""The one table between codes, outcomes and HTTP status; server and client both read it."""

from __future__ import annotations

from pyfaas.errors import Code, Fault
from pyfaas.model import Outcome

STATUS: dict[Code, int] = {
    Code.INVALID_REQUEST: 400,
    Code.INVALID_NAME: 400,
    Code.INVALID_HEADER: 400,
    Code.INVALID_EVENT: 400,
    Code.UNKNOWN_KEY: 400,
    Code.UNAUTHENTICATED: 401,
    Code.NOT_ALLOWED: 403,
    Code.NOT_FOUND: 404,
    Code.METHOD_NOT_ALLOWED: 405,
    Code.CONFLICT: 409,
    Code.GONE: 410,
    Code.PAYLOAD_TOO_LARGE: 413,
    Code.IDEMPOTENCY_MISMATCH: 422,
    Code.THROTTLED: 429,
    Code.INTERNAL: 500,
    Code.NO_CAPACITY: 503,
    Code.NOT_READY: 503,
    Code.STORAGE_FULL: 507,
}

# `rejected` has no status of its own: the code that came with it decides.
OUTCOME_STATUS: dict[Outcome, int] = {
    Outcome.OK: 200,
    Outcome.ERROR: 500,
    Outcome.INIT_ERROR: 502,
    Outcome.OOM: 502,
    Outcome.LIMIT: 502,
    Outcome.FORBIDDEN_SYSCALL: 502,
    Outcome.CRASHED: 502,
    Outcome.TIMEOUT: 504,
    Outcome.CANCELLED: 409,
    Outcome.LOST: 503,
}

OUTCOME_FAULT: dict[Outcome, Fault] = {
    Outcome.ERROR: Fault.FUNCTION,
    Outcome.INIT_ERROR: Fault.FUNCTION,
    Outcome.OOM: Fault.FUNCTION,
    Outcome.LIMIT: Fault.FUNCTION,
    Outcome.FORBIDDEN_SYSCALL: Fault.FUNCTION,
    Outcome.CRASHED: Fault.FUNCTION,
    Outcome.TIMEOUT: Fault.FUNCTION,
    Outcome.CANCELLED: Fault.CALLER,
    Outcome.REJECTED: Fault.CALLER,
    Outcome.LOST: Fault.PLATFORM,
}

BACKUP_END = b'"end": "pyfaas backup"'  # what the last document of a backup ends with, before zeros
BACKUP_TAIL = 4096  # bytes at the end of a backup in which that is found


def is_backup_end(tail: bytes) -> bool:
    """Tell whether the last bytes of a stream are those of a whole backup."""
    return tail.rstrip(b"\0").endswith(BACKUP_END + b"\n}") and tail.endswith(bytes(1024))
