"""Verbs that make functions: scaffold one, publish one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from pyfaas.cli import console
from pyfaas.cli.options import Globals, Output
from pyfaas.cli.session import act, chosen, pairs
from pyfaas.client.aio import AsyncClient
from pyfaas.client.errors import Error, FunctionError, invalid
from pyfaas.client.packing import Package, pack
from pyfaas.names import check_alias_name, check_name, parse_duration

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


@app.command(epilog="Example: pyfaas deploy greet.py --memory 512M --env LANG=en")
def deploy(  # noqa: PLR0913 - options of a command
    ctx: typer.Context,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="a directory, a Python file or a zip")],
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="the function's name; else the file says, or its path", show_default=False),
    ] = None,
    handler: Annotated[
        str | None, typer.Option(metavar="MODULE:ATTRIBUTE", help="what is called", show_default=False)
    ] = None,
    requirements: Annotated[
        Path | None, typer.Option(metavar="FILE", help="a file that lists requirements", show_default=False)
    ] = None,
    memory: Annotated[str | None, typer.Option(metavar="SIZE", help="such as 256M", show_default=False)] = None,
    timeout: Annotated[str | None, typer.Option(metavar="TIME", help="such as 30s", show_default=False)] = None,
    env: Annotated[
        list[str] | None, typer.Option(metavar="K=V", help="an environment variable; repeats", show_default=False)
    ] = None,
    alias: Annotated[
        str | None,
        typer.Option(
            metavar="ALIAS", help="point this release alias at the version once it is ready", show_default=False
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="until it is ready and cut over")] = True,  # noqa: FBT002
    wait_timeout: Annotated[
        str | None, typer.Option(metavar="TIME", help="give up waiting after", show_default=False)
    ] = None,
) -> None:
    """Publish a version, and wait until it answers."""
    options = chosen(ctx)
    if alias is not None:
        check_alias_name(alias)
        if not wait:
            raise typer.BadParameter("--alias needs a version that is ready; leave --no-wait out")
    limit = parse_duration(wait_timeout, "--wait-timeout") / 1000 if wait_timeout else None
    overrides: dict[str, Any] = {"handler": handler, "memory": memory, "timeout": timeout}
    if env:
        overrides["env"] = pairs(env, "--env")
    package = pack(path, name=name, overrides=overrides, requirements=requirements)
    shown = _publish(ctx, package, alias=alias, is_waited=wait, limit=limit)
    _show(options, shown)
    if shown["state"] == "failed":
        raise act(ctx, lambda client: failed_version(client, options, shown))


def _publish(
    ctx: typer.Context, package: Package, *, alias: str | None, is_waited: bool, limit: float | None
) -> dict[str, Any]:
    """Publish, wait, move the alias; says what goes on when Ctrl-C ends the wait."""
    options = chosen(ctx)
    published: dict[str, Any] = {}

    async def work(client: AsyncClient) -> dict[str, Any]:
        with console.progress(options, f"publishing {package.name} ({len(package.bundle) / 1024:.0f} KiB)"):
            published.update(await client.publish(package))
        if not is_waited:
            return published
        shown = published | await _wait(client, options, package, published["version"], limit)
        if shown["state"] == "ready" and alias is not None:
            await client.set_alias(package.name, alias, shown["version"])
            console.note(options, f"{package.name}:{alias} is version {shown['version']}")
        return shown

    try:
        return act(ctx, work)
    except KeyboardInterrupt:
        if published:
            made = f"{package.name}:{published['version']}"
            console.err(f"{made} is published; its preparation goes on (pyfaas describe {made})")
        raise


async def _wait(
    client: AsyncClient, options: Globals, package: Package, version: int, limit: float | None
) -> dict[str, Any]:
    with console.progress(options, f"preparing {package.name}:{version}") as tell:
        telling = (
            asyncio.create_task(_tell_build(client, package.name, version, tell)) if console.draws(options) else None
        )
        try:
            return await client.wait_version(package.name, version, timeout=limit)
        finally:
            if telling is not None:
                telling.cancel()
                await asyncio.gather(telling, return_exceptions=True)


async def _tell_build(client: AsyncClient, name: str, version: int, tell: Callable[[str], None]) -> None:
    """Show the last line of a version's build log while it grows; what goes wrong here, the wait for it tells too."""
    with contextlib.suppress(Error):
        async for line in client.logs(name, version=version, build=True, follow=True):
            tell(str(line["line"]).strip())


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
