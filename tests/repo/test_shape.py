"""How long, where, and under what name: what a reader may rely on before opening a file."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.repo.source import PACKAGES, ROOT, functions, imports, modules, tracked, tree

FILE_LINES = 600
FUNCTION_LINES = 60
NO_NAMES = ("utils", "helpers", "common", "base", "misc")
# The name of a thing that must be used in one place → the modules that are that place.
PLACES = {
    "ctypes": ("sandbox.kernel",),
    "sqlite3": ("pyfaas.adapters.sqlite",),
    "dns": ("pyfaas.egress",),
    "aiohttp": ("pyfaas.web", "pyfaas.client"),
    "jsonschema_rs": ("pyfaas.service.inputs",),
    "pyseccomp": ("sandbox.filters",),
    "typer": ("pyfaas.cli",),
    "rich": ("pyfaas.cli", "pyfaas.client.progress"),
}
ENVIRONMENT = {
    "pyfaas.config": "the one reader of the process's environment",
    "pyfaas.runtime.container": "each call has its PYFAAS_INVOCATION_ID",
    "pyfaas.runtime.loader": "the environment that a version names",
    "pyfaas.runtime.warm": "a rehearsal leaves no trace",
    "sandbox.launcher.confine": "a child starts with an empty one",
}
LEAVING = {"pyfaas.cli": "the command line ends with an exit status"}
# Every place that catches everything, and how often: a new one is discussed before it is here.
CATCH_ALL = {
    ("pyfaas.runtime.answering", "BaseException"): 4,  # the loop outlives whatever the tenant's code raises
    ("pyfaas.runtime.container", "BaseException"): 3,  # likewise; and its signal handlers raise in our code
    ("pyfaas.runtime.streams", "BaseException"): 3,  # likewise, from generators
    ("pyfaas.runtime.report", "BaseException"): 2,  # `str()` of a hostile exception
    ("pyfaas.runtime.loader", "BaseException"): 1,  # the tenant's import
    ("pyfaas.runtime.asgi", "Exception"): 1,  # ASGI: an app that raises here has no lifespan
    ("pyfaas.web.app", "Exception"): 1,  # the top of every request: a defect of ours, told once with its traceback
    ("sandbox.launcher.main", "BaseException"): 1,  # the top of the launcher: it goes down with all its VMs
    ("sandbox.launcher.vms", "BaseException"): 1,  # a forked child never unwinds into the launcher's loop
    ("sandbox.executor", "Exception"): 1,  # pickling runs the caller's `__reduce__`; its failure is the call's
    ("sandbox.guest.worker", "BaseException"): 5,  # the call's exceptions, and what `str()` of a hostile one raises
    ("sandbox.host.worker", "BaseException"): 1,  # unpickling what the caller said is to be trusted
    ("sandbox.doctor", "BaseException"): 1,  # a forked child never unwinds into its caller
}


def _python(folder: str = "") -> list[Path]:
    return [ROOT / path for path in tracked() if path.endswith(".py") and path.startswith(folder)]


def _within(module: str, places: tuple[str, ...] | dict[str, str]) -> bool:
    return any(module == place or module.startswith(place + ".") for place in places)


def test_no_file_is_too_long() -> None:
    """No file has more than 600 lines; the ten longest are printed."""
    lengths = sorted(((len(path.read_text().splitlines()), str(path.relative_to(ROOT))) for path in _python()), reverse=True)
    for lines, path in lengths[:10]:
        print(f"{lines:5} {path}")
    assert [path for lines, path in lengths if lines > FILE_LINES] == []


def test_no_function_is_too_long() -> None:
    """No function has more than 60 lines; the ten longest are printed."""
    lengths = sorted(
        (
            ((node.end_lineno or node.lineno) - node.lineno + 1, f"{path.relative_to(ROOT)}:{node.name}")
            for package in PACKAGES
            for path in _python(package)
            for node in functions(path)
        ),
        reverse=True,
    )
    for lines, name in lengths[:10]:
        print(f"{lines:5} {name}")
    assert [name for lines, name in lengths if lines > FUNCTION_LINES] == []


def test_no_module_is_a_drawer() -> None:
    """No module is named for nothing in particular."""
    assert [str(path) for path in _python() if path.stem in NO_NAMES] == []


@pytest.mark.parametrize("library", sorted(PLACES))
def test_a_technology_has_one_place(library: str) -> None:
    """A library is imported only by the modules that are its place, and by them indeed."""
    users = [name for name, path in modules().items() if library in {n.split(".")[0] for n in imports(path)}]
    assert [name for name in users if not _within(name, PLACES[library])] == []
    assert users != []


def _attributes(module: str, path: Path) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield module, f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.ImportFrom) and node.module in ("os", "sys"):
            yield from ((module, f"{node.module}.{alias.name}") for alias in node.names)


def _users(*names: str) -> set[str]:
    return {module for name, path in modules().items() for module, used in _attributes(name, path) if used in names}


def test_the_environment_is_read_in_one_place() -> None:
    """os.environ is touched by the configuration and by what sets up the guest's, each for its reason."""
    assert _users("os.environ", "os.environb", "os.getenv", "os.putenv") == set(ENVIRONMENT)


def test_only_the_command_line_leaves() -> None:
    """sys.exit is called by the command line only: a library raises."""
    assert [module for module in _users("sys.exit") if not _within(module, LEAVING)] == []


def test_what_catches_everything_is_on_the_list() -> None:
    """`except Exception` and its kin stand only where the list says, and nowhere without a type."""
    found: Counter[tuple[str, str]] = Counter()
    for module, path in modules().items():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ExceptHandler):
                kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
                names = [kind.id if isinstance(kind, ast.Name) else "" if kind is None else "other" for kind in kinds]
                found.update((module, name) for name in names if name in ("", "Exception", "BaseException"))
    assert dict(found) == CATCH_ALL


def test_every_line_that_catches_everything_says_why() -> None:
    """A comment stands on each such line."""
    bare = []
    for module, path in modules().items():
        for number, line in enumerate(path.read_text().splitlines(), 1):
            words = line.strip()
            if words.startswith(("except Exception", "except BaseException")) and "#" not in words:
                bare.append(f"{module}:{number}")
    assert bare == []


def test_every_test_has_its_sentence() -> None:
    """Each test's docstring is one sentence that tells the behaviour."""
    wrong = []
    for path in _python("tests/"):
        for node in functions(path):
            if path.name.startswith("test_") and node.name.startswith("test_"):
                text = ast.get_docstring(node) or ""
                if not text or text.lower().startswith(("test ", "tests ", "check ")):
                    wrong.append(f"{path.name}:{node.name}")
    assert wrong == []


def test_every_module_says_what_it_is() -> None:
    """Each module of both packages has a docstring."""
    assert [name for name, path in modules().items() if path.read_text().strip() and not ast.get_docstring(tree(path))] == []
