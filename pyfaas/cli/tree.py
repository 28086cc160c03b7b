"""The tree of commands, and the one place where failures become messages and exit codes."""

from __future__ import annotations

import difflib
import functools
import importlib
import re
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pyfaas import __version__
from pyfaas.cli import failures
from pyfaas.cli.options import Globals, add_options
from pyfaas.cli.verbs import LOCAL, VERBS
from pyfaas.client.errors import Error, from_refusal, invalid
from pyfaas.errors import PyfaasError

# typer carries click inside itself since 0.26 and needed it before: its own classes are the way that works for both.
ClickException: type[Any] = typer.BadParameter.__mro__[2]


class Verbs(TyperGroup):
    """Knows the verbs by name, and imports a verb's module when it is used."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the verbs in the order of the table."""
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - click's signature
        """Return a verb's command; None for what is no verb."""
        return load(cmd_name) if cmd_name in VERBS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the verb, or name the nearest one."""
        if args and args[0] not in VERBS:
            near = difflib.get_close_matches(args[0], VERBS, 1)
            ctx.fail(f"no verb {args[0]!r}" + (f"; did you mean {near[0]}?" if near else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - click's signature
        """Write the verbs' one-line help from the table, which imports nothing."""
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, text) for verb, (_, text) in VERBS.items()])


def load(verb: str) -> Any:
    """Import a verb's module and return its command, with the options that every verb has."""
    module = importlib.import_module(VERBS[verb][0])
    command = add_options(typer.main.get_command(module.app).commands[verb])  # type: ignore[attr-defined]
    if verb in LOCAL:
        command.invoke = functools.partial(_alone, verb, command.invoke)
    return command


def _alone(verb: str, invoke: Any, ctx: Any) -> Any:
    """Run a verb that sends nothing: what asks to see a request must not do something else instead."""
    if ctx.find_object(Globals).curl:
        raise invalid(f"{verb} sends no request that --curl could print")
    return invoke(ctx)


def _version(value: bool) -> None:  # noqa: FBT001 - a callback of typer's
    if value:
        typer.echo(f"pyfaas {__version__}")
        raise typer.Exit


def build() -> Any:
    """Return the root command."""
    app = typer.Typer(
        cls=Verbs,
        add_completion=False,
        rich_markup_mode=None,
        no_args_is_help=True,
        epilog=(
            "To begin: pyfaas serve; elsewhere: pyfaas init hello, pyfaas deploy hello, pyfaas invoke hello. "
            "pyfaas VERB --help tells more of a verb. "
            "Exit status: 0 ok, 1 failed, 2 wrong request, 3 server away or busy, 4 not allowed, 5 time is over."
        ),
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def root(
        version: Annotated[
            bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
        ] = False,  # noqa: FBT002
    ) -> None:
        """A serverless server for one Linux box."""

    return add_options(typer.main.get_group(app))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    chosen = Globals()
    try:
        with build().make_context("pyfaas", list(arguments), obj=chosen) as ctx:
            ctx.command.invoke(ctx)
    except typer.Exit as end:
        return int(end.exit_code)
    except (KeyboardInterrupt, typer.Abort, EOFError):
        return failures.INTERRUPTED
    except (ClickException, Error, PyfaasError) as error:
        return _failed(error, chosen)
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.filename is None:  # of the output: main's
            raise
        return _failed(invalid(f"{error.filename}: {error.strerror}"), chosen)
    return 0


def _plain(message: str) -> str:
    message = message.removeprefix("Invalid value: ").removesuffix(".")
    for pattern, said in _PLAINLY:  # each release of typer has its own words
        message = re.sub(pattern, said, message)
    return message


_PLAINLY = (
    (r"Input should be a valid integer, unable to parse string as an integer", "not a whole number"),
    (r"Input should be a valid number, unable to parse string as a number", "not a number"),
    (r"is not a valid int(eger)?( range)?$", "is not a whole number"),
    (r"is not a valid float( range)?$", "is not a number"),
)


def _failed(error: Exception, chosen: Globals) -> int:
    if isinstance(error, ClickException):
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(str(error) or error.format_message(), err=True)
            return failures.USAGE
        context = getattr(error, "ctx", None)
        hint = f"{context.command_path} --help" if context else "pyfaas --help"
        error = invalid(_plain(error.format_message()), hint)
    elif isinstance(error, PyfaasError):
        error = from_refusal(error)
    if isinstance(error, Error):
        failures.tell(error, chosen)
    return failures.exit_code(error)
