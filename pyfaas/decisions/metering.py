"""What a container used, told apart: how a counter's growth is divided among the runs of its time.

All amounts are whole microseconds, so that sums are equal to the last one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


def split(amount: int, weights: Sequence[int]) -> list[int]:
    """Divide an amount by weights, whole: the shares' sum is the amount, and each is less than 1 from its exact share.

    Without any weight all shares are alike, but for the rest of the division. Raises ValueError for something to divide among nobody,
    and for what is negative.
    """
    if amount < 0 or min(weights, default=0) < 0:
        raise ValueError("neither an amount nor a weight is negative")
    total = sum(weights)
    if not total:
        weights, total = [1] * len(weights), len(weights)
    if not total:
        if amount:
            raise ValueError("there is nobody to divide it among")
        return []
    shares, sum_before, given = [], 0, 0
    for weight in weights:
        sum_before += weight
        until = amount * sum_before // total
        shares.append(until - given)
        given = until
    return shares


@dataclass(slots=True)
class Reckoning:
    """The processor time of one container: what its leaf counted since it was assigned, and how much of that is in rows.

    Theory of operation. Two clocks tell of it. The process's own is cheap, is read at every answer and misses children; the leaf's counter has
    everything and is read now and then. Rows are written by the first at once (`ran`), and what the second shows beyond them is owed, and
    found by `read`. There the process's clock is read after the leaf's, and counts from then on: what is used between the two readings is owed
    still, and never booked twice. So when the last reading is booked the rows' sum is what the leaf counted. Without a leaf its counter
    stays 0, and nothing is owed.
    """

    base_us: int  # of the leaf, at the assignment
    clock_ns: int  # of the process, up to which it is booked
    booked_us: int = 0

    def ran(self, clock_ns: int) -> int:
        """Book what the process used since its clock was read last, and return it; a clock at 0 is that of a process which is gone."""
        used = (clock_ns - self.clock_ns) // 1000
        if used <= 0:
            return 0
        self.clock_ns += used * 1000
        self.booked_us += used
        return used

    def read(self, leaf_us: int, clock_ns: int = 0) -> int:
        """Book what the leaf counted beyond the rows, and return it: 0 or more; a leaf that is gone reads 0."""
        if leaf_us < self.base_us or not leaf_us:
            return 0
        self.clock_ns = max(self.clock_ns, clock_ns)
        owed = max(0, leaf_us - self.base_us - self.booked_us)
        self.booked_us += owed
        return owed
