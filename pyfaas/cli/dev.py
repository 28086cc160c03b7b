"""The verb that develops: publishes on every save, under the name that `deploy` would use, and follows the log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pyfaas.cli import console, packages
from pyfaas.cli.developing import Calls, Developing, Screen
from pyfaas.cli.invoke import read_event
from pyfaas.cli.saves import EDITORS
from pyfaas.cli.session import act, chosen
from pyfaas.client.aio import AsyncClient
from pyfaas.client.errors import invalid
from pyfaas.client.packing import Package, pack
from pyfaas.client.profile import locate

app = typer.Typer(rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """Keep the one verb a verb of a group."""


@app.command(epilog='Example: pyfaas dev greet -d \'{"name": "Ada"}\'')
def dev(  # noqa: PLR0913 - options of a command
    ctx: typer.Context,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="a directory, or a Python file")],
    name: packages.Name = None,
    data: Annotated[
        str | None,
        typer.Option(
            "-d", "--data", metavar="DATA", help="call it with this after each publish: JSON, @FILE or -", show_default=False
        ),
    ] = None,
    handler: packages.Handler = None,
    requirements: packages.Requirements = None,
    memory: packages.Memory = None,
    timeout: packages.Timeout = None,
    env: packages.Env = None,
) -> None:
    """Publish on every save and follow the log, until Ctrl-C; the last good version answers meanwhile.

    It is the function that `deploy` makes, under the same name, and stays deployed. A file that Python cannot compile is shown and
    not published; a version that fails its preparation is left behind.
    """
    said = packages.overrides(handler, memory, timeout, env)
    if not path.exists():
        raise invalid(f"{path}: no such file or directory", "pyfaas init NAME makes a directory to begin with")
    calls = _calls(data)

    def packed() -> Package:
        return pack(path, name=name, overrides=said, requirements=requirements, ignore=EDITORS)

    more = [requirements] if requirements is not None else []
    developing = Developing(Screen(chosen(ctx)), path, packed, calls=calls, more=more)

    async def work(client: AsyncClient) -> None:
        if chosen(ctx).curl:  # a request of those that are made
            await client.publish(packed())
        await developing.run(client, locate().url)

    try:
        act(ctx, work)
    except KeyboardInterrupt:
        if developing.name is not None:
            console.err(f"{developing.name} stays deployed; remove it: pyfaas rm {developing.name}")
        raise


def _calls(data: str | None) -> Calls | None:
    """Return what gives an event: a file is read anew for each call, stdin only once."""
    if data is None:
        return None
    if data.startswith("@") and data != "@-":
        read_event(data, None)
        return lambda: read_event(data, None)
    event = read_event(data, None)
    return lambda: event
