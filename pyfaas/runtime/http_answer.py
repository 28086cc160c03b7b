"""An HTTP answer as the container hands it up: a status, header pairs, and a body."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from typing import Any

from pyfaas.runtime.codec import InvalidResult
from pyfaas.runtime.outcome import Ended
from sandbox.wire import Status

_LENGTH = struct.Struct("<I")
_FORBIDDEN = frozenset("\r\n\0")
_FIRST_STATUS, _LAST_STATUS = 200, 599  # 1xx is the server's own business


def whole(status: int, headers: list[tuple[str, str]], body: bytes) -> Ended:
    """Lay out an OK_HTTP result: 4 length bytes (little-endian), a JSON head, the body."""
    head = json.dumps({"status": status, "headers": headers}, separators=(",", ":")).encode()
    return Ended(Status.OK_HTTP, _LENGTH.pack(len(head)) + head + body)


def checked_status(value: Any) -> int:
    """Return a status as a number; raises InvalidResult for what HTTP does not have."""
    status = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value
    if type(status) is not int or not _FIRST_STATUS <= status <= _LAST_STATUS:
        raise InvalidResult(f"{value!r:.80} is no status of an HTTP answer")
    return status


def checked_headers(pairs: Iterable[tuple[Any, Any]]) -> list[tuple[str, str]]:
    """Return header pairs as text; raises InvalidResult for a name or value that would break the head."""
    headers = [(_text(name), _text(value)) for name, value in pairs]
    for name, value in headers:
        if not name or ":" in name or " " in name or not _FORBIDDEN.isdisjoint(name + value):
            raise InvalidResult(f"the header {name[:80]!r} cannot be sent")
    return headers


def _text(value: Any) -> str:
    if isinstance(value, bytes | bytearray):
        return bytes(value).decode("latin-1")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise InvalidResult(f"a header of type {type(value).__name__!r} cannot be sent")
