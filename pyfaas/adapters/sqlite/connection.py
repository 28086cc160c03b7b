"""One SQLite file, three threads, and the rules under which they share it.

Theory of operation. A `Database` owns three *lanes*; a lane is a thread with one connection and a queue of
closures, each awaited by a future of the event loop.

* `write`: control writes and queue acknowledgements, synchronous=FULL. What waits when the thread comes round is
  done in ONE transaction, a savepoint each (group commit): one fsync serves all, and each keeps its own error. There
  is no artificial delay; the fsync of one group is the time in which the next one gathers.
* `append`: logs, usage, trimming; synchronous=NORMAL, so a commit is a memory copy and a write. What a power cut may
  take is the last batches, never an acknowledged write: those sync the same WAL file, and with it all that came before.
* `read`: query_only, each closure in one read transaction.

The two writing lanes take turns by a lock of ours: SQLite's own would make the second one poll. Whole-transaction
failures (disk full rolls everything back) make the group run again one by one, so that a small write is not refused for
a large one's sake. After a failed commit the connection is closed and a new one made; unless the disk
was merely full, the new one must first bring the whole WAL into the database file (checkpoint TRUNCATE). This is
because fsync reports an error once and afterwards calls the same lost pages clean: only writing them again is an
answer. Until that succeeds, writes fail. An I/O error before the commit changes the connection in the same way.

No exception of sqlite3 leaves this package: `translate` decides by SQLite's error name, never by its English.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Literal, TypeVar

from pyfaas.errors import Code, PyfaasError

T = TypeVar("T")
GROUP = 256  # writes in one transaction at most; bounds how much one disk-full retries
BUSY_MS = 5000  # only another process can make us wait: a shell, a backup
_WAL_BYTES = 16 << 20  # a WAL that a burst or a long reader made larger is cut back to this when it starts anew
_FULL = frozenset({"SQLITE_FULL", "SQLITE_IOERR_SHMSIZE"})  # the latter: the WAL's index finds no room to grow
_TAKEN = frozenset({"SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY", "SQLITE_CONSTRAINT_ROWID"})


def translate(error: sqlite3.Error) -> PyfaasError:
    """Return what the rest of pyfaas should see: conflict, storage_full, or internal with SQLite's name for it."""
    name = getattr(error, "sqlite_errorname", None) or type(error).__name__
    if name in _TAKEN:
        return PyfaasError(Code.CONFLICT, "that already exists", evidence={"sqlite": name})
    if name in _FULL:
        hint = "ask the operator to free space in the data directory"
        return PyfaasError(Code.STORAGE_FULL, "the server's disk is full", hint=hint, evidence={"sqlite": name})
    hint = "the server's log has the cause"
    return PyfaasError(Code.INTERNAL, "the database failed", hint=hint, evidence={"sqlite": name})


def connect(
    path: str, *, synchronous: Literal["FULL", "NORMAL"] = "FULL", readonly: bool = False
) -> sqlite3.Connection:
    """Open `path` with every pragma that pyfaas relies on; transactions are begun by hand. Raises sqlite3.Error."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
    connection.row_factory = sqlite3.Row
    connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # of a new file; an older one's is changed by `schema`
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute(f"PRAGMA query_only = {'ON' if readonly else 'OFF'}")
    return connection


class _Catch:
    """Keep the exception of a block for whoever awaits it: a lane's thread must outlive any closure's failure."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    def __enter__(self) -> _Catch:
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> bool:
        if isinstance(error, Exception):
            self.error = translate(error) if isinstance(error, sqlite3.Error) else error
            self.error.__cause__ = error if self.error is not error else error.__cause__
        return self.error is not None


@dataclass(slots=True)
class _Job(Generic[T]):
    work: Callable[[sqlite3.Connection], T]
    future: Future[T]
    value: T | None = None
    error: Exception | None = None

    def tell(self) -> None:
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.value)  # type: ignore[arg-type]  # T itself may be None


class Lane:
    """A thread with one connection; see the module's docstring. `turn` None makes it a lane for reading."""

    def __init__(self, name: str, opener: Callable[[], sqlite3.Connection], turn: threading.Lock | None) -> None:
        """Open the connection and start the thread. Raises sqlite3.Error."""
        self.groups = self.jobs = 0
        self._opener, self._turn = opener, turn
        self._connection: sqlite3.Connection | None = opener()
        self._suspect = False
        self._waiting: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"sqlite-{name}", daemon=True)
        self._thread.start()

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in the lane and return what it returned, committed. A caller that is cancelled may be too late to stop it."""
        if self._closed:
            raise PyfaasError(Code.INTERNAL, "the database is closed")
        job = _Job(work, Future[T]())
        self._waiting.put(job)
        return await asyncio.wrap_future(job.future)

    def close(self) -> None:
        """Finish what waits, then close the connection; blocks until then."""
        if not self._closed:
            self._closed = True
            self._waiting.put(None)
            self._thread.join()

    def _run(self) -> None:
        is_open = True
        while is_open:
            group, is_open = self._gather()
            live = [job for job in group if job.future.set_running_or_notify_cancel()]
            if live:
                self.groups, self.jobs = self.groups + 1, self.jobs + len(live)
                self._serve(live)
        if self._connection is not None:
            self._connection.close()

    def _gather(self) -> tuple[list[_Job[Any]], bool]:
        group: list[_Job[Any]] = []
        item = self._waiting.get()
        while item is not None:
            group.append(item)
            if len(group) == GROUP or self._waiting.empty():
                return group, True
            item = self._waiting.get()
        return group, False

    def _serve(self, jobs: Sequence[_Job[Any]]) -> None:
        if self._turn is None:
            for job in jobs:
                self._transact([job], "BEGIN")
        else:
            with self._turn:
                self._write(jobs)
        for job in jobs:
            job.tell()

    def _write(self, jobs: Sequence[_Job[Any]]) -> None:
        if self._transact(jobs, "BEGIN IMMEDIATE") and len(jobs) > 1:
            for job in jobs:
                self._transact([job], "BEGIN IMMEDIATE")

    def _transact(self, jobs: Sequence[_Job[Any]], begin: str) -> bool:
        """Do the jobs in one transaction; True when all of it was rolled back and it is worth trying each alone."""
        committing = False
        with _Catch() as caught:
            connection = self._opened()
            connection.execute(begin)
            for job in jobs:
                self._attempt(connection, job)
            committing = True
            connection.execute("COMMIT")
            return False
        self._abandon(failed_commit=committing, error=caught.error)
        for job in jobs:
            job.value, job.error = None, caught.error
        return is_full(caught.error)

    def _attempt(self, connection: sqlite3.Connection, job: _Job[Any]) -> None:
        connection.execute("SAVEPOINT job")
        with _Catch() as caught:
            job.value = job.work(connection)
        job.error = caught.error
        if caught.error is not None:
            if not connection.in_transaction:
                raise caught.error  # SQLite took the whole transaction back (full, I/O error): not this job's affair alone
            connection.execute("ROLLBACK TO job")
        connection.execute("RELEASE job")

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = self._opener()
            if self._suspect:
                busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
                if busy:
                    connection.close()
                    raise PyfaasError(Code.INTERNAL, "the database failed to recover from a disk error")
            self._connection, self._suspect = connection, False
        return self._connection

    def _abandon(self, *, failed_commit: bool, error: Exception | None) -> None:
        connection = self._connection
        if connection is None:
            return
        with _Catch() as caught:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        if failed_commit or caught.error is not None or _is_broken(error):
            self._connection = None
            self._suspect = self._turn is not None and not is_full(error)
            with _Catch():
                connection.close()


def is_full(error: Exception | None) -> bool:
    """Whether an error that came out of a lane says that the disk is full."""
    return isinstance(error, PyfaasError) and error.code is Code.STORAGE_FULL


def _is_broken(error: Exception | None) -> bool:
    name = error.evidence.get("sqlite", "") if isinstance(error, PyfaasError) else ""
    return str(name).startswith(("SQLITE_IOERR", "SQLITE_CORRUPT", "SQLITE_NOTADB"))


class Database:
    """The three lanes of one file. Made by `schema.open_database`, which has migrated it first."""

    def __init__(self, path: str) -> None:
        """Open the lanes. Raises sqlite3.Error."""
        self.path = path
        self.is_yielded = False
        turn = threading.Lock()
        self._write = Lane("write", lambda: connect(path), turn)
        self._append = Lane("append", lambda: connect(path, synchronous="NORMAL"), turn)
        self._read = Lane("read", lambda: connect(path, readonly=True), None)

    async def write(self, work: Callable[[sqlite3.Connection], T], *, ends_a_run: bool = False) -> T:
        """Run `work` in a transaction that is on the disk when this returns; the work may be run twice (see above).

        Raises not_ready while the database is yielded, but for what `ends_a_run`.
        """
        if self.is_yielded and not ends_a_run:
            raise PyfaasError(Code.NOT_READY, "the server is being replaced", hint="send it again", retry_after=1.0)
        return await self._write.run(work)

    async def yield_writes(self) -> None:
        """Let another process decide: refuse what is not the end of a run; what was asked for before is on the disk."""
        self.is_yielded = True
        await self._write.run(lambda _connection: None)

    async def append(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in a transaction that survives this process, but perhaps not a power cut."""
        return await self._append.run(work)

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` on one consistent state."""
        return await self._read.run(work)

    async def shrink(self, pages: int) -> None:
        """Give at most so many pages that nothing is stored in back to the file system."""

        def work(connection: sqlite3.Connection) -> None:
            unused = int(connection.execute("PRAGMA freelist_count").fetchone()[0])
            for _ in range(min(pages, unused)):
                # A page at a time: the statement steps once a page, and sqlite3 leaves it after the first step.
                connection.execute("PRAGMA incremental_vacuum(1)")

        await self._append.run(work)

    async def close(self) -> None:
        """Finish what waits and close."""
        for lane in (self._write, self._append, self._read):
            await asyncio.to_thread(lane.close)

    def statistics(self) -> dict[str, int]:
        """Count the durable writes and the transactions that they needed."""
        return {"writes": self._write.jobs, "commits": self._write.groups}
