"""What a page hands back: rows with their promises, further tables, plots as plain values, notes; JSON both ways."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.figures import Spread
from benchmarks.targets import Amount, Row, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table beside the promises."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A picture as values: each series is (name, xs, ys); `kind` is `line` or `points`; `marks` are moments, (name, x)."""

    name: str
    title: str
    x: str
    y: str
    series: Sequence[tuple[str, Sequence[float], Sequence[float]]]
    kind: str = "line"
    is_log: bool = False  # of the x axis
    is_log_y: bool = False
    marks: Sequence[tuple[str, float]] = ()


@dataclass(slots=True, kw_only=True)
class Result:
    """A page's result. `missing` names baselines that could not run, with the reason; `noise` is the baselines' worst."""

    page: str
    title: str
    says: str
    rows: list[Row] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    baselines: dict[str, Amount] = field(default_factory=dict)
    profile: Table | None = None
    host: Mapping[str, Any] = field(default_factory=dict)
    proof: Sequence[Mapping[str, Any]] = ()
    quick: bool = False
    seconds: float = 0.0
    at: str = ""  # when it ended, UTC

    @property
    def noise(self) -> float:
        """The widest middle half of a baseline, against its median."""
        return max((amount.spread.noise for amount in self.baselines.values()), default=0.0)

    @property
    def missed(self) -> list[Row]:
        """The rows that do not reach their must."""
        return [row for row in self.rows if row.verdict is Verdict.MISSED]


def write(result: Result, folder: Path) -> Path:
    """Write a result as JSON; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result.page}.json"
    path.write_text(json.dumps(asdict(result), indent=1) + "\n")
    return path


def read(path: Path) -> Result:
    """Read what `write` wrote."""
    values = json.loads(path.read_text())
    values["rows"] = [_row(value) for value in values["rows"]]
    values["tables"] = [Table(**value) for value in values["tables"]]
    values["plots"] = [Plot(**value) for value in values["plots"]]
    values["baselines"] = {name: _amount(value) for name, value in values["baselines"].items()}
    values["profile"] = Table(**values["profile"]) if values["profile"] else None
    return Result(**values)


def _amount(value: dict[str, Any]) -> Amount:
    return Amount(**{**value, "spread": Spread(**value["spread"])})


def _row(value: dict[str, Any]) -> Row:
    made = {name: _amount(value[name]) for name in ("ours", "baseline")}
    return Row(**{**value, **made, "ratio": Spread(**value["ratio"]), "verdict": Verdict(value["verdict"])})
