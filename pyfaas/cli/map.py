"""The verb that runs a function once for each line of a file.

So many workers as calls go on at once share one reader: each takes the next line, calls, writes its line and takes the
next, so that no more than these lines are ever held. Results are written as they come; `i` says which line one is of.

What is an item's own failure is a line of the output: a run that failed, a line that is no JSON, a refused event. What
would meet every item alike ends the batch (no server, no such function, a token that may not): a million lines that
say so help nobody, and `--resume` would skip them. A call whose connection broke may have run: it is an item's failure
and not made again. A server that has too much to do is asked again when it said.
"""

from __future__ import annotations

import asyncio
import json
import random
import shlex
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Annotated

import typer

from pyfaas.cli import console
from pyfaas.cli.ndjson import Line, Results, Source
from pyfaas.cli.session import act, chosen
from pyfaas.client import tagged
from pyfaas.client.aio import AsyncClient
from pyfaas.client.batch import AT_ONCE
from pyfaas.client.calls import NDJSON, call_headers, split_called
from pyfaas.client.errors import (
    Error,
    FunctionError,
    InvalidRequest,
    NotAllowed,
    NotFound,
    ServerError,
    Throttled,
    Unreachable,
)
from pyfaas.client.http import Reply

app = typer.Typer(rich_markup_mode=None)
_MOST_AT_ONCE = 1000
_PAUSE_S = 0.2
_BUSY = 503
_OF_ALL = (NotAllowed, NotFound, Unreachable)
_HEADERS = call_headers(headers={"Content-Type": "application/json"})


@app.callback()
def _group() -> None:
    """Keep the one verb a verb of a group."""


@app.command("map", epilog="Example: pyfaas map resize -i photos.ndjson -o sizes.ndjson --concurrency 50")
def map_(  # noqa: PLR0913 - options of a command
    ctx: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME[:QUALIFIER]", help="a function, its version or release alias; an account alias; SUBSCRIPTION/OPERATION")
    ],
    source: Annotated[str, typer.Option("-i", "--input", metavar="FILE", help="a JSON event a line; - is stdin")] = "-",
    target: Annotated[
        str, typer.Option("-o", "--output", metavar="FILE", help="where results go, a line each; - is stdout")
    ] = "-",
    concurrency: Annotated[int, typer.Option("--concurrency", metavar="N", min=1, max=_MOST_AT_ONCE, help="calls at once")] = AT_ONCE,
    resume: Annotated[bool, typer.Option("--resume", help="skip what FILE of -o already has")] = False,  # noqa: FBT002
) -> None:
    """Run a function once for each line of a file; writes {"i": N, "ok": …} or {"i": N, "error": …} as each ends."""
    function, qualifier = split_called(name)
    if resume and target == "-":
        raise typer.BadParameter("--resume needs the file of an earlier run: -o FILE")
    options = chosen(ctx)
    reader = Source(source)
    try:
        if options.curl:
            act(ctx, lambda client: _first(client, reader, function, qualifier))
            return
        if source == "-" and sys.stdin.isatty():
            console.note(options, "type an event a line, as JSON; Ctrl-D ends")
        with Results(target, resume=resume) as results:
            batch = Batch(function, qualifier, reader, results)
            # On one terminal a bar and the results would be drawn over each other.
            drawn = replace(options, quiet=True) if target == "-" and sys.stdout.isatty() else options
            try:
                with console.bar(drawn, name, reader.size) as batch.moved:
                    act(ctx, lambda client: _run(client, batch, concurrency))
            except (KeyboardInterrupt, Error):
                if batch.end:
                    again = _again(ctx, target, resume=resume)
                    console.err(f"ended early: {batch.summary()}; what was running is cancelled{again}")
                raise
    finally:
        reader.close()
    console.note(options, batch.summary())
    if results.failed:
        raise typer.Exit(1)


@dataclass(slots=True)
class Batch:
    """What one `map` goes through, and how far it came."""

    function: str
    qualifier: str | None
    source: Source
    results: Results
    skipped: int = 0
    since: float = field(default_factory=time.monotonic)
    moved: Callable[[int, str], None] = field(default=lambda _done, _more: None)
    end: int = 0  # how much of the input was gone through, bytes

    def passed(self, line: Line) -> None:
        """Take note that a line needs nothing any more."""
        self.end = max(self.end, line.end)
        failed = f", {self.results.failed} failed" if self.results.failed else ""
        self.moved(self.end, f"{self.results.succeeded} ok{failed}")

    def summary(self) -> str:
        """Say in a line how it went."""
        done, failed = self.results.succeeded + self.results.failed, self.results.failed
        before = f", {self.skipped} of them before" if self.skipped else ""
        return f"{done} item{'' if done == 1 else 's'}{before}: {done - failed} ok, {failed} failed, in {time.monotonic() - self.since:.1f} s"

    async def items(self) -> AsyncIterator[Line]:
        """Yield the lines that are still to do."""
        async for line in self.source.lines():
            if line.number in self.results.done:
                self.skipped += 1
                self.passed(line)
            else:
                yield line


async def _run(client: AsyncClient, batch: Batch, at_once: int) -> None:
    """Go through a batch; leaving early cancels what runs."""
    items, turn = batch.items(), asyncio.Lock()
    tasks = [asyncio.create_task(_work(client, batch, items, turn)) for _ in range(at_once)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _work(client: AsyncClient, batch: Batch, items: AsyncIterator[Line], turn: asyncio.Lock) -> None:
    while True:
        async with turn:
            line = await anext(items, None)
        if line is None:
            return
        key, value = await _item(client, batch, line)
        batch.results.write(line.number, key, value)
        batch.passed(line)


async def _item(client: AsyncClient, batch: Batch, line: Line) -> tuple[str, bytes]:
    try:
        _check(line)
        return "ok", await _call(client, batch, line.content)
    except _OF_ALL:
        raise
    except Error as error:
        return "error", json.dumps(error.problem).encode()


def _check(line: Line) -> None:
    try:
        json.loads(line.content)
    except (ValueError, RecursionError) as error:
        detail = f"not JSON: {error}"
        raise InvalidRequest(detail, problem={"code": "invalid_event", "fault": "caller", "detail": detail}) from None


async def _call(client: AsyncClient, batch: Batch, event: bytes) -> bytes:
    """Run one item, again and again while the server says that it has too much to do; returns the result as JSON."""
    pause = _PAUSE_S
    while True:
        try:
            async with client.open(batch.function, event, qualifier=batch.qualifier, headers=_HEADERS) as reply:
                return await _result(reply)
        except (Throttled, ServerError) as error:
            if isinstance(error, ServerError) and (error.status != _BUSY or isinstance(error, Unreachable)):
                raise
            # Not all at the same moment: what was refused together would be refused together again.
            await asyncio.sleep((error.retry_after or pause) * random.uniform(1, 1.5))  # noqa: S311 - no secret
            pause = min(pause * 2, 5.0)


async def _result(reply: Reply) -> bytes:
    """Return an answer as a line of JSON: a stream as an array, bytes as {"$bytes": …}."""
    if reply.kind == NDJSON:
        lines = [line async for line in reply.lines()]
        if lines and lines[-1].startswith(b'{"$error"'):
            problem = json.loads(lines[-1])["$error"]
            raise FunctionError(str(problem.get("detail") or problem), problem=problem)
        return b"[" + b", ".join(lines) + b"]"
    body = await reply.read()
    if not reply.kind.endswith("json"):
        return tagged.dumps(body)
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        message = "the result is not JSON, though the server says so"
        raise ServerError(message, problem={"code": "internal", "fault": "platform", "detail": message}) from None
    return body.replace(b"\n", b" ").strip()  # between tokens only: inside a string it would be \n


async def _first(client: AsyncClient, source: Source, function: str, qualifier: str | None) -> None:
    line = await anext(source.lines(), None)
    async with client.open(function, line.content if line else b"{}", qualifier=qualifier, headers=_HEADERS):
        pass


def _again(ctx: typer.Context, target: str, *, resume: bool) -> str:
    if target == "-":
        return ""
    words = [word for name, word in _words(ctx) if word is not None and name != "resume"]
    return f"; go on with: {' '.join([*words, '--resume'])}" if not resume else "; the same command goes on"


def _words(ctx: typer.Context) -> list[tuple[str, str | None]]:
    given = ctx.params
    return [
        ("", "pyfaas map"),
        ("name", shlex.quote(given["name"])),
        ("source", None if given["source"] == "-" else f"-i {shlex.quote(given['source'])}"),
        ("target", f"-o {shlex.quote(given['target'])}"),
        ("concurrency", None if given["concurrency"] == AT_ONCE else f"--concurrency {given['concurrency']}"),
    ]
