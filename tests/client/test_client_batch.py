"""Many calls at once, decided without a server, and over one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake import Fake

from pyfaas.client.aio import AsyncClient
from pyfaas.client.batch import ordered
from pyfaas.client.errors import FunctionError, NotFound, Throttled
from pyfaas.client.sync import Client


async def test_as_many_run_as_may_and_results_come_in_order() -> None:
    """So many are started and no more, also while the reader waits; whatever ends first, the order is the inputs'."""
    may_end, full, started, read = asyncio.Event(), asyncio.Event(), [], []

    def inputs() -> Iterator[int]:
        for n in range(10):
            read.append(n)
            yield n

    async def call(n: int) -> int:
        started.append(n)
        if len(started) == 3:
            full.set()
        await may_end.wait()
        for _ in range(10 - n):
            await asyncio.sleep(0)
        return n

    results = ordered(inputs(), call, at_once=3)
    first = asyncio.ensure_future(anext(results))
    await full.wait()
    for _ in range(5):
        await asyncio.to_thread(int)  # time enough for an input too many
    assert started == read == [0, 1, 2]
    may_end.set()
    assert [await first] + [n async for n in results] == list(range(10))


async def test_a_result_does_not_wait_for_the_next_input() -> None:
    """What is done is handed over while the inputs' maker is still at work, and nothing is read too far ahead."""
    may_go_on, read = threading.Event(), []

    def slow() -> Iterator[int]:
        for n in range(5):
            read.append(n)
            yield n
            assert n != 1 or may_go_on.wait(20)

    async def call(n: int) -> int:
        return n

    results = ordered(slow(), call, at_once=2)
    assert await anext(results) == 0
    assert read in ([0], [0, 1])
    may_go_on.set()
    assert [n async for n in results] == [1, 2, 3, 4]


async def test_leaving_cancels_what_runs() -> None:
    """Nothing is left running when the loop is left."""
    ended, both = [], asyncio.Event()
    begun = []

    async def call(n: int) -> int:
        if n == 0:
            return n
        begun.append(n)
        if len(begun) == 2:
            both.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(n)
        return n

    results = ordered(range(3), call, at_once=3)
    assert await anext(results) == 0
    await both.wait()
    await results.aclose()  # type: ignore[attr-defined]
    assert sorted(ended) == [1, 2]
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_failure_ends_the_others_unless_it_is_asked_for() -> None:
    """The first failure in order is raised; `return_exceptions` yields it and goes on."""

    async def call(n: int) -> int:
        if n == 1:
            raise FunctionError("boom")
        return n

    results = ordered(range(3), call)
    assert await anext(results) == 0
    with pytest.raises(FunctionError):
        await anext(results)
    kinds = [type(each).__name__ async for each in ordered(range(3), call, return_exceptions=True)]
    assert kinds == ["int", "FunctionError", "int"]


async def test_what_was_throttled_is_called_again() -> None:
    """Too many calls are the batch's own doing: it waits as long as it is told."""
    refused = []

    async def call(n: int) -> int:
        if len(refused) < 3:
            error = Throttled("too many")
            error.retry_after = 0.001
            refused.append(n)
            raise error
        return n

    assert [n async for n in ordered([7], call)] == [7]
    assert refused == [7, 7, 7]


async def test_a_failing_source_is_the_callers(tmp_path: Path) -> None:
    """What the inputs' maker raises comes out as it is."""

    def inputs() -> Iterator[int]:
        yield 1
        raise ZeroDivisionError

    async def call(n: int) -> int:
        return n

    with pytest.raises(ZeroDivisionError):
        assert [n async for n in ordered(inputs(), call)] == [1]


def test_inputs_may_be_made_by_the_client_itself(client: Client, tmp_path: Path) -> None:
    """A generator that calls the same client does not stand in its own way."""
    (tmp_path / "echo.py").write_text("def handler(event):\n    return event\n")
    client.deploy(tmp_path / "echo.py")
    inputs = (client.invoke("echo", n) for n in range(5))
    assert list(client.map("echo", inputs, concurrency=2)) == list(range(5))


async def test_both_clients_map(fake: Fake, tmp_path: Path) -> None:
    """The asynchronous client maps too; an unknown function is said so."""
    (tmp_path / "echo.py").write_text("def handler(event):\n    return event\n")
    async with AsyncClient(fake.url, "pf_good") as client:
        await client.deploy(tmp_path / "echo.py")
        assert [n async for n in client.map("echo", range(30))] == list(range(30))
        with pytest.raises(NotFound):
            assert [n async for n in client.map("nowhere", [1])] == []
