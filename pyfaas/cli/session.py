"""A verb's work: a client for the server that the options, environment and profile name, for the length of one command."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import typer

from pyfaas.cli import console
from pyfaas.cli.options import Globals
from pyfaas.client.aio import AsyncClient
from pyfaas.client.http import Call, HttpTransport, Reply
from pyfaas.client.profile import Endpoint, locate

R = TypeVar("R")


def chosen(ctx: typer.Context) -> Globals:
    """Return what the options that every verb has said."""
    return ctx.find_object(Globals) or Globals()


def act(ctx: typer.Context, work: Callable[[AsyncClient], Awaitable[R]], *, is_admin: bool = False) -> R:
    """Run a verb's work with a client. Ctrl-C cancels it; connections are closed in any case."""
    endpoint = locate(is_admin=is_admin)
    transport = CurlTransport(endpoint) if chosen(ctx).curl else HttpTransport(endpoint.url, endpoint.token)

    async def run() -> R:
        async with AsyncClient(transport=transport) as client:
            return await work(client)

    return asyncio.run(run())


class CurlTransport:
    """Prints the first call as a curl command, and ends the verb."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Keep where the call would go."""
        self._endpoint = endpoint

    @contextlib.asynccontextmanager
    async def exchange(self, call: Call) -> AsyncIterator[Reply]:
        """Print the call; always raises Exit."""
        console.out(as_curl(self._endpoint, call))
        raise typer.Exit
        yield  # pragma: no cover - makes this a generator

    async def close(self) -> None:
        """Nothing was opened."""


def as_curl(endpoint: Endpoint, call: Call) -> str:
    """Return a call as a command of a shell; the token is named, never shown."""
    # What the data directory keeps, the shell can read there; any other token is expected in the environment.
    token = f"$(cat {shlex.quote(endpoint.source)})" if endpoint.source.startswith("/") else "$PYFAAS_TOKEN"
    words = [
        "curl",
        "-sS",
        "-X",
        call.method,
        shlex.quote(endpoint.url + call.target),
        "-H",
        f'"Authorization: Bearer {token}"',
    ]
    for name, value in call.headers.items():
        words += ["-H", shlex.quote(f"{name}: {value}")]
    for name, (kind, content) in call.form.items():
        shown = (
            f"{name}={_form_value(content)};type={kind}" if kind.endswith("json") else f"{name}=@{name}.zip;type={kind}"
        )
        words += ["-F", shlex.quote(shown)]
    if call.body is not None:
        try:
            words += ["--data-binary", shlex.quote(call.body.decode())]
        except UnicodeDecodeError:
            words += ["--data-binary", "@-"]
    return " ".join(words)


def _form_value(content: bytes) -> str:
    # curl ends a part's value at a semicolon unless it is quoted.
    return json.dumps(content.decode())


def pairs(given: list[str], what: str) -> dict[str, str]:
    """Read repeated K=V options; raises BadParameter for one without a key."""
    found: dict[str, str] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise typer.BadParameter(f"{what}: {text!r} is not K=V")
        found[key] = value
    return found
