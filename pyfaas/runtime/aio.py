"""The kept event loop of a container whose handler is asynchronous.

asyncio is imported when the first coroutine appears, never before: most functions do not need
it, and every container would carry it.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio


class Aio:
    """One event loop, made at first use and kept, so that clients bound to it survive between calls."""

    def __init__(self) -> None:
        """Make nothing yet."""
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The kept loop; a closed one is replaced."""
        import asyncio  # noqa: PLC0415 -- see the module's docstring

        if self._loop is None or self._loop.is_closed():
            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
        return self._loop

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine to its end and return what it returns."""
        return self.loop.run_until_complete(coroutine)
