"""The verb that shows what this kernel allows; it talks to no server."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Annotated, Any

import typer

from pyfaas.cli import console
from pyfaas.cli.options import Globals, Output

app = typer.Typer(rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """Keep the one verb a verb of a group."""


@app.command("doctor")
def doctor_(
    ctx: typer.Context,
    strict: Annotated[bool, typer.Option("--strict", help="exit 3 when a layer is missing")] = False,  # noqa: FBT002
) -> None:
    """Show what this kernel allows, layer by layer, and what to do about what it does not."""
    doctor = importlib.import_module("sandbox.doctor")
    layers = [_row(layer) for layer in doctor.layers()]
    options, missing = ctx.find_object(Globals) or Globals(), [layer["name"] for layer in layers if not layer["live"]]
    if options.output is Output.TABLE:  # what mends a layer is of interest where it is missing
        columns = ["name", "live", "detail", *(["mend"] if missing else [])]
        shown = [{**layer, "mend": "" if layer["live"] else layer["mend"]} for layer in layers]
        console.show_list(options, shown, columns)
        console.note(options, f"missing: {', '.join(missing)}" if missing else "every layer is live: isolation=full")
        if missing and set(missing) <= set(doctor.EXTRA):
            console.note(options, "isolation=full all the same; versions that name a network are refused")
    else:
        console.show_list(options, layers, ())
    if strict and missing:
        raise typer.Exit(3)


def _row(layer: Any) -> dict[str, Any]:
    return dataclasses.asdict(layer)
