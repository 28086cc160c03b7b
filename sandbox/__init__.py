"""Run untrusted Python in confined, pre-initialised processes on one Linux machine.

Nothing is imported here: the guest imports this package, and a convenience
import would pull asyncio and more into every VM. Public names load on first use.
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "LimitExceeded": "sandbox.remote",
    "Limits": "sandbox.limits",
    "RemoteError": "sandbox.remote",
    "SandboxError": "sandbox.errors",
    "SandboxExecutor": "sandbox.executor",
    "SetupError": "sandbox.errors",
    "WorkerDied": "sandbox.remote",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    """Import a public name from the module that defines it."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'sandbox' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
