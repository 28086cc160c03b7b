"""The real database in a temporary directory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from pyfaas.adapters.sqlite.connection import Database
from pyfaas.adapters.sqlite.queue import SqliteQueue
from pyfaas.adapters.sqlite.schema import open_database
from pyfaas.adapters.sqlite.store import SqliteStore


@pytest_asyncio.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """Open a new database, and close it."""
    opened = open_database(str(tmp_path / "pyfaas.db"))
    yield opened
    await opened.close()


@pytest.fixture
def store(database: Database) -> SqliteStore:
    """Give the store over the database."""
    return SqliteStore(database)


@pytest.fixture
def sqlite_queue(database: Database) -> SqliteQueue:
    """Give the queue over the database."""
    return SqliteQueue(database)
