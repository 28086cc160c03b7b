"""The container's end of `pyfaas.tagged`: what cannot be written is the function's mistake, what cannot be read the caller's."""

from __future__ import annotations

from typing import Any

from pyfaas import tagged
from pyfaas.runtime import codec


def encode_default(value: Any) -> Any:
    """Write what JSON lacks as a tag; raises InvalidResult naming any other type."""
    try:
        return tagged.tag(value)
    except tagged.NoForm as error:
        raise codec.InvalidResult(str(error)) from None


encode: codec.Encode = codec.make_encode(encode_default)


def decode(value: Any) -> Any:
    """Replace the tags in a parsed event; raises InvalidEvent for a broken tag."""
    try:
        return tagged.untag(value)
    except tagged.BrokenTag as error:
        raise codec.InvalidEvent(str(error)) from None
