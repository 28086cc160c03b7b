"""The verb that shows what was used.

Programs get the server's rows; people a table with names instead of ids, units, and a last line that sums it up. What is gone is
told to be removed; an account's name is gone with it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from pyfaas.cli import console
from pyfaas.cli.options import Output
from pyfaas.cli.session import act, chosen
from pyfaas.client.aio import AsyncClient
from pyfaas.names import parse_duration

app = typer.Typer(rich_markup_mode=None)
Row = Mapping[str, Any]
_BY = ("function", "alias", "api")
_SUMS = ("calls", "wall_ms", "cpu_ms", "gib_ms", "bytes_in", "bytes_out")
_HEADS = ("calls", "outcomes", "wall", "cpu", "GiB·s", "in", "out")


@app.callback()
def _group() -> None:
    """Keep the one verb a verb of a group."""


@app.command(epilog="Example: pyfaas usage --by function --since 24h")
def usage(
    ctx: typer.Context,
    by: Annotated[
        str | None, typer.Option(metavar="function|alias|api", help="one row for each", show_default=False)
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="not older than, e.g. 24h", show_default=False)
    ] = None,
) -> None:
    """Show what was used: calls, their outcomes, time, memory over time, bytes; an admin sees every account's."""
    if by not in (None, *_BY):
        raise typer.BadParameter("--by is function, alias or api")
    start = time.time() - parse_duration(since, "--since") / 1000 if since else None
    options = chosen(ctx)
    is_table = options.output is Output.TABLE and not options.quiet

    async def work(client: AsyncClient) -> tuple[list[dict[str, Any]], dict[str, str]]:
        rows = await client.usage(since=start)
        if not (is_table and rows):
            return rows, {}
        return rows, {str(each["id"]): str(each["account"]) for each in await client.accounts()}

    rows, names = act(ctx, work)
    if by is not None:
        rows = summed(rows, by)
    if not is_table:
        console.show_list(options, rows, (by or "function",))
    elif not rows:
        console.note(options, "nothing was used" + (f" in the last {since}" if since else " yet"))
    else:
        console.table(*table(rows, names, by))


def summed(rows: Sequence[Row], by: str) -> list[dict[str, Any]]:
    """Add up the rows of each account that have the same value of `by`; those without one are left out."""
    sums: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        if row.get(by) is None:
            continue
        is_removed = bool(row.get("removed")) and by == "function"
        first = {
            "account": row.get("account"),
            by: row[by],
            **({"removed": True} if is_removed else {}),
            "outcomes": {},
        }
        _add(sums.setdefault((row.get("account"), row[by], is_removed), first), row)
    return list(sums.values())


def _add(total: dict[str, Any], row: Row) -> None:
    for key in _SUMS:
        total[key] = total.get(key, 0) + (row.get(key) or 0)
    for outcome, count in (row.get("outcomes") or {}).items():
        total["outcomes"][outcome] = total["outcomes"].get(outcome, 0) + count


def table(rows: Sequence[Row], names: Mapping[str, str], by: str | None) -> tuple[list[str], list[list[str]]]:
    """Return heads and lines for people; `names` are the accounts' by their id."""
    keys = [by] if by else [key for key in ("day", "kind", *_BY) if any(row.get(key) for row in rows)]
    if len({row.get("account") for row in rows}) > 1:
        keys = ["account", *keys]
    total: dict[str, Any] = {"outcomes": {}}
    for row in rows:
        _add(total, row)
    lines = [[_name(row, key, names) for key in keys] + _figures(row) for row in rows]
    lines.append(["total", *[""] * (len(keys) - 1), *_figures(total)])
    return [*keys, *_HEADS], lines


def _name(row: Row, key: str, names: Mapping[str, str]) -> str:
    text = console.cell(row.get(key))
    if key == "account":
        return names.get(text, f"{text} (removed)")
    return f"{text} (removed)" if key == "function" and row.get("removed") else text


def _figures(row: Row) -> list[str]:
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in (row.get("outcomes") or {}).items())
    times = [_duration(row.get(key) or 0) for key in ("wall_ms", "cpu_ms")]
    return [
        console.cell(row.get("calls") or 0),
        outcomes or "-",
        *times,
        f"{(row.get('gib_ms') or 0) / 1000:.3f}",
        *(_size(row.get(key) or 0) for key in ("bytes_in", "bytes_out")),
    ]


def _duration(ms: float) -> str:
    if ms < 1000:  # noqa: PLR2004 - a second
        return f"{ms:.0f}ms"
    seconds = ms / 1000
    return f"{seconds:.1f}s" if seconds < 3600 else f"{seconds / 3600:.1f}h"  # noqa: PLR2004 - an hour


def _size(count: float) -> str:
    for unit in ("", "K", "M", "G"):
        if count < 1024:  # noqa: PLR2004 - what the next unit is of this one
            return f"{count:.1f}{unit}" if unit else f"{count:.0f}"
        count /= 1024
    return f"{count:.1f}T"
