"""What holds for all tests: no setting of the developer's own reaches them, and a skip must be asked for.

A test that needs what this machine does not have may skip; with `--no-skips`, which CI sets, that is a failure.
"""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add our flags."""
    parser.addoption("--no-skips", action="store_true", help="a test that skips itself has failed")


def pytest_configure() -> None:
    """Forget the developer's server, tokens and options: a test names what it wants."""
    for name in [name for name in os.environ if name.startswith("PYFAAS_")]:
        del os.environ[name]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure where skips are not allowed."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and item.config.getoption("--no-skips"):
        report.outcome = "failed"
        report.longrepr = f"skipped: {report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr}"
    return report
