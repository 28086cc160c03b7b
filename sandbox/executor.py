"""An executor whose workers are confined: the contract of ProcessPoolExecutor, for code that nobody needs to trust.

Calls travel by cloudpickle into workers, containers of a launcher of the executor's own. What comes back is data, read by
`sandbox.values`; nothing is unpickled here, unless `trust_results=True` asked for that. See sandbox/README.md.
"""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from sandbox import doctor
from sandbox.errors import SandboxError
from sandbox.guest.worker import run_chunk
from sandbox.host.pickling import Packer, worker_code
from sandbox.host.pool import Plan, Pool
from sandbox.host.worker import Order, Task
from sandbox.limits import Limits
from sandbox.remote import LimitExceeded, RemoteError, SandboxFuture

_MOST_PATHS = 4  # slots in a container's tree
_POOLS: weakref.WeakSet[Pool] = weakref.WeakSet()


class SandboxExecutor(Executor):
    """Runs callables in confined workers: no network, no files but the interpreter's, limits on everything.

    * `max_workers`: the most workers at once; by default one for each processor. They are started when there is work.
    * `initializer(*initargs)` runs first in each worker. One that raises breaks the executor, as in the others.
    * `limits`: what each worker may use, and each call.
    * `max_tasks_per_child`: a worker ends after so many calls. By default it is reused for as long as it lives, so a
      call finds what earlier calls of this executor left in its process and its /tmp; 1 gives each call a fresh one.
    * `allow_weaker_isolation`: names of layers that may be missing on this machine, see `python -m sandbox doctor`.
    * `paths`: up to four directories, such as a site-packages, that workers can import from, read-only.
    * `output`: pass on what calls print to this process's own descriptors 1 and 2; False lets it fall. What is passed
      on may hold a terminal's control sequences.
    * `trust_results`: UNPICKLE WHAT WORKERS SEND, in this process, outside of any confinement. A pickle is a program:
      whoever controls the code that runs in a worker can then run any code as this process's user. Ask for this only
      when the calls are your own, and the workers are there for their limits.

    A result is data: None, booleans, numbers, text, bytes, lists, tuples, sets, dictionaries, dates and times, Decimal,
    UUID, range, in any depth. Other types raise a RemoteError with error_type "TypeError", which names the type.

    Built-in exceptions come back by their name, others as RemoteError. A worker that died fails its own call with
    WorkerDied, a limit with LimitExceeded; it is replaced, and the executor goes on.

    Raises SetupError when a launcher cannot be started, LayerMissing naming what this machine cannot isolate, ValueError
    and TypeError for arguments that make no sense.
    """

    def __init__(  # noqa: PLR0913 - ProcessPoolExecutor's, and what is to be decided about confinement
        self,
        max_workers: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        limits: Limits | None = None,
        max_tasks_per_child: int | None = None,
        allow_weaker_isolation: Sequence[str] = (),
        paths: Sequence[str | os.PathLike[str]] = (),
        output: bool = True,
        trust_results: bool = False,
    ) -> None:
        """Start a launcher, and return when it is ready to make workers."""
        if max_workers is not None and max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        _check_tasks(max_tasks_per_child)
        self._limits = limits or Limits()
        self._lock = threading.Lock()
        self._is_shut = False
        directories = [os.path.realpath(path) for path in paths]
        stores, mounts = _attachments(directories)
        self._packer = Packer(directories)
        order = Order(
            limits=self._limits,
            code=worker_code(),
            initializer=self._packer.pack((initializer, tuple(initargs))) if initializer is not None else b"",
            paths=tuple(f"/app/{slot}" for slot, *_ in mounts),
            sources=self._packer.sources,
            is_trusted=trust_results,
            is_heard=output,
        )
        weaker = doctor.require(doctor.layers(), list(allow_weaker_isolation)) if allow_weaker_isolation else []
        self._pool = Pool(
            Plan(
                max_workers=max_workers or os.cpu_count() or 1,
                max_tasks=max_tasks_per_child,
                order=order,
                without=tuple(weaker),
                stores=stores,
                mounts=mounts,
            )
        )
        _start(self._pool, weaker)
        pool = self._pool
        self._dropped = weakref.finalize(self, pool.finish)
        self._dropped.atexit = False  # _finish_all does that, before threads are joined

    @property
    def _broken(self) -> str:
        return self._pool.broken

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> SandboxFuture:
        """Have `fn(*args, **kwargs)` called in a worker; returns its future, which also knows its `usage`.

        What cannot be pickled fails the future, by the pickler's exception. Raises RuntimeError after shutdown and in a
        fork of the process that made the executor, BrokenProcessPool when no worker can be had any more.
        """
        self._check()
        future = SandboxFuture()
        try:
            body = self._packer.pack((fn, args, kwargs))
        except Exception as error:  # noqa: BLE001 - whatever a `__reduce__` raises is the call's failure, as in the others
            return _failed(future, error)
        if len(body) > self._limits.payload_bytes:
            told = f"the call has {len(body)} bytes, and {self._limits.payload_bytes} are allowed"
            return _failed(future, LimitExceeded("payload", told))
        with self._lock:
            self._check()
            self._pool.put(Task(future, body))
        return future

    def map(
        self, fn: Callable[..., Any], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1, **options: Any
    ) -> Iterator[Any]:
        """Return an iterator over `fn` of the items, in their order; `chunksize` items travel together.

        Raises TimeoutError from the iterator when a result is not there `timeout` seconds after this call.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if chunksize == 1:
            return super().map(fn, *iterables, timeout=timeout, **options)
        chunks = _chunked(zip(*iterables, strict=False), chunksize)
        return _flat(super().map(run_chunk, itertools.repeat(fn), chunks, timeout=timeout, **options))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - the contract's
        """Take no more calls, finish those that were submitted (or only those that run), and end the workers."""
        if not self._pool.is_here:
            return
        with self._lock:
            self._is_shut = True
            self._pool.finish(cancel=cancel_futures)
        if wait and threading.current_thread() is not self._pool.thread:
            self._pool.thread.join()

    def _check(self) -> None:
        if not self._pool.is_here:
            raise RuntimeError("this process is a fork of the one that made the executor: make one here")
        if self._broken:
            raise BrokenProcessPool(self._broken)
        if self._is_shut:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if self._pool.is_leaving:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")


def _check_tasks(number: int | None) -> None:
    if number is not None and not isinstance(number, int):
        raise TypeError("max_tasks_per_child must be an integer")
    if number is not None and number <= 0:
        raise ValueError("max_tasks_per_child must be >= 1")


def _attachments(directories: list[str]) -> tuple[dict[str, str], tuple[tuple[str, str, str, bool], ...]]:
    """Return the stores and mounts that show directories in a worker; raises ValueError for what cannot be shown."""
    if len(directories) > _MOST_PATHS:
        raise ValueError(f"paths: at most {_MOST_PATHS} directories")
    for path in directories:
        if not os.path.isdir(path):
            raise ValueError(f"paths: {path} is no directory")
    stores = {f"path{number}": os.path.dirname(path) for number, path in enumerate(directories, 1)}
    named = enumerate(directories, 1)
    return stores, tuple((str(number), f"path{number}", os.path.basename(path), False) for number, path in named)


def _start(pool: Pool, weaker: Sequence[str]) -> None:
    """Start a pool; where that fails, say what this machine lacks, if that is why."""
    _POOLS.add(pool)
    try:
        pool.start()
    except (SandboxError, OSError):
        pool.thread.join()
        doctor.require(doctor.layers(), weaker)
        raise


def _failed(future: SandboxFuture, error: Exception) -> SandboxFuture:
    future.set_running_or_notify_cancel()
    future.set_exception(error)
    return future


def _chunked(items: Iterator[tuple[Any, ...]], size: int) -> Iterator[list[tuple[Any, ...]]]:
    while chunk := list(itertools.islice(items, size)):
        yield chunk


def _flat(chunks: Iterator[Any]) -> Iterator[Any]:
    """Yield the items of lists, and keep none that was yielded."""
    for chunk in chunks:
        if not isinstance(chunk, list):
            raise RemoteError("TypeError", f"a piece of a map came back as {type(chunk).__name__}")
        chunk.reverse()
        while chunk:
            yield chunk.pop()


def _finish_all() -> None:
    """Finish what was submitted, as the interpreter exits: the others of concurrent.futures do so too."""
    for pool in list(_POOLS):
        if pool.is_here:
            pool.is_leaving = True
            pool.finish()
    for pool in list(_POOLS):
        if pool.is_here and pool.thread.is_alive():
            pool.thread.join()


threading._register_atexit(_finish_all)  # type: ignore[attr-defined]  # noqa: SLF001 - before threads are joined; atexit is too late
