"""The SDK's plain client: the asynchronous one, on a loop of its own in a background thread."""

from __future__ import annotations

import asyncio
import functools
import os
import select
import selectors
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import CancelledError
from types import TracebackType
from typing import Any, Concatenate, Generic, NoReturn, ParamSpec, Self, TypeVar

from pyfaas.client.aio import AsyncClient
from pyfaas.client.profile import locate

P = ParamSpec("P")
R = TypeVar("R")


class Portal:
    """A running loop in a daemon thread that other threads may use."""

    def __init__(self) -> None:
        """Start the thread."""
        self._selector = selectors.DefaultSelector()
        self._loop = asyncio.SelectorEventLoop(self._selector)
        _PORTALS.add(self)
        self._thread = threading.Thread(target=self._loop.run_forever, name="pyfaas-client", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, R]) -> R:
        """Run a coroutine to its result; an interrupted wait cancels it."""
        if self.is_mine():
            work.close()
            raise RuntimeError("called from the client's own thread, which cannot wait for itself: use .aio, or AsyncClient")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except (KeyboardInterrupt, CancelledError):
            future.cancel()
            raise

    def wrap(self, work: Coroutine[Any, Any, R]) -> asyncio.Future[R]:
        """Run a coroutine here, for somebody who awaits it on another loop; a cancelled wait cancels it."""
        return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def iterate_aio(self, source: AsyncIterator[R]) -> AsyncIterator[R]:
        """Yield what an iterator of this loop yields, for somebody on another loop; leaving early closes it."""
        steps = _Steps(source)
        try:
            while True:
                try:
                    item = await self.wrap(steps.next())
                except StopAsyncIteration:
                    return
                yield item
        finally:
            await self.wrap(steps.close())

    def iterate(self, source: AsyncIterator[R]) -> Iterator[R]:
        """Yield what an asynchronous iterator yields; leaving early closes it."""
        steps = _Steps(source)
        try:
            while True:
                try:
                    yield self.run(steps.next())
                except StopAsyncIteration:
                    return
        finally:
            if self.is_mine():  # collected on the loop's own thread, which cannot wait for itself
                self._loop.create_task(steps.close())
            elif not self._loop.is_closed():
                self.run(steps.close())

    def is_mine(self) -> bool:
        """Tell whether this is the loop's own thread."""
        return threading.current_thread() is self._thread

    def stop_later(self, last: Coroutine[Any, Any, None]) -> None:
        """Run a last coroutine, and stop; for the loop's own thread."""
        self._loop.create_task(last).add_done_callback(lambda _: self._loop.stop())

    def let_go(self) -> None:
        """Take a forked child's hands off the parent's loop.

        An epoll instance is shared by a fork (epoll(7)): what the child's copy of the loop unregisters when it is
        collected would be gone in the parent, which then waits for ever. So the child's descriptor becomes another one.
        """
        self._loop.set_exception_handler(lambda _loop, _told: None)  # what was not closed is the parent's
        if isinstance(self._selector, selectors.EpollSelector) and not self._loop.is_closed():
            with select.epoll() as other:
                os.dup2(other.fileno(), self._selector.fileno(), inheritable=False)

    def close(self) -> None:
        """Stop the loop and its thread."""
        if self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


_PORTALS: weakref.WeakSet[Portal] = weakref.WeakSet()


def _let_go() -> None:
    for portal in _PORTALS:
        portal.let_go()


os.register_at_fork(after_in_child=_let_go)


class _Steps(Generic[R]):
    """An asynchronous iterator, one step at a time: an interrupted step ends a moment after its caller has left."""

    def __init__(self, source: AsyncIterator[R]) -> None:
        self._source, self._turn = source, asyncio.Lock()

    async def next(self) -> R:
        async with self._turn:
            return await anext(self._source)

    async def close(self) -> None:
        """Close what is a generator, once its last step has ended."""
        async with self._turn:
            close = getattr(self._source, "aclose", None)
            if close is not None:
                await close()


def _blocking(
    method: Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[Client, P], R]:
    @functools.wraps(method)
    def call(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.portal.run(method(self.inner, *args, **kwargs))

    call.__qualname__ = f"Client.{method.__name__}"
    return call


def _iterating(
    method: Callable[Concatenate[AsyncClient, P], AsyncIterator[R]],
) -> Callable[Concatenate[Client, P], Iterator[R]]:
    @functools.wraps(method)
    def call(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[R]:
        return self.portal.iterate(method(self.inner, *args, **kwargs))

    call.__qualname__ = f"Client.{method.__name__}"
    return call


def _shut(inner: AsyncClient, portal: Portal, owner: int) -> None:
    if os.getpid() != owner:  # a copy made by a fork: the thread is the parent's
        return
    if portal.is_mine():  # collected on the loop's own thread, which cannot wait for itself
        portal.stop_later(inner.close())
        return
    portal.run(inner.close())
    portal.close()


class Client:
    """Talks to one server as one account, blocking; the methods are AsyncClient's.

    Threads may share one, and it may be used where an event loop runs, as in a notebook. After a fork the child's copy
    opens connections of its own.

    >>> with pyfaas.Client() as client:
    ...     client.invoke("thumbnail", {"width": 64})
    """

    def __init__(self, url: str | None = None, token: str | None = None) -> None:
        """Find server and token as the CLI does, unless they are given; nothing is opened before the first call."""
        self._endpoint = locate(url, token)
        self._lock = threading.Lock()
        self._opened: tuple[AsyncClient, Portal, int] | None = None
        self._shut: Callable[[], object] | None = None
        self._is_closed = False

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections and end the thread."""
        self.close()

    def __repr__(self) -> str:
        """Show the server, and no token."""
        return f"<pyfaas client of {self._endpoint.url}>"

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled."""
        raise TypeError("a pyfaas client holds a token and connections, and cannot be pickled: make one where it is used")

    def close(self) -> None:
        """Close the connections and end the thread; a call after this raises RuntimeError."""
        self._is_closed = True
        if self._shut is not None:
            self._shut()

    @property
    def inner(self) -> AsyncClient:
        """The asynchronous client, for work on the portal's loop."""
        return self._open()[0]

    @property
    def portal(self) -> Portal:
        """The loop that the work is done on."""
        return self._open()[1]

    def _open(self) -> tuple[AsyncClient, Portal, int]:
        if self._is_closed:
            raise RuntimeError("the client is closed")
        if self._opened is not None and self._opened[2] == os.getpid():
            return self._opened
        with self._lock:
            if self._opened is None or self._opened[2] != os.getpid():
                self._opened = (AsyncClient(self._endpoint.url, self._endpoint.token), Portal(), os.getpid())
                # Also runs when the interpreter ends, or when nobody holds the client any more.
                self._shut = weakref.finalize(self, _shut, *self._opened)
            return self._opened

    deploy = _blocking(AsyncClient.deploy)
    publish = _blocking(AsyncClient.publish)
    wait_version = _blocking(AsyncClient.wait_version)
    invoke = _blocking(AsyncClient.invoke)
    stream = _iterating(AsyncClient.stream)
    map = _iterating(AsyncClient.map)
    fetch = _blocking(AsyncClient.fetch)
    spawn = _blocking(AsyncClient.spawn)
    job = _blocking(AsyncClient.job)
    wait = _blocking(AsyncClient.wait)
    get = _blocking(AsyncClient.get)
    jobs = _blocking(AsyncClient.jobs)
    cancel = _blocking(AsyncClient.cancel)
    replay = _blocking(AsyncClient.replay)
    logs = _iterating(AsyncClient.logs)
    functions = _blocking(AsyncClient.functions)
    function = _blocking(AsyncClient.function)
    versions = _blocking(AsyncClient.versions)
    version = _blocking(AsyncClient.version)
    remove = _blocking(AsyncClient.remove)
    rollback = _blocking(AsyncClient.rollback)
    aliases = _blocking(AsyncClient.aliases)
    set_alias = _blocking(AsyncClient.set_alias)
    remove_alias = _blocking(AsyncClient.remove_alias)
    last_event = _blocking(AsyncClient.last_event)
    events = _iterating(AsyncClient.events)
    whoami = _blocking(AsyncClient.whoami)
    accounts = _blocking(AsyncClient.accounts)
    create_account = _blocking(AsyncClient.create_account)
    set_account = _blocking(AsyncClient.set_account)
    remove_account = _blocking(AsyncClient.remove_account)
    tokens = _blocking(AsyncClient.tokens)
    create_token = _blocking(AsyncClient.create_token)
    revoke_token = _blocking(AsyncClient.revoke_token)
    rotate_admin = _blocking(AsyncClient.rotate_admin)
    fleet = _blocking(AsyncClient.fleet)
    usage = _blocking(AsyncClient.usage)
    limits = _blocking(AsyncClient.limits)
    backup = _iterating(AsyncClient.backup)
    grant = _blocking(AsyncClient.grant)
    revoke = _blocking(AsyncClient.revoke)
    grants = _blocking(AsyncClient.grants)
    accept = _blocking(AsyncClient.accept)
    account_aliases = _blocking(AsyncClient.account_aliases)
    account_alias = _blocking(AsyncClient.account_alias)
    remove_account_alias = _blocking(AsyncClient.remove_account_alias)
    audit = _blocking(AsyncClient.audit)
    set_secret = _blocking(AsyncClient.set_secret)
    secrets = _blocking(AsyncClient.secrets)
    remove_secret = _blocking(AsyncClient.remove_secret)
    rotate_secrets = _blocking(AsyncClient.rotate_secrets)
    publish_api = _blocking(AsyncClient.publish_api)
    deprecate_api = _blocking(AsyncClient.deprecate_api)
    retire_api = _blocking(AsyncClient.retire_api)
    remove_api = _blocking(AsyncClient.remove_api)
    approvals = _blocking(AsyncClient.approvals)
    approve = _blocking(AsyncClient.approve)
    refuse = _blocking(AsyncClient.refuse)
    end_subscription = _blocking(AsyncClient.end_subscription)
    apis = _blocking(AsyncClient.apis)
    api = _blocking(AsyncClient.api)
    api_openapi = _blocking(AsyncClient.api_openapi)
    subscribe = _blocking(AsyncClient.subscribe)
    subscriptions = _blocking(AsyncClient.subscriptions)
    subscription = _blocking(AsyncClient.subscription)
    unsubscribe = _blocking(AsyncClient.unsubscribe)


Client.__module__ = "pyfaas"
