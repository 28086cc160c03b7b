"""What follows an attempt at an asynchronous invocation."""

from __future__ import annotations

from dataclasses import dataclass

from pyfaas.model import JobState, Outcome, Retries

MAX_LOST = 3  # attempts lost to the platform beyond `retries`

_FINAL = {
    Outcome.OK: JobState.SUCCEEDED,
    Outcome.CANCELLED: JobState.CANCELLED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Next:
    """Either `state` is terminal, or it is queued again for `due` (seconds since the epoch)."""

    state: JobState
    due: float = 0.0
    lost: int = 0


def next_step(
    outcome: Outcome, *, is_invalid_event: bool, attempts: int, lost: int, retries: Retries, now: float, jitter: float
) -> Next:
    """Decide from the attempt's outcome; `attempts` counts it, `lost` are those lost before, `jitter` is in [0, 1).

    Back-off is initial × factor^(n-1), at most max_delay, with half of it jittered. A lost attempt uses no retry.
    """
    if outcome in _FINAL:
        return Next(state=_FINAL[outcome], lost=lost)
    if is_invalid_event:
        return Next(state=JobState.FAILED, lost=lost)
    if outcome is Outcome.REJECTED:
        return Next(state=JobState.QUEUED, due=now + 1.0 + jitter, lost=lost)
    if outcome is Outcome.LOST:
        if lost < MAX_LOST:
            return Next(state=JobState.QUEUED, due=now, lost=lost + 1)
        return Next(state=JobState.DEAD, lost=lost)
    used = attempts - lost
    if used > retries.max:
        return Next(state=JobState.DEAD, lost=lost)
    delay = min(retries.initial_ms * retries.factor ** (used - 1), retries.max_delay_ms) / 1000
    return Next(state=JobState.QUEUED, due=now + delay * (0.5 + jitter / 2), lost=lost)
