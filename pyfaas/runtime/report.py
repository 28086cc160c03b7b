"""Turn what went wrong in the tenant's code into a small JSON document.

Everything read here belongs to hostile code: an exception's `str()` may raise, lie or be
endless, a class may have no usable name, a source file may be gone. So each reading is
guarded and cut, and the guard catches BaseException: a report that raises would end the loop.
"""

from __future__ import annotations

import errno
import json
import os
import traceback
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

_OURS = os.path.dirname(os.path.abspath(__file__)) + os.sep
_MACHINERY = ("<frozen importlib", "<frozen runpy")
_CARRIERS = ("/importlib/__init__.py", "/asyncio/base_events.py", "/asyncio/runners.py")  # between our code and theirs
_FRAMES = 50
_TEXT = 8192  # characters of one message or one stack entry
_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def document(kind: str, message: str, **more: Any) -> bytes:
    """Lay out an error that has no stack: its type, its message, and named values beside them."""
    return _bytes({"errorType": kind, "errorMessage": message[:_TEXT], **more})


def failure(error: BaseException) -> bytes:
    """Lay out an exception of the tenant's code with its stack from the tenant's first frame."""
    return _bytes(failure_fields(error))


def failure_fields(error: BaseException) -> dict[str, Any]:
    """Read an exception: `errorType`, `errorMessage`, `stackTrace`."""
    return {
        "errorType": _guarded(lambda: type(error).__name__, "Exception"),
        "errorMessage": _guarded(lambda: str(error), "<the exception's text cannot be read>"),
        "stackTrace": stack(error),
    }


def stack(error: BaseException) -> list[str]:
    """Return the frames of an exception from the first one that is not the runtime's, oldest first."""
    try:
        frames = _own(traceback.extract_tb(_tail(error.__traceback__)))
        lines = [entry[:_TEXT].rstrip("\n") for entry in traceback.format_list(frames)]
        if isinstance(error, SyntaxError):
            lines += [line[:_TEXT].rstrip("\n") for line in traceback.format_exception_only(error)[:-1]]
    except BaseException:  # noqa: BLE001 -- a tenant's loader or exception may raise anything while being read
        return []
    return lines


def disk_limit(error: BaseException) -> bytes | None:
    """Lay out a `disk` limit when an exception says that /tmp is full, else None."""
    if not isinstance(error, OSError) or error.errno not in _DISK:
        return None
    room = os.statvfs("/tmp")  # noqa: S108 -- the container's own
    total, free = room.f_blocks * room.f_frsize, room.f_bavail * room.f_frsize
    full = free <= max(total // 50, room.f_frsize) or room.f_files > 0 == room.f_favail
    if not full and error.errno != errno.EFBIG:
        return None
    return document(
        "LimitExceeded",
        f"/tmp is full: {total - free} of {total} bytes are used ({os.strerror(error.errno)})",
        limit="disk",
        allowed=total,
        observed=total - free,
        unit="bytes",
        stackTrace=stack(error),
    )


def output_limit(observed: int, allowed: int, what: str = "result") -> bytes:
    """Lay out an `output` limit with the size seen."""
    message = f"the {what} has {observed} bytes; at most {allowed} may be returned"
    return document("LimitExceeded", message, limit="output", allowed=allowed, observed=observed, unit="bytes")


def _tail(trace: TracebackType | None) -> TracebackType | None:
    """Keep the innermost frames of a deep recursion, where the reader looks first."""
    depth, at = 0, trace
    while at is not None:
        depth, at = depth + 1, at.tb_next
    while trace is not None and depth > _FRAMES * 2:
        depth, trace = depth - 1, trace.tb_next
    return trace


def _own(frames: Iterable[traceback.FrameSummary]) -> list[traceback.FrameSummary]:
    kept = list(frames)
    while kept and (kept[0].filename.startswith((_OURS, *_MACHINERY)) or kept[0].filename.endswith(_CARRIERS)):
        del kept[0]
    kept = [frame for frame in kept if not frame.filename.startswith(_MACHINERY)]
    return kept[-_FRAMES:]


def _guarded(read: Callable[[], object], otherwise: str) -> str:
    try:
        text = read()
        return text[:_TEXT] if type(text) is str else otherwise
    except BaseException:  # noqa: BLE001 -- `str()` of a hostile exception raises what it likes
        return otherwise


def _bytes(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), default=repr).encode()
