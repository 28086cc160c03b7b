"""Release aliases: movable names inside one function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from pyfaas.cli import console, policies, sentences
from pyfaas.cli.options import Output
from pyfaas.cli.session import act, chosen, pairs
from pyfaas.client.errors import invalid
from pyfaas.names import split_target

app = typer.Typer(rich_markup_mode=None)
alias = typer.Typer(
    rich_markup_mode=None, no_args_is_help=True, help="Release aliases: movable names inside one function."
)
app.add_typer(alias, name="alias")


@app.callback()
def _group() -> None:
    """Keep the one verb a verb of a group."""


@alias.command("set", epilog="Example: pyfaas alias set greet:live 3 --weight 4=10 --stale forbid")
def set_(  # noqa: PLR0913 - options of a command
    ctx: typer.Context,
    target: Annotated[str, typer.Argument(metavar="NAME:ALIAS", help="a function, and the alias's name in it")],
    version: Annotated[int, typer.Argument(metavar="VERSION", help="the version it points at")],
    weight: Annotated[
        list[str] | None,
        typer.Option("--weight", metavar="VERSION=PERCENT", help="how much of the runs one other version gets", show_default=False),
    ] = None,
    stale: policies.Stale = None,
    max_stale_time: policies.MaxStaleTime = None,
    max_stale_requests: policies.MaxStaleRequests = None,
    stale_percent: policies.StalePercent = None,
    min_version: policies.MinVersion = None,
    max_wait: policies.MaxWait = None,
) -> None:
    """Point a release alias at a version; a canary that runs ends."""
    name, wanted = _target(target)
    weights = _weights(weight or [])
    policy = policies.said(
        stale=stale,
        max_stale_time=max_stale_time,
        max_stale_requests=max_stale_requests,
        stale_percent=stale_percent,
        min_version=min_version,
        max_wait=max_wait,
    )
    shown = act(ctx, lambda client: client.set_alias(name, wanted, version, weights, **policy))
    if chosen(ctx).output is Output.TABLE and not chosen(ctx).quiet:
        console.table(_COLUMNS, [_row(wanted, shown)])
    else:
        console.show(chosen(ctx), shown)


@alias.command(epilog="Example: pyfaas alias ls greet")
def ls(ctx: typer.Context, name: Annotated[str, typer.Argument(metavar="NAME", help="a function")]) -> None:
    """List a function's release aliases, with weights, policy and canary."""
    found = act(ctx, lambda client: client.aliases(name))
    if chosen(ctx).output is Output.TABLE and not chosen(ctx).quiet and found:
        console.table(_COLUMNS, [_row(key, value) for key, value in found.items()])
        return
    rows = [{"alias": key, **value} for key, value in found.items()]
    nothing = f"no release aliases; make one: pyfaas alias set {name}:live VERSION"
    console.show_list(chosen(ctx), rows, _COLUMNS, nothing)


_COLUMNS = ("alias", "version", "weights", "policy", "canary")


def _row(name: str, shown: Mapping[str, Any]) -> list[str]:
    version = console.cell(shown.get("version"))
    return [name, version, sentences.shares(shown), sentences.policy(shown), sentences.canary(shown)]


def _weights(given: list[str]) -> dict[str, int]:
    found = pairs(given, "--weight", "VERSION=PERCENT")
    if len(found) > 1:
        raise typer.BadParameter("--weight: one other version can have a share, and not more")
    for key, value in found.items():
        share = value.removesuffix("%")
        if not key.isdigit() or not share.isdigit() or not 0 < int(share) < 100:  # noqa: PLR2004 - percent
            raise typer.BadParameter(f"--weight: {key}={value} is not VERSION=PERCENT, from 1 to 99")
    return {key: int(value.removesuffix("%")) for key, value in found.items()}


@alias.command(epilog="Example: pyfaas alias rm greet:live")
def rm(
    ctx: typer.Context,
    target: Annotated[str, typer.Argument(metavar="NAME:ALIAS", help="a function, and the alias's name in it")],
) -> None:
    """Remove a release alias."""
    name, wanted = _target(target)
    act(ctx, lambda client: client.remove_alias(name, wanted))
    console.note(chosen(ctx), f"removed {target}")


def _target(text: str) -> tuple[str, str]:
    name, wanted = split_target(text)
    if wanted is None:
        raise invalid(f"{text!r} names no release alias", "write NAME:ALIAS")
    return name, wanted
