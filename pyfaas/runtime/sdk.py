"""What `import pyfaas` gives the tenant's code inside a container.

Theory of operation. This package and `sandbox` are loaded in every container, by the launcher, and would hide
modules of the tenant that have the same names; their files are not there, so the SDK could not be imported from
them either. So both names are given up when a version is loaded: a tenant's own module is found first, and
without one `pyfaas` is a stand-in with all of the SDK's names. Its decorators return the function as it is, so a file
that says `@app.function(...)` defines plain functions here, which is what a container runs; whatever would talk to a
server says, when it is used, that there is none within reach.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, Never

from pyfaas.runtime.context import Context

_OURS = ("pyfaas", "sandbox")


class App:
    """The SDK's App as far as a container needs it: names are kept, functions stay what they are."""

    def __init__(self, name: str = "", **_settings: Any) -> None:
        """Keep the name; settings were read when the version was published."""
        self.name = name

    def function(self, function: Callable[..., Any] | None = None, /, **_settings: Any) -> Any:
        """Return the function itself, whether used as `@app.function` or `@app.function(...)`."""
        return carried if function is None else carried(function)

    def run(self) -> Never:
        """Refuse: see `Elsewhere`."""
        Elsewhere("App.run")()

    def deploy(self) -> Never:
        """Refuse: see `Elsewhere`."""
        Elsewhere("App.deploy")()


class Elsewhere:
    """What works outside only; it may be passed around here, and says what to do when it is used."""

    def __init__(self, name: str) -> None:
        """Keep the name for the sentence."""
        self._name = name

    def __call__(self, *_args: Any, **_kwargs: Any) -> Never:
        """Refuse."""
        message = f"{self._name} is not there inside a container, which reaches no server; call the function itself, or .local"
        raise RuntimeError(message)

    def __getattr__(self, name: str) -> Any:
        """Return what refuses too, such as `f.remote.aio` and `client.invoke`."""
        if name.startswith("_"):
            raise AttributeError(name)
        return Elsewhere(f"{self._name}.{name}")


class Client(Elsewhere):
    """Stands for both clients: it may be made at a module's top, as a script does."""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        """Open nothing."""
        super().__init__("pyfaas.Client")


class Error(Exception):
    """Root of what the SDK raises, so that an `except` clause finds it."""


_ERRORS = ("FunctionError", "Gone", "InvalidRequest", "NotAllowed", "NotFound", "ServerError", "Throttled")


def carried(function: Any) -> Any:
    """Return a decorated function as a container has it: itself, called plainly or by `.local`."""
    try:
        function.local = function
        for way in ("remote", "spawn", "map", "starmap"):
            setattr(function, way, Elsewhere(f"{function.__name__}.{way}"))
    except AttributeError:  # a callable without attributes of its own
        pass
    return function


def give_up_names(paths: Sequence[str]) -> None:
    """Take our packages out of the tenant's sight; `paths` is where the tenant's own modules are."""
    for name in [name for name in sys.modules if name.partition(".")[0] in _OURS]:
        del sys.modules[name]
    if not any(os.path.exists(f"{path}/pyfaas{end}") for path in paths for end in ("", ".py")):  # a finder costs 0.1 ms
        sys.modules["pyfaas"] = _STAND_IN


def stand_in() -> ModuleType:
    """Make the module that code in a container imports as `pyfaas`."""
    module = ModuleType("pyfaas", "pyfaas inside a container: decorators that change nothing, and Context.")
    names: dict[str, Any] = {"App": App, "Context": Context, "Error": Error}
    names |= {name: type(name, (Error,), {"__module__": "pyfaas"}) for name in _ERRORS}
    names |= {"AsyncClient": Client, "Client": Client, "FunctionCall": Elsewhere("pyfaas.FunctionCall")}
    # What pickles of decorated functions name; see pyfaas.client.function.
    vars(module).update(names, __all__=sorted(names), _carried=carried)
    return module


_STAND_IN = stand_in()  # once, before containers are forked: its classes cost a first call a fifth of a millisecond
