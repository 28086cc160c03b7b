"""One server for all tests of this folder that do not end it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.house import House, started

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Return a running server that the tests share."""
    with started(tmp_path_factory.mktemp("house") / "data") as running:
        yield running


@pytest.fixture
def name() -> Callable[[], str]:
    """Return a maker of function names that nobody else has."""
    return lambda: f"f{next(_numbers)}"
