"""Without `--all-wheels` only the topics run whose cases.toml says `quick = true`; the others are deselected."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes long, unless it was asked for."""
    if config.getoption("--all-wheels"):
        return
    slow = [item for item in items if item.path.parent == HERE and not _is_quick(item)]
    config.hook.pytest_deselected(items=slow)
    left_out = set(slow)
    items[:] = [item for item in items if item not in left_out]


def _is_quick(item: pytest.Item) -> bool:
    callspec = getattr(item, "callspec", None)
    if callspec is None or "name" not in callspec.params:
        return True
    return bool(tomllib.loads((HERE / callspec.params["topic"] / "cases.toml").read_text()).get("quick", False))
