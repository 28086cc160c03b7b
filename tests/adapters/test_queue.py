"""The contract of ports.Queue, held by the SQLite queue; another adapter subclasses QueueContract with its own fixture."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from pyfaas.adapters.sqlite.queue import SqliteQueue
from pyfaas.errors import Code, PyfaasError
from pyfaas.model import Attempt, FunctionId, InvocationId, Job, JobState, Outcome
from pyfaas.ports import Queue
from tests.adapters.samples import ALICE, BOB, RESIZE, job

J1 = InvocationId("j1")


def ended(claimed: Job, at: float = 30.0, outcome: Outcome = Outcome.OK) -> Attempt:
    """Return the claimed job's last attempt as ended."""
    return replace(claimed.attempts[-1], finished=at, outcome=outcome, requested=2, executed=1)


async def claim_one(queue: Queue, now: float = 20.0, instance: str = "here") -> Job:
    """Claim the one job that is due."""
    (claimed,) = await queue.claim(10, now, instance)
    return claimed


@pytest.mark.asyncio
class QueueContract:
    """What every Queue does; `queue` is an empty one."""

    @pytest.fixture
    def queue(self) -> Queue:
        """Give an empty queue."""
        raise NotImplementedError

    async def test_put_then_get_returns_the_same_job(self, queue: Queue) -> None:
        """A job comes back as it was put, every field of it."""
        full = job(
            qualifier="live",
            event=b"\x00\xff",
            event_is_bytes=True,
            deadline=99.5,
            lost=1,
            fence=3,
            replay_of=InvocationId("j0"),
            attempts=(
                Attempt(n=1, started=11.0, finished=12.0, outcome=Outcome.ERROR, error={"errorType": "KeyError"}),
            ),
        )
        await queue.put(full)
        assert await queue.get(full.id) == full
        assert await queue.get(InvocationId("unknown")) is None

    async def test_put_of_a_taken_id_is_a_conflict(self, queue: Queue) -> None:
        """The second job with an id is refused and the first stays."""
        await queue.put(job())
        with pytest.raises(PyfaasError) as refused:
            await queue.put(job(event=b"other"))
        assert refused.value.code is Code.CONFLICT
        assert await queue.get(J1) == job()

    async def test_claim_takes_only_what_is_due_oldest_first(self, queue: Queue) -> None:
        """Jobs are claimed in the order of their due time, up to the limit, and none before it."""
        for name, due in (("c", 12.0), ("a", 15.0), ("b", 11.0), ("late", 21.0)):
            await queue.put(job(name, due=due))
        assert [j.id for j in await queue.claim(2, 20.0, "here")] == ["b", "c"]
        assert [j.id for j in await queue.claim(9, 20.0, "here")] == ["a"]
        assert await queue.claim(9, 20.0, "here") == []
        assert await queue.next_due() == 21.0

    async def test_claim_gives_a_new_fence_and_attempt(self, queue: Queue) -> None:
        """Each claim of a job raises its fence and adds a numbered attempt."""
        await queue.put(job())
        first = await claim_one(queue)
        assert (first.state, first.fence, first.attempts) == (JobState.RUNNING, 1, (Attempt(n=1, started=20.0),))
        assert await queue.finish_attempt(J1, 1, ended(first, outcome=Outcome.ERROR), JobState.QUEUED, due=40.0)
        second = await claim_one(queue, 41.0)
        assert (second.fence, [a.n for a in second.attempts]) == (2, [1, 2])
        assert second.attempts[0].outcome is Outcome.ERROR

    async def test_concurrent_claims_never_share_a_job(self, queue: Queue) -> None:
        """Twenty claims at once over thirty jobs hand out each job once."""
        for n in range(30):
            await queue.put(job(f"j{n:02}"))
        claims = await asyncio.gather(*(queue.claim(2, 20.0, f"i{n}") for n in range(20)))
        assert sorted(j.id for claim in claims for j in claim) == [f"j{n:02}" for n in range(30)]

    async def test_finish_keeps_the_result(self, queue: Queue) -> None:
        """The end of a job is stored with its attempt, result and time."""
        await queue.put(job())
        claimed = await claim_one(queue)
        last = ended(claimed)
        assert await queue.finish_attempt(
            J1, 1, last, JobState.SUCCEEDED, outcome=Outcome.OK, result=b"\xff", result_is_bytes=True
        )
        done = await queue.get(J1)
        assert done == replace(
            claimed,
            state=JobState.SUCCEEDED,
            outcome=Outcome.OK,
            result=b"\xff",
            result_is_bytes=True,
            finished=30.0,
            attempts=(last,),
        )
        assert await queue.next_due() is None

    async def test_finish_keeps_error_and_lost(self, queue: Queue) -> None:
        """A failure's document and the count of lost attempts are stored; the job is queued for its due time."""
        await queue.put(job())
        last = ended(await claim_one(queue), outcome=Outcome.LOST)
        assert await queue.finish_attempt(J1, 1, last, JobState.QUEUED, due=77.0, lost=1, error={"code": "lost"})
        found = await queue.get(J1)
        assert found is not None
        assert (found.due, found.lost, found.error, found.finished) == (77.0, 1, {"code": "lost"}, None)
        assert await queue.next_due() == 77.0

    async def test_first_terminal_write_wins(self, queue: Queue) -> None:
        """A second end of the same attempt is refused and changes nothing."""
        await queue.put(job())
        last = ended(await claim_one(queue))
        assert await queue.finish_attempt(J1, 1, last, JobState.SUCCEEDED, outcome=Outcome.OK, result=b"1")
        assert not await queue.finish_attempt(J1, 1, replace(last, finished=31.0), JobState.FAILED, result=b"2")
        found = await queue.get(J1)
        assert found is not None
        assert (found.state, found.result, found.attempts) == (JobState.SUCCEEDED, b"1", (last,))

    async def test_stale_fence_is_refused(self, queue: Queue) -> None:
        """Who claimed before somebody else did cannot end the newer attempt."""
        await queue.put(job())
        old = await claim_one(queue, instance="dead")
        assert await queue.recover("here", 25.0) == 1
        new = await claim_one(queue, 26.0)
        assert not await queue.finish_attempt(J1, old.fence, ended(old), JobState.SUCCEEDED)
        assert await queue.finish_attempt(J1, new.fence, ended(new), JobState.SUCCEEDED)

    async def test_finish_of_unknown_keywords_is_a_mistake(self, queue: Queue) -> None:
        """A misspelt keyword or an end as running is the programmer's error, not a silent loss."""
        await queue.put(job())
        last = ended(await claim_one(queue))
        with pytest.raises(ValueError, match="resutl"):
            await queue.finish_attempt(J1, 1, last, JobState.SUCCEEDED, resutl=b"1")
        with pytest.raises(ValueError, match="running"):
            await queue.finish_attempt(J1, 1, last, JobState.RUNNING)

    async def test_cancel_queued(self, queue: Queue) -> None:
        """A queued job that is cancelled is never claimed."""
        await queue.put(job())
        cancelled = await queue.cancel(J1, 15.0)
        assert cancelled == job(state=JobState.CANCELLED, outcome=Outcome.CANCELLED, finished=15.0)
        assert await queue.claim(9, 20.0, "here") == []

    async def test_cancel_running_beats_its_late_answer(self, queue: Queue) -> None:
        """A running job that is cancelled ends there: its attempt is closed and its answer refused."""
        await queue.put(job())
        claimed = await claim_one(queue)
        cancelled = await queue.cancel(J1, 21.0)
        assert cancelled is not None
        assert (cancelled.attempts[0].finished, cancelled.attempts[0].outcome) == (21.0, Outcome.CANCELLED)
        assert not await queue.finish_attempt(J1, claimed.fence, ended(claimed), JobState.SUCCEEDED)
        assert await queue.get(J1) == cancelled

    async def test_cancel_of_a_terminal_job_changes_nothing(self, queue: Queue) -> None:
        """Cancelling what has ended returns it as it is; an unknown job is None."""
        await queue.put(job())
        await queue.finish_attempt(J1, 1, ended(await claim_one(queue)), JobState.SUCCEEDED, outcome=Outcome.OK)
        before = await queue.get(J1)
        assert await queue.cancel(J1, 50.0) == before
        assert await queue.get(J1) == before
        assert await queue.cancel(InvocationId("unknown"), 50.0) is None

    async def test_list_pages_by_id(self, queue: Queue) -> None:
        """Pages follow each other by id without a gap, per account, and leave payloads out."""
        for n in range(5):
            await queue.put(job(f"j{n}"))
        await queue.put(job("other", account=BOB))
        first = await queue.list(ALICE, limit=3)
        rest = await queue.list(ALICE, after=first[-1].id, limit=3)
        assert [j.id for j in (*first, *rest)] == ["j0", "j1", "j2", "j3", "j4"]
        assert first[0] == job("j0", event=b"")

    async def test_list_by_state(self, queue: Queue) -> None:
        """Only jobs in the state asked for are listed, with their attempts."""
        await queue.put(job("j1"))
        await queue.put(job("j2", due=50.0))
        claimed = await claim_one(queue)
        assert [j.id for j in await queue.list(ALICE, state=JobState.QUEUED)] == ["j2"]
        assert [j.attempts for j in await queue.list(ALICE, state=JobState.RUNNING)] == [claimed.attempts]

    async def test_recover_requeues_only_what_other_instances_ran(self, queue: Queue) -> None:
        """After a crash the dead instance's job is queued again, its attempt lost; our own and the waiting ones stay."""
        await queue.put(job("theirs", due=11.0))
        await queue.claim(1, 20.0, "dead")
        await queue.put(job("ours", due=12.0))
        await queue.claim(1, 20.0, "here")
        await queue.put(job("waiting", due=500.0))
        assert await queue.recover("here", 25.0) == 1
        theirs, ours, waiting = [await queue.get(InvocationId(n)) for n in ("theirs", "ours", "waiting")]
        assert theirs is not None
        assert (theirs.state, theirs.lost, theirs.due) == (JobState.QUEUED, 1, 11.0)
        assert (theirs.attempts[0].finished, theirs.attempts[0].outcome) == (25.0, Outcome.LOST)
        assert ours is not None
        assert ours.state is JobState.RUNNING
        assert waiting == job("waiting", due=500.0)

    async def test_recover_gives_up_after_max_lost(self, queue: Queue) -> None:
        """A job lost one time too many ends as dead with outcome lost."""
        await queue.put(job())
        for n in range(3):
            await claim_one(queue, 20.0 + n, f"dead{n}")
            await queue.recover(f"dead{n + 1}", 20.0 + n, max_lost=2)
        found = await queue.get(J1)
        assert found is not None
        assert (found.state, found.outcome, found.lost, found.finished) == (JobState.DEAD, Outcome.LOST, 3, 22.0)
        assert [a.outcome for a in found.attempts] == [Outcome.LOST] * 3

    async def test_cancel_function_spares_running_and_other_jobs(self, queue: Queue) -> None:
        """Removing a function cancels its queued jobs and nothing else."""
        await queue.put(job("running"))
        await claim_one(queue)
        await queue.put(job("queued"))
        await queue.put(job("other", function=FunctionId("f-other")))
        assert await queue.cancel_function(RESIZE, 30.0) == ["queued"]
        states = {n: (await queue.get(InvocationId(n))) for n in ("running", "queued", "other")}
        assert {n: j.state for n, j in states.items() if j} == {
            "running": JobState.RUNNING,
            "queued": JobState.CANCELLED,
            "other": JobState.QUEUED,
        }


class TestSqliteQueue(QueueContract):
    """The SQLite queue upholds the contract."""

    @pytest.fixture
    def queue(self, sqlite_queue: SqliteQueue) -> Queue:
        """Give a queue over a new file."""
        return sqlite_queue
