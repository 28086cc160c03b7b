"""Release aliases: movable names inside one function."""

from __future__ import annotations

from typing import Annotated

import typer

from pyfaas.cli import console
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


@alias.command("set", epilog="Example: pyfaas alias set greet:live 3")
def set_(
    ctx: typer.Context,
    target: Annotated[str, typer.Argument(metavar="NAME:ALIAS", help="a function, and the alias's name in it")],
    version: Annotated[int, typer.Argument(metavar="VERSION", help="the version it points at")],
    weight: Annotated[
        list[str] | None,
        typer.Option(metavar="VERSION=PERCENT", help="how much another version gets; repeats", show_default=False),
    ] = None,
) -> None:
    """Point a release alias at a version."""
    name, wanted = _target(target)
    weights = {}
    for key, value in pairs(weight or [], "--weight", "VERSION=PERCENT").items():
        if not key.isdigit() or not value.removesuffix("%").isdigit():
            raise typer.BadParameter(f"--weight: {key}={value} is not VERSION=PERCENT")
        weights[key] = int(value.removesuffix("%"))
    shown = act(ctx, lambda client: client.set_alias(name, wanted, version, weights))
    console.show(chosen(ctx), shown)


@alias.command(epilog="Example: pyfaas alias ls greet")
def ls(ctx: typer.Context, name: Annotated[str, typer.Argument(metavar="NAME", help="a function")]) -> None:
    """List a function's release aliases."""
    found = act(ctx, lambda client: client.aliases(name))
    rows = [{"alias": key, **value} for key, value in found.items()]
    console.show_list(
        chosen(ctx),
        rows,
        ("alias", "version", "weights"),
        f"no release aliases; make one: pyfaas alias set {name}:live VERSION",
    )


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
