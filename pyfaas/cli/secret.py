"""Secrets of one's own functions: kept encrypted, given to each run as `context.secrets`, shown to nobody."""

from __future__ import annotations

from typing import Annotated

import typer

from pyfaas.cli import assignments, console
from pyfaas.cli.options import Output
from pyfaas.cli.session import act, chosen

app = typer.Typer(rich_markup_mode=None)
secret = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="A function's secrets, which its code has as context.secrets.")
app.add_typer(secret, name="secret")
_Name = Annotated[str, typer.Argument(metavar="NAME", help="a function")]


@app.callback()
def _group() -> None:
    """Keep the one verb a verb of a group."""


@secret.command("set", epilog="Example: pyfaas secret set charge api_key=@key.txt")
def set_(
    ctx: typer.Context,
    name: _Name,
    value: Annotated[str, typer.Argument(metavar="K=@FILE", help="its key, and the file it is in; K=- for stdin; K=VALUE")],
) -> None:
    """Keep a secret for a function. Its runs have it from the next one on."""
    ((key, text),) = assignments.secrets([value], "secret set", chosen(ctx)).items()
    shown = act(ctx, lambda client: client.set_secret(name, key, text))
    if chosen(ctx).output is not Output.TABLE and shown is not None:
        console.show(chosen(ctx), shown)
    else:
        console.note(chosen(ctx), f"kept {key} for {name}; its code has it as context.secrets[{key!r}]")


@secret.command(epilog="Example: pyfaas secret ls charge")
def ls(ctx: typer.Context, name: _Name) -> None:
    """List the names of a function's secrets."""
    rows = act(ctx, lambda client: client.secrets(name))
    nothing = f"no secrets; keep one: pyfaas secret set {name} K=@FILE"
    console.show_list(chosen(ctx), rows, ("key", "updated"), nothing)


@secret.command(epilog="Example: pyfaas secret rm charge api_key")
def rm(ctx: typer.Context, name: _Name, key: Annotated[str, typer.Argument(metavar="K", help="the secret's key")]) -> None:
    """Remove a function's secret."""
    act(ctx, lambda client: client.remove_secret(name, key))
    console.note(chosen(ctx), f"removed {key} of {name}")


@secret.command(epilog="Example: pyfaas secret rotate")
def rotate(ctx: typer.Context) -> None:
    """Encrypt every secret of the server with a new key (admin)."""
    console.show(chosen(ctx), act(ctx, lambda client: client.rotate_secrets(), is_admin=True))
