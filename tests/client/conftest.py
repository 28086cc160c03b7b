"""One fake server for all tests of the SDK."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fake import Fake, started

from pyfaas.client.sync import Client


@pytest.fixture(scope="session")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fake]:
    """A running fake server."""
    with started(tmp_path_factory.mktemp("fake")) as running:
        yield running


@pytest.fixture
def client(fake: Fake) -> Iterator[Client]:
    """A client that may everything."""
    with Client(fake.url, "pf_good") as opened:
        yield opened
