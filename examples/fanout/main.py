"""Wait for many things at once: one run, one event loop."""

import asyncio
import time


async def handler(delays_ms: list[int]) -> dict:
    """Wait for all delays together; returns how long it took and how long they would take one after another."""
    start = time.perf_counter()
    finished: list[int] = []
    await asyncio.gather(*(wait(delay, finished) for delay in delays_ms))
    took = time.perf_counter() - start
    return {"order": finished, "took_ms": round(took * 1000), "sum_ms": sum(delays_ms)}


async def wait(delay_ms: int, finished: list[int]) -> None:
    """Wait, and tell that it is over."""
    await asyncio.sleep(delay_ms / 1000)
    finished.append(delay_ms)
