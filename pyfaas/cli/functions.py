"""Verbs that look at functions, remove them and take them back."""

from __future__ import annotations

import contextlib
import sys
from typing import Annotated, Any

import typer

from pyfaas.cli import console, sentences
from pyfaas.cli.options import Globals, Output
from pyfaas.cli.session import act, chosen
from pyfaas.cli.watching import show_versions, watch_versions
from pyfaas.client.aio import AsyncClient
from pyfaas.client.errors import NotFound, invalid
from pyfaas.names import split_target

app = typer.Typer(rich_markup_mode=None)


KINDS = ("function", "alias", "subscription")


@app.command(epilog="Example: pyfaas ls --kind alias")
def ls(
    ctx: typer.Context,
    kind: Annotated[
        str | None, typer.Option("--kind", metavar="function|alias|subscription", help="only these", show_default=False)
    ] = None,
) -> None:
    """List what can be called by name: functions, account aliases and subscriptions."""
    if kind not in (None, *KINDS):
        raise typer.BadParameter(f"--kind: {kind!r} is none of {', '.join(KINDS)}")
    options = chosen(ctx)
    rows = act(ctx, lambda client: callables(client, kind, options))
    if options.output is Output.TABLE:
        rows = [{"kind": "function", "stands for": row.get("target") or row.get("api"), **row} for row in rows]
    if {row.get("kind", "function") for row in rows} <= {"function"}:
        columns = ("name", "latest", "state", "handler", "shape", "memory", "timeout", "created")
    else:
        columns = ("name", "kind", "stands for", "latest", "state", "memory", "timeout", "created")
    console.show_list(options, rows, columns, _NONE[kind or "function"])


_NONE = {
    "function": "no functions yet; publish one: pyfaas deploy PATH (pyfaas init NAME makes one to begin with)",
    "alias": "no account aliases; pyfaas share ls shows what is lent to you",
    "subscription": "no subscriptions; pyfaas api ls shows what you may subscribe to",
}


async def callables(client: AsyncClient, kind: str | None, options: Globals) -> list[dict[str, Any]]:
    """List what can be called by name; what is no function says its kind. A server that knows of no lending has functions only."""
    asked = {"function": client.functions, "alias": client.account_aliases, "subscription": client.subscriptions}
    found: dict[str, list[dict[str, Any]]] = {}
    # Functions come last: their body is what `-o json` prints where there is nothing else. --curl prints the first request.
    for each in asked if options.curl else reversed(asked):
        if kind in (None, each):
            with contextlib.suppress(NotFound):
                found[each] = await asked[each]()
    others = [{**row, "kind": each} for each in ("alias", "subscription") for row in found.get(each, ())]
    return [*found.get("function", ()), *others]


@app.command(epilog="Example: pyfaas describe greet:2")
def describe(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME[:VERSION]", help="a function, or one of its versions; an account alias; a subscription")],
) -> None:
    """Show a function, or one of its versions; or an account alias, or a subscription."""
    function, version = _numbered(name)
    if version is None:
        shown = act(ctx, lambda client: _described(client, function))
        console.show(chosen(ctx), shown, [key for key in shown if key != "function"] if "name" in shown else ())
    else:
        _show_version(chosen(ctx), act(ctx, lambda client: client.version(function, version)))


@app.command(epilog="Example: pyfaas versions greet --watch")
def versions(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="a function")],
    watch: Annotated[bool, typer.Option("--watch", help="go on as things happen")] = False,  # noqa: FBT002
) -> None:
    """Show a function's versions, newest first: what names each, what runs where, where its code is."""
    if watch:
        act(ctx, lambda client: watch_versions(client, chosen(ctx), name))
    else:
        show_versions(chosen(ctx), act(ctx, lambda client: client.versions(name)))


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
    """Move `latest`, or a release alias, back to its previous ready version; the one left is withdrawn."""
    function, pointer = split_target(name)
    answer = act(ctx, lambda client: client.rollback(function, pointer))
    console.show(chosen(ctx), answer)
    if chosen(ctx).output is Output.TABLE:
        console.note(chosen(ctx), sentences.withdrawn(answer, function))


async def _described(client: AsyncClient, name: str) -> dict[str, Any]:
    """Show what an account calls by a name, of whatever kind; raises what is said of a function that is not there."""
    try:
        return await client.function(name)
    except NotFound:
        for show in (client.account_alias, client.subscription):
            with contextlib.suppress(NotFound):
                return await show(name)
        raise


def _show_version(options: Globals, shown: dict[str, Any]) -> None:
    if options.output is Output.TABLE:
        told = {
            "running": sentences.running(shown.get("running")),
            "shares": sentences.all_shares(shown.get("shares") or {}),
            "code_in": sentences.places(shown),
        }
        shown = {key: told.get(key, value) for key, value in shown.items()}
    console.show(options, shown)


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
