"""The options that say how long older versions may answer, of a release alias and of an account; and how much an account may run."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from pyfaas.client.releasing import Policy, Quota
from pyfaas.names import parse_duration

_NONE = "none"

Stale = Annotated[
    str | None,
    typer.Option(
        "--stale", metavar="allow|forbid|none", help="older versions may answer while this one is not there", show_default=False
    ),
]
MaxStaleTime = Annotated[
    str | None, typer.Option("--max-stale-time", metavar="TIME", help="not longer than this after a move, such as 10s", show_default=False)
]
MaxStaleRequests = Annotated[
    str | None, typer.Option("--max-stale-requests", metavar="N", help="not more often than this after a move", show_default=False)
]
StalePercent = Annotated[
    str | None, typer.Option("--stale-percent", metavar="PERCENT", help="not more than this share of the answers", show_default=False)
]
MinVersion = Annotated[
    str | None, typer.Option("--min-version", metavar="VERSION", help="none below this one, ever", show_default=False)
]
MaxWait = Annotated[
    str | None, typer.Option("--max-wait", metavar="TIME", help="wait for this long for a version that is not ready", show_default=False)
]

Concurrency = Annotated[
    str | None, typer.Option("--concurrency", metavar="N", help="runs at once that it pays for; none is the server's (admin)", show_default=False)
]
Rate = Annotated[
    str | None, typer.Option("--rate", metavar="R", help="runs that begin in a second; 0 is no limit (admin)", show_default=False)
]
PerDay = Annotated[
    str | None, typer.Option("--per-day", metavar="N", help="runs in a day, UTC; 0 is no limit (admin)", show_default=False)
]


def quota(*, concurrency: str | None, rate: str | None, per_day: str | None) -> Quota:
    """Return what options say of an account's quota; `none` is what the server's options say. Raises BadParameter."""
    found: Quota = {}
    if concurrency is not None:
        found["concurrency"] = _whole(concurrency, "--concurrency")
    if rate is not None:
        found["rate"] = _number(rate, "--rate")
    if per_day is not None:
        found["per_day"] = _whole(per_day, "--per-day")
    return found


def _number(text: str, option: str) -> float | None:
    if text == _NONE:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise typer.BadParameter(f"{option}: {text!r} is not a number of runs, or none")
    return value


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
