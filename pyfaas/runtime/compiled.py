"""Import a handler's module from its compiled file, without a search for it.

Theory of operation. A version's code is compiled when it is prepared, into unchecked-hash files (PEP 552), and never
changes. So where `CODE/__pycache__/NAME.TAG.pyc` is, the whole of a search (the zip importer's attempt, a finder, a
listing, the source's time) can only find that file: a first call saves it two thirds of its import. What a search would decide in
another way (a module that is loaded already, built in or frozen, a package of the same name) is left to importlib.
"""

from __future__ import annotations

import _imp
import marshal
import os
import sys
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import MAGIC_NUMBER, module_from_spec
from types import ModuleType

_UNCHECKED = b"\x01\x00\x00\x00"  # PEP 552: the flags' hash bit alone
HEADER = MAGIC_NUMBER + _UNCHECKED + bytes(8)  # of a file whose source is not looked at


def import_compiled(name: str, code: str) -> ModuleType | None:
    """Import top-level module `name` of the directory `code`; None when importlib should look for it.

    Raises what the module raises.
    """
    if "." in name or name in sys.modules or name in sys.builtin_module_names or _imp.is_frozen(name):
        return None
    cached = f"{code}/__pycache__/{name}.{sys.implementation.cache_tag}.pyc"
    try:
        with open(cached, "rb", buffering=0) as file:
            data = file.read()
    except OSError:
        return None
    if data[:8] != HEADER[:8] or os.path.isdir(f"{code}/{name}"):
        return None
    source = f"{code}/{name}.py"
    compiled = marshal.loads(memoryview(data)[len(HEADER) :])  # noqa: S302 -- the tenant's own code, in its own container
    # It was compiled under another name; importlib does this too.
    _imp._fix_co_filename(compiled, source)  # type: ignore[attr-defined]  # noqa: SLF001
    spec = ModuleSpec(name, SourceFileLoader(name, source), origin=source)
    spec.has_location, spec.cached = True, cached
    module = sys.modules[name] = module_from_spec(spec)
    is_done = False
    try:
        exec(compiled, vars(module))  # noqa: S102 -- likewise
        is_done = True
    finally:
        if not is_done:
            sys.modules.pop(name, None)
    return sys.modules.get(name, module)
