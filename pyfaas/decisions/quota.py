"""Whether a call is admitted, waits, or is refused for now."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

DAY_S = 86_400


class Admission(Enum):
    """What happens to a call before placement."""

    ADMIT = "admit"
    WAIT = "wait"
    REFUSE = "refuse"


def admit(*, is_free: bool, waiting: int, queue_limit: int) -> Admission:
    """Admit below all limits (`is_free`); else wait while the account's queue has room; else refuse (429).

    The limits are of the account, of the function under its tenant key, and of what it is lent through; what waits counts per account.
    """
    if is_free:
        return Admission.ADMIT
    return Admission.WAIT if waiting < queue_limit else Admission.REFUSE


@dataclass(slots=True, kw_only=True)
class Pace:
    """How many runs may begin in a second (a bucket that holds a second's worth) and in a day of UTC; 0 is no limit, and then nothing is counted.

    `now` is in seconds, monotonic; `at` the wall clock's, since the epoch.
    """

    rate: float = 0.0
    per_day: int = 0
    day: int = 0
    begun: int = 0  # in `day`
    left: float = 0.0
    since: float = -math.inf
    is_on: bool = False  # there is a limit

    def set(self, rate: float, per_day: int) -> None:
        """Go on with other limits."""
        self.rate, self.per_day = rate, per_day
        self.is_on = bool(rate or per_day)

    def resume(self, begun: int, at: float) -> None:
        """Go on with a day in which so many runs began already."""
        self.day, self.begun = int(at // DAY_S), begun

    def wait(self, now: float, at: float) -> float:
        """Return after how many seconds a run may begin: 0 for now."""
        day, into = divmod(at, DAY_S)
        if self.per_day and day == self.day and self.begun >= self.per_day:
            return DAY_S - into
        tokens = self._tokens(now)
        return (1 - tokens) / self.rate if self.rate and tokens < 1 else 0.0

    def take(self, now: float, at: float) -> None:
        """Count a run that begins."""
        day = int(at // DAY_S)
        if day != self.day:
            self.day, self.begun = day, 0
        self.begun += 1
        if self.rate:
            self.left, self.since = self._tokens(now) - 1, now

    def give_back(self, at: float) -> None:
        """Take back what `take` counted for the day: the run was the platform's failure, or refused."""
        if self.begun and int(at // DAY_S) == self.day:
            self.begun -= 1

    def _tokens(self, now: float) -> float:
        return min(max(1.0, self.rate), self.left + (now - self.since) * self.rate) if self.rate else 1.0
