"""Asynchronous invocations: kept before they are acknowledged, run when due, retried, ended once.

One dispatcher claims due jobs; a claim ends with the server instance that made it, not by time. A qualifier is
resolved at each attempt's start, so that a fix reaches the retries.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from pyfaas.calls import Request, Result
from pyfaas.decisions import retry
from pyfaas.errors import Code, PyfaasError, not_found
from pyfaas.model import Attempt, Caller, Job, JobState, Outcome, Scope, Token
from pyfaas.ports import Clock, Queue
from pyfaas.service.ids import Ids
from pyfaas.service.registry import Registry
from pyfaas.service.views import job_view
from pyfaas.service.ways import Ways
from pyfaas.sharing import CallableId

log = logging.getLogger(__name__)
_POLL_S = 1.0  # a due time is never missed by more, whatever the clock does

_TERMINAL_OUTCOME = {Outcome.TIMEOUT: JobState.TIMED_OUT, Outcome.OOM: JobState.OOM}


class Jobs:
    """Owns the asynchronous runs. `invoke` runs one call to its result; `cancel_run` ends one that runs."""

    def __init__(
        self,
        queue: Queue,
        registry: Registry,
        clock: Clock,
        ids: Ids,
        ways: Ways,
        invoke: Callable[[Request, Callable[[Any], None]], Awaitable[Result]],
        *,
        workers: int,
        payload_limit: int,
    ) -> None:
        """Run at most `workers` jobs at once."""
        self._queue, self._registry, self._clock, self._ids, self._ways, self._invoke = queue, registry, clock, ids, ways, invoke
        self._workers, self._payload_limit = workers, payload_limit
        self._instance = str(uuid.uuid4())
        self.ended: Counter[JobState] = Counter()  # what attempts left behind; queued is one to be made again
        self._wake = asyncio.Event()
        self._running: dict[str, Any] = {}  # job id → Running, for cancel
        self._cancelled: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: dict[str, set[asyncio.Event]] = {}  # job id → who waits for its end, each with an event of his own
        self._loop_task: asyncio.Task[None] | None = None
        self._is_failing = False  # the store could not be written at the last try: told once
        self._is_claiming = False
        # Returns the event of a call by a name and an API's version, or raises: another one for a replay has to fit as the first did.
        self.checked: Callable[[Caller, str, str | None, bytes], bytes] = lambda _caller, _name, _version, body: body

    async def open(self, *, beside: bool = False) -> int:
        """Queue again what an earlier server left running, unless it still finishes that beside this one, and start claiming.

        Returns how many were recovered.
        """
        recovered = 0 if beside else await self.recover()
        self.start_claiming()
        return recovered

    async def recover(self) -> int:
        """Queue again what other servers left running, none of which lives any more; returns how many."""
        recovered = await self._queue.recover(self._instance, self._clock.now(), retry.MAX_LOST)
        for job_id in self._waiting:
            self._tell(job_id)
        self._wake.set()
        return recovered

    def start_claiming(self) -> None:
        """Claim jobs from now on, or again."""
        self._is_claiming = True
        if self._loop_task is None or self._loop_task.done():
            self._loop_task = asyncio.get_running_loop().create_task(self._loop())

    async def drain(self, seconds: float) -> int:
        """Wait for the jobs that were claimed; returns how many were left."""
        tasks = [t for t in (self._loop_task, *self._tasks) if t is not None]
        return len((await asyncio.wait(tasks, timeout=seconds))[1]) if tasks else 0

    async def close(self) -> None:
        """Stop claiming; what runs becomes `lost` at the next start."""
        tasks = [t for t in (self._loop_task, *self._tasks) if t is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def stop_claiming(self) -> None:
        """Claim no more jobs; returns when what was being claimed has begun to run."""
        self._is_claiming = False
        self._wake.set()
        if self._loop_task is not None:
            await asyncio.wait({self._loop_task})
            await asyncio.sleep(0)

    # ---- use cases

    async def enqueue(self, request: Request, replay_of: Job | None = None) -> dict[str, Any]:
        """Keep a job; it is durable when this returns. Raises not_found, payload_too_large."""
        if request.caller is None:
            raise PyfaasError(Code.UNAUTHENTICATED, "a token is needed")
        if len(request.body) > self._payload_limit:
            raise PyfaasError(
                Code.PAYLOAD_TOO_LARGE,
                f"an asynchronous call takes at most {self._payload_limit} bytes",
                hint="the operator can raise async_payload",
                evidence={"limit": "async_payload", "value": self._payload_limit, "observed": len(request.body)},
            )
        account = request.caller.account.id
        entry, way = self._ways.lead(account, request)
        now = self._clock.now()
        job = Job(
            id=self._ids.next(),
            account=account,
            function=entry.function.id,
            way=way.id if way is not None else "",
            name=request.name,
            qualifier=request.qualifier if way is None else request.api_version,
            event=request.body,
            event_is_bytes=request.is_bytes,
            state=JobState.QUEUED,
            due=now,
            created=now,
            deadline=now + request.timeout_ms / 1000 if request.timeout_ms is not None else None,
            replay_of=replay_of.id if replay_of else None,
        )
        await self._queue.put(job)
        self._wake.set()
        shown = {"id": job.id, "state": job.state.value}
        return {**shown, "replay_of": replay_of.id} if replay_of else shown

    async def get(self, caller: Caller, job_id: str, wait_s: float = 0.0) -> dict[str, Any]:
        """Show a job, waiting at most `wait_s` for its end."""
        until, changed = self._clock.monotonic() + wait_s, asyncio.Event()
        waiting = self._waiting.setdefault(job_id_of(job_id), set())
        waiting.add(changed)  # before the job is looked at: one that ends between look and wait is seen
        try:
            while True:
                changed.clear()
                job = await self._job(caller, job_id)
                left = until - self._clock.monotonic()
                if job.state.is_terminal or left <= 0:
                    return job_view(job)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), left)
        finally:
            waiting.discard(changed)
            if not waiting and self._waiting.get(job_id_of(job_id)) is waiting:
                del self._waiting[job_id_of(job_id)]

    async def listed(self, caller: Caller, state: str | None, limit: int, after: str) -> dict[str, Any]:
        """List the account's jobs by id."""
        try:
            wanted = JobState(state) if state is not None else None
        except ValueError:
            raise PyfaasError(Code.INVALID_REQUEST, f"no job has the state {state!r}") from None
        jobs = await self._queue.list(caller.account.id, state=wanted, after=after, limit=limit + 1)
        items = [job_view(job) for job in jobs[:limit]]
        return {"items": items, "next": items[-1]["id"] if len(jobs) > limit else None}

    async def cancel(self, caller: Caller, job_id: str) -> dict[str, Any]:
        """Cancel a job; on one that ended this changes nothing."""
        await self._job(caller, job_id)
        await self._queue.cancel(job_id_of(job_id), self._clock.now())
        self._cancelled.add(job_id)
        running = self._running.get(job_id)
        if running is not None:
            running.cancel()
        self._tell(job_id)
        return job_view(await self._job(caller, job_id))

    async def replay(self, caller: Caller, job_id: str, body: bytes | None) -> dict[str, Any]:
        """Run a job again, with the same event or another."""
        job = await self._job(caller, job_id)
        request = Request(caller=caller, name=job.name, body=job.event, is_bytes=job.event_is_bytes, **_versions(job))
        if body is not None:
            request.body, request.is_bytes = self.checked(caller, job.name, request.api_version, body), False
        return await self.enqueue(request, replay_of=job)

    async def _job(self, caller: Caller, job_id: str) -> Job:
        job = await self._queue.get(job_id_of(job_id))
        if job is None or not (job.account == caller.account.id or caller.may(Scope.ADMIN)):
            raise not_found("invocation", job_id)
        return job

    async def queued(self) -> int:
        """Count what waits for its turn."""
        return await self._queue.queued()

    def running(self) -> int:
        """Count what runs."""
        return len(self._tasks)

    # ---- running

    async def _loop(self) -> None:
        while self._is_claiming:
            self._wake.clear()
            free = self._workers - len(self._tasks)
            claimed = await self._claim(free) if free > 0 else []
            if claimed is None:  # it is still due: to ask again at once would be a busy loop while the disk is full
                await asyncio.sleep(_POLL_S)
                continue
            for job in claimed:
                task = asyncio.get_running_loop().create_task(self._run(job))
                self._tasks.add(task)
                task.add_done_callback(self._ended)
            if len(claimed) < max(1, free) and self._is_claiming:
                try:
                    await asyncio.wait_for(self._wake.wait(), await self._pause())
                except TimeoutError:
                    continue

    async def _claim(self, free: int) -> list[Job] | None:
        """Claim due jobs; None when the store cannot now."""
        try:
            claimed = list(await self._queue.claim(free, self._clock.now(), self._instance))
        except PyfaasError as error:
            if not self._is_failing:
                log.warning("claim_failed", extra={"code": error.code.value})
            self._is_failing = True
            return None
        self._is_failing = False
        return claimed

    async def _pause(self) -> float:
        if len(self._tasks) >= self._workers:
            return _POLL_S
        due = await self._queue.next_due()
        return _POLL_S if due is None else min(_POLL_S, max(0.005, due - self._clock.now()))

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._wake.set()
        if not task.cancelled() and task.exception() is not None:
            log.error("job_failed", exc_info=task.exception())

    async def _run(self, job: Job) -> None:
        started = self._clock.now()
        result = await self._attempt(job, started)
        now = self._clock.now()
        self._running.pop(job.id, None)
        entry = self._registry.entries.get(job.function)
        retries = entry.function.settings.retries if entry else None
        error = _error_of(result)
        n = len(job.attempts) + (0 if job.attempts and job.attempts[-1].finished is None else 1)
        attempt = Attempt(
            n=n, started=started, finished=now, requested=result.requested, executed=result.executed, outcome=result.outcome, error=error
        )
        if job.id in self._cancelled or retries is None or result.outcome is Outcome.CANCELLED:
            step = retry.Next(state=JobState.CANCELLED, lost=job.lost)
        elif job.deadline is not None and result.outcome is Outcome.TIMEOUT and now >= job.deadline:
            step = retry.Next(state=JobState.EXPIRED if result.executed is None else JobState.TIMED_OUT, lost=job.lost)
        else:
            step = retry.next_step(
                result.outcome,
                is_invalid_event=result.code in (Code.INVALID_EVENT, Code.NOT_FOUND, Code.GONE),
                attempts=n,
                lost=job.lost,
                retries=retries,
                now=now,
                jitter=random.random(),  # noqa: S311 - spreads retries, hides nothing
            )
        await self._end(job, attempt, step, result, error)

    async def _attempt(self, job: Job, started: float) -> Result:
        if job.deadline is not None and job.deadline <= started:
            return Result(id=job.id, outcome=Outcome.TIMEOUT, message="the deadline passed before the code could start")
        account = self._registry.accounts.get(job.account)
        if account is None or job.function not in self._registry.entries:
            return Result(id=job.id, outcome=Outcome.CANCELLED, message="the function or its account was removed")
        if job.way and not self._leads_there(job):
            return _revoked(job)
        left_ms = round((job.deadline - started) * 1000) if job.deadline is not None else None
        token = Token(id="job", account=account.id, digest=b"", scopes=frozenset({Scope.INVOKE}), created=started)
        request = Request(
            caller=Caller(account=account, token=token),
            name=job.name,
            id=job.id,
            **_versions(job),
            body=job.event,
            is_bytes=job.event_is_bytes,
            timeout_ms=left_ms,
            sticky_key=job.id,
            is_job=True,
        )
        try:
            return await self._invoke(request, lambda running: self._running.__setitem__(job.id, running))
        except PyfaasError as error:
            return Result(id=job.id, outcome=Outcome.REJECTED, code=error.code, message=error.message)

    def _leads_there(self, job: Job) -> bool:
        """Whether the name that a job was called by is still what it was: what was removed and made again is not."""
        try:
            return self._ways.find(job.account, job.name, job.qualifier).id == job.way
        except PyfaasError:
            return False

    async def _end(self, job: Job, attempt: Attempt, step: retry.Next, result: Result, error: dict[str, Any] | None) -> None:
        ended: dict[str, Any] = {"due": step.due, "lost": step.lost, "usage": result.usage}
        if step.state.is_terminal:
            ended.update(outcome=attempt.outcome, error=error)
            if result.outcome is Outcome.OK:
                ended.update(result=result.body, result_is_bytes=result.kind == "bytes")
        await self._finish(job, attempt, step.state, ended)
        self.ended[step.state] += 1
        self._cancelled.discard(job.id)
        self._tell(job.id)
        self._wake.set()

    async def _finish(self, job: Job, attempt: Attempt, state: JobState, ended: dict[str, Any]) -> None:
        """Record an attempt's end, however long the store cannot: the run is over, and is not run again for that."""
        while True:
            try:
                await self._queue.finish_attempt(job.id, job.fence, attempt, state, **ended)
            except PyfaasError as error:
                log.warning("job_end_waits", extra={"job": job.id, "code": error.code.value})
                await asyncio.sleep(_POLL_S)
            else:
                return

    async def cancel_way(self, way: CallableId) -> None:
        """Cancel the queued jobs of an account alias or a subscription; what runs is the dispatcher's to end."""
        for job_id in await self._queue.cancel_way(way, self._clock.now()):
            self._tell(job_id)

    def _tell(self, job_id: str) -> None:
        for changed in self._waiting.get(job_id, ()):
            changed.set()


def _versions(job: Job) -> dict[str, Any]:
    """Return what of a Request says which version: a job by a way has an API's version where others have a qualifier."""
    return {"api_version": job.qualifier} if job.way else {"qualifier": job.qualifier}


def _revoked(job: Job) -> Result:
    return Result(id=job.id, outcome=Outcome.CANCELLED, code=Code.GONE, message="cancelled: revoked")


def job_id_of(text: str) -> Any:
    """Return the id when it is one; raises not_found, as for one that does not exist."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise not_found("invocation", text[:64]) from None


def _error_of(result: Result) -> dict[str, Any] | None:
    if result.outcome is Outcome.OK:
        return None
    if result.kind == "error":
        shown: dict[str, Any] = json.loads(result.body)
        return shown
    code = result.code.value if result.code else result.outcome.value
    return {"code": code, "message": result.message, "evidence": dict(result.evidence)}
