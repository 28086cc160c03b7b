"""Verbs that look at functions, remove them and take them back."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from pyfaas.cli import console
from pyfaas.cli.session import act, chosen
from pyfaas.client.errors import invalid
from pyfaas.names import split_target

app = typer.Typer(rich_markup_mode=None)


@app.command()
def ls(ctx: typer.Context) -> None:
    """List functions."""
    rows = act(ctx, lambda client: client.functions())
    console.show_list(
        chosen(ctx),
        rows,
        ("name", "latest", "state", "handler", "shape", "memory", "timeout", "created"),
        nothing="no functions yet; publish one: pyfaas deploy PATH (pyfaas init NAME makes one to begin with)",
    )


@app.command(epilog="Example: pyfaas describe greet:2")
def describe(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME[:VERSION]", help="a function, or one of its versions")],
) -> None:
    """Show a function, or one of its versions."""
    function, version = _numbered(name)
    if version is None:
        shown = act(ctx, lambda client: client.function(function))
        console.show(chosen(ctx), shown, [key for key in shown if key != "function"] if "name" in shown else ())
    else:
        console.show(chosen(ctx), act(ctx, lambda client: client.version(function, version)))


@app.command(epilog="Example: pyfaas versions greet")
def versions(ctx: typer.Context, name: Annotated[str, typer.Argument(metavar="NAME", help="a function")]) -> None:
    """List a function's versions, newest first."""
    rows = act(ctx, lambda client: client.versions(name))
    console.show_list(
        chosen(ctx), rows, ("version", "state", "created", "size", "containers", "withdrawn", "pointers", "reason")
    )


@app.command(epilog="Example: pyfaas rm greet:1 -y")
def rm(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME[:VERSION]", help="a function, or one of its versions")],
    yes: Annotated[bool, typer.Option("-y", "--yes", help="do not ask")] = False,  # noqa: FBT002
) -> None:
    """Remove a function, or one of its versions."""
    function, version = _numbered(name)
    confirm(ctx, f"remove {name}?", yes=yes)
    act(ctx, lambda client: client.remove(function, version))
    console.note(chosen(ctx), f"removed {name}")


@app.command(epilog="Example: pyfaas rollback greet")
def rollback(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME[:ALIAS]", help="a function, or one of its release aliases")],
) -> None:
    """Move `latest`, or a release alias, back to its previous ready version."""
    function, pointer = split_target(name)
    console.show(chosen(ctx), act(ctx, lambda client: client.rollback(function, pointer)))


def confirm(ctx: typer.Context, question: str, *, yes: bool) -> None:
    """Ask on a terminal; raises InvalidRequest elsewhere without --yes, and Abort at a no."""
    if yes or chosen(ctx).curl:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise invalid(f"{question} nobody can be asked", "add -y")
    if not typer.confirm(question, err=True):
        raise typer.Exit(1)


def _numbered(target: str) -> tuple[str, int | None]:
    name, qualifier = split_target(target)
    if qualifier is not None and not qualifier.isdigit():
        raise invalid(f"{qualifier!r} is not a version's number", "pyfaas versions NAME lists them")
    return name, int(qualifier) if qualifier is not None else None
