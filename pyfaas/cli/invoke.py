"""Verbs that run functions: the result's bytes on stdout, everything else on stderr."""

from __future__ import annotations

import contextlib
import json
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pyfaas.cli import console
from pyfaas.cli.options import Globals
from pyfaas.cli.publish import failed_version
from pyfaas.cli.session import act, chosen
from pyfaas.client.aio import AsyncClient
from pyfaas.client.calls import NDJSON, call_headers, split_called
from pyfaas.client.errors import FunctionError, InvalidRequest, NotAllowed, NotFound, from_problem, invalid
from pyfaas.client.http import Reply
from pyfaas.client.packing import pack
from pyfaas.names import parse_duration

app = typer.Typer(rich_markup_mode=None)

_Data = Annotated[
    str | None,
    typer.Option("-d", "--data", metavar="DATA", help="the event: JSON, @FILE, or - for stdin", show_default=False),
]
_Type = Annotated[
    str | None,
    typer.Option(
        "--content-type",
        metavar="TYPE",
        help="of the event; else JSON, or bytes for a file that is none",
        show_default=False,
    ),
]
_Timeout = Annotated[
    str | None, typer.Option("--timeout", metavar="TIME", help="end the run after, e.g. 10s", show_default=False)
]
_JSON, _BYTES = "application/json", "application/octet-stream"


@app.command(epilog='Example: pyfaas invoke greet -d \'{"name": "Ada"}\'')
def invoke(  # noqa: PLR0913 - options of a command
    ctx: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME[:QUALIFIER]", help="a function, its version or release alias; an account alias; SUBSCRIPTION/OPERATION")
    ],
    data: _Data = None,
    content_type: _Type = None,
    asynchronous: Annotated[bool, typer.Option("--async", help="queue it and print the id")] = False,  # noqa: FBT002
    stream: Annotated[bool, typer.Option("--stream", help="write items as they come")] = False,  # noqa: FBT002
    stale: Annotated[
        str | None,
        typer.Option("--stale", metavar="allow|forbid", help="an older version may answer, or not", show_default=False),
    ] = None,
    timeout: _Timeout = None,
) -> None:
    """Run a function; the result goes to stdout."""
    if stale not in (None, "allow", "forbid"):
        raise typer.BadParameter("--stale is allow or forbid")
    if asynchronous and stream:
        raise typer.BadParameter("--async and --stream exclude each other")
    function, qualifier = split_called(name)
    event, kind = read_event(data, content_type)
    headers = call_headers(timeout=seconds(timeout, "--timeout"), stale=stale, headers={"Content-Type": kind})
    if asynchronous:
        headers.pop("Pyfaas-On-Disconnect")
        queued = act(ctx, lambda client: client.spawn(function, event, qualifier=qualifier, headers=headers))
        console.show(chosen(ctx), queued) if chosen(ctx).output != "table" else console.out(queued["id"])
        return
    act(ctx, lambda client: _invoke(client, chosen(ctx), function, event, qualifier, headers, stream=stream))


@app.command(epilog="Example: pyfaas run greet.py::handler -d @event.json")
def run(
    ctx: typer.Context,
    target: Annotated[str, typer.Argument(metavar="FILE.py[::FUNCTION]", help="a Python file, and what to call in it")],
    data: _Data = None,
    content_type: _Type = None,
    timeout: _Timeout = None,
) -> None:
    """Run a file's function once in a container; nothing is left behind."""
    file, _, attribute = target.partition("::")
    event, kind = read_event(data, content_type)
    headers = call_headers(timeout=seconds(timeout, "--timeout"), headers={"Content-Type": kind})
    path = Path(file)
    module = path.stem if path.stem.isidentifier() else "main"
    overrides: dict[str, Any] = {"handler": f"{module}:{attribute}"} if attribute else {}
    package = pack(path, name=f"run-{secrets.token_hex(8)}", overrides=overrides)

    async def work(client: AsyncClient) -> None:
        published = await client.publish(package)
        try:
            with console.progress(chosen(ctx), f"preparing {file}"):
                version = await client.wait_version(package.name, published["version"])
            if version["state"] == "failed":
                failed = await failed_version(client, chosen(ctx), version)
                failed.hint = ""  # there is no version to look at any more
                failed.args = (str(failed).replace(f"{package.name}:{version['version']}", file),)
                raise failed
            await _invoke(client, chosen(ctx), package.name, event, None, headers, stream=True, logs=True)
        finally:
            await client.remove(package.name)

    act(ctx, work)


async def _invoke(  # noqa: PLR0913 - one call's parts
    client: AsyncClient,
    options: Globals,
    name: str,
    event: bytes,
    qualifier: str | None,
    headers: Mapping[str, str],
    *,
    stream: bool,
    logs: bool = False,
) -> None:
    invocation = ""
    try:
        with console.progress(options, f"running {name}"):
            opened = client.open(name, event, qualifier=qualifier, headers=headers)
            reply = await opened.__aenter__()
        try:
            invocation = reply.headers.get("pyfaas-invocation-id", "")
            _tell_version(options, reply)
            await write_result(reply, as_it_comes=stream)
        finally:
            await opened.__aexit__(*sys.exc_info())
        if options.verbose:
            _tell_run(reply.headers)
    except FunctionError as error:
        invocation = invocation or error.invocation_id
        if invocation and not error.hint and not logs:
            error.hint = _where_it_says_why(name, error, invocation)
        raise
    finally:
        if invocation and (options.verbose or logs):
            await _tell_log(client, name.partition("/")[0], invocation)


def _where_it_says_why(name: str, error: FunctionError, invocation: str) -> str:
    if error.error_type == FunctionError.__name__ and "errorMessage" not in error.problem:
        return f"why is told to its owner only, who may ask for the invocation: {invocation}"
    return "" if "/" in name else f"the run's log: pyfaas logs {name} --id {invocation}"


async def _tell_log(client: AsyncClient, name: str, invocation: str) -> None:
    with contextlib.suppress(NotFound, NotAllowed, InvalidRequest):  # of what is lent without its log
        async for line in client.logs(name, invocation=invocation):
            console.err(str(line["line"]))


async def write_result(reply: Reply, *, as_it_comes: bool) -> None:
    """Write an answer's body to stdout; raises what a stream's `$error` line says."""
    last = b""
    if reply.kind != NDJSON:
        if as_it_comes:
            async for last in reply.pieces():
                console.raw(last)
        else:
            last = await reply.read()
            console.raw(last)
        console.end_of_result(last)
        return
    async for line in reply.lines():
        if line.startswith(b'{"$error"'):
            raise from_problem(json.loads(line)["$error"])
        console.raw(line + b"\n")


def read_event(data: str | None, content_type: str | None) -> tuple[bytes, str]:
    """Return an event's bytes and media type; raises InvalidRequest for a file that cannot be read."""
    if data is None:
        return b"{}", content_type or _JSON
    if data != "-" and not data.startswith("@"):
        return data.encode("utf-8", "surrogateescape"), content_type or _JSON
    try:
        content = sys.stdin.buffer.read() if data in ("-", "@-") else Path(data[1:]).read_bytes()
    except OSError as error:
        raise invalid(f"{data[1:]}: {error.strerror}") from None
    return content, content_type or (_JSON if data.endswith(".json") or _is_json(content) else _BYTES)


def seconds(text: str | None, key: str) -> float | None:
    """Read a duration option as seconds; raises invalid_request naming it."""
    return None if text is None else parse_duration(text, key) / 1000


def _is_json(content: bytes) -> bool:
    try:
        json.loads(content or b"{}")
    except (ValueError, RecursionError):
        return False
    return True


def _tell_version(options: Globals, reply: Reply) -> None:
    requested, executed = (reply.headers.get(f"pyfaas-{word}-version", "") for word in ("requested", "executed"))
    if executed and requested and executed != requested:
        console.note(options, f"note: version {executed} answered for version {requested}, which does not answer (yet)")


def _tell_run(headers: Mapping[str, str]) -> None:
    names = (
        "pyfaas-invocation-id",
        "pyfaas-requested-version",
        "pyfaas-executed-version",
        "pyfaas-outcome",
        "server-timing",
    )
    for name in names:
        if name in headers:
            console.err(f"{name}: {headers[name]}")
