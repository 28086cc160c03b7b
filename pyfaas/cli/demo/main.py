"""`pyfaas demo`: the main job, run on real input from nothing to nothing.

A server is started in a temporary directory as users start it, and spoken to over HTTP as users speak to it. Each step
is one coroutine that returns what it saw, or raises; a failed step is told and the rest goes on, but the exit code is 1.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

from pyfaas.cli import console
from pyfaas.cli.demo import calls, lending, releases
from pyfaas.cli.demo.server import COSTS, has_network, missing_layers, ready, spawn, stop
from pyfaas.cli.demo.stage import Report, Stage
from pyfaas.cli.demo.store import opened
from pyfaas.cli.options import Globals

app = typer.Typer(rich_markup_mode=None)
EXAMPLES = ("hello", "report", "graph", "fanout", "stream", "asgi", "page", "thumbnail", "text")
_KEPT_LINES = 15


@app.callback()
def _group() -> None:
    """Keep the one verb a verb of a group."""


@app.command()
def demo(
    ctx: typer.Context,
    examples: Annotated[Path | None, typer.Option("--examples", help="where the examples are", show_default=False)] = None,
    keep: Annotated[bool, typer.Option("--keep", help="leave the temporary directory")] = False,  # noqa: FBT002
) -> None:
    """Start a server in a temporary directory, deploy the examples into two accounts, call them, stop."""
    report = Report(ctx.find_object(Globals) or Globals())
    root = examples or find_examples()
    place = Path(tempfile.mkdtemp(prefix="pyfaas-demo-"))
    try:
        asyncio.run(_until_told(_demo(report, root, place)))
    except asyncio.CancelledError:
        raise typer.Exit(143) from None  # 128 + SIGTERM
    finally:
        if not keep:
            shutil.rmtree(place, ignore_errors=True)
    report.end()
    raise typer.Exit(1 if report.failed else 0)


async def _until_told(work: Coroutine[Any, Any, None]) -> None:
    """Do the work; SIGTERM and SIGHUP cancel it, so that its server is stopped and its directory removed."""
    task = asyncio.get_running_loop().create_task(work)
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    await task


def find_examples() -> Path:
    """Return where the examples are: in the installed package, or in the checkout; raises BadParameter when nowhere."""
    package = Path(__file__).resolve().parents[2]
    for root in (package / "examples", package.parent / "examples"):
        if (root / "hello" / "main.py").is_file():
            return root
    raise typer.BadParameter("the examples are not here; name them with --examples")


async def _demo(report: Report, examples: Path, place: Path) -> None:
    store = opened()
    stage = Stage(report, examples, place, store)
    process: asyncio.subprocess.Process | None = None

    async def start() -> str:
        nonlocal process
        weaker = missing_layers()
        if weaker:
            lost = "; ".join(f"{name} ({COSTS.get(name, 'a layer of the isolation')})" for name in weaker)
            console.note(report.options, f"note: not to be had here: {lost}; the demo goes on, since its functions are ours")
        if has_network():
            stage.network = (store.entry,)
        process = await spawn(place, weaker)
        return await ready(process, stage)

    try:
        if await report.step("start a server", start):
            async with stage.exits:
                for name, work in STEPS:
                    await report.step(name, lambda work=work: work(stage))  # type: ignore[misc]
    finally:
        store.close()
        if process is not None:
            running = process
            await report.step("stop the server", lambda: stop(running))
    if report.failed:
        for line in (place / "serve.log").read_text(errors="replace").splitlines()[-_KEPT_LINES:]:
            console.err(f"server: {line}")


STEPS: tuple[tuple[str, Callable[[Stage], Awaitable[str]]], ...] = (
    ("create accounts", calls.accounts),
    *((f"deploy {example}", calls.deploying(example)) for example in EXAMPLES),
    ("call hello", calls.call_hello),
    ("images: thumbnail", calls.call_thumbnail),
    ("tables: report", calls.call_report),
    ("graphs: graph", calls.call_graph),
    ("text: page", calls.call_page),
    ("async code: fanout", calls.call_fanout),
    ("stream", calls.call_stream),
    ("leave a stream", calls.leave_stream),
    ("queue and wait", calls.call_async),
    ("ASGI under a URL", calls.call_asgi),
    ("accounts apart", calls.keep_apart),
    ("redeploy during calls", releases.redeploy),
    ("roll back", releases.roll_back),
    ("canary that fails", releases.canary),
    ("lend a function", lending.lend),
    ("accept it", lending.accept),
    ("neither sees the other", lending.see_nothing),
    ("take it back", lending.take_back),
    ("the same as an API", lending.subscribe),
    ("usage of both sides", lending.show_usage),
    ("read logs", calls.read_logs),
)
