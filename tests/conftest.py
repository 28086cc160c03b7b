"""What holds for all tests: no setting of the developer's own reaches them, and a skip must be asked for.

A test that needs what this machine does not have may skip; with `--no-skips`, which CI sets, that is a failure.
"""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, Phase, settings

from sandbox import kernel
from sandbox.launcher import cgroups

_NEED_CGROUPS = ("test_cgroups", "test_leaf", "test_main", "test_keeper", "test_upgrade_steps", "test_notify")
_NEED_ROOT = (
    *("test_attach", "test_cell", "test_container", "test_doctor", "test_fetching", "test_files", "test_files_random", "test_launcher"),
    *("test_doors_end", "test_replace", "test_teardown"),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add our flags."""
    parser.addoption("--kills", type=int, default=12, help="how many processes tests/e2e/test_sweep.py kills")
    parser.addoption("--no-skips", action="store_true", help="a test that skips itself has failed")
    parser.addoption("--schemathesis-examples", type=int, default=8, metavar="N", help="generated requests of each kind for each operation")
    parser.addoption("--all-wheels", action="store_true", help="tests/wheels: try every package, not only the quick ones")


def pytest_configure(config: pytest.Config) -> None:
    """Forget the developer's server, tokens and options: a test names what it wants."""
    settings.register_profile(
        "generated",
        max_examples=config.getoption("--schemathesis-examples"),
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.explicit, Phase.generate),
    )
    for name in [name for name in os.environ if name.startswith("PYFAAS_")]:
        del os.environ[name]
    if os.getuid() == 0 and not _may_make_a_user_namespace():
        kernel.own_mounts()  # nobody in a chroot may make one, and the ordinary user's tests do


def _may_make_a_user_namespace() -> bool:
    """Tell whether one can be made here, by a child that makes one."""
    pid = os.fork()
    if pid == 0:
        try:
            kernel.unshare(kernel.NEWUSER)
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1] == 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out, as an ordinary user, what becomes root's launcher or another user."""
    if os.getuid() != 0:
        reason = "needs root, to be root's launcher and other users in turn; what an ordinary user's server does is tests/e2e"
        for item in items:
            if item.path.parent.name == "sandbox" and item.path.stem in _NEED_ROOT:
                item.add_marker(pytest.mark.skip(reason=reason))
            elif item.path.stem in _NEED_CGROUPS and not cgroups.detect().usable:
                item.add_marker(pytest.mark.skip(reason="no cgroup is delegated to this user: see pyfaas doctor"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure where skips are not allowed."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and item.config.getoption("--no-skips"):
        report.outcome = "failed"
        report.longrepr = f"skipped: {report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr}"
    return report
