"""How far an older version may answer: the policies of request, release alias, function and account as one.

`stale`: the narrowest level that says something wins, but a request cannot loosen what an owner forbids. Of the limits
the strictest holds. Clock and counter begin when the pointer moves, and an answer counts when it is decided, so that a
limit of 3 under any number of concurrent requests is 3 old answers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pyfaas.model import StalePolicy

DEFAULT_WAIT_MS = 120_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """What holds for one request. Times in milliseconds; None is no limit."""

    is_allowed: bool
    max_time_ms: int | None = None
    max_requests: int | None = None
    percent: int | None = None
    min_version: int | None = None
    max_wait_ms: int = DEFAULT_WAIT_MS


@dataclass(slots=True)
class Tally:
    """What was answered since a pointer moved (`since`, seconds): `total` answers decided, `stale` of them by older versions."""

    since: float
    total: int = 0
    stale: int = 0


def merge(narrowest_first: Iterable[StalePolicy], asked: str | None, *, is_pointer: bool) -> Merged:
    """Merge the owner's policies (release alias, function, account) with what the request asks (allow, forbid or None).

    Of a number or a code id another version answers only where the request itself said so.
    """
    levels = tuple(narrowest_first)
    owners = next((level.stale for level in levels if level.stale is not None), None)
    wanted = asked or ((owners or "allow") if is_pointer else "forbid")
    return Merged(
        is_allowed=wanted == "allow" and owners != "forbid",
        max_time_ms=_least(level.max_stale_time_ms for level in levels),
        max_requests=_least(level.max_stale_requests for level in levels),
        percent=_least(level.stale_percent for level in levels),
        min_version=max((level.min_version for level in levels if level.min_version is not None), default=None),
        max_wait_ms=min((level.max_wait_ms for level in levels if level.max_wait_ms is not None), default=DEFAULT_WAIT_MS),
    )


def may_be_stale(policy: Merged, tally: Tally, now: float) -> bool:
    """Tell whether one more answer may be an older version's; `now` in the clock of `tally.since`."""
    return (
        policy.is_allowed
        and (policy.max_time_ms is None or (now - tally.since) * 1000 < policy.max_time_ms)
        and (policy.max_requests is None or tally.stale < policy.max_requests)
        and (policy.percent is None or (tally.stale + 1) * 100 <= policy.percent * (tally.total + 1))
    )


def _least(values: Iterable[int | None]) -> int | None:
    return min((value for value in values if value is not None), default=None)
