"""Launchers for these tests: real namespaces, real cgroups, real filters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sandbox.rig import Rig


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A launcher that a module's tests share."""
    made = Rig(tmp_path_factory.mktemp("rig"))
    yield made
    made.close()


@pytest.fixture
def make_rig(tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    """Return a maker of launchers for a test that ends or breaks its own."""
    made: list[Rig] = []

    def make(**options: Any) -> Rig:
        made.append(Rig(tmp_path / f"rig{len(made)}", **options))
        return made[-1]

    yield make
    for one in made:
        one.close()
