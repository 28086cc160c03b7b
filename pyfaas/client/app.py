"""The SDK's decorators: a Python function that runs here, or there, by how it is called.

Containers do not import this: `import pyfaas` is a stand-in there (`pyfaas.runtime.sdk`).
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, Unpack, overload

from pyfaas.client.aio import AsyncClient
from pyfaas.client.errors import Error, NotFound, from_outcome, from_refusal, invalid
from pyfaas.client.function import Function, Way
from pyfaas.client.packing import Package
from pyfaas.client.progress import working
from pyfaas.client.releasing import Release
from pyfaas.client.shipping import package
from pyfaas.client.sync import Client
from pyfaas.errors import PyfaasError
from pyfaas.manifest import parse
from pyfaas.names import check_name

P = ParamSpec("P")
X = TypeVar("X")
AnyFunction = Function[..., Any, Any, Any]
Versions = dict[str, dict[str, Any]]
_SUFFIX_BYTES = 3
_FOUND_BY_ITSELF = ("handler", "shape")


class App:
    """A group of functions, published as `{app}-{function}`.

    >>> app = pyfaas.App("reports")
    >>> @app.function(requirements=["pandas"], memory="512M")
    ... def summarise(csv: str) -> dict: ...
    >>> with app.run():
    ...     summarise.remote(text)
    """

    def __init__(self, name: str, *, client: Client | None = None) -> None:
        """Keep the name; `client` speaks for another account than the one that the CLI would use."""
        self.name = _checked_name(name)
        self.functions: dict[str, AnyFunction] = {}
        self.deploy: Way[..., Versions, Awaitable[Versions]] = Way(self._deploy_here, self._deploy_aio)
        self._client = client
        self._suffix = ""
        # What this process has published since `run` or `deploy`; None before.
        self._live: dict[str, AnyFunction] | None = None
        self._turn = asyncio.Lock()

    def __repr__(self) -> str:
        """Show the name and the functions."""
        return f"<pyfaas app {self.name}: {', '.join(self.functions) or 'no functions yet'}>"

    def __reduce__(self) -> Any:
        """Travel, with a function that names it, as the stand-in that a container has."""
        return App, (self.name,)

    @property
    def client(self) -> Client:
        """The client that calls go through, made at the first use."""
        if self._client is None:
            self._client = Client()
        return self._client

    @overload
    def function(self, function: Callable[P, AsyncIterator[X]], /) -> Function[P, AsyncIterator[X], Iterator[X], AsyncIterator[X]]: ...  # type: ignore[overload-overlap]
    @overload
    def function(self, function: Callable[P, Coroutine[Any, Any, X]], /) -> Function[P, Coroutine[Any, Any, X], X, Awaitable[X]]: ...
    @overload
    def function(self, function: Callable[P, Iterator[X]], /) -> Function[P, Iterator[X], Iterator[X], AsyncIterator[X]]: ...  # type: ignore[overload-overlap]
    @overload
    def function(self, function: Callable[P, X], /) -> Function[P, X, X, Awaitable[X]]: ...
    @overload
    def function(self, function: None = None, /, *, name: str | None = None, trust_results: bool = False, **config: Any) -> Decorator: ...
    def function(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        trust_results: bool = False,
        **config: Any,
    ) -> Any:
        """Make a function one of the app's: `@app.function`, or `@app.function(memory="512M", …)` with pyfaas.toml's keys.

        A name that is used again is replaced: a notebook's cell may be run again. Arguments and results are JSON with
        tags for bytes, dates, sets, exact numbers and numpy arrays. With `trust_results` they travel by cloudpickle
        instead, and the results are UNPICKLED HERE: whoever controls what the function does in its container, say by the
        data that it reads or by a requirement, can then run anything on this machine. Ask for it only for code and
        data that you would run here anyway. Raises InvalidRequest for an unknown key, a wrong value or a bad name.
        """
        settings = _checked(config)

        def add(plain: Callable[..., Any]) -> AnyFunction:
            local = plain.local if isinstance(plain, Function) else plain
            if not callable(local) or isinstance(local, type):
                raise invalid(f"{plain!r} is not a function")
            called = name or getattr(local, "__name__", "").replace("<lambda>", "lambda")
            _checked_name(f"{self.name}-{called}")
            made: AnyFunction = Function(self, local, called, settings, trust_results=trust_results)
            self.functions[called] = made
            return made

        return Decorator(add) if function is None else add(function)

    def run(self) -> Run:
        """Publish every function under a name of its own for the length of a `with` or `async with`, then remove them."""
        return Run(self)

    def published(self, function: str) -> str:
        """Return the name that a function has on the server."""
        return f"{self.name}-{function}{self._suffix}"

    async def address(self, function: AnyFunction) -> str:
        """Return a function's name on the server; what was defined anew since it was published is published first."""
        if self._is_stale(function):
            async with self._turn:
                if self._is_stale(function):
                    await self.publish(self.client.inner, [function])
        return self.published(function.name)

    def _is_stale(self, function: AnyFunction) -> bool:
        newest = self.functions.get(function.name) is function
        return newest and self._live is not None and self._live.get(function.name) is not function

    def _deploy_here(self, **release: Unpack[Release]) -> Versions:
        """Publish every function and wait until all are ready; returns the versions by function.

        `alias`, `canary`, `promote_after` and `error_budget` are said of each function, as in `AsyncClient.publish`.
        Raises FunctionError for the first that failed, InvalidRequest for code that cannot travel.
        """
        with working(f"publishing {self.name}: {', '.join(self.functions)}"):
            return self.client.portal.run(self.publish(self.client.inner, **release))

    def _deploy_aio(self, **release: Unpack[Release]) -> Awaitable[Versions]:
        return self.client.portal.wrap(self.publish(self.client.inner, **release))

    async def publish(
        self,
        client: AsyncClient,
        functions: list[AnyFunction] | None = None,
        **release: Unpack[Release],
    ) -> Versions:
        """Publish functions, all unless some are named, through a client and wait; returns the versions by function."""
        chosen = list(self.functions.values()) if functions is None else functions
        packages = await asyncio.to_thread(lambda: [self._package(each) for each in chosen])
        if self._live is None:
            self._live = {}
        sent = []
        for each, packed in zip(chosen, packages, strict=True):
            self._live[each.name] = each  # from here on there may be something to remove
            sent.append((packed.name, (await client.publish(packed, **release))["version"]))
        versions = await asyncio.gather(*(client.wait_version(name, number, alias=release.get("alias")) for name, number in sent))
        for each, version in zip(chosen, versions, strict=True):
            if version["state"] == "failed":
                if not self._suffix:
                    self._live.pop(each.name, None)
                raise _failed(version, each)
        return {each.name: version for each, version in zip(chosen, versions, strict=True)}

    def _package(self, function: AnyFunction) -> Package:
        config = {"shape": "typed", **function.config}
        return package(function.local, self.published(function.name), config, trust_results=function.trust_results)

    # ---- for Run

    def begin(self) -> None:
        """Choose the names of a run; raises RuntimeError within another."""
        if self._suffix:
            raise RuntimeError(f"{self!r} is running already")
        self._suffix, self._live = f"-{secrets.token_hex(_SUFFIX_BYTES)}", None

    async def end(self) -> None:
        """Remove what a run published; raises the first failure after all were tried."""
        try:
            names = [self.published(name) for name in self._live or ()]
            done = await asyncio.gather(*(self._remove(name) for name in names), return_exceptions=True)
            for failure in done:
                if failure is not None:
                    raise failure
        finally:
            self._suffix, self._live = "", None

    async def _remove(self, name: str) -> None:
        with contextlib.suppress(NotFound):
            await self.client.inner.remove(name)


App.__module__ = "pyfaas"  # its name in a pickle, which a container's stand-in answers


class Run:
    """The time during which an app's functions are published; for `with` and for `async with`."""

    def __init__(self, app: App) -> None:
        """Publish nothing yet."""
        self._app = app

    def __enter__(self) -> App:
        """Publish every function and wait until all are ready."""
        self._app.begin()
        with contextlib.ExitStack() as stack:
            stack.push(self)  # what was published is removed when the rest fails, or is interrupted
            self._app.deploy()
            stack.pop_all()
        return self._app

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Remove the functions."""
        self._end(error)

    async def __aenter__(self) -> App:
        """Publish every function and wait until all are ready."""
        self._app.begin()
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_exit(self)
            await self._app.deploy.aio()
            stack.pop_all()
        return self._app

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the functions."""
        await asyncio.shield(asyncio.to_thread(self._end, error))

    def _end(self, error: BaseException | None) -> None:
        try:
            self._app.client.portal.run(self._app.end())
        except Error as failure:
            if error is None:
                raise
            error.add_note(f"and the functions of {self._app.name} were not removed: {failure}")


class Decorator:
    """What `@app.function(…)` applies to a function."""

    def __init__(self, add: Callable[[Callable[..., Any]], AnyFunction]) -> None:
        """Keep what makes a Function."""
        self._add = add

    @overload
    def __call__(self, function: Callable[P, AsyncIterator[X]], /) -> Function[P, AsyncIterator[X], Iterator[X], AsyncIterator[X]]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, X]], /) -> Function[P, Coroutine[Any, Any, X], X, Awaitable[X]]: ...
    @overload
    def __call__(self, function: Callable[P, Iterator[X]], /) -> Function[P, Iterator[X], Iterator[X], AsyncIterator[X]]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, function: Callable[P, X], /) -> Function[P, X, X, Awaitable[X]]: ...
    def __call__(self, function: Callable[..., Any], /) -> Any:
        """Make the function one of the app's."""
        return self._add(function)


def _checked_name(name: str) -> str:
    try:
        check_name(name)
        check_name(f"{name}-{'0' * 2 * _SUFFIX_BYTES}")  # what a run adds must fit too
    except PyfaasError as error:
        raise from_refusal(error) from None
    return name


def _checked(config: Mapping[str, Any]) -> Mapping[str, Any]:
    for key in _FOUND_BY_ITSELF:
        if key in config:
            raise invalid(f"{key} is not for the SDK's functions", "they are typed, and found by themselves")
    try:
        parse(config)
    except PyfaasError as error:
        raise from_refusal(error) from None
    return config


def _failed(version: Mapping[str, Any], function: AnyFunction) -> Exception:
    reason = version.get("reason") or {}
    message = f"{version['function']}:{version['version']} failed: {reason.get('message') or reason.get('code')}"
    if "was pickled by Python" in message:
        return invalid(message, "use the server's Python, or put the function into a module")
    hint = ""
    if "ModuleNotFoundError" in message:
        hint = f"name its distribution: @app.function(requirements=[…]); {function.name} has {function.config.get('requirements', [])}"
    problem = {"code": "init_error", "fault": "function", "detail": message, "hint": hint, "log": reason.get("log")}
    return from_outcome("init_error", problem)
