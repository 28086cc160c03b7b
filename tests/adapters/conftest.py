"""The real database in a temporary directory, and a real object store in a process of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from pyfaas.adapters.sqlite.connection import Database
from pyfaas.adapters.sqlite.queue import SqliteQueue
from pyfaas.adapters.sqlite.schema import open_database
from pyfaas.adapters.sqlite.store import SqliteStore
from tests.adapters.object_store import ObjectStore, object_store


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


@pytest.fixture(scope="session")
def _object_store() -> Iterator[ObjectStore]:
    with object_store() as opened:
        yield opened


@pytest.fixture
def objects(_object_store: ObjectStore) -> ObjectStore:
    """Give the object store, as if it were new."""
    _object_store.reset()
    return _object_store
