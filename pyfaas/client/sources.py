"""Which of the author's own files a function needs: its module, and whatever that imports of the author's, wherever it lies.

A module is the author's own unless it belongs to Python, to an installed distribution or to pyfaas. What is imported is
read out of the sources, also where an import stands inside a function and has not run yet; the whole directory travels
of what is a package, data files included. A file is filed under its module's name, so a container that has the bundle's
root on its path imports it the same way.
"""

from __future__ import annotations

import ast
import stat
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

from pyfaas.client.packing import walk

Files = dict[str, tuple[bytes, bool]]
_INSTALLED = frozenset({"site-packages", "dist-packages"})
_NOT_TOPS = frozenset({"__main__", "pyfaas", "cloudpickle"})  # the last travels by itself, with what it wrote
_OURS = tuple(Path(__file__).resolve().parents[2] / name for name in ("pyfaas", "sandbox"))


def gather(names: Iterable[str]) -> Files:
    """Return the files of the named modules and of all of the author's own that they import, by their path in the bundle."""
    files: Files = {}
    ahead, seen = [name.partition(".")[0] for name in names], set(_NOT_TOPS)
    while ahead:
        top = ahead.pop()
        if top in seen:
            continue
        seen.add(top)
        for place, path in _files_of(top):
            content = path.read_bytes()
            files[place] = (content, bool(path.stat().st_mode & stat.S_IXUSR))
            if place.endswith(".py"):
                ahead += imported(content)
    return files


def is_own(path: Path) -> bool:
    """Tell whether a file is the author's: not Python's, not an installed distribution's, not ours."""
    if any(part in _INSTALLED for part in path.parts) or any(path.is_relative_to(place) for place in _OURS):
        return False
    return not any(path.is_relative_to(library) for library in _standard_library())


def imported(source: bytes) -> set[str]:
    """Return the top-level names that a module's source imports; none when it cannot be read."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return set()
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def _files_of(top: str) -> Iterator[tuple[str, Path]]:
    if top in sys.builtin_module_names or top in sys.stdlib_module_names:
        return
    file, directories = _places(top)
    own = [directory for directory in directories if is_own(directory)]
    for directory in own:
        for path in walk(directory):
            yield f"{top}/{path.relative_to(directory).as_posix()}", path
    if not directories and file is not None and file.suffix == ".py" and is_own(file):
        yield f"{top}.py", file


def _places(top: str) -> tuple[Path | None, list[Path]]:
    """Return a top-level module's file and, when it is a package, its directories; without importing it."""
    module = sys.modules.get(top)
    if module is not None:
        return _file(module), [Path(place).resolve() for place in getattr(module, "__path__", None) or ()]
    spec = PathFinder.find_spec(top)
    if spec is None:
        return None, []
    origin = Path(spec.origin).resolve() if spec.origin and spec.has_location else None
    return origin, [Path(place).resolve() for place in spec.submodule_search_locations or ()]


def _file(module: ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    if not isinstance(file, str) or not file.endswith(".py") or getattr(module, "__name__", "") in _NOT_TOPS:
        return None
    path = Path(file).resolve()
    return path if path.is_file() and is_own(path) else None


def _standard_library() -> set[Path]:
    return {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")}
