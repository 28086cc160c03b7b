"""The options that work before and after every verb.

They are made once, as one function's parameters, and given to every command of the tree; what they say is kept in a
Globals that travels as the context's object. An option that a verb defines itself (`map -o FILE`) is left to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

import typer


class Output(StrEnum):
    """How results are shown."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


@dataclass(slots=True, kw_only=True)
class Globals:
    """What the options that every verb has said, filled while the command line is read; and the last answer's body."""

    output: Output = Output.TABLE
    quiet: bool = False
    verbose: bool = False
    curl: bool = False
    body: bytes | None = None  # what the server answered last


def _keep(ctx: typer.Context, param: typer.CallbackParam, value: Any) -> Any:
    chosen = ctx.find_object(Globals)
    if value and chosen is not None and param.name is not None:
        setattr(chosen, param.name, value)
    return value


def _options(
    output: Annotated[
        Output | None,
        typer.Option(
            "-o",
            "--output",
            metavar="table|json|yaml",
            callback=_keep,
            help="how results are shown",
            show_default=False,
        ),
    ] = None,
    quiet: Annotated[
        bool, typer.Option("-q", "--quiet", callback=_keep, help="no notes; of lists only the names")
    ] = False,  # noqa: FBT002
    verbose: Annotated[bool, typer.Option("-v", "--verbose", callback=_keep, help="tell more, on stderr")] = False,  # noqa: FBT002
    curl: Annotated[bool, typer.Option("--curl", callback=_keep, help="print the HTTP request instead")] = False,  # noqa: FBT002
) -> None:
    """Declare the options; never called."""


def add_options(command: Any) -> Any:
    """Give a command, and those under it, the options that every verb has; returns it."""
    app = typer.Typer(add_completion=False)
    app.command()(_options)
    for option in typer.main.get_command(app).params:
        taken = {name for param in command.params for name in param.opts}
        if option.name != "help" and not taken & set(option.opts):
            option.expose_value = False
            command.params.append(option)
    for child in getattr(command, "commands", {}).values():
        add_options(child)
    return command
