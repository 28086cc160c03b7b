"""How the code of a decorated function travels.

A function of an importable module travels as source: its file, and with it what it has imported from the same place (the
whole package when it is in one). A function of `__main__`, a notebook or another function's inside travels by
cloudpickle, behind a line that names the Python that wrote it; it is never unpickled outside its container.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pyfaas.client.errors import invalid
from pyfaas.client.packing import Package, pack_files, walk

PICKLE = "function.pkl"
_CLOUDPICKLE = "cloudpickle"
_ELSEWHERE = ("site-packages", "dist-packages")


def package(function: Callable[..., Any], name: str, config: Mapping[str, Any]) -> Package:
    """Return what is published for a function; raises InvalidRequest when its code cannot travel."""
    module = sys.modules.get(function.__module__)
    if module is None or not is_source(function, module):
        requirements = list(config.get("requirements") or [])
        if not any(str(text).startswith(_CLOUDPICKLE) for text in requirements):
            requirements.append(_CLOUDPICKLE)
        pickled = {**config, "name": name, "requirements": requirements, "pickled": True}
        return Package(name=name, config=pickled, bundle=pack_files({PICKLE: (pickle(function), False)}))
    handler = f"{module.__name__}:{function.__qualname__}"
    return Package(name=name, config={**config, "name": name, "handler": handler}, bundle=pack_files(source(module)))


def is_source(function: Callable[..., Any], module: types.ModuleType) -> bool:
    """Tell whether a container can import a function by its module and name."""
    file = getattr(module, "__file__", None)
    if module.__name__ == "__main__" or not file or not Path(file).is_file() or not file.endswith(".py"):
        return False
    return all(part.isidentifier() for part in function.__qualname__.split("."))  # not so for <locals> and <lambda>


def source(module: types.ModuleType) -> dict[str, tuple[bytes, bool]]:
    """Return the files of a module's root that it needs, by path."""
    file = Path(str(module.__file__)).resolve()
    depth = module.__name__.count(".") + (file.name == "__init__.py")
    root = file.parents[depth]
    top = module.__name__.partition(".")[0]
    found = {file}
    if (root / top).is_dir():
        found |= set(walk(root / top))
    for other in list(sys.modules.values()):
        path = getattr(other, "__file__", None)
        if path and path.endswith(".py") and is_beside(Path(path).resolve(), root):
            found.add(Path(path).resolve())
    return {str(path.relative_to(root)): (path.read_bytes(), False) for path in found}


def is_beside(path: Path, root: Path) -> bool:
    """Tell whether a loaded module's file is the author's own, under the root of the function's module."""
    own = Path(__file__).resolve().parents[1]
    if not path.is_relative_to(root) or path.is_relative_to(own) or any(word in path.parts for word in _ELSEWHERE):
        return False
    return not any(path.is_relative_to(prefix) and not root.is_relative_to(prefix) for prefix in _prefixes())


def _prefixes() -> set[Path]:
    return {Path(prefix).resolve() for prefix in (sys.prefix, sys.base_prefix) if prefix != "/usr"} | {
        Path(types.__file__).parent
    }


def pickle(function: Callable[..., Any]) -> bytes:
    """Return a function by cloudpickle, by value, behind the line `#3.11`."""
    try:
        content: bytes = importlib.import_module(_CLOUDPICKLE).dumps(function)
    except (TypeError, ValueError, AttributeError, RecursionError, ImportError) as error:
        raise invalid(f"{function.__qualname__} cannot travel: {error}", "put it into a module of its own") from None
    return f"#{sys.version_info[0]}.{sys.version_info[1]}\n".encode() + content
