"""The repository as the checks of this folder see it: its tracked files, their syntax trees, who imports whom."""

from __future__ import annotations

import ast
import functools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("pyfaas", "sandbox")


@functools.cache
def tracked() -> tuple[str, ...]:
    """Return the paths of all files that belong to the project; without git, what the folders hold."""
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False) if shutil.which("git") else None
    if listed is not None and listed.returncode == 0:
        return tuple(path for path in listed.stdout.split("\0") if path and (ROOT / path).is_file())
    folders = (*PACKAGES, "tests", "examples", "benchmarks")
    found = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    found += [path for path in ROOT.iterdir() if path.is_file()]
    return tuple(str(path.relative_to(ROOT)) for path in found if "__pycache__" not in path.parts)


def modules() -> dict[str, Path]:
    """Return the modules of both packages, by their dotted name."""
    paths = [path for path in tracked() if path.endswith(".py") and path.split("/")[0] in PACKAGES]
    return {_dotted(path): ROOT / path for path in paths}


@functools.cache
def tree(path: Path) -> ast.Module:
    """Return a file's syntax tree."""
    return ast.parse(path.read_text(), str(path))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Return every function of a file, methods and inner ones included."""
    return (node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def imports(path: Path, *, at_import_only: bool = False) -> set[str]:
    """Return the dotted names that a file imports; with `at_import_only` those it needs when it is loaded."""
    nodes = _loaded(tree(path)) if at_import_only else ast.walk(tree(path))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {_target(node.module, alias.name) for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "importlib.import_module":
            found |= {str(name.value) for name in node.args if isinstance(name, ast.Constant)}
    return found


def _target(module: str, name: str) -> str:
    inner = ROOT / (module + "." + name).replace(".", "/")
    return f"{module}.{name}" if inner.with_suffix(".py").is_file() or inner.is_dir() else module


def _loaded(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or _types_only(child):
            continue
        yield child
        yield from _loaded(child)


def _types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _dotted(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
