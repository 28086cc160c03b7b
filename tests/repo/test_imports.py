"""Who may import whom: the law that keeps the two packages readable from the bottom up."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.repo.source import ROOT, imports, modules

# The first prefix that fits decides. Each may import its own line's modules, and what the line names.
PYFAAS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("pyfaas.errors", ()),
    ("pyfaas.names", ("pyfaas.errors",)),
    ("pyfaas.model", ("pyfaas.errors", "pyfaas.names")),
    ("pyfaas.sharing", ("pyfaas.model",)),
    ("pyfaas.network", ("pyfaas.errors",)),
    ("pyfaas.egress", ("pyfaas.network",)),
    ("pyfaas.adapters.egress", ("pyfaas.egress.words", "pyfaas.network")),
    ("pyfaas.bundle", ()),
    ("pyfaas.tagged", ()),
    ("pyfaas.config", ("pyfaas.errors",)),
    ("pyfaas.contract", ("pyfaas.errors", "pyfaas.model")),
    ("pyfaas.calls", ("pyfaas.errors", "pyfaas.model")),
    ("pyfaas.manifest", ("pyfaas.errors", "pyfaas.model", "pyfaas.names", "pyfaas.network", "pyfaas.sharing")),
    ("pyfaas.apifile", ("pyfaas.errors", "pyfaas.manifest", "pyfaas.names", "pyfaas.sharing")),
    ("pyfaas.handover", ("pyfaas.config", "sandbox.spec")),
    ("pyfaas.decisions", ("pyfaas.errors", "pyfaas.manifest", "pyfaas.model", "pyfaas.names", "pyfaas.network", "pyfaas.sharing")),
    ("pyfaas.ports", ("pyfaas.model", "pyfaas.network", "pyfaas.sharing", "sandbox.spec")),
    ("pyfaas.adapters.workers", ("pyfaas.errors", "pyfaas.network", "pyfaas.ports", "sandbox.errors", "sandbox.host", "sandbox.spec")),
    ("pyfaas.adapters", ("pyfaas.errors", "pyfaas.model", "pyfaas.network", "pyfaas.ports", "pyfaas.sharing", "pyfaas.__version__")),
    (
        "pyfaas.service",
        (
            *("pyfaas.apifile", "pyfaas.bundle", "pyfaas.calls", "pyfaas.config", "pyfaas.decisions", "pyfaas.errors", "pyfaas.manifest"),
            *("pyfaas.model", "pyfaas.names", "pyfaas.network", "pyfaas.ports", "pyfaas.sharing"),
            *("sandbox.errors", "sandbox.spec", "sandbox.wire"),
        ),
    ),
    (
        "pyfaas.web",
        (
            *("pyfaas.apifile", "pyfaas.calls", "pyfaas.config", "pyfaas.contract", "pyfaas.decisions.access", "pyfaas.errors"),
            *("pyfaas.model", "pyfaas.names", "pyfaas.service.service", "pyfaas.sharing"),
        ),
    ),
    (
        "pyfaas.client",
        (
            *("pyfaas.config", "pyfaas.contract", "pyfaas.errors", "pyfaas.manifest", "pyfaas.model", "pyfaas.names"),
            *("pyfaas.network", "pyfaas.sharing", "pyfaas.tagged", "pyfaas.__version__"),
        ),
    ),
    ("pyfaas.runtime", ("pyfaas.bundle", "pyfaas.tagged", "sandbox.errors", "sandbox.guest.attached", "sandbox.wire")),
    ("pyfaas.cli", ("pyfaas.apifile", "pyfaas.client", "pyfaas.config", "pyfaas.errors", "pyfaas.names", "pyfaas.keeper", "pyfaas.restore", "sandbox.doctor")),
    ("pyfaas.__main__", ("pyfaas.cli",)),
    ("pyfaas.server", ("pyfaas", "sandbox")),
    ("pyfaas.restore", ("pyfaas.adapters", "pyfaas.errors")),
    ("pyfaas.premises", ("pyfaas.config",)),
    (
        "pyfaas.starting",
        (
            *("pyfaas.premises", "pyfaas.adapters.credentials", "pyfaas.adapters.indexes", "pyfaas.adapters.places", "pyfaas.children"),
            *("pyfaas.config", "pyfaas.egress", "pyfaas.handover", "pyfaas.network", "sandbox"),
        ),
    ),
    (
        "pyfaas.keeper",
        (
            *("pyfaas.premises", "pyfaas.children", "pyfaas.config", "pyfaas.errors", "pyfaas.handover", "pyfaas.notify"),
            *("pyfaas.starting", "sandbox"),
        ),
    ),
    ("pyfaas", ()),
)
SANDBOX: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("sandbox.errors", ()),
    ("sandbox.spec", ()),
    ("sandbox.kernel", ()),
    ("sandbox.bpf", ()),
    ("sandbox.wire", ("sandbox.errors",)),
    ("sandbox.filters", ("sandbox.bpf", "sandbox.errors", "sandbox.kernel", "sandbox.spec")),
    ("sandbox.values", ()),
    ("sandbox.limits", ("sandbox.spec",)),
    ("sandbox.remote", ("sandbox.errors", "sandbox.spec", "sandbox.values")),
    (
        "sandbox.guest",
        ("sandbox.errors", "sandbox.kernel", "sandbox.launcher.confine", "sandbox.spec", "sandbox.values", "sandbox.wire"),
    ),
    ("sandbox.launcher", ("sandbox.errors", "sandbox.guest", "sandbox.kernel", "sandbox.spec", "sandbox.wire")),
    (
        "sandbox.host",
        (
            *("sandbox.errors", "sandbox.filters", "sandbox.kernel", "sandbox.spec", "sandbox.wire"),
            *("sandbox.launcher.cgroups", "sandbox.launcher.options", "sandbox.limits", "sandbox.remote", "sandbox.values"),
        ),
    ),
    (
        "sandbox.doctor",
        (
            *("sandbox.errors", "sandbox.filters", "sandbox.kernel", "sandbox.spec"),
            *("sandbox.launcher.cgroups", "sandbox.launcher.doors"),
        ),
    ),
    (
        "sandbox.executor",
        ("sandbox.doctor", "sandbox.errors", "sandbox.guest.worker", "sandbox.host", "sandbox.limits", "sandbox.remote"),
    ),
    ("sandbox.__main__", ("sandbox",)),
    ("sandbox", ()),
)
# What a confined process must never have loaded: each is a thread, a megabyte or a way out.
HEAVY = ("asyncio", "sqlite3", "subprocess", "ctypes.util", "aiohttp", "msgspec", "pyseccomp", "uvloop", "yaml", "typer", "rich")


def _within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def _broken(module: str, wanted: str) -> bool:
    for prefix, allowed in (*PYFAAS, *SANDBOX):
        if _within(module, prefix):
            return not any(_within(wanted, place) for place in (prefix, *allowed))
    return True


def _ours(module: str, *, at_import_only: bool = False) -> set[str]:
    found = imports(modules()[module], at_import_only=at_import_only)
    parents = {"pyfaas", "sandbox"}  # `from sandbox import kernel`, `from pyfaas import __version__`: empty packages
    return {name for name in found if name.split(".")[0] in parents and name not in parents}


def test_every_module_imports_downwards() -> None:
    """A module imports only what the law's table allows it."""
    wrong = [f"{module} → {name}" for module in modules() for name in sorted(_ours(module)) if _broken(module, name)]
    assert wrong == []


def test_every_line_of_the_law_is_about_something() -> None:
    """The table names no module that is gone."""
    planned = {"sandbox.__main__", "pyfaas.premises"}  # their place in the law is fixed before they are
    present = set(modules())
    gone = [p for p, _ in (*PYFAAS, *SANDBOX) if p not in planned and not any(_within(m, p) for m in present)]
    assert gone == []


def test_the_sandbox_knows_nothing_of_functions() -> None:
    """Nothing of sandbox imports pyfaas."""
    assert [m for m in modules() if _within(m, "sandbox") and any(_within(n, "pyfaas") for n in _ours(m))] == []


def test_the_other_side_of_the_boundary_is_not_imported() -> None:
    """Launcher, guest and runtime import nothing of the server's side."""
    inside = ("sandbox.launcher", "sandbox.guest", "pyfaas.runtime")
    wrong = [m for m in modules() if m.startswith(inside) and any(_within(n, "sandbox.host") for n in _ours(m))]
    assert wrong == []


def test_the_runtime_stands_on_the_standard_library() -> None:
    """Code that runs inside the container imports the standard library, pyfaas.bundle, pyfaas.tagged and the wire, nothing else."""
    outside = set()
    for module, path in modules().items():
        if module.startswith(("pyfaas.runtime", "sandbox.guest", "sandbox.launcher")):
            outside |= {n.split(".")[0] for n in imports(path)} - set(sys.stdlib_module_names) - {"pyfaas", "sandbox"}
    assert outside - {"numpy"} == set()  # the tenant's own, where it has one and returns an array


def test_no_module_waits_for_itself() -> None:
    """No module, while it is being loaded, needs a module that needs it."""
    needs = {module: _ours(module, at_import_only=True) & set(modules()) for module in modules()}
    circles = []
    for module, first in needs.items():
        seen: set[str] = set()
        ahead = list(first)
        while ahead:
            following = ahead.pop()
            if following not in seen:
                seen.add(following)
                ahead.extend(needs[following])
        if module in seen:
            circles.append(module)
    assert circles == []


@pytest.mark.parametrize("name", ["sandbox.launcher.main", "sandbox.guest.container", "sandbox.guest.worker", "pyfaas.runtime.container"])
def test_what_is_forked_into_every_container_is_light(name: str) -> None:
    """A clean interpreter that loads it has one thread, and nothing heavy or third-party."""
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {name}; import os, json; "
        "print(json.dumps([sorted(sys.modules), len(os.listdir('/proc/self/task'))]))"
    )
    told = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True)
    loaded, threads = json.loads(told.stdout)
    tops = {module.split(".")[0] for module in loaded}
    assert threads == 1
    assert [module for module in HEAVY if module in loaded] == []
    assert tops - set(sys.stdlib_module_names) - {"pyfaas", "sandbox", "__main__"} == set()
