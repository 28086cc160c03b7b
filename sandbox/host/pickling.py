"""Calls as pickles for a worker: what it can import goes by reference, the caller's own code by value.

By reference: the standard library, and what is found in the paths that the executor was given. By value: `__main__`, and
modules of the caller's own that lie nowhere near. Installed packages go by reference too, and are missing in a worker
unless their directory is among the paths.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import marshal
import os
import sys
import sysconfig
import threading
import types
from collections.abc import Sequence
from typing import Any

import cloudpickle

_CODES = ("cloudpickle.cloudpickle", "cloudpickle")
_NAMELESS = "<dynamic-code>"
_INSTALLED = ("site-packages", "dist-packages")
_REGISTRY = threading.RLock()  # cloudpickle keeps one list of what goes by value for the whole process


class Packer:
    """Pickles for the workers of one executor. `sources` are the files of which code was sent."""

    def __init__(self, paths: Sequence[str]) -> None:
        """Take the directories that workers import from."""
        self._paths = tuple(os.path.join(os.path.realpath(path), "") for path in paths)
        self.sources: set[str] = set()

    def pack(self, value: object) -> bytes:
        """Return a pickle; raises what `__reduce__` of something inside raises."""
        file = io.BytesIO()
        with _REGISTRY:
            pickler = _Pickler(file, self)
            try:
                pickler.dump(value)
            finally:
                pickler.forget()
        return file.getvalue()

    def travels(self, module: types.ModuleType) -> bool:
        """Tell whether a module is the caller's own, which no worker can import."""
        if sys.modules.get(module.__name__) is not module or module.__name__.partition(".")[0] == "sandbox":
            return False
        file = getattr(module, "__file__", None)
        return bool(file) and not str(file).startswith(self._paths) and _is_own(str(file))


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle's, which is told of each module of the caller's when it meets something of it."""

    def __init__(self, file: io.BytesIO, packer: Packer) -> None:
        super().__init__(file)
        self._packer = packer
        self._registered: dict[str, types.ModuleType] = {}

    def reducer_override(self, found: Any) -> Any:
        if isinstance(found, types.CodeType):
            return self._reduce_code(found)
        if isinstance(found, (type, types.FunctionType)):
            self._register(sys.modules.get(str(found.__module__)))
        elif isinstance(found, types.ModuleType):
            self._register(found)
        return super().reducer_override(found)

    def _reduce_code(self, code: types.CodeType) -> Any:
        """Keep the file's name, which newer versions of cloudpickle leave out: tracebacks show it."""
        self._packer.sources.add(code.co_filename)
        make, arguments, *rest = self.dispatch_table[types.CodeType](code)
        return (make, tuple(code.co_filename if part == _NAMELESS else part for part in arguments), *rest)

    def _register(self, module: types.ModuleType | None) -> None:
        if module is None or module.__name__ in self._registered or not self._packer.travels(module):
            return
        if module.__name__ not in cloudpickle.list_registry_pickle_by_value():
            self._registered[module.__name__] = module
            cloudpickle.register_pickle_by_value(module)

    def forget(self) -> None:
        """Leave cloudpickle's list as it was."""
        for module in self._registered.values():
            cloudpickle.unregister_pickle_by_value(module)


@functools.lru_cache(maxsize=1024)
def _is_own(file: str) -> bool:
    path = os.path.realpath(file)
    if any(f"/{name}/" in path for name in _INSTALLED):
        return False
    return not path.startswith(tuple(_libraries()))


@functools.cache
def _libraries() -> list[str]:
    found = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib")} | {os.path.dirname(os.__file__)}
    return [os.path.join(os.path.realpath(path), "") for path in found if path]


@functools.cache
def worker_code() -> bytes:
    """Return cloudpickle's code for a worker, marshalled: there it is read by the same interpreter."""
    codes = {}
    for name in _CODES:
        spec = importlib.util.find_spec(name)
        loader: Any = spec.loader if spec else None
        codes[name] = loader.get_code(name)
    return marshal.dumps(codes)
