"""Two runs of the same pages beside each other; runs whose hosts differ are not compared."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.host import differences
from benchmarks.report import number, of_spread
from benchmarks.result import Result, Table
from benchmarks.targets import Row


class HostsDiffer(Exception):
    """Two runs that say nothing about each other, and in what their hosts differ."""


def compare(before: Sequence[Result], after: Sequence[Result]) -> Table:
    """Return how each ratio changed; raises HostsDiffer. A change within both runs' middle halves is none that can be told."""
    for old, new in ((old, new) for old in before for new in after if old.page == new.page):
        if found := differences(old.host, new.host):
            raise HostsDiffer("the hosts differ: " + "; ".join(found))
    olds = {row.key: row for result in before for row in result.rows}
    rows = [_line(olds[row.key], row) for result in after for row in result.rows if row.key in olds]
    return Table(title="Against the earlier run", head=("measure", "before", "after", "change", ""), rows=rows)


def _line(old: Row, new: Row) -> tuple[str, ...]:
    change = new.ratio.median / old.ratio.median - 1
    overlap = new.ratio.low <= old.ratio.high and old.ratio.low <= new.ratio.high
    before, after = (f"{number(row.ratio.median)} ({of_spread(row.ratio)})" for row in (old, new))
    return new.text, before, after, f"{change:+.1%}", "within the noise" if overlap else "changed"
