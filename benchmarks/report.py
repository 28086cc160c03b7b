"""Results as text: tables for a terminal, and Markdown for benchmarks/RESULTS.md. Plain functions, no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.figures import Spread, words_for
from benchmarks.result import Result, Table
from benchmarks.targets import Amount, Row, Verdict

HEAD = ("measure", "ratio", "middle half", "must", "goal", "reached", "pyfaas", "baseline")
_NUMERIC = "0123456789-+≤≥"
_REACHED = {Verdict.GOAL: "goal", Verdict.MUST: "must", Verdict.SHORT: "not the goal", Verdict.MISSED: "NOT REACHED"}


def number(value: float) -> str:
    """Return a number with about three digits that mean something."""
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 1 else f"{value:.3f}"


def of_amount(amount: Amount) -> str:
    """Return an amount's median with its unit."""
    return f"{number(amount.spread.median)} {amount.unit}"


def of_spread(spread: Spread) -> str:
    """Return the middle half."""
    return f"{number(spread.low)}–{number(spread.high)}"


def of_row(row: Row) -> tuple[str, ...]:
    """Return a row's cells, in the order of HEAD."""
    baseline = f"{of_amount(row.baseline)} ({row.baseline.name})"
    return row.text, number(row.ratio.median), of_spread(row.ratio), row.must, row.goal, _REACHED[row.verdict], of_amount(row.ours), baseline


def promises(results: Sequence[Result]) -> Table:
    """Return all rows of all pages as one table."""
    return Table(title="Promises", head=HEAD, rows=[of_row(row) for result in results for row in result.rows])


def noise(result: Result) -> str:
    """Say how noisy a page's run was, by the baseline that wandered most."""
    return f"{words_for(result.noise)} (a baseline's middle half is up to {result.noise:.0%} of its median wide)"


def shown_profile(result: Result) -> Table | None:
    """Return the profile when it has something to explain: a must that was missed, or a page that is nothing else."""
    return result.profile if result.missed or not result.rows else None


def baselines(result: Result) -> Table:
    """Return a page's baselines."""
    rows = [
        (name, of_amount(amount), of_spread(amount.spread), f"{number(amount.spread.least)}–{number(amount.spread.most)}", str(amount.spread.count))
        for name, amount in result.baselines.items()
    ]
    return Table(title="Baselines of this run", head=("baseline", "median", "middle half", "extremes", "rounds"), rows=rows)


def host_lines(host: Mapping[str, Any]) -> list[str]:
    """Return the host check as lines `name: value`."""
    lines = [f"{name}: {value}" for name, value in host.items() if name != "layers"]
    layers = ", ".join(f"{name} ({detail})" for name, detail in host.get("layers", {}).items())
    return [*lines, f"layers: {layers}"] if layers else lines


def proof_lines(proof: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what was refused inside, with its control."""
    return [
        f"{line['attempt']}: inside “{line['inside']}”, outside “{line['outside']}”" + ("" if line["proves"] else " (proves nothing)")
        for line in proof
    ]


# ---- a terminal


def text_table(table: Table) -> str:
    """Return a table with aligned columns: numbers to the right, words to the left."""
    cells = [list(table.head), *(list(row) for row in table.rows)]
    columns = list(zip(*cells, strict=True))
    widths = [max(map(len, column)) for column in columns]
    is_words = [not all(word[:1] in _NUMERIC for word in column[1:]) for column in columns]

    def line(row: Sequence[str]) -> str:
        padded = [word.ljust(width) if left else word.rjust(width) for word, width, left in zip(row, widths, is_words, strict=True)]
        return "  ".join(padded).rstrip()

    return "\n".join([table.title, line(cells[0]), "  ".join("-" * width for width in widths), *map(line, cells[1:])])


def text(results: Sequence[Result]) -> str:
    """Return everything for a terminal."""
    parts = []
    for result in results:
        part = [f"== {result.title} ({result.page}, {result.seconds:g} s) =="]
        profile = shown_profile(result)
        part += [text_table(table) for table in (*result.tables, *([profile] if profile else []))]
        part += [f"· {note}" for note in notes(result)]
        parts.append("\n\n".join(part))
    if any(result.rows for result in results):
        parts.append(text_table(promises(results)))
    return "\n\n\n".join(parts)


def notes(result: Result) -> list[str]:
    """Return a page's notes, its noise and what is missing."""
    told = [f"the run was {noise(result)}"] if result.baselines else []
    return [*result.notes, *told, *(f"no figure beside {name}: {why}" for name, why in result.missing.items())]


# ---- Markdown


def cell(words: str) -> str:
    """Return text that cannot end its cell."""
    return words.replace("|", "\\|").replace("\n", " ")


def markdown_table(table: Table) -> str:
    """Return a table in Markdown, without its title."""
    rows = [table.head, ["---"] * len(table.head), *table.rows]
    return "\n".join("| " + " | ".join(cell(word) for word in row) + " |" for row in rows)


def markdown(results: Sequence[Result], command: str) -> str:
    """Return benchmarks/RESULTS.md."""
    parts = [
        "# Results",
        f"Written by `{command}`; nothing in it is typed by hand. What is measured and how is told in [README.md](README.md).",
        "Each ratio is a median of rounds in which pyfaas and its baseline took turns on the same machine; half of the rounds lie in the middle half.",
        markdown_table(promises(results)),
        *_markdown_host(results),
    ]
    for result in results:
        parts += _markdown_page(result)
    return "\n\n".join(parts) + "\n"


def _markdown_host(results: Sequence[Result]) -> list[str]:
    first = results[0]
    dates = sorted(result.at for result in results)
    length = "quick" if any(result.quick for result in results) else "full"
    lines = [f"run: {dates[0]} to {dates[-1]}, {length}", *host_lines(first.host)]
    proof = ["What a function in each measured server was refused, and the same attempt outside as the control:", _bullets(proof_lines(first.proof))]
    return ["## Host", _bullets(lines), "## Proof of confinement", *proof]


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"* {line}" for line in lines)


def _markdown_page(result: Result) -> list[str]:
    parts = [f"## {result.title}", f"`python -m benchmarks {'--quick ' if result.quick else ''}{result.page}`: {result.seconds:g} s. {result.says}"]
    if told := notes(result):
        parts.append(_bullets(told))
    if result.missed:
        parts.append("Not reached: " + "; ".join(f"{row.text} is {number(row.ratio.median)}, must be {row.must}" for row in result.missed) + ".")
    profile = shown_profile(result)
    tables = (*([profile] if profile else []), *([baselines(result)] if result.baselines else []), *result.tables)
    for table in tables:
        parts += [f"### {table.title}", markdown_table(table)]
    return parts
