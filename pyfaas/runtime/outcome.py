"""What a call came to, before it is laid out as an ANSWER."""

from __future__ import annotations

from typing import NamedTuple

from pyfaas.runtime import codec, report
from sandbox.wire import Status


class Ended(NamedTuple):
    """A status of the wire and the bytes of the result."""

    status: Status
    body: bytes


def raised(error: BaseException) -> Ended:
    """Say what an exception of the tenant's code means."""
    if isinstance(error, codec.InvalidEvent):
        return Ended(Status.INVALID_EVENT, report.document(error.kind, str(error)))
    if isinstance(error, codec.InvalidResult):
        return not_json(error)
    limit = report.disk_limit(error)
    return Ended(Status.LIMIT, limit) if limit is not None else Ended(Status.ERROR, report.failure(error))


def not_json(error: BaseException) -> Ended:
    """Say why a result could not be encoded."""
    return Ended(Status.ERROR, report.document("InvalidResult", codec.explain(error), stackTrace=[]))


def bounded(ended: Ended, output_bytes: int) -> Ended:
    """Replace a result above the limit by the news of it."""
    if len(ended.body) <= output_bytes:
        return ended
    return Ended(Status.LIMIT, report.output_limit(len(ended.body), output_bytes))
