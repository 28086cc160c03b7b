"""A serverless server for one Linux box.

Nothing is imported here: code inside containers may import this package, and a
convenience import would pull the SDK into every VM. Public names load on first use.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "App": "pyfaas.client.app",
    "AsyncClient": "pyfaas.client.aio",
    "Client": "pyfaas.client.sync",
    "Context": "pyfaas.runtime.context",
    "Error": "pyfaas.client.errors",
    "FunctionCall": "pyfaas.client.function",
    "FunctionError": "pyfaas.client.errors",
    "Gone": "pyfaas.client.errors",
    "InvalidRequest": "pyfaas.client.errors",
    "NotAllowed": "pyfaas.client.errors",
    "NotFound": "pyfaas.client.errors",
    "ServerError": "pyfaas.client.errors",
    "Throttled": "pyfaas.client.errors",
}
__all__ = [*sorted(_PUBLIC), "__version__"]


def __getattr__(name: str) -> Any:
    """Import a public name from the module that defines it."""
    if name == "_carried":  # what a pickled function calls its decorated neighbours; see pyfaas.client.function
        return importlib.import_module("pyfaas.client.function").carried
    if name not in _PUBLIC:
        raise AttributeError(f"module 'pyfaas' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
