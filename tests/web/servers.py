"""The front and plain aiohttp, each over a fake service of its own, on ports of this machine."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, cast

from aiohttp import web

from pyfaas.service.service import Service
from pyfaas.web.app import build_app
from pyfaas.web.front import Site, start
from tests.web.fake_service import FakeService

LIMIT = 100_000  # bytes of a synchronous call


@dataclass(slots=True)
class Served:
    """A server under test."""

    service: FakeService
    port: int
    site: Site | None = None

    @property
    def events(self) -> list[bytes]:
        """The events of the calls that ran."""
        return [call.request.body for call in self.service.calls]


def fake(**config: Any) -> FakeService:
    """Return a service with a limit that tests can reach."""
    return FakeService(**{"sync_payload": LIMIT, **config})


@contextlib.asynccontextmanager
async def front(**config: Any) -> AsyncIterator[Served]:
    """Serve through the front."""
    service = fake(**config)
    listen = _listen()
    site = await start(cast("Service", service), service.config, listen)
    try:
        yield Served(service, listen.getsockname()[1], site)
    finally:
        await site.stop(0.0)


@contextlib.asynccontextmanager
async def plain(**config: Any) -> AsyncIterator[Served]:
    """Serve the same application through aiohttp's own server."""
    service = fake(**config)
    listen = _listen()
    runner = web.AppRunner(build_app(cast("Service", service)), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.SockSite(runner, listen).start()
    try:
        yield Served(service, listen.getsockname()[1])
    finally:
        await runner.cleanup()


def _listen() -> socket.socket:
    listen = socket.create_server(("127.0.0.1", 0))
    listen.setblocking(False)
    return listen
