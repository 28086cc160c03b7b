"""Verbs for whoever runs the server: fleets, limits, its interface."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

import typer

from pyfaas.cli import console
from pyfaas.cli.options import Globals, Output
from pyfaas.cli.session import act, ask, chosen
from pyfaas.client.aio import AsyncClient
from pyfaas.client.http import json_call

app = typer.Typer(rich_markup_mode=None)
_REFRESH_S = 1.0
_MAY_BE_NONE = frozenset({"account_rate", "account_daily", "egress_daily"})  # where 0 is no limit
_CLEAR = "\x1b[H\x1b[2J"


@app.command()
def fleet(
    ctx: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", help="show it again every second")] = False,  # noqa: FBT002
) -> None:
    """Show VMs, containers and fleets."""

    async def work(client: AsyncClient) -> None:
        is_table = chosen(ctx).output is Output.TABLE and not chosen(ctx).curl
        names = {str(each["id"]): str(each["account"]) for each in await client.accounts()} if is_table else {}
        while True:
            shown = await client.fleet()
            if watch and sys.stdout.isatty():
                sys.stdout.write(_CLEAR)
            _show_fleet(chosen(ctx), shown, names)
            if not watch:
                return
            await asyncio.sleep(_REFRESH_S)

    act(ctx, work)


def _show_fleet(options: Globals, shown: dict[str, Any], names: Mapping[str, str]) -> None:
    if options.output is not Output.TABLE:
        console.show(options, shown)
        return
    warming = shown["warming"]
    console.out(
        f"warming  ready {warming['ready']} of {warming['target']}, hits {warming['hits']}, misses {warming['misses']}"
    )
    rows = [
        [str(vm["id"]), _tenant(vm, names), str(vm["fleet"]), *(console.cell(box.get(key)) for key in _BOX)]
        for vm in shown["vms"]
        for box in vm["containers"] or [{}]
    ]
    if rows:
        console.out("")
        console.table(("vm", "account", "fleet", *_BOX), rows)
    if shown["functions"]:
        console.out("")
        keys = [key for key in _FUNCTION if any(row.get(key) is not None for row in shown["functions"])]
        lines = [[console.cell(row.get(key), key) for key in keys] for row in shown["functions"]]
        told = [
            [console.cell(row.get("function")), _tenant(row, names), *line]
            for row, line in zip(shown["functions"], lines, strict=True)
        ]
        console.table(("function", "account", *keys), told)


def _tenant(row: Mapping[str, Any], names: Mapping[str, str]) -> str:
    return names.get(str(row.get("tenant")), str(row.get("tenant")))


_FUNCTION = ("class", "since", "running", "rate", "pinned", "reason")
_BOX = ("function", "version", "state", "calls", "idle_ms")


@app.command()
def limits(ctx: typer.Context) -> None:
    """Show every limit, and the option that sets it."""
    shown = act(ctx, lambda client: client.limits())
    if chosen(ctx).output is not Output.TABLE:
        console.show(chosen(ctx), shown)
        return
    rows = [[name, _value(limit), _readable(limit), limit["key"] or "-"] for name, limit in shown.items()]
    console.table(("limit", "value", "unit", "set by serve -s"), rows)


def _value(limit: Mapping[str, Any]) -> str:
    return "none" if limit["value"] == 0 and limit["key"] in _MAY_BE_NONE else console.cell(limit["value"])


def _readable(limit: Mapping[str, Any]) -> str:
    is_large = limit["unit"] == "bytes" and limit["value"] >= 1024  # noqa: PLR2004 - where K begins
    return f"bytes ({console.cell(limit['value'], 'size')})" if is_large else str(limit["unit"])


@app.command()
def openapi(ctx: typer.Context) -> None:
    """Print the server's OpenAPI document, as JSON or with -o yaml as YAML."""
    shown = ask(ctx, json_call("GET", "/openapi.json"))
    console.show(replace(chosen(ctx), output=Output.JSON) if chosen(ctx).output is Output.TABLE else chosen(ctx), shown)
