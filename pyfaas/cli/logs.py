"""The verb that shows logs."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

import typer

from pyfaas.cli import console
from pyfaas.cli.options import Globals, Output
from pyfaas.cli.session import act, chosen
from pyfaas.client.aio import AsyncClient
from pyfaas.client.calls import split_called
from pyfaas.names import parse_duration

app = typer.Typer(rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """Keep the one verb a verb of a group."""


@app.command(epilog="Example: pyfaas logs greet -f --since 10m")
def logs(  # noqa: PLR0913 - options of a command
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME[:VERSION]", help="a function, or one of its versions; an account alias or a subscription whose owner lends its logs")],
    follow: Annotated[bool, typer.Option("-f", "--follow", help="go on as lines come")] = False,  # noqa: FBT002
    invocation: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="of one invocation only", show_default=False)
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="not older than, e.g. 1h", show_default=False)
    ] = None,
    build: Annotated[bool, typer.Option("--build", help="the log of preparing the version")] = False,  # noqa: FBT002
) -> None:
    """Show a function's log; every line carries its invocation's id."""
    called, version = split_called(name)
    function = called.partition("/")[0]  # a subscription has one log for all its operations
    start = time.time() - parse_duration(since, "--since") / 1000 if since else None

    async def work(client: AsyncClient) -> None:
        found = client.logs(function, version=version, invocation=invocation, since=start, build=build, follow=follow)
        is_empty = True
        async for line in found:
            is_empty = False
            _write(chosen(ctx), line)
        if is_empty and chosen(ctx).output is Output.TABLE:
            if build:
                await _tell_import(client, chosen(ctx), function, version)
            else:
                narrowed = " of that kind" if since or invocation or version else " yet"
                console.note(chosen(ctx), f"no log lines{narrowed}; what a function prints is here once its run ended")

    act(ctx, work)


async def _tell_import(client: AsyncClient, options: Globals, function: str, version: str | None) -> None:
    """Say why a version failed for which nothing was installed: what its import said is kept with the version."""
    number = version or (await client.versions(function))[0]["version"]
    reason = (await client.version(function, int(number))).get("reason") or {}
    if reason:
        for line in [*str(reason.get("log") or "").splitlines(), str(reason.get("message") or reason.get("code"))]:
            console.out(line)
    else:
        console.note(options, f"nothing had to be installed for {function}:{number}")


def _write(options: Globals, line: dict[str, Any]) -> None:
    if options.output is Output.JSON:
        console.out(json.dumps(line, ensure_ascii=False))
    elif options.output is Output.YAML:
        console.out("---\n" + console.render(line, Output.YAML))
    else:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(line["ts"]))
        console.out(f"{at} {line.get('invocation') or '-'} {line['stream']:<8} {line['line']}")
