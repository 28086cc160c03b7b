"""Many calls of one function: so many at once, results in the order of the inputs, each as soon as its turn is there.

A task of its own reads the inputs and starts calls, so that they go on while the reader is busy with a result. What was
started and not yet handed over is never more than so many. The next input is asked for in a thread: it may be slow, and
it may be made by calls of this very client.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, TypeVar

from pyfaas.client.errors import Error, ServerError, Throttled
from pyfaas.errors import Code

T = TypeVar("T")
AT_ONCE = 20
_PAUSE_S = 0.2
_END: Any = object()


async def ordered(
    inputs: Iterable[T] | AsyncIterable[T],
    call: Callable[[T], Awaitable[Any]],
    *,
    at_once: int = AT_ONCE,
    return_exceptions: bool = False,
) -> AsyncIterator[Any]:
    """Yield the result of `call` for each input; `inputs` may be an asynchronous iterator of this loop.

    A failed call is raised and ends the others, or is yielded when asked for. Leaving cancels what is running.
    """
    turns: asyncio.Queue[asyncio.Task[Any] | None] = asyncio.Queue()
    room = asyncio.Semaphore(at_once)
    feeding = asyncio.create_task(_feed(inputs, call, turns, room))
    turn: asyncio.Task[Any] | None = None
    try:
        while (turn := await turns.get()) is not None:
            result = await _result(turn, return_exceptions=return_exceptions)
            room.release()
            yield result
        await feeding  # raises what the inputs' maker raised
    finally:
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)
        left = [turn, *(turns.get_nowait() for _ in range(turns.qsize()))]
        running = [task for task in left if task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _feed(
    inputs: Iterable[T] | AsyncIterable[T],
    call: Callable[[T], Awaitable[Any]],
    turns: asyncio.Queue[asyncio.Task[Any] | None],
    room: asyncio.Semaphore,
) -> None:
    following = _following(inputs)
    try:
        while True:
            await room.acquire()
            each = await following()
            if each is _END:
                return
            turns.put_nowait(asyncio.create_task(_patient(call, each)))
    finally:
        turns.put_nowait(None)


def _following(inputs: Iterable[T] | AsyncIterable[T]) -> Callable[[], Awaitable[Any]]:
    """Return what waits for the next input, or for `_END`."""
    if isinstance(inputs, AsyncIterable):
        ahead = aiter(inputs)
        return lambda: anext(ahead, _END)
    source = iter(inputs)
    return lambda: asyncio.to_thread(next, source, _END)


async def _result(turn: asyncio.Task[Any], *, return_exceptions: bool) -> Any:
    try:
        return await turn
    except Error as failure:
        if not return_exceptions:
            raise
        return failure


async def _patient(call: Callable[[T], Awaitable[Any]], each: T) -> Any:
    """Call, and call again while the server says that it has too much to do: what it refuses so never ran."""
    while True:
        try:
            return await call(each)
        except (Throttled, ServerError) as error:
            if not isinstance(error, Throttled) and error.code != Code.NO_CAPACITY.value:
                raise
            await asyncio.sleep(error.retry_after or _PAUSE_S)
