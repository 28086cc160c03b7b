"""The verb that runs the server: it only reads options, and becomes the keeper."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Any

import typer

from pyfaas.cli import failures
from pyfaas.cli.options import Globals
from pyfaas.client.errors import from_refusal, invalid
from pyfaas.config import load
from pyfaas.errors import PyfaasError

app = typer.Typer(rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """Keep the one verb a verb of a group."""


@app.command(epilog="Example: pyfaas serve --port 0 -s warm_vms=8; --print-config shows every option.")
def serve(  # noqa: PLR0913 - options of a command
    ctx: typer.Context,
    host: Annotated[
        str | None, typer.Option("--host", metavar="ADDRESS", help="address to listen on", show_default=False)
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", metavar="PORT", help="port to listen on; 0 picks a free one", show_default=False)
    ] = None,
    data_dir: Annotated[
        str | None, typer.Option("--data-dir", metavar="DIR", help="where everything is kept", show_default=False)
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="a TOML file with options", show_default=False)
    ] = None,
    user: Annotated[
        str | None, typer.Option("--user", metavar="NAME", help="user the server runs as", show_default=False)
    ] = None,
    allow_weaker_isolation: Annotated[
        str | None, typer.Option("--allow-weaker-isolation", metavar="LAYER[,…]", help="layers that may be missing", show_default=False)
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("-s", metavar="KEY=VALUE", help="any option; repeats", show_default=False)
    ] = None,
    print_config: Annotated[bool, typer.Option("--print-config", help="show each value and its origin")] = False,  # noqa: FBT002
) -> None:
    """Run the server; one line on stdout says when it is ready."""
    flags: dict[str, Any] = _settings(setting or [])
    named = {
        "host": host,
        "port": port,
        "data_dir": data_dir,
        "user": user,
        "allow_weaker_isolation": allow_weaker_isolation,
    }
    flags.update({key: value for key, value in named.items() if value is not None})
    if config is not None and not config.is_file():
        raise typer.BadParameter(f"--config: no file {config}")
    try:
        load(flags, file=config)
    except PyfaasError as error:
        failures.tell(from_refusal(error), ctx.find_object(Globals) or Globals())
        raise typer.Exit(failures.SERVER) from None
    except ValueError as error:  # no TOML
        failures.tell(invalid(f"{config}: {error}"), ctx.find_object(Globals) or Globals())
        raise typer.Exit(failures.SERVER) from None
    keeper = importlib.import_module("pyfaas.keeper")
    raise typer.Exit(keeper.run(flags, config, print_config=print_config))


def _settings(given: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"-s: {text!r} is not KEY=VALUE")
        found[key.replace("-", "_")] = value
    return found
