"""Real servers on free ports over a service that runs nothing: one behind the front, one of aiohttp alone."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, cast

import pytest
from aiohttp import web

from pyfaas.web.app import build_app
from pyfaas.web.front import Site, start
from tests.web.fake_service import FakeService
from tests.web.wire import Wire


@dataclass
class Served:
    """A server, its port and its service."""

    port: int
    service: FakeService
    site: Site


def listening() -> tuple[socket.socket, int]:
    """Return a socket bound to a free port."""
    made = socket.create_server(("127.0.0.1", 0))
    return made, made.getsockname()[1]


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[Served]:
    """Serve through the front."""
    service = FakeService(sync_payload=256 << 10, async_payload=64 << 10, bundle_packed=128 << 10)
    listen, port = listening()
    site = await start(cast("Any", service), service.config, listen)
    try:
        yield Served(port, service, site)
    finally:
        await site.stop(0.05)
        while Wire.opened:
            await Wire.opened.pop().gone()


@pytest.fixture
async def front() -> AsyncIterator[Served]:
    """Serve through the front."""
    async with serving() as served:
        yield served


@pytest.fixture
async def plain() -> AsyncIterator[int]:
    """Serve the same by aiohttp alone: the port."""
    service = FakeService(sync_payload=256 << 10, async_payload=64 << 10, bundle_packed=128 << 10)
    listen, port = listening()
    runner = web.AppRunner(build_app(cast("Any", service)), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.SockSite(runner, listen).start()
    yield port
    await runner.cleanup()
