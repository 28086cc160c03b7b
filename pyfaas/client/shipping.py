"""How the code of a decorated function travels.

A function of an importable module travels as source: its file or package, and what that imports of the author's own. A
function of `__main__`, a notebook or another function's inside travels by cloudpickle, with the sources that the pickle
names, and with cloudpickle itself, so that the container has the copy that wrote it and needs no package index.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle

from pyfaas.client.packing import Package, pack_files, walk
from pyfaas.client.pickling import pickled, trusting
from pyfaas.client.sources import Files, gather, is_own

PICKLE = "function.pkl"


def package(
    function: Callable[..., Any], name: str, config: Mapping[str, Any], *, trust_results: bool = False
) -> Package:
    """Return what is published for a function; raises InvalidRequest when its code cannot travel."""
    module = sys.modules.get(function.__module__)
    if module is not None and is_source(function, module) and not trust_results:
        handler = f"{module.__name__}:{function.__qualname__}"
        source = pack_files(gather({module.__name__}))
        return Package(name=name, config={**config, "name": name, "handler": handler}, bundle=source)
    written = pickled(trusting(function) if trust_results else function)
    files = {**gather(written.needs), **_cloudpickle(), PICKLE: (written.content, False)}
    return Package(name=name, config={**config, "name": name, "pickled": True}, bundle=pack_files(files))


def is_source(function: Callable[..., Any], module: ModuleType) -> bool:
    """Tell whether a container can import a function by its module and name."""
    file = getattr(module, "__file__", None)
    if module.__name__ == "__main__" or not file or not file.endswith(".py") or not is_own(Path(file).resolve()):
        return False
    found: Any = module
    for part in function.__qualname__.split("."):  # nothing is found under <locals> and <lambda>
        found = getattr(found, part, None)
    return found is function or getattr(found, "local", None) is function


def _cloudpickle() -> Files:
    home = Path(cloudpickle.__file__).resolve().parent
    return {f"cloudpickle/{path.name}": (path.read_bytes(), False) for path in walk(home) if path.suffix == ".py"}
