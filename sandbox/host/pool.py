"""The workers of an executor, on an event loop in a thread of their own.

Theory of operation. The thread executes a launcher, and makes workers as tasks come: each is the only container of a VM of
its own, so that what runs at the same time shares no process namespace. A worker that ended, or has done its number of
tasks, is followed by a new container in the same VM. Other threads put tasks in and wake the loop; everything else happens
on the loop, between awaits, so nothing here is locked.

The pool knows its executor by nothing but a callback: an executor that is dropped is collected, and its pool finishes what
was submitted and ends. When the launcher itself is ended from outside, the running calls fail and another is executed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from sandbox.errors import SandboxError
from sandbox.host.container import Container
from sandbox.host.launcher import Launcher
from sandbox.host.spawn import temporary_root
from sandbox.host.vm import Vm
from sandbox.host.worker import Order, State, Task, Worker
from sandbox.launcher import cgroups
from sandbox.launcher.options import LauncherOptions
from sandbox.spec import Network, VmSpec

_ENTRY = "sandbox.guest.worker"
_MOST_FAILURES = 3  # workers in a row that did not come to be, until the pool is given up
_SWEEPS, _SWEEP_S = 100, 0.02
_OURS = "x"  # an executor's groups are pyfaas-x<pid of its process>x…
_LOGGER = logging.getLogger("concurrent.futures")  # where the other executors tell of an initializer that failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is constant for a pool's life. `stores` and `mounts` attach the paths that workers import from."""

    max_workers: int
    max_tasks: int | None
    order: Order
    without: tuple[str, ...]
    stores: Mapping[str, str]
    mounts: tuple[tuple[str, str, str, bool], ...]


class Pool:
    """The thread, its launcher and its workers. `broken` says why nothing can be done any more, else it is empty."""

    def __init__(self, plan: Plan) -> None:
        """Keep the plan; nothing runs yet."""
        self.broken = ""
        self.is_leaving = False  # the interpreter is exiting
        self.thread = threading.Thread(target=self._run, name="SandboxExecutor")
        self.workers: set[Worker] = set()
        self._plan = plan
        self._started: Future[None] = Future()
        self._inbox: deque[Task] = deque()
        self._is_woken = self._is_finishing = self._is_cancelling = self._is_over = False
        self._pid = os.getpid()
        self._name, self._launches = f"{_OURS}{self._pid}x{os.urandom(4).hex()}", 0
        self._loop: asyncio.AbstractEventLoop | None = None
        # Of the loop only:
        self._pending: deque[Task] = deque()
        self._idle: list[Worker] = []
        self._vms: list[Vm] = []  # without a worker
        self._at: dict[Worker, Vm] = {}
        self._starting: set[asyncio.Task[None]] = set()
        self._failures = 0
        self._launching = asyncio.Lock()
        self._launcher: Launcher | None = None

    # ---- from any thread

    def start(self) -> None:
        """Start the thread, and return when the launcher is ready; raises SetupError or OSError."""
        self.thread.start()
        is_ready = False
        try:
            self._started.result()
            is_ready = True
        finally:
            if not is_ready:  # it failed, or the wait was interrupted
                self.finish()

    def put(self, task: Task) -> None:
        """Take a task."""
        self._inbox.append(task)
        self._wake()
        if self._is_over:
            self._refuse()

    def finish(self, *, cancel: bool = False) -> None:
        """End when everything that was submitted is done; with `cancel`, when everything that was begun is."""
        self._is_finishing = True
        self._is_cancelling |= cancel
        self._is_woken = False  # whatever is under way may have looked already
        self._wake()

    @property
    def is_here(self) -> bool:
        """Whether this process is the one that made the pool, and no fork of it."""
        return self._pid == os.getpid()

    def _wake(self) -> None:
        if not self._is_woken and self.is_here and self._loop is not None:
            self._is_woken = True
            with contextlib.suppress(RuntimeError):  # the loop has ended, and refused what was left
                self._loop.call_soon_threadsafe(self._look)

    # ---- the thread

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            runner.run(self._live())

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        root = temporary_root()
        try:
            try:
                self._launcher = await self._launch(root)
            except (SandboxError, OSError) as error:
                self.broken = str(error)
                self._started.set_exception(error)
                return
            self._root = root
            self._started.set_result(None)
            self._look()
            await self._over.wait()
        finally:
            try:
                await self._close()
            finally:
                os.rmdir(root)

    async def _launch(self, root: str) -> Launcher:
        if "cgroups" not in self._plan.without:
            _remove_left()
        self._launches += 1
        options = LauncherOptions(
            instance=f"{self._name}x{self._launches}",
            root=root,
            entry=f"{_ENTRY}:serve",
            networks=(Network.NONE,),
            warm=f"{_ENTRY}:warm",
            stores=self._plan.stores,
            without=self._plan.without,
        )
        launcher = await Launcher.start(options)
        launcher.on_vm_gone = self._vm_gone
        return launcher

    async def _close(self) -> None:
        try:
            for task in self._starting:
                task.cancel()
            await asyncio.gather(*self._starting, return_exceptions=True)
            if self._launcher is not None:
                await self._launcher.close()
                await self._sweep()
        finally:
            self._is_over = True
            self._refuse()

    async def _sweep(self) -> None:
        """Remove groups that a launcher of this pool left because it was killed; its processes may still be dying."""
        groups = cgroups.detect()
        for _ in range(_SWEEPS):
            if not groups.usable or not groups.sweep(f"pyfaas-{self._name}x"):
                return
            await asyncio.sleep(_SWEEP_S)

    # ---- deciding, synchronously

    def _look(self) -> None:
        """Do what can be done now."""
        self._is_woken = False
        self._take()
        if self.broken:
            self._refuse()
        while self._pending and self._idle:
            task = self._pending.popleft()
            if task.future.set_running_or_notify_cancel():
                self._idle.pop().begin(task)
        self._grow()
        if self._is_cancelling:
            self._cancel()
        is_busy = any(worker.state is State.BUSY for worker in self.workers)
        if self._is_finishing and not self._pending and not is_busy:
            self._over.set()

    def _take(self) -> None:
        while self._inbox:
            self._pending.append(self._inbox.popleft())

    def _refuse(self) -> None:
        """Fail what waits; called by the loop, and by who puts something in when there is none any more."""
        self._take()
        while self._pending:
            future = self._pending.popleft().future
            if future.set_running_or_notify_cancel():
                future.set_exception(BrokenProcessPool(self.broken or "the executor has ended"))

    def _cancel(self) -> None:
        """Cancel all tasks but the first ones, for which workers are on their way."""
        coming = self._coming()
        while len(self._pending) > coming:
            future = self._pending.pop().future
            future.cancel()
            future.set_running_or_notify_cancel()

    def _coming(self) -> int:
        return len(self._starting) + sum(worker.state is State.LOADING for worker in self.workers)

    def _grow(self) -> None:
        coming = self._coming()
        room = self._plan.max_workers - len(self.workers) - len(self._starting)
        for _ in range(min(len(self._pending) - coming, room)):
            task = asyncio.get_running_loop().create_task(self._start_worker())
            self._starting.add(task)
            task.add_done_callback(self._started_one)

    def _started_one(self, task: asyncio.Task[None]) -> None:
        self._starting.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._failed(str(task.exception()))
        self._look()

    async def _start_worker(self) -> None:
        vm = self._vms.pop() if self._vms else None
        box = await self._forked(vm) if vm is not None else None
        if vm is None or box is None:
            vm = await (await self._living()).create_vm(VmSpec(limits=self._plan.order.limits.for_launcher()))
            box = vm.first
        if self._plan.mounts:
            await box.attach(self._plan.mounts)
        worker = Worker(box, self._plan.order, self._changed)
        self.workers.add(worker)
        self._at[worker] = vm

    async def _forked(self, vm: Vm) -> Container | None:
        """Return a new container in a VM; None, and no VM, where it has ended or makes none any more."""
        try:
            return await vm.fork()
        except SandboxError:
            with contextlib.suppress(SandboxError):
                await vm.destroy()
            return None

    async def _living(self) -> Launcher:
        """Return the launcher, or another one where it was ended."""
        async with self._launching:
            if self._launcher is None or self._launcher.is_gone:
                if self._launcher is not None:
                    await self._launcher.close()
                self._launcher = await self._launch(self._root)
            return self._launcher

    def _changed(self, worker: Worker) -> None:
        if worker.state is State.IDLE:
            self._failures = 0
            if self._plan.max_tasks is not None and worker.done >= self._plan.max_tasks:
                self._drop(worker)
                worker.end()
            else:
                self._idle.append(worker)
        else:
            self._drop(worker)
            if worker.problem is not None:
                self._not_loaded(worker)
        asyncio.get_running_loop().call_soon(self._look)  # after the future that this worker had is done

    def _drop(self, worker: Worker) -> None:
        if worker in self._idle:
            self._idle.remove(worker)
        self.workers.discard(worker)
        vm = self._at.pop(worker, None)
        if vm is not None and self._launcher is not None and not self._launcher.is_gone:
            self._vms.append(vm)

    def _vm_gone(self, key: str) -> None:
        self._vms = [vm for vm in self._vms if vm.id != key]

    def _not_loaded(self, worker: Worker) -> None:
        problem, worker.problem = worker.problem, None
        if worker.is_refused or self._plan.order.initializer:
            _LOGGER.critical("Exception in initializer:", exc_info=problem)
            self._break(f"a worker's initializer failed: {problem}")
        else:
            self._failed(str(problem))

    def _failed(self, reason: str) -> None:
        """Count a worker that did not come to be; its task is tried with another."""
        self._failures += 1
        if self._failures >= _MOST_FAILURES:
            self._break(f"no worker can be started: {reason}")

    def _break(self, reason: str) -> None:
        self.broken = self.broken or reason
        for worker in list(self.workers):
            worker.end()


def _remove_left() -> None:
    """Remove the groups of executors whose process was killed together with its launcher; those that still hold a process stay.

    They are told by the pid in their name. A process in another pid namespace has a pid that seems dead here, but a group
    in use is never empty.
    """
    groups = cgroups.detect()
    for name, paths in groups.found(f"pyfaas-{_OURS}").items() if groups.usable else ():
        owner = name.removeprefix(f"pyfaas-{_OURS}").partition("x")[0]
        if owner.isdigit() and not os.path.exists(f"/proc/{owner}") and not any(map(cgroups.processes_in, paths)):
            groups.sweep(name)
