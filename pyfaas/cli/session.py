"""A verb's work: a client for the server that the options, environment and profile name, for the length of one command."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import typer

from pyfaas.cli.curl import CurlTransport
from pyfaas.cli.options import Globals, Output
from pyfaas.client.aio import AsyncClient
from pyfaas.client.errors import Error, NotFound
from pyfaas.client.http import Call, HttpTransport, Reply, Transport
from pyfaas.client.profile import Endpoint, locate

R = TypeVar("R")
_NOTHING = re.compile(r"no (function|invocation|account|token|release alias|account alias|subscription|API|grant|secret) '([^']+)'")
_SHOWN_BY = {
    "invocation": "pyfaas jobs ls shows what is kept; only what was invoked with --async is",
    "account": "pyfaas account ls shows them",
    "token": "pyfaas token ls shows their ids",
    "release alias": "pyfaas alias ls NAME shows them",
    "account alias": "pyfaas ls --kind alias shows them",
    "subscription": "pyfaas ls --kind subscription shows them",
    "API": "pyfaas api ls shows those that you can see",
    "grant": "pyfaas share ls shows them",
    "secret": "pyfaas secret ls NAME shows their names",
}


def chosen(ctx: typer.Context) -> Globals:
    """Return what the options that every verb has said."""
    return ctx.find_object(Globals) or Globals()


def act(ctx: typer.Context, work: Callable[[AsyncClient], Awaitable[R]], *, is_admin: bool = False) -> R:
    """Run a verb's work with a client. Ctrl-C cancels it; connections are closed in any case."""

    async def run(transport: Transport) -> R:
        async with AsyncClient(transport=transport) as client:
            return await work(client)

    return _run(ctx, run, locate(is_admin=is_admin))


def ask(ctx: typer.Context, call: Call, *, endpoint: Endpoint | None = None) -> dict[str, Any]:
    """Send one call, to the server that is known or to another, and return the document that answers it."""

    async def run(transport: Transport) -> dict[str, Any]:
        try:
            async with transport.exchange(call) as reply:
                document: dict[str, Any] = json.loads(await reply.read())
                return document
        finally:
            await transport.close()

    return _run(ctx, run, endpoint)


def _run(
    ctx: typer.Context, work: Callable[[Transport], Coroutine[Any, Any, R]], endpoint: Endpoint | None = None
) -> R:
    options, endpoint = chosen(ctx), endpoint or locate()
    if options.curl:
        return asyncio.run(work(CurlTransport(endpoint)))
    transport = KeepingTransport(HttpTransport(endpoint.url, endpoint.token))
    try:
        return asyncio.run(work(transport))
    except NotFound as error:
        if options.output is Output.TABLE:
            error.hint = error.hint or _where_to_look(endpoint, error.message)
        raise
    finally:
        options.body = transport.body


def _where_to_look(endpoint: Endpoint, message: str) -> str:
    """Return what shows the names that there are, for a message that there is none of this name."""
    missing = _NOTHING.match(message)
    if missing is None:
        return ""
    if missing[1] != "function":
        return _SHOWN_BY.get(missing[1], "")
    return "pyfaas share ls shows what is lent to you" if "/" in missing[2] else asyncio.run(_nearest(endpoint, missing[2]))


async def _nearest(endpoint: Endpoint, wrong: str) -> str:
    """Return what somebody who mistyped a function's name wants to hear; nothing when the token may not look."""
    try:
        async with AsyncClient(transport=HttpTransport(endpoint.url, endpoint.token)) as client:
            names = [str(row["name"]) for row in await client.functions()]
            aliases = await _names(client.account_aliases)
            subscriptions = await _names(client.subscriptions)
    except Error:
        return ""
    if wrong in aliases:
        return f"it is an account alias; see: pyfaas share describe {wrong}, pyfaas share rm {wrong}"
    if wrong in subscriptions:
        return f"it is a subscription; see: pyfaas describe {wrong}, pyfaas api unsubscribe {wrong}"
    near = difflib.get_close_matches(wrong, [*names, *aliases, *subscriptions], 1)
    if near:
        return f"did you mean {near[0]}?"
    return "pyfaas ls shows what there is" if names or aliases else "there are no functions yet: pyfaas deploy PATH"


async def _names(listed: Callable[[], Awaitable[list[dict[str, Any]]]]) -> list[str]:
    """List names of a kind; none where the server does not know of it."""
    try:
        return [str(row["name"]) for row in await listed()]
    except NotFound:
        return []


class KeepingTransport:
    """Keeps the last body that was read whole, so that `-o json` can print what the server said, byte for byte."""

    def __init__(self, inner: Transport) -> None:
        """Keep what sends the calls."""
        self._inner = inner
        self.body: bytes | None = None

    @contextlib.asynccontextmanager
    async def exchange(self, call: Call) -> AsyncIterator[Reply]:
        """Send a call and enter its answer; raises what the other transport does."""
        async with self._inner.exchange(call) as reply:
            yield _KeptReply(self, reply)

    async def close(self) -> None:
        """Close the connections."""
        await self._inner.close()


class _KeptReply(Reply):
    def __init__(self, keeper: KeepingTransport, reply: Reply) -> None:
        super().__init__(reply.status, reply.headers)
        self._keeper, self._reply = keeper, reply

    async def read(self) -> bytes:
        self._keeper.body = await self._reply.read()
        return self._keeper.body

    async def pieces(self) -> AsyncIterator[bytes]:
        async for piece in self._reply.pieces():
            yield piece


def pairs(given: list[str], what: str, form: str = "K=V") -> dict[str, str]:
    """Read repeated options of a `form` like K=V; raises BadParameter for one without a key."""
    found: dict[str, str] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise typer.BadParameter(f"{what}: {text!r} is not {form}")
        found[key] = value
    return found
