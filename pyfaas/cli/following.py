"""What goes on with a version, shown while it is waited for.

The wait on the version decides; events and the build's log only say more. They may come late, or not at all: what goes
wrong with them is told by the wait too, or does not matter. On a terminal there is one line that changes, elsewhere
nothing, or with -v a line a step.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from pyfaas.cli import console, sentences
from pyfaas.cli.options import Globals
from pyfaas.client.aio import AsyncClient
from pyfaas.client.errors import Error

_LATE_S = 1.0  # that lines with -v may come after the version is ready
_INSTALLING = ("resolving", "installing")
_ENDS = ("prepared", "failed")


async def wait_shown(  # noqa: PLR0913 - what is waited for, for how long, and for whom it is shown
    client: AsyncClient, options: Globals, name: str, version: int, *, alias: str | None = None, limit: float | None = None
) -> dict[str, Any]:
    """Wait for a version as `AsyncClient.wait_version` does, `limit` seconds at most, and show what goes on."""
    with console.progress(options, f"preparing {name}:{version}") as tell:
        async with _telling(client, options, name, version, tell):
            return await client.wait_version(name, version, alias=alias, timeout=limit)


@contextlib.asynccontextmanager
async def _telling(
    client: AsyncClient, options: Globals, name: str, version: int, tell: Callable[[str], None]
) -> AsyncIterator[None]:
    tasks = []
    if console.draws(options):
        shown = _Line(tell)
        tasks = [tell_steps(client, name, version, shown.step), _log(client, name, version, shown.log)]
    elif options.verbose:
        tasks = [tell_steps(client, name, version, lambda said: console.err(f"{name}:{version}: {said}"))]
    running = [asyncio.create_task(task) for task in tasks]
    try:
        yield
        if options.verbose and running and not console.draws(options):
            await asyncio.wait(running, timeout=_LATE_S)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


class _Line:
    """The step that goes on, and the last line of the build's log while something is installed."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell, self._step = tell, ""

    def step(self, said: str) -> None:
        self._step = said
        self._tell(said)

    def log(self, line: str) -> None:
        if self._step.startswith(_INSTALLING):  # lines come late, and are of no other step
            self._tell(f"{self._step}: {line}")


async def tell_steps(client: AsyncClient, name: str, version: int, tell: Callable[[str], None]) -> None:
    """Tell each step of a version's preparation once, and again when its count has grown; ends with the preparation."""
    last = ""
    with contextlib.suppress(Error):
        async for event in client.events(name, after=0, version=version):
            said = sentences.step(event)
            if said and said != last:
                last = said
                tell(said)
            if event.get("kind") in _ENDS:
                return


async def _log(client: AsyncClient, name: str, version: int, tell: Callable[[str], None]) -> None:
    """Tell the last line of a version's build log while it grows."""
    with contextlib.suppress(Error):
        async for line in client.logs(name, version=version, build=True, follow=True):
            tell(str(line["line"]).strip())
