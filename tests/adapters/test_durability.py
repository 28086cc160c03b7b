"""SIGKILL in the middle of writing: what was acknowledged is there, and the file opens."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from pyfaas.adapters.sqlite.queue import SqliteQueue
from pyfaas.adapters.sqlite.schema import open_database
from pyfaas.model import JobState
from tests.adapters.samples import ALICE

_WRITER = """
import asyncio, sys
from dataclasses import replace
from pyfaas.adapters.sqlite.queue import SqliteQueue
from pyfaas.adapters.sqlite.schema import open_database
from pyfaas.model import JobState
from tests.adapters.samples import job

async def write(queue, prefix, n):
    for i in range(1_000_000):
        name = f"{prefix}-{n}-{i:06}"
        await queue.put(job(name, event=name.encode() * 50))
        print("put", name, flush=True)
        if i % 3 == 0:
            for claimed in await queue.claim(1, 20.0, prefix):
                ended = replace(claimed.attempts[-1], finished=21.0)
                assert await queue.finish_attempt(claimed.id, claimed.fence, ended, JobState.SUCCEEDED, result=b"1")
                print("done", claimed.id, flush=True)

async def main(path, prefix):
    queue = SqliteQueue(open_database(path))
    await asyncio.gather(*(write(queue, prefix, n) for n in range(8)))

asyncio.run(main(*sys.argv[1:]))
"""


def write_and_kill(path: str, prefix: str, lines: int) -> list[tuple[str, str]]:
    """Run a writer until it has acknowledged `lines` things, kill it, and return all that it acknowledged."""
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, path, prefix], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    said = [writer.stdout.readline() for _ in range(lines)]
    writer.kill()
    said += writer.stdout.readlines()
    writer.stdout.close()
    writer.wait()
    whole = [text.split() for text in said if text.endswith("\n")]
    return [(verb, name) for verb, name in whole]


@pytest.mark.asyncio
async def test_acknowledged_writes_survive_twenty_kills(tmp_path: Path) -> None:
    """Over twenty rounds of kill -9 in the middle of concurrent writes nothing acknowledged is missing or half there."""
    path = str(tmp_path / "x.db")
    acknowledged: list[tuple[str, str]] = []
    for n in range(20):
        acknowledged += await asyncio.to_thread(write_and_kill, path, f"r{n:02}", 10 + 7 * n)
    database = open_database(path)
    queue = SqliteQueue(database)
    for verb, name in acknowledged:
        found = await queue.get(name)  # type: ignore[arg-type]
        assert found is not None, name
        assert found.event == name.encode() * 50
        if verb == "done":
            assert (found.state, found.result) == (JobState.SUCCEEDED, b"1"), name
    running = len(await queue.list(ALICE, state=JobState.RUNNING, limit=100_000))
    assert await queue.recover("after", 30.0) == running
    assert await queue.list(ALICE, state=JobState.RUNNING) == []
    await database.close()
    assert len(acknowledged) > 1000
