"""Bring a version's code into this process: environment, search path, handler.

Theory of operation. Until LOAD arrives the process has imported the standard library and the
runtime only, and its environment is the launcher's. Loading leaves exactly what the version's
configuration names: the environment is emptied and filled, the search path is the code, its
dependencies and the standard library, and the working directory is the code. Whatever the code
raises while it is imported is data (`LoadFailed`), never the end of the process.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
import os
import pickle
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

from pyfaas.runtime import report, sdk, shapes
from pyfaas.runtime.compiled import import_compiled
from pyfaas.runtime.context import Assignment

_DEFAULT_MODULE = "main"
_PICKLE = "function.pkl"
_BARE = {"HOME": "/tmp", "TMPDIR": "/tmp", "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}  # noqa: S108
_SHOWN = {name: getattr(sys.flags, name) for name in dir(sys.flags) if not name.startswith(("_", "n_")) and name not in {"count", "index"}}
_FLAGS = SimpleNamespace(**{**_SHOWN, "isolated": 0, "ignore_environment": 0, "safe_path": False})


class LoadFailed(Exception):
    """Loading ended; `fields` is the error document for the version's owner."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        """Keep the document."""
        self.fields = dict(fields)
        super().__init__(str(self.fields.get("errorMessage", "")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A LOAD, parsed."""

    function: str
    version: str
    account: str
    qualifier: str | None = None
    handler: str | None = None
    shape: shapes.Shape | None = None
    code: str = "/app/code"
    paths: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    memory_mib: int = 256
    output_bytes: int = 6 << 20
    log_bytes: int = 1 << 20
    pickled: bool = False

    @classmethod
    def parse(cls, payload: Mapping[str, Any]) -> Order:
        """Read the keys of a LOAD; what is absent has its default, what is unknown is ignored."""
        shape = payload.get("shape")
        return cls(
            function=str(payload["function"]),
            version=str(payload["version"]),
            account=str(payload["account"]),
            qualifier=payload.get("qualifier"),
            handler=payload.get("handler"),
            shape=shapes.Shape(shape) if shape else None,
            code=str(payload.get("code") or "/app/code"),
            paths=tuple(payload.get("paths") or ()),
            env=dict(payload.get("env") or {}),
            memory_mib=int(payload.get("memory_mib") or 256),
            output_bytes=int(payload.get("output_bytes") or 6 << 20),
            log_bytes=int(payload.get("log_bytes") or 1 << 20),
            pickled=bool(payload.get("pickled")),
        )

    @property
    def assignment(self) -> Assignment:
        """What every call's context says of the version."""
        return Assignment(
            function=self.function,
            version=self.version,
            account=self.account,
            memory_mib=self.memory_mib,
            qualifier=self.qualifier,
        )


def load(order: Order, arrive: Callable[[], None] = lambda: None) -> tuple[str, shapes.Bound]:
    """Load a version and return its handler's name and the bound handler; raises LoadFailed, nothing else.

    `arrive` is called before anything of the code is looked at: it may not be there until then.
    """
    try:
        prepare(order)
        arrive()
        enter(order)
        name, handler = _find(order)
        bound = shapes.bind(_plain(handler), order.shape)
    except LoadFailed:
        raise
    except shapes.ShapeError as error:
        raise LoadFailed({"errorType": "InvalidHandler", "errorMessage": str(error), "stackTrace": []}) from None
    except BaseException as error:  # noqa: BLE001 -- the tenant's import may raise anything, SystemExit included
        raise LoadFailed(report.failure_fields(error)) from None
    _show_log_records()
    return name, bound


def prepare(order: Order) -> None:
    """Set environment and search path to what the version names.

    Programs that the code starts find its modules and its packages' programs too: joblib's workers are `python -m joblib…`.
    """
    paths = _paths(order)
    os.environ.clear()
    os.environ.update(_BARE)
    os.environ.update({str(key): str(value) for key, value in order.env.items()})
    os.environ.update(
        PYFAAS_FUNCTION=order.function,
        PYFAAS_VERSION=order.version,
        PYFAAS_ACCOUNT=order.account,
        PYFAAS_MEMORY_MIB=str(order.memory_mib),
        PYTHONPATH=":".join(filter(None, (order.env.get("PYTHONPATH"), *paths))),
        PATH=":".join((*(f"{path}/bin" for path in paths[1:]), os.environ["PATH"])),
    )
    if "TZ" in order.env:
        time.tzset()
    sys.dont_write_bytecode = True  # the code is read-only
    sys.path[:] = [*paths, *standard_library()]
    _look_ordinary()


def _look_ordinary() -> None:
    """Undo what `python -I -S`, which the launcher is, would mean to the code.

    multiprocessing and joblib start interpreters with the flags that sys.flags shows, and an isolated one reads no
    PYTHONPATH. `exit` and `quit` come from the module site, which -S leaves out.
    """
    sys.flags = _FLAGS  # type: ignore[assignment]
    vars(builtins).update(exit=_leave, quit=_leave)


def _leave(code: object = None) -> None:
    """Do what `exit` does; without closing standard input, whose number the next opened file would get."""
    raise SystemExit(code)


def enter(order: Order) -> None:
    """Go to the code, and forget what was known of its place before it was there."""
    paths = _paths(order)
    with contextlib.suppress(OSError):
        os.chdir(order.code)
    for path in list(sys.path_importer_cache):
        if path.startswith(tuple(paths)):
            del sys.path_importer_cache[path]
    sdk.give_up_names(paths)


def _paths(order: Order) -> list[str]:
    return [path for path in (order.paths or (order.code,)) if path]


def standard_library() -> list[str]:
    """Return the entries of sys.path that hold the standard library: not the host's own packages."""
    home = os.path.dirname(os.__file__)
    return [
        path
        for path in sys.path
        if path == home or (path.startswith(home + os.sep) and "-packages" not in path) or path.endswith(".zip")
    ]


def _show_log_records() -> None:
    # Without a handler `logging` drops what is below WARNING. The last resort is asked only while the code has
    # set up none, so lowering its level shows `logger.info` and leaves `basicConfig` its effect. Code that did
    # not import `logging` while loading does not use it.
    last_resort = getattr(sys.modules.get("logging"), "lastResort", None)
    if last_resort is not None:
        last_resort.setLevel(0)


def _find(order: Order) -> tuple[str, Any]:
    if order.pickled:
        return f"{_PICKLE}:", _unpickle(order)
    module_name, attribute = split_handler(order.handler) if order.handler else (_default_module(order.code), "")
    module = _import(module_name, order.code)
    if not attribute:
        attribute = _default_attribute(module)
    target: Any = module
    for part in attribute.split("."):
        try:
            target = getattr(target, part)
        except AttributeError:
            raise _no_handler(f"module {module_name!r} has no {attribute!r}{_offer(module)}") from None
    return f"{module_name}:{attribute}", target


def split_handler(handler: str) -> tuple[str, str]:
    """Split `module:attribute`, or Lambda's `package/module.attribute`; the attribute may be left out after a colon."""
    module, colon, attribute = handler.partition(":")
    if not colon:
        module, dot, attribute = handler.rpartition(".")
        if not dot:
            module, attribute = handler, ""
    return module.replace("/", ".").removesuffix(".py"), attribute


def _import(name: str, code: str) -> ModuleType:
    try:
        return import_compiled(name, code) or importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
            raise
        raise _no_handler(f"no module {name!r} in the code; it has {_listing(code)}") from None


def _default_module(code: str) -> str:
    names = _python_files(code)
    if f"{_DEFAULT_MODULE}.py" not in names and len(names) == 1:
        return names[0].removesuffix(".py")
    return _DEFAULT_MODULE


def _default_attribute(module: ModuleType) -> str:
    for name in ("handler", "app"):
        if callable(getattr(module, name, None)):
            return name
    public = _public_functions(module)
    if len(public) == 1:
        return public[0]
    raise _no_handler(
        f"module {module.__name__!r} has no 'handler', no 'app' and {len(public) or 'no'} public functions"
        f"{_offer(module)}; name one as module:function"
    )


def _public_functions(module: ModuleType) -> list[str]:
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and callable(value)
        and not isinstance(value, type)
        and getattr(value, "__module__", None) == module.__name__
    ]


def _offer(module: ModuleType) -> str:
    public = _public_functions(module)
    return f" (it defines {', '.join(public[:10])})" if public else ""


def _python_files(code: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(code) if name.endswith(".py") and not name.startswith("_"))
    except OSError:
        return []


def _listing(code: str) -> str:
    names = _python_files(code)
    return ", ".join(names[:10]) if names else "no Python files at its top"


def _no_handler(message: str) -> LoadFailed:
    return LoadFailed({"errorType": "HandlerNotFound", "errorMessage": message, "stackTrace": []})


def _plain(handler: Any) -> Callable[..., Any]:
    """Unwrap a function decorated by the SDK: its `local` is the function itself."""
    local = getattr(handler, "local", None)
    ours = type(handler).__module__.partition(".")[0] == "pyfaas"
    plain: Callable[..., Any] = local if ours and callable(local) else handler
    return plain


def _unpickle(order: Order) -> Any:
    """Load a function that travelled by cloudpickle; its first line names the Python that wrote it."""
    with open(os.path.join(order.code, _PICKLE), "rb") as file:  # noqa: PTH118, PTH123
        body = file.read()
    if body.startswith(b"#"):
        first, _, body = body.partition(b"\n")
        wrote, here = first[1:].decode("ascii", "replace").strip(), f"{sys.version_info[0]}.{sys.version_info[1]}"
        if wrote != here:
            message = f"the function was pickled by Python {wrote}, and this container runs Python {here}"
            raise LoadFailed({"errorType": "PythonMismatch", "errorMessage": message, "stackTrace": []})
    try:
        return pickle.loads(body)  # noqa: S301 -- the tenant's own code, in the tenant's own container
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("cloudpickle"):
            raise
        message = "functions that travel by cloudpickle need cloudpickle among their requirements"
        raise LoadFailed({"errorType": "ModuleNotFoundError", "errorMessage": message, "stackTrace": []}) from None
