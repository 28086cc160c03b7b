"""How a version is released to a release alias, and how long older ones may answer: what is sent, as plain values.

Percents are whole for weights and canaries, and may be fractions for an error budget. Durations are seconds, or text such as
`5m`; they travel as text, since that is what a person reads in a request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from pyfaas.client.errors import from_refusal, invalid
from pyfaas.errors import PyfaasError
from pyfaas.names import check_alias_name, parse_duration

_ALL = 100
STALE = ("allow", "forbid")


class Release(TypedDict, total=False):
    """Which release alias moves to a version once it is ready, and how; see `AsyncClient.publish`."""

    alias: str | None
    canary: str | float | None  # percent of the runs that it gets first
    promote_after: str | float | None  # until it has them all
    error_budget: str | float | None  # percent of its runs that may fail


class Policy(TypedDict, total=False):
    """How long older versions may answer for the one that is named; None removes what was said before."""

    stale: str | None  # allow | forbid
    max_stale_time: str | float | None  # since the move
    max_stale_requests: int | None  # answers since the move
    stale_percent: int | None  # of the answers since the move
    min_version: int | None  # never below
    max_wait: str | float | None  # for a version that is not ready


class Quota(TypedDict, total=False):
    """What an account may run that it pays for; None is what the server's options say, 0 no limit."""

    concurrency: int | None  # runs at once
    rate: float | None  # runs that begin in a second
    per_day: int | None  # runs in a day, UTC


_DURATIONS = ("max_stale_time", "max_wait")


def release_query(
    *,
    alias: str | None = None,
    canary: str | float | None = None,
    promote_after: str | float | None = None,
    error_budget: str | float | None = None,
) -> dict[str, str]:
    """Return what a publication's query says of its release; raises InvalidRequest."""
    try:
        if alias is not None:
            check_alias_name(alias)
        after = None if promote_after is None else duration(promote_after, "promote_after")
    except PyfaasError as error:
        raise from_refusal(error) from None
    if canary is None and (promote_after is not None or error_budget is not None):
        raise invalid("promote_after and error_budget are a canary's", "say how much it gets first, such as canary 10%")
    if canary is not None and alias is None:
        raise invalid("a canary needs a release alias whose runs it gets", "name one, such as alias live")
    first = None if canary is None else percent(canary, "canary")
    if first is not None and not (first == int(first) and first >= 1):
        raise invalid(f"canary: {canary} is not a whole percent from 1 to 100")
    said = {
        "alias": alias,
        "canary": None if first is None else str(int(first)),
        "promote_after": after,
        "error_budget": None if error_budget is None else f"{percent(error_budget, 'error_budget'):g}",
    }
    return {key: value for key, value in said.items() if value is not None}


def policy_document(policy: Policy) -> dict[str, Any]:
    """Return a policy as it is sent; raises InvalidRequest for what is no duration, or neither allow nor forbid."""
    if policy.get("stale") not in (None, *STALE):
        raise invalid(f"stale: {policy['stale']!r} is neither allow nor forbid")
    document: dict[str, Any] = dict(policy)
    try:
        return {key: duration(value, key) if key in _DURATIONS and value is not None else value for key, value in document.items()}
    except PyfaasError as error:
        raise from_refusal(error) from None


def duration(value: str | float, key: str) -> str:
    """Return a duration as it is sent: text as it is, a number with its unit; raises invalid_request naming `key`."""
    parse_duration(value, key)
    return value.strip() if isinstance(value, str) else f"{value}s"


def percent(value: str | float, key: str) -> float:
    """Read a share as percent, with or without its sign; raises InvalidRequest naming `key`."""
    text = str(value).strip().removesuffix("%").strip()
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if isinstance(value, bool) or not 0 <= share <= _ALL:
        raise invalid(f"{key}: {value!r} is not a percent", "write 10%")
    return share


def has_begun(alias: Mapping[str, Any], version: int) -> bool:
    """Tell whether a release alias waits no more for a version that was published for it: it moved, or somebody moved it."""
    canary = alias.get("canary") or {}
    is_waiting = canary.get("version") == version and canary.get("state") == "waiting"
    return bool(alias) and not is_waiting
