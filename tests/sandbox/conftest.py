"""Launchers for these tests: real namespaces, real cgroups, real filters."""

from __future__ import annotations

import os
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


@pytest.fixture(scope="module", params=["root", "user"])
def either(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A launcher of root's and one of an ordinary user's, which has no cgroups here; the second one whoever runs the tests."""
    is_root = os.getuid() == 0
    if request.param == "root" and not is_root:
        pytest.skip("needs root, to be root's launcher")
    options: dict[str, Any] = {} if request.param == "root" else {"user": 64123 if is_root else 0, "without": ("cgroups",)}
    made = Rig(tmp_path_factory.mktemp("rig"), **options)
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
