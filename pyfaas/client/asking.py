"""What every group of the client's methods stands on: one call, one document; lists joined over their pages."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from pyfaas.client.errors import ServerError, Unreachable
from pyfaas.client.http import Call, Transport, json_call
from pyfaas.errors import Code

PAGE = 1000
_PASSING = ("unreachable", Code.NOT_READY.value)  # what a server that is being replaced looks like
_PATIENCE_S = 15.0
PAUSE_S = 0.2


class Asking:
    """A transport, and the ways of asking through it."""

    _transport: Transport

    async def _json(self, call: Call) -> dict[str, Any]:
        async with self._transport.exchange(call) as reply:
            parsed: dict[str, Any] = json.loads(await reply.read())
            return parsed

    async def _get(self, path: str, **query: Any) -> dict[str, Any]:
        return await self._json(json_call("GET", path, query=query))

    async def _held(self, path: str, wait: int, *, is_known: bool = False, **query: Any) -> dict[str, Any]:
        """Get what the server holds back for `wait` seconds; one that is replaced meanwhile is asked again.

        `is_known` tells that it was there a moment ago.
        """
        clock = asyncio.get_running_loop().time
        began, until = clock(), None
        while True:
            try:
                return await self._get(path, wait=wait, **query)
            except ServerError as error:
                if not is_known and until is None and isinstance(error, Unreachable) and clock() - began < PAUSE_S:
                    raise  # nobody was there to begin with
                if error.code not in _PASSING or (until is not None and clock() >= until):
                    raise
                until = until or clock() + _PATIENCE_S
            await asyncio.sleep(PAUSE_S)

    async def _done(self, call: Call) -> None:
        async with self._transport.exchange(call) as reply:
            await reply.read()

    async def _pages(self, path: str, *, after: Any = None, **query: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            page = await self._get(path, limit=PAGE, after=after, **query)
            found += page["items"]
            after = page.get("next")
            if not after:
                return found
