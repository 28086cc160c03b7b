"""Verbs that make functions: scaffold one, publish one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pyfaas.cli import console, packages, sentences
from pyfaas.cli.following import wait_shown
from pyfaas.cli.options import Globals, Output
from pyfaas.cli.session import act, chosen
from pyfaas.client.aio import AsyncClient
from pyfaas.client.errors import FunctionError, invalid
from pyfaas.client.packing import Package, pack
from pyfaas.client.releasing import Release, release_query
from pyfaas.names import check_name, parse_duration

app = typer.Typer(rich_markup_mode=None)
_TAIL = 20
_COLUMNS = ("function", "version", "state", "changed")
_MAIN = '''"""What this function does."""


def handler(event, context):
    """Answer one event."""
    return {"hello": event.get("name", "world")}
'''
_TOML = """name = "{name}"
handler = "main:handler"
memory = "256M"
timeout = "30s"
requirements = []
network = []                  # where it may connect to, such as ["api.example.com:443"]; nowhere else
"""


@app.command(epilog="Example: pyfaas init greet && pyfaas deploy greet")
def init(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="the function, and its directory")] = "hello",
) -> None:
    """Scaffold a function directory."""
    check_name(name)
    root = Path(name)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise invalid(f"{root} exists and is not empty", "choose another name")
    root.mkdir(exist_ok=True)
    (root / "main.py").write_text(_MAIN)
    (root / "pyfaas.toml").write_text(_TOML.format(name=name))
    console.note(chosen(ctx), f"wrote {root}/main.py and {root}/pyfaas.toml; next: pyfaas deploy {root}")


@app.command(epilog="Example: pyfaas deploy greet --alias live --canary 10% --promote-after 5m --error-budget 1%")
def deploy(  # noqa: PLR0913 - options of a command
    ctx: typer.Context,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="a directory, a Python file or a zip")],
    name: packages.Name = None,
    handler: packages.Handler = None,
    requirements: packages.Requirements = None,
    memory: packages.Memory = None,
    timeout: packages.Timeout = None,
    env: packages.Env = None,
    alias: Annotated[
        str | None,
        typer.Option("--alias", metavar="ALIAS", help="the release alias that moves to it once it is ready", show_default=False),
    ] = None,
    canary: Annotated[
        str | None,
        typer.Option("--canary", metavar="PERCENT", help="how much of the alias's runs it gets first", show_default=False),
    ] = None,
    promote_after: Annotated[
        str | None, typer.Option("--promote-after", metavar="TIME", help="when the canary has all, such as 5m", show_default=False)
    ] = None,
    error_budget: Annotated[
        str | None,
        typer.Option("--error-budget", metavar="PERCENT", help="go back when more of its runs fail, such as 1%", show_default=False),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="until it is ready and cut over")] = True,  # noqa: FBT002
    wait_timeout: Annotated[
        str | None, typer.Option("--wait-timeout", metavar="TIME", help="give up waiting after", show_default=False)
    ] = None,
) -> None:
    """Publish a version, and wait until it answers."""
    release: Release = {"alias": alias, "canary": canary, "promote_after": promote_after, "error_budget": error_budget}
    release_query(**release)  # what is wrong is told before anything is read
    limit = parse_duration(wait_timeout, "--wait-timeout") / 1000 if wait_timeout else None
    said = packages.overrides(handler, memory, timeout, env)
    package = pack(path, name=name, overrides=said, requirements=requirements)
    shown = _publish(ctx, package, release, is_waited=wait, limit=limit)
    is_kept_back = shown.pop("is_kept_back", False)
    _show(chosen(ctx), shown)
    if is_kept_back:
        raise typer.Exit(1)
    if shown["state"] == "failed":
        raise act(ctx, lambda client: failed_version(client, chosen(ctx), shown))


def _publish(
    ctx: typer.Context, package: Package, release: Release, *, is_waited: bool, limit: float | None
) -> dict[str, Any]:
    """Publish and wait; says what goes on when Ctrl-C ends the wait."""
    options = chosen(ctx)
    published: dict[str, Any] = {}

    async def work(client: AsyncClient) -> dict[str, Any]:
        with console.progress(options, f"publishing {package.name} ({console.cell(len(package.bundle), 'size')})"):
            published.update(await client.publish(package, **release))
        alias = release.get("alias")
        if not is_waited:
            if alias is not None:
                console.note(options, f"{package.name}:{alias} moves once version {published['version']} is ready")
            return published
        shown = published | await wait_shown(
            client, options, package.name, published["version"], alias=alias, limit=limit
        )
        if shown["state"] == "stored":
            console.note(options, f"{package.name}:{shown['version']} is prepared by its first call, as the server's options say")
        if shown["state"] == "ready" and alias is not None:
            found = (await client.aliases(package.name)).get(alias) or {}
            console.note(options, sentences.released(f"{package.name}:{alias}", shown["version"], found))
            shown["is_kept_back"] = not sentences.names(found, shown["version"])
        return shown

    try:
        return act(ctx, work)
    except KeyboardInterrupt:
        if published:
            made = f"{package.name}:{published['version']}"
            moves = f", and {package.name}:{release['alias']} moves then" if release.get("alias") else ""
            console.err(f"{made} is published; its preparation goes on{moves} (pyfaas describe {made})")
        raise


async def failed_version(client: AsyncClient, options: Globals, version: dict[str, Any]) -> FunctionError:
    """Return what to raise for a version that failed; writes the tail of its build log."""
    reason = version.get("reason") or {}
    name, number = version["function"], version["version"]
    tail = str(reason.get("log") or "").splitlines()
    if not tail:
        tail = [str(line["line"]) async for line in client.logs(name, version=number, build=True)]
    if options.output is Output.TABLE:
        for line in tail[-_TAIL:]:
            console.err(line)
    why = str(reason.get("message") or reason.get("code") or "no reason was given").removeprefix("error: ")
    message = f"{name}:{number} failed: {why}"
    hint = f"the whole build log: pyfaas logs {name}:{number} --build"
    problem = {
        "code": reason.get("code") or "init_error",
        "fault": "function",
        "detail": message,
        "hint": hint,
        "log": tail[-_TAIL:],
    }
    return FunctionError(message, problem=problem, outcome="init_error")


def _show(options: Globals, shown: dict[str, Any]) -> None:
    if options.output is Output.TABLE:
        console.show_list(options, [shown], [name for name in _COLUMNS if name in shown])
    else:
        console.show(options, shown)
