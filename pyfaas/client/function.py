"""A decorated function, the ways of calling it, and a call that was spawned.

Called plainly a function runs here; its ways run it in a container. Each way has two faces: called, it waits; its
`.aio` is for `await` or `async for`, from any event loop, because the work itself is done on the client's own.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import pickle
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

import cloudpickle

from pyfaas.client.aio import AsyncClient
from pyfaas.client.batch import AT_ONCE, ordered
from pyfaas.client.errors import invalid
from pyfaas.client.pickling import REFUSALS
from pyfaas.client.progress import shown
from pyfaas.client.sync import Client, Portal

if TYPE_CHECKING:
    from pyfaas.client.app import App

P = ParamSpec("P")
Here = TypeVar("Here")  # what the function returns when it runs here: of an `async def`, a coroutine
R = TypeVar("R")  # what a way returns to who waits
A = TypeVar("A")  # what its `.aio` returns


class Way(Generic[P, R, A]):
    """One way of calling a function: called, it waits; `.aio` is the same for `await` or `async for`."""

    def __init__(self, wait: Callable[P, R], aio: Callable[P, A]) -> None:
        """Keep both; the docstring is the waiting one's."""
        self._wait, self.aio = wait, aio
        self.__doc__ = wait.__doc__

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call and wait."""
        return self._wait(*args, **kwargs)


class Function(Generic[P, Here, R, A]):
    """A decorated function: `f(x)` and `f.local(x)` run it here, `f.remote(x)` and the other ways in a container.

    >>> total = add.remote(1, 2)                      # call and wait; a generator's items come one by one
    >>> call = add.spawn(1, 2)                        # queue it, and ask for the result later
    >>> sums = list(add.map([1, 2, 3]))               # in the order of the inputs, up to `concurrency` at once
    """

    def __init__(
        self, app: App, function: Callable[P, Here], name: str, config: Mapping[str, Any], *, trust_results: bool
    ) -> None:
        """Keep the plain function as `local`."""
        self.__wrapped__: Callable[P, Here]  # what inspect.signature and others look through
        functools.update_wrapper(self, function)
        self.app, self.local, self.name, self.config = app, function, name, dict(config)
        self.trust_results = trust_results
        self.is_generator = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
        self.remote: Way[P, R, A] = Way(self._remote, self._remote_aio)
        self.spawn: Way[P, FunctionCall[R], Awaitable[FunctionCall[R]]] = Way(self._spawn, self._spawn_aio)
        self.map: Way[..., Iterator[R], AsyncIterator[R]] = Way(self._map, self._map_aio)
        self.starmap: Way[..., Iterator[R], AsyncIterator[R]] = Way(self._starmap, self._starmap_aio)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Here:
        """Run the plain function here."""
        return self.local(*args, **kwargs)

    def __repr__(self) -> str:
        """Show the name on the server."""
        return f"<pyfaas function {self.app.published(self.name)}>"

    def __reduce__(self) -> Any:
        """Travel, with another function that names this one, as what it is in a container: the plain function."""
        return carried, (self.local,)

    # ---- remote

    def _remote(self, *args: Any, **kwargs: Any) -> Any:
        """Run in a container and return the result; of a generator, an iterator, which ends the run when it is closed.

        Raises FunctionError when the run failed, NotFound when nothing of that name is deployed, and what Client.invoke
        raises.
        """
        if self.is_generator:
            return self._portal.iterate(self._items(args, kwargs))
        return self._portal.run(self._invoke(args, kwargs))

    def _remote_aio(self, *args: Any, **kwargs: Any) -> Any:
        if self.is_generator:
            return self._portal.iterate_aio(self._items(args, kwargs))
        return self._portal.wrap(self._invoke(args, kwargs))

    async def _invoke(self, args: Iterable[Any], kwargs: Mapping[str, Any]) -> Any:
        name = await self.app.address(self)
        return self._result(await self._inner.invoke(name, self._event(args, kwargs)))

    async def _items(self, args: Iterable[Any], kwargs: Mapping[str, Any]) -> AsyncIterator[Any]:
        name = await self.app.address(self)
        items = self._inner.stream(name, self._event(args, kwargs))
        try:
            async for item in items:
                yield self._result(item)
        finally:
            await items.aclose()  # type: ignore[attr-defined] # it is a generator

    # ---- spawn

    def _spawn(self, *args: Any, **kwargs: Any) -> FunctionCall[Any]:
        """Queue a run, which is durable when this returns; returns a FunctionCall."""
        return self._portal.run(self._queue(args, kwargs))

    def _spawn_aio(self, *args: Any, **kwargs: Any) -> Awaitable[FunctionCall[Any]]:
        return self._portal.wrap(self._queue(args, kwargs))

    async def _queue(self, args: Iterable[Any], kwargs: Mapping[str, Any]) -> FunctionCall[Any]:
        name = await self.app.address(self)
        queued = await self._inner.spawn(name, self._event(args, kwargs))
        return FunctionCall(queued["id"], self.app.client, function=name, read=self._result)

    # ---- map

    def _map(
        self, *inputs: Iterable[Any], concurrency: int | None = None, return_exceptions: bool = False
    ) -> Iterator[Any]:
        """Run once for each input, as the built-in map does; yields results in the order of the inputs, as they come.

        Up to `concurrency` run at once (the function's own, unless given) and no more inputs are read than that. A failed
        run ends the others and is raised, or is yielded as its exception with `return_exceptions`.
        """
        sized = inputs[0] if len(inputs) == 1 else None
        results = self._results(_rows(inputs), concurrency, return_exceptions=return_exceptions)
        return shown(self._portal.iterate(results), sized, self.name)

    def _map_aio(
        self, *inputs: Any, concurrency: int | None = None, return_exceptions: bool = False
    ) -> AsyncIterator[Any]:
        if len(inputs) == 1 and isinstance(inputs[0], AsyncIterable):
            inputs = (_Pulled(inputs[0]),)
        results = self._results(_rows(inputs), concurrency, return_exceptions=return_exceptions)
        return self._portal.iterate_aio(results)

    def _starmap(
        self, inputs: Iterable[Iterable[Any]], *, concurrency: int | None = None, return_exceptions: bool = False
    ) -> Iterator[Any]:
        """Run once for each tuple of arguments; else as `map`."""
        results = self._results(inputs, concurrency, return_exceptions=return_exceptions)
        return shown(self._portal.iterate(results), inputs, self.name)

    def _starmap_aio(
        self, inputs: Any, *, concurrency: int | None = None, return_exceptions: bool = False
    ) -> AsyncIterator[Any]:
        rows = _Pulled(inputs) if isinstance(inputs, AsyncIterable) else inputs
        return self._portal.iterate_aio(self._results(rows, concurrency, return_exceptions=return_exceptions))

    def _results(
        self, rows: Iterable[Iterable[Any]], concurrency: int | None, *, return_exceptions: bool
    ) -> AsyncIterator[Any]:
        at_once = concurrency or int(self.config.get("concurrency") or AT_ONCE)

        async def call(row: Iterable[Any]) -> Any:
            return await self._invoke(tuple(row), {})

        return ordered(rows, call, at_once=at_once, return_exceptions=return_exceptions)

    # ---- inside

    @property
    def _portal(self) -> Portal:
        return self.app.client.portal

    @property
    def _inner(self) -> AsyncClient:
        return self.app.client.inner

    def _event(self, args: Iterable[Any], kwargs: Mapping[str, Any]) -> Any:
        if not self.trust_results:
            return {"$args": list(args), "$kwargs": dict(kwargs)}
        try:
            return cloudpickle.dumps((tuple(args), dict(kwargs)))
        except REFUSALS as error:
            raise invalid(f"the arguments of {self.name} cannot be pickled: {error}") from None

    def _result(self, value: Any) -> Any:
        if not self.trust_results:
            return value
        if isinstance(value, list):  # a generator's item, or all of them
            return pickle.loads(value[0]) if isinstance(value[0], bytes) else [self._result(each) for each in value]  # noqa: S301
        return pickle.loads(value)  # noqa: S301 - asked for by name: trust_results


class FunctionCall(Generic[R]):
    """A run that was spawned: `get` waits for its result, from this program or from another that knows the `id`.

    >>> call = add.spawn(1, 2)
    >>> call.get(timeout=30)
    >>> pyfaas.FunctionCall.from_id(call.id).get()
    """

    def __init__(
        self,
        call_id: str,
        client: Client,
        *,
        function: str | None = None,
        read: Callable[[Any], Any] = lambda result: result,
    ) -> None:
        """Keep the id; the function's name and how its result is read are known when it was spawned here."""
        self.id, self._client, self._function, self._read = call_id, client, function, read
        self.get: Way[..., R, Awaitable[R]] = Way(self._get, self._get_aio)
        self.cancel: Way[[], dict[str, Any], Awaitable[dict[str, Any]]] = Way(self._cancel, self._cancel_aio)
        self.logs: Way[[], Iterator[dict[str, Any]], AsyncIterator[dict[str, Any]]] = Way(self._logs, self._logs_aio)

    @classmethod
    def from_id(cls, call_id: str, client: Client | None = None) -> FunctionCall[Any]:
        """Take up a call that was spawned elsewhere; results of a `trust_results` function stay bytes."""
        return cls(call_id, client or Client())

    def __repr__(self) -> str:
        """Show the id."""
        return f"<pyfaas call {self.id}>"

    def _get(self, timeout: float | None = None) -> Any:
        """Return the result; raises FunctionError when the run failed, TimeoutError after `timeout` seconds."""
        return self._client.portal.run(self._fetch(timeout))

    def _get_aio(self, timeout: float | None = None) -> Awaitable[Any]:
        return self._client.portal.wrap(self._fetch(timeout))

    async def _fetch(self, timeout: float | None) -> Any:  # noqa: ASYNC109 - the SDK's word
        return self._read(await self._client.inner.get(self.id, timeout=timeout))

    def _cancel(self) -> dict[str, Any]:
        """Cancel the run; returns it as it is now, unchanged when it had ended."""
        return self._client.portal.run(self._client.inner.cancel(self.id))

    def _cancel_aio(self) -> Awaitable[dict[str, Any]]:
        return self._client.portal.wrap(self._client.inner.cancel(self.id))

    def _logs(self) -> Iterator[dict[str, Any]]:
        """Yield the run's log lines, `{ts, stream, line, …}`."""
        return self._client.portal.iterate(self._lines())

    def _logs_aio(self) -> AsyncIterator[dict[str, Any]]:
        return self._client.portal.iterate_aio(self._lines())

    async def _lines(self) -> AsyncIterator[dict[str, Any]]:
        name = self._function or (await self._client.inner.job(self.id))["function"]
        async for line in self._client.inner.logs(name, invocation=self.id):
            yield line


class _Pulled:
    """Inputs that come from an asynchronous iterator of the caller's loop, for the thread that reads inputs."""

    def __init__(self, source: AsyncIterable[Any]) -> None:
        self._source, self._loop = aiter(source), asyncio.get_running_loop()

    def __iter__(self) -> _Pulled:
        return self

    def __next__(self) -> Any:
        try:
            return asyncio.run_coroutine_threadsafe(self._next(), self._loop).result()
        except StopAsyncIteration:
            raise StopIteration from None

    async def _next(self) -> Any:
        return await anext(self._source)


def carried(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return what a decorated function is after a journey; the container's stand-in has another of this name."""
    return function


carried.__module__, carried.__qualname__ = "pyfaas", "_carried"


def _rows(inputs: tuple[Iterable[Any], ...]) -> Iterable[tuple[Any, ...]]:
    return zip(*inputs, strict=False)  # the shortest ends it, as in the built-in map
