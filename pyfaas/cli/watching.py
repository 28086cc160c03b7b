"""A function's versions on a screen: once, or again whenever something happens.

On a terminal the table is drawn anew at each event, and every two seconds besides, since what containers do is no event;
the last events stand beneath it. Elsewhere the table comes once, and then a line an event; with -o json or yaml a document
an event.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any

from pyfaas.cli import console, sentences
from pyfaas.cli.options import Globals, Output
from pyfaas.client.aio import AsyncClient

_REFRESH_S = 2.0
_CLEAR = "\x1b[H\x1b[2J"
_SHOWN = 8


def show_versions(options: Globals, rows: Sequence[dict[str, Any]]) -> None:
    """Show versions as a table for people, or as the documents that they are."""
    if options.output is Output.TABLE and not options.quiet and rows:
        now = time.time()
        console.table(sentences.VERSION_COLUMNS, [sentences.version_row(row, now) for row in rows])
    else:
        console.show_list(options, rows, ("version",))


async def watch_versions(client: AsyncClient, options: Globals, name: str) -> None:
    """Show a function's versions until the caller leaves; raises NotFound for a function that there is not."""
    events = client.events(name, after=await client.last_event(name))
    if sys.stdout.isatty() and options.output is Output.TABLE:
        await _draw(client, options, name, events)
    if options.output is Output.TABLE:
        show_versions(options, await client.versions(name))
    async for event in events:
        tell(options, event)


def tell(options: Globals, event: dict[str, Any]) -> None:
    """Write an event as a line for people, or as a document."""
    if options.output is Output.JSON:
        console.out(json.dumps(event, ensure_ascii=False))
    elif options.output is Output.YAML:
        console.out("---\n" + console.render(event, Output.YAML))
    else:
        console.out(f"{sentences.clock(event.get('at'))} {sentences.happened(event)}")


async def _draw(client: AsyncClient, options: Globals, name: str, events: AsyncIterator[dict[str, Any]]) -> None:
    last: deque[str] = deque(maxlen=_SHOWN)
    coming = asyncio.ensure_future(anext(events))
    try:
        while True:
            rows = await client.versions(name)
            sys.stdout.write(_CLEAR)
            show_versions(options, rows)
            console.out("\n" + "\n".join(last) if last else "")
            done, _ = await asyncio.wait([coming], timeout=_REFRESH_S)
            if done:
                event = coming.result()
                last.append(f"{sentences.clock(event.get('at'))} {sentences.happened(event)}")
                coming = asyncio.ensure_future(anext(events))
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)
