"""Steps that deploy the examples and call them in every way."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from pyfaas.cli.demo.stage import Stage, StepFailed, check
from pyfaas.client.aio import AsyncClient
from pyfaas.client.errors import NotFound

ACCOUNTS = ("north", "south")


async def accounts(stage: Stage) -> str:
    """Create two accounts."""
    admin_token = (stage.place / "data" / "admin.token").read_text().strip()
    async with AsyncClient(stage.url, admin_token) as admin:
        for name in ACCOUNTS:
            made = await admin.create_account(name)
            stage.tokens[name] = made["token"]
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
    answer = await stage.south.invoke("graph", {"start": 17, "end": 34})
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
        await stage.south.invoke("private")
        raise StepFailed("south could call north's function")
    return "north's function is 404 to south"


async def read_logs(stage: Stage) -> str:
    """Read what the functions printed."""
    lines = [line async for line in _lines(stage.north)]
    check(any("to 128x" in line["line"] for line in lines), lines)
    return f"{len(lines)} lines; the last: {lines[-1]['line']}"


async def _lines(client: AsyncClient) -> AsyncIterator[dict[str, Any]]:
    async for line in client.logs("thumbnail"):
        yield line
