"""What a deploy did to the requests of an open load: phases, quantiles, who answered; plain functions over answers.

    before    until the version is published: the baseline, of the same load on the same server
    during    from there to the last answer of the version that is left, but at least `LEAST_S`
    after     the rest: the new version meets its load alone

An answer belongs to the phase of its planned time. It is *wrong* when it failed, when the version that the head names is not the code that ran,
or when that version was not allowed at that time.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.figures import percentile
from benchmarks.result import Plot, Table
from benchmarks.steady import Answer

LEAST_S = 1.0  # a percentile of a phase of a few milliseconds would tell nothing
SLOW_MS = 100.0  # a caller who waits longer has noticed
_SHOWN = 3  # kinds of failures that are named


@dataclass(frozen=True, slots=True, kw_only=True)
class Deploy:
    """What was done to a function under load, and when (seconds of CLOCK_MONOTONIC).

    `old` answered before, `new` is what the pointer names since `moved`, when its request was sent; `told` is when its answer came, `ready` when the
    version was said to be ready, or failed. A `new` that cannot answer (it failed) is 0.
    """

    old: int
    new: int
    moved: float
    told: float
    ready: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What the requests of a deploy met. Times are milliseconds; None where there was no such answer."""

    asked: int
    failures: Counter[str]
    untrue: int  # the head names another version than the code that ran
    not_allowed: int  # a version that was not to answer at that time
    stale: int  # executed is not requested
    slow: int  # good answers since the move that took longer than SLOW_MS
    p50_before: float
    p99_before: float
    p50_during: float
    p99_during: float
    p99_after: float
    worst_since: float
    lateness_p99: float  # of the load itself, since the move
    during_s: float
    gap_before_ms: float
    gap_ms: float  # the longest time without a good answer, from the move on
    first_new_ms: float | None  # after ready
    first_new_moved_ms: float | None  # after the move
    last_old_ms: float | None  # after ready

    @property
    def errors(self) -> int:
        """How many requests failed."""
        return self.failures.total()

    @property
    def wrong(self) -> int:
        """How many requests failed, or were answered by what was not to answer."""
        return self.errors + self.untrue + self.not_allowed

    @property
    def harmed(self) -> int:
        """How many requests a caller would complain of: wrong or slow."""
        return self.wrong + self.slow

    @property
    def ratio(self) -> float:
        """The worse p99 of the two phases since the move, over the p99 before."""
        return self.p99_since / self.p99_before

    @property
    def p99_since(self) -> float:
        """The worse p99 of the two phases since the move: what follows a cut-over must not be hidden by what led to it."""
        return self.p99_during if math.isnan(self.p99_after) else max(self.p99_during, self.p99_after)


def judge(answers: Sequence[Answer], deploy: Deploy) -> Account:
    """Return what the requests met; raises ValueError when there is no answer before the move. A phase without one has no quantiles (NaN)."""
    good = [answer for answer in answers if answer.is_good]
    before, during, after = phases(answers, deploy)
    b, d, a = ([answer.latency_ms for answer in part if answer.is_good] for part in (before, during, after))
    if not b:
        raise ValueError("no good answer before the move")
    new = [answer.done for answer in good if deploy.new and answer.ran == deploy.new]
    old = [answer.done for answer in good if answer.ran == deploy.old and answer.planned >= deploy.moved]
    return Account(
        asked=len(answers),
        failures=Counter(answer.why or str(answer.status) for answer in answers if not answer.is_good),
        untrue=sum(answer.executed != answer.ran for answer in good if answer.executed),
        not_allowed=sum(not is_allowed(answer, deploy) for answer in good),
        stale=sum(answer.executed != answer.requested for answer in good),
        slow=sum(latency > SLOW_MS for latency in (*d, *a)),
        p50_before=_quantile(b, 50),
        p99_before=_quantile(b, 99),
        p50_during=_quantile(d, 50),
        p99_during=_quantile(d, 99),
        p99_after=_quantile(a, 99),
        worst_since=_quantile(d + a, 100),
        lateness_p99=_quantile([answer.late_ms for answer in (*during, *after)], 99),
        during_s=during[-1].planned - during[0].planned if during else 0.0,
        gap_before_ms=gap([answer.done for answer in good], deploy.moved, is_before=True) * 1e3,
        gap_ms=gap([answer.done for answer in good], deploy.moved, is_before=False) * 1e3,
        first_new_ms=(min(new) - deploy.ready) * 1e3 if new else None,
        first_new_moved_ms=(min(new) - deploy.moved) * 1e3 if new else None,
        last_old_ms=(max(old) - deploy.ready) * 1e3 if old and new else None,
    )


def _quantile(values: Sequence[float], percent: float) -> float:
    return percentile(values, percent) if values else math.nan


def phases(answers: Sequence[Answer], deploy: Deploy) -> tuple[list[Answer], list[Answer], list[Answer]]:
    """Return the answers before, during and after."""
    left = [answer.planned for answer in answers if answer.is_good and answer.ran == deploy.old]
    over = max(deploy.ready, deploy.moved + LEAST_S, *(left if deploy.new else ()))
    before = [answer for answer in answers if answer.planned < deploy.moved]
    during = [answer for answer in answers if deploy.moved <= answer.planned <= over]
    return before, during, [answer for answer in answers if answer.planned > over]


def is_allowed(answer: Answer, deploy: Deploy) -> bool:
    """Tell whether the version that answered was to: the old one, or, from the move on, the new one where it was asked for."""
    if answer.ran == deploy.old:
        return not deploy.new or answer.requested in (0, deploy.old, deploy.new)
    return bool(deploy.new) and answer.ran == deploy.new and answer.done >= deploy.moved and answer.requested in (0, deploy.new)


def gap(times: Sequence[float], moment: float, *, is_before: bool) -> float:
    """Return the longest time between two neighbours that ends before a moment, or after it; 0 when there are none."""
    ordered = sorted(times)
    return max((b - a for a, b in itertools.pairwise(ordered) if (b < moment) is is_before), default=0.0)


# ---- shown


def table(accounts: Sequence[Account], title: str = "What the requests met") -> Table:
    """Return the accounts of rounds as columns of one table."""
    lines: list[tuple[str, list[str]]] = [
        ("requests", [f"{a.asked:,}" for a in accounts]),
        ("failed", [f"{a.errors:,}" for a in accounts]),
        ("head names another version than ran", [str(a.untrue) for a in accounts]),
        ("answered by a version not allowed then", [str(a.not_allowed) for a in accounts]),
        ("executed is not requested", [f"{a.stale:,}" for a in accounts]),
        (f"took over {SLOW_MS:g} ms since the move", [f"{a.slow:,}" for a in accounts]),
        ("p50 before, ms", [_ms(a.p50_before) for a in accounts]),
        ("p99 before, ms", [_ms(a.p99_before) for a in accounts]),
        ("p50 during, ms", [_ms(a.p50_during) for a in accounts]),
        ("p99 during, ms", [_ms(a.p99_during) for a in accounts]),
        ("p99 after, ms", [_ms(a.p99_after) for a in accounts]),
        ("worst since the move, ms", [_ms(a.worst_since) for a in accounts]),
        ("of it the load's own lateness, p99 since the move, ms", [f"{a.lateness_p99:.2f}" for a in accounts]),
        ("the phase during, s", [f"{a.during_s:.1f}" for a in accounts]),
        ("longest without an answer before, ms", [f"{a.gap_before_ms:.0f}" for a in accounts]),
        ("longest without an answer since, ms", [f"{a.gap_ms:.0f}" for a in accounts]),
        ("first answer of the new version after the move, ms", [_ms(a.first_new_moved_ms) for a in accounts]),
        ("first answer of the new version after ready was told, ms", [_ms(a.first_new_ms) for a in accounts]),
        ("last answer of the old version after ready was told, ms", [_ms(a.last_old_ms) for a in accounts]),
    ]
    rows = [(name, *cells) for name, cells in lines]
    return Table(title=title, head=("", *(f"round {number + 1}" for number in range(len(accounts)))), rows=rows)


def failures(accounts: Sequence[Account]) -> str:
    """Say of what requests failed, the most frequent first; empty when none did."""
    kinds = sum((account.failures for account in accounts), Counter[str]())
    return "; ".join(f"{count:,} × {why}" for why, count in kinds.most_common(_SHOWN))


def _ms(value: float | None) -> str:
    return "none" if value is None or math.isnan(value) else f"{value:,.2f}"


def plot(name: str, title: str, answers: Sequence[Answer], deploy: Deploy, moved: str = "published") -> Plot:
    """Return latency over time, a point an answer, coloured by the version that ran; moments are marked. Zero is the move."""
    ran = {number: [answer for answer in answers if answer.is_good and answer.ran == number] for number in sorted({answer.ran for answer in answers})}
    series = [(f"version {number}", *_points(found, deploy)) for number, found in ran.items() if found]
    if failed := [answer for answer in answers if not answer.is_good]:
        series.append(("failed", *_points(failed, deploy)))
    new = [answer.done for answer in answers if answer.is_good and answer.ran == deploy.new]
    old = [answer.done for answer in answers if answer.is_good and answer.ran == deploy.old]
    marks = [(moved, 0.0), ("ready" if deploy.new else "failed", deploy.ready - deploy.moved)]
    if new and deploy.new:
        marks += [(f"first of {deploy.new}", min(new) - deploy.moved), (f"last of {deploy.old}", max(old) - deploy.moved)]
    marks = [(text, round(at, 3)) for text, at in marks]
    return Plot(name=name, title=title, x=f"s since it was {moved}", y="ms, from the planned time", series=series, kind="points", is_log_y=True, marks=marks)


def _points(answers: Sequence[Answer], deploy: Deploy) -> tuple[list[float], list[float]]:
    return [round(answer.planned - deploy.moved, 3) for answer in answers], [round(answer.latency_ms, 2) for answer in answers]
