"""The verb that shows what was used.

Programs get the server's rows; people a table with names instead of ids, units, and a last line that sums it up. What is gone is
told to be removed.
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
_BY = ("function", "alias", "api", "caller")
_SUMS = ("calls", "wall_ms", "cpu_ms", "gib_ms", "bytes_in", "bytes_out", "net_in", "net_out", "connections")
_HEADS = ("calls", "outcomes", "wall", "cpu", "GiB·s", "in", "out")


@app.callback()
def _group() -> None:
    """Keep the one verb a verb of a group."""


@app.command(epilog="Example: pyfaas usage --by function --since 24h")
def usage(
    ctx: typer.Context,
    by: Annotated[
        str | None, typer.Option("--by", metavar="function|alias|api|caller", help="one row for each", show_default=False)
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="not older than, e.g. 24h", show_default=False)
    ] = None,
) -> None:
    """Show what was used: calls, their outcomes, time, memory over time, bytes; an admin sees every account's.

    What others ran of your functions is there by the account that called, as far as an owner may know: without payloads, and without what
    somebody else pays for.
    """
    if by not in (None, *_BY):
        raise typer.BadParameter("--by is function, alias, api or caller")
    start = time.time() - parse_duration(since, "--since") / 1000 if since else None
    options = chosen(ctx)

    async def work(client: AsyncClient) -> list[dict[str, Any]]:
        return await client.usage(since=start, by=by)

    rows = act(ctx, work)
    if options.output is not Output.TABLE or options.quiet:
        console.show_list(options, rows, (by or "function",))
    elif not rows:
        console.note(options, "nothing was used" + (f" in the last {since}" if since else " yet"))
    else:
        console.table(*table(rows, by))


def _add(total: dict[str, Any], row: Row) -> None:
    for key in _SUMS:
        total[key] = total.get(key, 0) + (row.get(key) or 0)
    for outcome, count in (row.get("outcomes") or {}).items() if row.get("kind") in (None, "call") else ():
        total["outcomes"][outcome] = total["outcomes"].get(outcome, 0) + count


def table(rows: Sequence[Row], by: str | None) -> tuple[list[str], list[list[str]]]:
    """Return heads and lines for people; what tells nothing, being the same in all rows, is left out."""
    told = [key for key in ("day", "kind", "function", "alias", "api", "operation") if any(row.get(key) for row in rows)]
    keys = [by] if by else told
    for key in ("caller", "owner", "account"):
        if key != by and len({row.get(key) for row in rows}) > 1:
            keys = [key, *keys]
    heads = list(_HEADS)
    has_network = any(row.get(key) for row in rows for key in ("net_in", "net_out", "connections"))
    if has_network:
        heads += ["net in", "net out"]
    total: dict[str, Any] = {"outcomes": {}}
    for row in rows:
        _add(total, row)
    lines = [[_name(row, key) for key in keys] + _figures(row, has_network=has_network) for row in rows]
    lines.append(["total", *[""] * (len(keys) - 1), *_figures(total, has_network=has_network)])
    return [*keys, *heads], lines


def _name(row: Row, key: str) -> str:
    text = console.cell(row.get(f"{key}_name") or row.get(key) or "-")
    what = "alias" if row.get("alias") else "function"
    return f"{text} (removed)" if key == what and row.get("removed") else text


def _figures(row: Row, *, has_network: bool) -> list[str]:
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in (row.get("outcomes") or {}).items())
    network = [_size(row.get(key)) for key in ("net_in", "net_out")] if has_network else []
    return [
        console.cell(row.get("calls") or 0),
        outcomes or "-",
        _duration(row.get("wall_ms")),
        _duration(row.get("cpu_ms")),
        "-" if row.get("gib_ms", 0) is None else f"{(row.get('gib_ms') or 0) / 1000:.3f}",
        *(_size(row.get(key, 0)) for key in ("bytes_in", "bytes_out")),
        *network,
    ]


def _duration(ms: float | None) -> str:
    """Say how long; what the server does not tell is a dash."""
    if ms is None:
        return "-"
    if ms < 1000:  # noqa: PLR2004 - a second
        return f"{ms:.0f}ms"
    seconds = ms / 1000
    return f"{seconds:.1f}s" if seconds < 3600 else f"{seconds / 3600:.1f}h"  # noqa: PLR2004 - an hour


def _size(count: float | None) -> str:
    if count is None:
        return "-"
    for unit in ("", "K", "M", "G"):
        if count < 1024:  # noqa: PLR2004 - what the next unit is of this one
            return f"{count:.1f}{unit}" if unit else f"{count:.0f}"
        count /= 1024
    return f"{count:.1f}T"
