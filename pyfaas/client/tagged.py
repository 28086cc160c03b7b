"""The SDK's end of `pyfaas.tagged`: what cannot be written is refused before it is sent; nothing that comes is refused."""

from __future__ import annotations

import json
from typing import Any

from pyfaas.client.errors import invalid
from pyfaas.tagged import NoForm, tag, untag_what_fits

_HINT = "pass numbers, text, lists, dicts, bytes, dates, sets or numpy arrays"


def dumps(value: Any) -> bytes:
    """Write a value as JSON with tags; raises InvalidRequest naming a type that has no form."""
    try:
        text = json.dumps(value, default=tag, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    except NoForm as error:
        raise invalid(f"a value cannot be sent: {error}", _HINT) from None
    except (ValueError, TypeError, RecursionError) as error:  # NaN, a circle, keys that are no text, too many digits
        raise invalid(f"a value cannot be written as JSON: {error}") from None
    try:
        return text.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which UTF-8 lacks and JSON's escapes have
        return json.dumps(value, default=tag, separators=(",", ":")).encode()


def loads(text: bytes | str) -> Any:
    """Read JSON and replace its tags; raises ValueError when it is no JSON."""
    return decode(json.loads(text))


def decode(value: Any) -> Any:
    """Replace the tags in parsed JSON; what looks like a tag and is none stays as it is."""
    return untag_what_fits(value)
