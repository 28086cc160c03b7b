"""The options that say how long older versions may answer: of a release alias, and of an account."""

from __future__ import annotations

from typing import Annotated

import typer

from pyfaas.client.releasing import Policy
from pyfaas.names import parse_duration

_NONE = "none"

Stale = Annotated[
    str | None,
    typer.Option(
        metavar="allow|forbid|none", help="older versions may answer while this one is not there", show_default=False
    ),
]
MaxStaleTime = Annotated[
    str | None, typer.Option(metavar="TIME", help="not longer than this after a move, such as 10s", show_default=False)
]
MaxStaleRequests = Annotated[
    str | None, typer.Option(metavar="N", help="not more often than this after a move", show_default=False)
]
StalePercent = Annotated[
    str | None, typer.Option(metavar="PERCENT", help="not more than this share of the answers", show_default=False)
]
MinVersion = Annotated[
    str | None, typer.Option(metavar="VERSION", help="none below this one, ever", show_default=False)
]
MaxWait = Annotated[
    str | None, typer.Option(metavar="TIME", help="wait for this long for a version that is not ready", show_default=False)
]


def said(  # noqa: PLR0913 - one parameter an option
    *,
    stale: str | None,
    max_stale_time: str | None,
    max_stale_requests: str | None,
    stale_percent: str | None,
    min_version: str | None = None,
    max_wait: str | None,
) -> Policy:
    """Return what options say; `none` removes what was said before. Raises BadParameter naming the option."""
    policy: Policy = {}
    if stale is not None:
        if stale not in ("allow", "forbid", _NONE):
            raise typer.BadParameter(f"--stale: {stale!r} is neither allow, forbid nor none")
        policy["stale"] = None if stale == _NONE else stale
    if max_stale_time is not None:
        policy["max_stale_time"] = _duration(max_stale_time, "--max-stale-time")
    if max_stale_requests is not None:
        policy["max_stale_requests"] = _whole(max_stale_requests, "--max-stale-requests")
    if stale_percent is not None:
        policy["stale_percent"] = _whole(stale_percent.removesuffix("%"), "--stale-percent", 100)
    if min_version is not None:
        policy["min_version"] = _whole(min_version, "--min-version")
    if max_wait is not None:
        policy["max_wait"] = _duration(max_wait, "--max-wait")
    return policy


def _duration(text: str, option: str) -> str | None:
    if text == _NONE:
        return None
    parse_duration(text, option)
    return text


def _whole(text: str, option: str, most: int | None = None) -> int | None:
    if text == _NONE:
        return None
    if not (text.isascii() and text.isdigit()) or (most is not None and int(text) > most):
        raise typer.BadParameter(f"{option}: {text!r} is not a whole number{f' up to {most}' if most else ''}, or none")
    return int(text)
