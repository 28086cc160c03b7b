"""The command line against the SDK tests' fake server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake import Fake, started

from tests.cli.command import Cli
from tests.cli.forker import Forker, forking


@pytest.fixture(scope="session")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fake]:
    """A running fake server."""
    with started(tmp_path_factory.mktemp("fake")) as running:
        yield running


@pytest.fixture(scope="session")
def forker() -> Iterator[Forker]:
    """What runs commands."""
    with forking() as running:
        yield running


@pytest.fixture
def cli(fake: Fake, forker: Forker, tmp_path: Path) -> Cli:
    """The command line."""
    return Cli(fake, forker, tmp_path)
