"""`pyfaas demo`: the main job, run on real input from nothing to nothing.

A server is started in a temporary directory as users start it, and spoken to over HTTP as users speak to it. Each step
is one coroutine that returns what it saw, or raises; a failed step is told and the rest goes on, but the exit code is 1.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from pyfaas.cli import console
from pyfaas.cli.options import Globals, Output
from pyfaas.client.aio import AsyncClient
from pyfaas.client.errors import Error, FunctionError, NotFound

# What is lost with a layer that one may go without.
_COSTS = {
    "cgroups": "no function's memory, processes or processor time are limited",
    "proc": "a function sees what /proc tells of the whole machine",
    "seccomp": "a function may make every system call of the kernel",
    "landlock": "files are kept away by mounts and modes alone",
}

app = typer.Typer(rich_markup_mode=None)
ACCOUNTS = ("north", "south")
EXAMPLES = ("hello", "report", "graph", "fanout", "stream", "asgi", "page", "thumbnail")
_READY_S, _STOP_S = 60.0, 45.0
_CALLERS = 4
_RUNS = 300  # of an alias: enough for half of them to be judged
_KEPT_LINES = 15
_GREETING, _LATER_GREETING = "hello, ", "good day, "


@app.callback()
def _group() -> None:
    """Keep the one verb a verb of a group."""


@app.command()
def demo(
    ctx: typer.Context,
    examples: Annotated[Path | None, typer.Option(help="where the examples are", show_default=False)] = None,
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
    package = Path(__file__).resolve().parents[1]
    for root in (package / "examples", package.parent / "examples"):
        if (root / "hello" / "main.py").is_file():
            return root
    raise typer.BadParameter("the examples are not here; name them with --examples")


@dataclass(slots=True)
class Report:
    """Prints a line for each step as it ends, and remembers them."""

    options: Globals
    steps: list[dict[str, Any]] = field(default_factory=list)
    start: float = field(default_factory=time.perf_counter)

    @property
    def failed(self) -> int:
        """How many steps failed."""
        return sum(not step["ok"] for step in self.steps)

    async def step(self, name: str, work: Callable[[], Awaitable[str]]) -> bool:
        """Do a step and tell what it saw and how long it took; returns whether it worked."""
        began = time.perf_counter()
        try:
            seen, ok = await work(), True
        except (Error, StepFailed, OSError) as error:
            seen, ok = f"{type(error).__name__}: {error}", False
        took = (time.perf_counter() - began) * 1000
        self.steps.append({"step": name, "ok": ok, "ms": round(took, 1), "seen": seen})
        if self.options.output is Output.TABLE:
            console.out(f"{'ok' if ok else 'FAILED':<6} {took:>8.0f} ms  {name:<22} {seen}")
        return ok

    def end(self) -> None:
        """Tell the sum."""
        took = time.perf_counter() - self.start
        if self.options.output is not Output.TABLE:
            console.show_list(self.options, self.steps, ())
        else:
            console.out(f"{len(self.steps)} steps, {self.failed} failed, {took:.1f} s")


class StepFailed(Exception):
    """A step saw something else than it should."""


def check(fact: object, seen: object) -> None:
    """Raise StepFailed with what was seen, unless the fact holds."""
    if not fact:
        raise StepFailed(str(seen)[:300])


@dataclass(slots=True)
class Stage:
    """What the steps share."""

    report: Report
    examples: Path
    place: Path
    url: str = ""
    clients: dict[str, AsyncClient] = field(default_factory=dict)
    exits: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    @property
    def north(self) -> AsyncClient:
        """The first account's client."""
        return self.clients["north"]

    def photo(self, name: str) -> bytes:
        """Return a photograph."""
        return (self.examples / "photos" / f"{name}.jpg").read_bytes()

    @property
    def table(self) -> str:
        """Return a table."""
        return (self.examples / "tables" / "penguins.csv").read_text()


async def _demo(report: Report, examples: Path, place: Path) -> None:
    stage = Stage(report, examples, place)
    process: asyncio.subprocess.Process | None = None

    async def start() -> str:
        nonlocal process
        weaker = _missing_layers()
        if weaker:
            lost = "; ".join(f"{name} ({_COSTS.get(name, 'a layer of the isolation')})" for name in weaker)
            console.note(report.options, f"note: not to be had here: {lost}; the demo goes on, since its functions are ours")
        process = await _spawn(place, weaker)
        return await _ready(process, stage)

    try:
        if await report.step("start a server", start):
            async with stage.exits:
                for name, work in STEPS:
                    await report.step(name, lambda work=work: work(stage))  # type: ignore[misc]
    finally:
        if process is not None:
            running = process
            await report.step("stop the server", lambda: _stop(running))
    if report.failed:
        for line in (place / "serve.log").read_text(errors="replace").splitlines()[-_KEPT_LINES:]:
            console.err(f"server: {line}")


# ---- the server


def _missing_layers() -> list[str]:
    layers = importlib.import_module("sandbox.doctor").layers()
    return [layer.name for layer in layers if not layer.live]


async def _spawn(place: Path, weaker: list[str]) -> asyncio.subprocess.Process:
    command = [sys.executable, "-m", "pyfaas", "serve", "--port", "0", "--data-dir", str(place / "data")]
    if weaker:
        command += ["--allow-weaker-isolation", ",".join(weaker)]
    with (place / "serve.log").open("wb") as log:
        # A session of its own: Ctrl-C is for the demo, which then stops the server in order.
        return await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=log, start_new_session=True
        )


async def _ready(process: asyncio.subprocess.Process, stage: Stage) -> str:
    assert process.stdout is not None  # it was asked for
    try:
        async with asyncio.timeout(_READY_S):
            line = (await process.stdout.readline()).decode().strip()
    except TimeoutError:
        raise StepFailed(f"it was not ready after {_READY_S:.0f} s") from None
    check(line.startswith("pyfaas ready "), line or "the server ended before it was ready")
    words = dict(word.split("=", 1) for word in line.split()[2:])
    stage.url = words["url"]
    return f"isolation {words['isolation']}, at {stage.url}"


async def _stop(process: asyncio.subprocess.Process) -> str:
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(_STOP_S):
            status = await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise StepFailed(f"it had not stopped after {_STOP_S:.0f} s") from None
    check(status == 0, f"it ended with status {status}")
    return "drained, status 0"


# ---- the steps


async def accounts(stage: Stage) -> str:
    """Create two accounts."""
    admin_token = (stage.place / "data" / "admin.token").read_text().strip()
    async with AsyncClient(stage.url, admin_token) as admin:
        for name in ACCOUNTS:
            made = await admin.create_account(name)
            stage.clients[name] = await stage.exits.enter_async_context(AsyncClient(stage.url, made["token"]))
    return " and ".join(ACCOUNTS)


def deploying(example: str) -> Callable[[Stage], Awaitable[str]]:
    """Return the step that deploys an example into both accounts."""

    async def deploy(stage: Stage) -> str:
        versions = await asyncio.gather(*(client.deploy(stage.examples / example) for client in stage.clients.values()))
        for version in versions:
            check(version["state"] == "ready", f"{version['state']}: {(version.get('reason') or {}).get('message')}")
        return f"into {len(versions)} accounts, shape {versions[0].get('shape') or 'unknown'}"

    return deploy


async def call_hello(stage: Stage) -> str:
    """Call a typed function, cold and then warm."""
    times = []
    for _ in range(20):
        start = time.perf_counter()
        answer = await stage.north.invoke("hello", {"name": "north"})
        times.append((time.perf_counter() - start) * 1000)
        check(answer == {"greeting": "hello, north!"}, answer)
    return f"first {times[0]:.1f} ms, then {sorted(times[1:])[len(times) // 2]:.1f} ms (median of {len(times) - 1})"


async def call_thumbnail(stage: Stage) -> str:
    """Make three photographs small, from both accounts at once."""
    names = ("astronaut", "chelsea", "coffee")
    photos = [stage.photo(name) for name in names]
    for client in stage.clients.values():
        small = await asyncio.gather(*(client.invoke("thumbnail", photo) for photo in photos))
        for before, after in zip(photos, small, strict=True):
            check(isinstance(after, bytes) and after[:2] == b"\xff\xd8" and len(after) < len(before), repr(after)[:80])
    sizes = ", ".join(
        f"{name} {len(a) // 1024} to {len(b) // 1024} KiB" for name, a, b in zip(names, photos, small, strict=True)
    )
    return f"{sizes}, in both accounts"


async def call_report(stage: Stage) -> str:
    """Summarise a real table by groups."""
    answer = await stage.north.invoke("report", {"csv": stage.table, "by": "species"})
    masses = {name: round(group["body_mass_g"]["mean"]) for name, group in answer["groups"].items()}
    check(answer["rows"] == 344 and len(masses) == 3, answer)  # noqa: PLR2004 - the table's rows and species
    return f"{answer['rows']} penguins; mean mass " + ", ".join(f"{name} {mass} g" for name, mass in masses.items())


async def call_graph(stage: Stage) -> str:
    """Find a path and ranks in a real network."""
    answer = await stage.clients["south"].invoke("graph", {"start": 17, "end": 34})
    check(answer["path"][0] == 17 and answer["path"][-1] == 34 and answer["rank"][0][0] == 34, answer)  # noqa: PLR2004
    return f"path {'-'.join(map(str, answer['path']))}, highest rank {answer['rank'][0]}"


async def call_page(stage: Stage) -> str:
    """Render a page."""
    page = await stage.north.invoke("page", {"title": "a < b", "rows": [{"n": 1}, {"n": 2}]})
    check("<h1>a &lt; b</h1>" in page and page.count("<tr>") == 3, page)  # noqa: PLR2004 - a head and two rows
    return f"{len(page)} characters of HTML"


async def call_fanout(stage: Stage) -> str:
    """Wait for many things at once."""
    answer = await stage.north.invoke("fanout", {"delays_ms": [50, 100, 150, 200]})
    check(answer["took_ms"] < answer["sum_ms"], answer)
    return f"{answer['sum_ms']} ms of waiting in {answer['took_ms']} ms"


async def call_stream(stage: Stage) -> str:
    """Read a generator's items as they come."""
    text = "It was the best of times, it was the worst of times"
    items = [item async for item in stage.north.stream("stream", {"text": text})]
    check(len(items) == len(text.split()) and items[-1]["count"] == 2, items)  # noqa: PLR2004 - the second "times"
    return f"{len(items)} items, streamed"


async def leave_stream(stage: Stage) -> str:
    """Leave a stream after its first item."""
    stream = stage.north.stream("stream", {"text": "word " * 100_000})
    async with contextlib.aclosing(stream) as items:  # type: ignore[type-var]
        first = await anext(items)
    check(first["word"] == "word", first)
    return "left after the first of 100000 items"


async def call_async(stage: Stage) -> str:
    """Queue ten runs and wait for their results."""
    queued = await asyncio.gather(*(stage.north.spawn("graph", {"start": n, "end": 34}) for n in range(1, 11)))
    results = await asyncio.gather(*(stage.north.get(job["id"], timeout=60) for job in queued))
    check(all(result["path"][-1] == 34 for result in results), results)  # noqa: PLR2004 - where they all end
    return f"{len(results)} queued, {len(results)} succeeded"


async def call_asgi(stage: Stage) -> str:
    """Speak HTTP to an ASGI application under its own URL."""
    shown = json.loads(await stage.north.fetch("north", "asgi", "/?q=1"))
    echoed = json.loads(await stage.north.fetch("north", "asgi", "/echo", method="POST", body=b"penguin"))
    check(shown["query"] == {"q": "1"} and echoed == {"echo": "PENGUIN"}, (shown, echoed))
    return f"GET and POST under {shown['root_path']}"


async def keep_apart(stage: Stage) -> str:
    """See that an account's function is nothing to the other."""
    (stage.place / "private.py").write_text("def handler(event, context):\n    return 'north only'\n")
    await stage.north.deploy(stage.place / "private.py")
    check(await stage.north.invoke("private") == "north only", "the owner cannot call it")
    with contextlib.suppress(NotFound):
        await stage.clients["south"].invoke("private")
        raise StepFailed("south could call north's function")
    return "north's function is 404 to south"


async def redeploy(stage: Stage) -> str:
    """Publish a new version while calls go on: none fails, and after the deploy only the new one answers."""
    answers: list[str] = []
    errors: list[Error] = []
    is_over = asyncio.Event()

    async def keep_calling() -> None:
        while not is_over.is_set():
            try:
                answers.append((await stage.north.invoke("hello"))["greeting"])
            except Error as error:
                errors.append(error)

    callers = [asyncio.create_task(keep_calling()) for _ in range(_CALLERS)]
    try:
        await asyncio.sleep(0.2)  # so that the old version is in use
        version = await stage.north.deploy(_later_hello(stage))
        check(version["state"] == "ready", version.get("reason"))
        after = (await stage.north.invoke("hello"))["greeting"]
        await asyncio.sleep(0.2)
    finally:
        is_over.set()
        await asyncio.gather(*callers)
    check(not errors, f"{len(errors)} errors, such as {errors[:1]}")
    check(after.startswith(_LATER_GREETING), f"after the deploy: {after}")
    new = sum(answer.startswith(_LATER_GREETING) for answer in answers)
    return f"{len(answers)} calls, 0 errors: {len(answers) - new} by version 1, {new} by version {version['version']}"


def _later_hello(stage: Stage) -> Path:
    path = stage.place / "later" / "hello"
    shutil.copytree(stage.examples / "hello", path, ignore=shutil.ignore_patterns("__pycache__"))
    main = path / "main.py"
    main.write_text(main.read_text().replace(_GREETING, _LATER_GREETING))
    return path


async def roll_back(stage: Stage) -> str:
    """Go back to the version before."""
    await stage.north.rollback("hello")
    answer = await stage.north.invoke("hello")
    check(answer["greeting"].startswith(_GREETING), answer)
    return "version 1 answers again"


async def canary(stage: Stage) -> str:
    """Give a version that fails a tenth of an alias's runs: it is taken back by itself."""
    await stage.north.set_alias("hello", "live", 1)
    path = stage.place / "broken" / "hello"
    shutil.copytree(stage.examples / "hello", path, ignore=shutil.ignore_patterns("__pycache__"))
    main = path / "main.py"
    main.write_text(main.read_text().replace("    return ", "    1 / 0\n    return ", 1))
    broken = await stage.north.deploy(path, alias="live", canary="50%", promote_after="5m", error_budget="5%")
    failed = 0
    for _ in range(_RUNS):
        try:
            await stage.north.invoke("hello", qualifier="live")
        except FunctionError:
            failed += 1
    shown = (await stage.north.aliases("hello"))["live"]
    check(shown["canary"]["state"] == "back" and not shown["weights"] and 0 < failed < _RUNS, shown)
    check(bool((await stage.north.invoke("hello", qualifier="live"))["greeting"]), "the alias does not answer")
    return f"version {broken['version']} failed {failed} of {_RUNS} calls, then live was version 1 again: {shown['canary']['reason']}"


async def read_logs(stage: Stage) -> str:
    """Read what the functions printed."""
    lines = [line async for line in _lines(stage.north)]
    check(any("to 128x" in line["line"] for line in lines), lines)
    return f"{len(lines)} lines; the last: {lines[-1]['line']}"


async def _lines(client: AsyncClient) -> AsyncIterator[dict[str, Any]]:
    async for line in client.logs("thumbnail"):
        yield line


STEPS: tuple[tuple[str, Callable[[Stage], Awaitable[str]]], ...] = (
    ("create accounts", accounts),
    *((f"deploy {example}", deploying(example)) for example in EXAMPLES),
    ("call hello", call_hello),
    ("images: thumbnail", call_thumbnail),
    ("tables: report", call_report),
    ("graphs: graph", call_graph),
    ("text: page", call_page),
    ("async code: fanout", call_fanout),
    ("stream", call_stream),
    ("leave a stream", leave_stream),
    ("queue and wait", call_async),
    ("ASGI under a URL", call_asgi),
    ("accounts apart", keep_apart),
    ("redeploy during calls", redeploy),
    ("roll back", roll_back),
    ("canary that fails", canary),
    ("read logs", read_logs),
)
