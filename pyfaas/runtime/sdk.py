"""What `import pyfaas` gives the tenant's code inside a container.

Theory of operation. This package and `sandbox` are loaded in every container, by the launcher, and would hide
modules of the tenant that have the same names; their files are not there, so the SDK could not be imported from
them either. So both names are given up when a version is loaded: a tenant's own module is found first, and
without one `pyfaas` is a stand-in in which the SDK's decorators return the function as it is. A file that says
`@app.function(...)` then defines plain functions here, which is what a container runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from pyfaas.runtime.context import Context

_OURS = ("pyfaas", "sandbox")


class App:
    """The SDK's App as far as a container needs it: names are kept, functions stay what they are."""

    def __init__(self, name: str = "", **_settings: Any) -> None:
        """Keep the name; settings were read when the version was published."""
        self.name = name

    def function(self, function: Callable[..., Any] | None = None, /, **_settings: Any) -> Any:
        """Return the function itself, whether used as `@app.function` or `@app.function(...)`."""
        return (lambda decorated: decorated) if function is None else function


def give_up_names(paths: Sequence[str]) -> None:
    """Take our packages out of the tenant's sight; `paths` is where the tenant's own modules are."""
    for name in [name for name in sys.modules if name.partition(".")[0] in _OURS]:
        del sys.modules[name]
    if not any(os.path.exists(f"{path}/pyfaas{end}") for path in paths for end in ("", ".py")):  # a finder costs 0.1 ms
        sys.modules["pyfaas"] = stand_in()


def stand_in() -> ModuleType:
    """Make the module that code in a container imports as `pyfaas`."""
    module = ModuleType("pyfaas", "pyfaas inside a container: decorators that change nothing, and Context.")
    vars(module).update(App=App, Context=Context, __all__=["App", "Context"])
    return module
