"""Executors for these tests: real launchers, workers in real cgroups."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox import Limits, SandboxExecutor
from sandbox.launcher import cgroups


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave these tests out where an ordinary user has no cgroup to set limits in."""
    if os.getuid() != 0 and not cgroups.detect().usable:
        for item in items:
            if item.path.parent == Path(__file__).parent:
                item.add_marker(pytest.mark.skip(reason="no cgroup is delegated to this user: see pyfaas doctor"))


@pytest.fixture(scope="module")
def pool() -> Iterator[SandboxExecutor]:
    """An executor that a module's tests share."""
    with SandboxExecutor(max_workers=2, limits=Limits(memory="128M", timeout="60s", pids=20)) as made:
        yield made
