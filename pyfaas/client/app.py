"""The SDK's decorators: a Python function that runs here, or there, by how it is called.

This module is also imported inside containers, where the author's source has `import pyfaas` at its top and nothing but
the standard library is there: the client, and all that it needs, is imported when something is called or deployed.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, overload

from pyfaas.client.batch import AT_ONCE, ordered
from pyfaas.client.errors import from_outcome, invalid

if TYPE_CHECKING:
    from pyfaas.client.sync import Client


class App:
    """A group of functions, published as `{app}-{function}`."""

    def __init__(self, name: str, *, client: Client | None = None) -> None:
        """Keep the name; `client` speaks for another account than the one that the CLI would use."""
        self.name = name
        self.functions: dict[str, Function] = {}
        self._client = client
        self._suffix = ""

    @property
    def client(self) -> Client:
        """The client that calls go through, made at the first use."""
        if self._client is None:
            self._client = importlib.import_module("pyfaas.client.sync").Client()
        return self._client

    @overload
    def function(self, function: Callable[..., Any], /) -> Function: ...
    @overload
    def function(
        self, function: None = None, /, *, name: str | None = None, **config: Any
    ) -> Callable[[Callable[..., Any]], Function]: ...
    def function(
        self, function: Callable[..., Any] | None = None, /, *, name: str | None = None, **config: Any
    ) -> Function | Callable[[Callable[..., Any]], Function]:
        """Make a function one of the app's; `config` has pyfaas.toml's keys. A name that is used again is replaced."""

        def add(plain: Callable[..., Any]) -> Function:
            made = Function(self, plain, name or plain.__name__.replace("<lambda>", "lambda"), config)
            self.functions[made.name] = made
            return made

        return add if function is None else add(function)

    def deploy(self) -> dict[str, dict[str, Any]]:
        """Publish every function and wait until all are ready; returns the versions by function.

        Raises FunctionError for the first that failed, InvalidRequest for code that cannot travel.
        """
        return self.client.portal.run(self._deploy())

    @contextlib.contextmanager
    def run(self) -> Iterator[App]:
        """Publish every function under a name of its own for the length of the block, and remove them at its end."""
        self._suffix = f"-{secrets.token_hex(3)}"
        try:
            self.deploy()
            yield self
        finally:
            try:
                self.client.portal.run(self._remove())
            finally:
                self._suffix = ""

    def published(self, function: str) -> str:
        """Return the name that a function has on the server."""
        return f"{self.name}-{function}{self._suffix}"

    async def _deploy(self) -> dict[str, dict[str, Any]]:
        shipping = importlib.import_module("pyfaas.client.shipping")
        client = self.client.inner
        packages = {
            f.name: shipping.package(f.local, self.published(f.name), {"shape": "typed", **f.config})
            for f in self.functions.values()
        }
        published = {name: await client.publish(package) for name, package in packages.items()}
        waits = (client.wait_version(self.published(name), done["version"]) for name, done in published.items())
        versions = dict(zip(published, await asyncio.gather(*waits), strict=True))
        for version in versions.values():
            if version["state"] == "failed":
                raise _failed(version)
        return versions

    async def _remove(self) -> None:
        not_found = importlib.import_module("pyfaas.client.errors").NotFound
        for name in self.functions:
            with contextlib.suppress(not_found):
                await self.client.inner.remove(self.published(name))


class Way:
    """One way of calling a function: called, it waits; `.aio` is the same for `await` or `async for`."""

    def __init__(self, wait: Callable[..., Any], aio: Callable[..., Any]) -> None:
        """Keep both."""
        self._wait, self.aio = wait, aio

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call and wait."""
        return self._wait(*args, **kwargs)


class Function:
    """A decorated function. Called plainly it runs here; `.remote`, `.spawn`, `.map` and `.starmap` run it there."""

    def __init__(self, app: App, function: Callable[..., Any], name: str, config: Mapping[str, Any]) -> None:
        """Keep the plain function as `local`."""
        self.app, self.local, self.name, self.config = app, function, name, dict(config)
        self.__doc__, self.__name__, self.__wrapped__ = function.__doc__, function.__name__, function
        self.is_generator = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
        self.remote = Way(self._remote, self._remote_aio)
        self.spawn = Way(lambda *a, **k: self._run(self._spawn(a, k)), lambda *a, **k: self._wrap(self._spawn(a, k)))
        self.map = Way(self._map, self._map_aio)
        self.starmap = Way(self._starmap, self._starmap_aio)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the plain function here."""
        return self.local(*args, **kwargs)

    def __repr__(self) -> str:
        """Show the name on the server."""
        return f"<pyfaas function {self.app.published(self.name)}>"

    def _run(self, work: Any) -> Any:
        return self.app.client.portal.run(work)

    def _wrap(self, work: Any) -> Any:
        return self.app.client.portal.wrap(work)

    def _remote(self, *args: Any, **kwargs: Any) -> Any:
        if self.is_generator:
            return self.app.client.portal.iterate(self._items(args, kwargs))
        return self._run(self._invoke(args, kwargs))

    def _remote_aio(self, *args: Any, **kwargs: Any) -> Any:
        if self.is_generator:
            return self.app.client.portal.iterate_aio(self._items(args, kwargs))
        return self._wrap(self._invoke(args, kwargs))

    async def _invoke(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        return await self.app.client.inner.invoke(self.app.published(self.name), event_of(args, kwargs))

    def _items(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> AsyncIterator[Any]:
        return self.app.client.inner.stream(self.app.published(self.name), event_of(args, kwargs))

    async def _spawn(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> FunctionCall:
        queued = await self.app.client.inner.spawn(self.app.published(self.name), event_of(args, kwargs))
        return FunctionCall(queued["id"], self.app.client, self.app.published(self.name))

    def _map(self, inputs: Iterable[Any], *, return_exceptions: bool = False) -> Iterator[Any]:
        """Run once for each input, up to `concurrency` at once; yields results in the order of the inputs."""
        return self._tracked(inputs, self._results(inputs, self._one, return_exceptions=return_exceptions))

    def _starmap(self, inputs: Iterable[Iterable[Any]], *, return_exceptions: bool = False) -> Iterator[Any]:
        return self._tracked(inputs, self._results(inputs, self._many, return_exceptions=return_exceptions))

    def _tracked(self, inputs: Any, results: AsyncIterator[Any]) -> Iterator[Any]:
        iterator = self.app.client.portal.iterate(results)
        total = _length(inputs)
        if total is None or not sys.stderr.isatty():
            return iterator
        track: Iterable[Any] = importlib.import_module("rich.progress").track(
            iterator,
            description=self.name,
            total=total,
            console=importlib.import_module("rich.console").Console(stderr=True),
        )
        return iter(track)

    def _map_aio(self, inputs: Iterable[Any], *, return_exceptions: bool = False) -> AsyncIterator[Any]:
        results = self._results(inputs, self._one, return_exceptions=return_exceptions)
        return self.app.client.portal.iterate_aio(results)

    def _starmap_aio(self, inputs: Iterable[Iterable[Any]], *, return_exceptions: bool = False) -> AsyncIterator[Any]:
        results = self._results(inputs, self._many, return_exceptions=return_exceptions)
        return self.app.client.portal.iterate_aio(results)

    async def _one(self, each: Any) -> Any:
        return await self._invoke((each,), {})

    async def _many(self, each: Iterable[Any]) -> Any:
        return await self._invoke(tuple(each), {})

    def _results(
        self, inputs: Iterable[Any], call: Callable[[Any], Awaitable[Any]], *, return_exceptions: bool
    ) -> AsyncIterator[Any]:
        at_once = int(self.config.get("concurrency") or AT_ONCE)
        return ordered(inputs, call, at_once=at_once, return_exceptions=return_exceptions)


class FunctionCall:
    """An asynchronous run: `get` waits for its result."""

    def __init__(self, call_id: str, client: Client, function: str | None = None) -> None:
        """Keep the id; `function` is known when it was spawned here."""
        self.id, self._client, self._function = call_id, client, function
        portal = client.portal
        self.get = Way(
            lambda timeout=None: portal.run(client.inner.get(self.id, timeout=timeout)),
            lambda timeout=None: portal.wrap(client.inner.get(self.id, timeout=timeout)),
        )
        self.cancel = Way(
            lambda: portal.run(client.inner.cancel(self.id)), lambda: portal.wrap(client.inner.cancel(self.id))
        )

    @classmethod
    def from_id(cls, call_id: str, client: Client | None = None) -> FunctionCall:
        """Take up a call that was spawned elsewhere."""
        return cls(call_id, client or importlib.import_module("pyfaas.client.sync").Client())

    def logs(self) -> Iterator[dict[str, Any]]:
        """Yield the run's log lines."""
        name = self._function or self._client.job(self.id)["function"]
        return self._client.logs(name, invocation=self.id)


def event_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the event that carries a call's arguments."""
    return {"$args": list(args), "$kwargs": dict(kwargs)}


def _length(inputs: Any) -> int | None:
    try:
        return len(inputs)
    except TypeError:
        return None


def _failed(version: Mapping[str, Any]) -> Exception:
    reason = version.get("reason") or {}
    message = f"{version['function']}:{version['version']} failed: {reason.get('message') or reason.get('code')}"
    if "was pickled by Python" in message:
        return invalid(message, "use the server's Python, or put the function into a module")
    problem = {"code": "init_error", "fault": "function", "detail": message, "log": reason.get("log")}
    return from_outcome("init_error", problem)
