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

    @property
    def events(self) -> list[bytes]:
        """The events of the calls that ran."""
        return [call.request.body for call in self.service.calls]


def listening() -> tuple[socket.socket, int]:
    """Return a socket bound to a free port."""
    made = socket.create_server(("127.0.0.1", 0))
    return made, made.getsockname()[1]


def fake(**config: Any) -> FakeService:
    """Return a service with limits that tests can reach."""
    return FakeService(**{"sync_payload": 256 << 10, "async_payload": 64 << 10, "bundle_packed": 128 << 10, **config})


@contextlib.asynccontextmanager
async def serving(**config: Any) -> AsyncIterator[Served]:
    """Serve through the front."""
    service = fake(**config)
    listen, port = listening()
    site = await start(cast("Any", service), service.config, listen)
    try:
        yield Served(port, service, site)
    finally:
        await site.stop(0.05)
        while Wire.opened:
            await Wire.opened.pop().gone()


@dataclass
class Plain:
    """A server of aiohttp alone."""

    port: int
    service: FakeService

    @property
    def events(self) -> list[bytes]:
        """The events of the calls that ran."""
        return [call.request.body for call in self.service.calls]


@contextlib.asynccontextmanager
async def plainly_serving() -> AsyncIterator[Plain]:
    """Serve the same application by aiohttp alone."""
    service = fake()
    listen, port = listening()
    runner = web.AppRunner(build_app(cast("Any", service)), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.SockSite(runner, listen).start()
    try:
        yield Plain(port, service)
    finally:
        await runner.cleanup()


@pytest.fixture
async def front() -> AsyncIterator[Served]:
    """Serve through the front."""
    async with serving() as served:
        yield served
