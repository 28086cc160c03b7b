"""Waiting for an asynchronous run: its end is seen whenever it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from pyfaas.adapters.clock import SystemClock
from pyfaas.errors import Code, PyfaasError
from pyfaas.model import Account, AccountId, Caller, FunctionId, InvocationId, Job, JobState, Scope, Token
from pyfaas.ports import Snapshot
from pyfaas.service.ids import Ids
from pyfaas.service.jobs import Jobs
from pyfaas.service.registry import Registry

ID = InvocationId("01a20dba-b47e-726d-99b6-007c80c68b60")
ACCOUNT = AccountId("000000000001")


class Rows:
    """A queue of one job, which changes when the test says so."""

    def __init__(self) -> None:
        """Begin with a job that runs."""
        self.state = JobState.RUNNING
        self.looks = 0
        self.after_look: Callable[[], None] = lambda: None

    async def get(self, job_id: InvocationId) -> Job | None:
        """Return the job as it is, and let the test do something before the asker goes on."""
        self.looks += 1
        if job_id != ID:
            return None
        seen = job(self.state)
        self.after_look()
        return seen


def job(state: JobState) -> Job:
    return Job(
        id=ID, account=ACCOUNT, function=FunctionId("f"), name="f", qualifier=None, event=b"{}", event_is_bytes=False, state=state, due=0.0, created=0.0
    )


@pytest.fixture
def rows() -> Rows:
    """Return the queue."""
    return Rows()


@pytest.fixture
def jobs(rows: Rows) -> Jobs:
    """Return the use cases over it; nothing is claimed."""
    clock = SystemClock()
    registry = Registry(Snapshot(accounts=[], tokens=[], functions=[], versions=[], moves=[]))

    async def never(_request: Any, _begun: Any) -> Any:
        raise AssertionError

    return Jobs(rows, registry, clock, Ids(clock.now()), None, never, workers=1, payload_limit=1)  # type: ignore[arg-type]


def caller() -> Caller:
    token = Token(id="t", account=ACCOUNT, digest=b"", scopes=frozenset({Scope.INVOKE}), created=0.0)
    return Caller(account=Account(id=ACCOUNT, name="a", created=0.0), token=token)


async def test_an_end_between_the_look_and_the_wait_is_seen(jobs: Jobs, rows: Rows) -> None:
    """The job ends after it was read as running, before anybody waits: the asker hears of it all the same."""

    def end() -> None:
        rows.state, rows.after_look = JobState.SUCCEEDED, lambda: None
        jobs._tell(ID)

    rows.after_look = end
    async with asyncio.timeout(30):
        shown = await jobs.get(caller(), ID, wait_s=3600.0)
    assert shown["state"] == "succeeded"


async def test_every_waiter_hears_of_the_end(jobs: Jobs, rows: Rows) -> None:
    """Several wait for one job; all are told, those who look again after a retry too, and nothing is kept of them."""
    waits = [asyncio.create_task(jobs.get(caller(), ID, wait_s=3600.0)) for _ in range(3)]
    while rows.looks < 3:
        await asyncio.sleep(0)
    jobs._tell(ID)  # an attempt ended, the job did not
    while rows.looks < 6:
        await asyncio.sleep(0)
    rows.state = JobState.DEAD
    jobs._tell(ID)
    async with asyncio.timeout(30):
        assert [shown["state"] for shown in await asyncio.gather(*waits)] == ["dead"] * 3
    assert jobs._waiting == {}


async def test_over_wait_shows_the_job_as_it_is(jobs: Jobs, rows: Rows) -> None:
    """When the time is over the job is looked at once more."""
    assert (await jobs.get(caller(), ID, wait_s=0.02))["state"] == "running"
    assert rows.looks == 2
    with pytest.raises(PyfaasError) as unknown:
        await jobs.get(caller(), str(ID).replace("0", "1"), wait_s=1.0)
    assert unknown.value.code is Code.NOT_FOUND
    assert jobs._waiting == {}
