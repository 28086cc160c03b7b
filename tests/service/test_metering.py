"""Usage rows in the dispatcher: whose they are, and that their sum is what the leaves counted; real leaves are in tests/e2e."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from pyfaas.model import AccountId, FunctionId, InvocationId, Outcome, UsageRow
from pyfaas.network import NetworkPlan
from pyfaas.service.metering import Meter
from pyfaas.service.metrics import Tally
from pyfaas.sharing import Payer
from sandbox.spec import Ending, Fate, Usage
from sandbox.wire import Status
from tests.service.fake import A, B, Bench, FakeContainer, Sink, version
from tests.service.lending import C, add_account, alias, lend
from tests.service.test_dispatch import settle


class Metered(Bench):
    """A bench that shows the rows."""

    hours = 0

    @property
    def meter(self) -> Meter:
        """The one meter."""
        return self.fleet.finisher.meter

    def rows(self, kind: str | None = None) -> list[UsageRow]:
        """Return the rows so far."""
        return [row for row in self.journal.usage if kind in (None, row.kind)]

    def look(self) -> None:
        """Let a second pass, and all idle containers have their turn."""
        self.hours += 1
        for _ in range(len(self.workers.containers)):
            self.meter.tick(time.monotonic() + self.hours * 3600.0)

    def one(self) -> FakeContainer:
        """Return the one container that runs."""
        (box,) = self.workers.running()
        return box


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Metered]:
    """A dispatcher that runs, with a full warming pool; its own ticks read nothing within a test."""
    made = Metered()
    made.dispatcher.open()
    add_account(made, C)
    await settle(made)
    yield made
    await made.dispatcher.close()


def cpu(rows: list[UsageRow]) -> int:
    """Sum the processor time."""
    return sum(row.cpu_us for row in rows)


def begun(bench: Metered, account: AccountId = A, name: str = "f") -> tuple[Sink, FakeContainer]:
    """Begin a call; returns its end and its container."""
    before = set(bench.workers.running())
    sink = bench.call(account, name)
    (box,) = set(bench.workers.running()) - before
    return sink, box


async def test_a_runs_row_has_what_its_process_used_at_once(bench: Metered) -> None:
    """What the making of the container took is nobody's; the run's row has the process's time without a reading of the leaf."""
    _, box = begun(bench)
    box.burn(700)
    box.answer()
    (row,) = bench.rows("call")
    assert (row.cpu_us, row.count, row.outcome, row.account, row.caller, row.owner) == (700, 1, Outcome.OK, A, A, A)


async def test_children_are_found_at_the_next_reading(bench: Metered) -> None:
    """Time of other processes is added to the run as a row that counts none, with the highest memory that was seen."""
    _, box = begun(bench)
    box.burn(700, children_us=1_000_000)
    box.used = Usage(cpu_us=box.used.cpu_us, memory_peak_bytes=99)
    box.answer()
    bench.look()
    first, second = bench.rows("call")
    assert (second.cpu_us, second.count, second.wall_us, second.peak_bytes, second.outcome) == (1_000_000, 0, 0, 99, Outcome.OK)
    assert (first.bytes_out, second.bytes_out) == (1, 0)
    bench.look()
    assert len(bench.rows()) == 3  # with the import's: nothing is owed any more


async def test_work_after_the_reply_is_idle_and_not_the_next_runs(bench: Metered) -> None:
    """What a thread burns while nothing runs is a row of its own, and the next run's has its own time only."""
    _, box = begun(bench)
    box.burn(10)
    box.answer()
    bench.look()
    box.burn(2_000_000)
    bench.look()
    (idle,) = bench.rows("idle")
    assert (idle.cpu_us, idle.account, idle.outcome, idle.invocation) == (2_000_000, A, None, None)
    begun(bench)
    box.burn(30)
    box.answer()
    assert bench.rows("call")[-1].cpu_us == 30


async def test_the_rows_of_a_life_add_up_to_its_leaf(bench: Metered) -> None:
    """Import, runs, work between them, and what the end found: the sum is what the leaf counted since the assignment, exactly."""
    bench.workers.is_slow = True
    bench.call()
    (box,) = [each for each in bench.workers.containers.values() if each.is_loading]
    begun_us = box.used.cpu_us
    box.burn(333, children_us=77)
    box.load()
    for n in range(20):
        box.burn(1000 + n, children_us=13 * n)
        box.answer()
        if n % 3 == 0:
            box.burn(5, children_us=1)
            bench.look()
        bench.call()
    box.burn(4321, children_us=1234)
    box.end()
    rows = bench.rows()
    assert cpu(rows) == box.used.cpu_us - begun_us
    assert cpu(bench.rows("init")) == 410
    assert sum(row.count for row in bench.rows("call")) == 21


async def test_a_stop_writes_what_is_owed(bench: Metered) -> None:
    """What was used since the last reading is not lost with a server that stops in order."""
    _, box = begun(bench)
    box.burn(10, children_us=90)
    box.answer()
    bench.meter.close()
    assert cpu(bench.rows("call")) == 100


async def test_two_callers_of_one_function_split_exactly(bench: Metered) -> None:
    """Lent to two accounts and interleaved, each pays what ran for it, whatever its own name for it is."""
    names = {B: "theirs", C: "ours"}
    ways = {account: alias(bench, name, lend(bench, A, caller=account, reuse=True), account).id for account, name in names.items()}
    burnt: Counter[AccountId] = Counter()
    for n in range(30):
        for account, name in names.items():
            bench.call(account, name)
            await settle(bench)
            box = bench.one()
            own, children = (n + 1) * (7 if account == B else 11), n * 3
            box.burn(own, children)
            burnt[account] += own + children
            box.answer()
    bench.look()
    for account, name in names.items():
        rows = [row for row in bench.rows() if row.account == account]
        assert {(row.caller, row.owner, row.function, row.way) for row in rows} == {(account, A, FunctionId(A), ways[account])}, name
        assert cpu(rows) == burnt[account]
        assert sum(row.count for row in rows if row.kind == "call") == 30
    assert not [row for row in bench.rows() if row.account == A]


async def test_who_pays_is_who_the_terms_say(bench: Metered) -> None:
    """Where the owner chose to pay, its rows still say who called and by what."""
    name = alias(bench, "free", lend(bench, A, payer=Payer.OWNER))
    bench.call(B, "free")
    await settle(bench)
    bench.one().answer()
    await settle(bench)
    assert {(row.account, row.caller, row.owner, row.way) for row in bench.rows()} == {(A, B, A, name.id)}
    assert {row.kind for row in bench.rows()} >= {"call", "init"}


async def test_a_fresh_containers_end_is_in_its_runs_row(bench: Metered) -> None:
    """A container that answers once is read when it ends: what it still burnt is the run's."""
    alias(bench, "once", lend(bench, A))
    bench.call(B, "once")
    await settle(bench)
    box = bench.one()
    box.burn(100, children_us=50)
    box.answer()
    assert box.is_dead
    assert cpu(bench.rows("call")) == 150


async def test_a_lost_run_is_free(bench: Metered) -> None:
    """A run that the platform lost is counted, and takes neither time nor memory."""
    _, box = begun(bench)
    box.burn(5_000)
    box.end(Fate.LOST)
    (row,) = bench.rows("call")
    assert (row.outcome, row.count, row.wall_us, row.cpu_us, row.peak_bytes) == (Outcome.LOST, 1, 0, 0, 0)
    assert bench.rows("idle") == []


async def test_a_rejected_run_is_free_but_burns_in_daylight(bench: Metered) -> None:
    """An event that does not fit costs nothing by the run; code that says so after a second's work is charged it as idle."""
    _, box = begun(bench)
    box.burn(1_000_000)
    box.answer(b'{"errorMessage": "no"}', Status.INVALID_EVENT)
    (row,) = bench.rows("call")
    assert (row.outcome, row.count, row.wall_us, row.cpu_us) == (Outcome.REJECTED, 1, 0, 0)
    assert cpu(bench.rows("idle")) == 1_000_000


async def test_an_attempts_rows_come_with_its_result(bench: Metered) -> None:
    """A job's rows are not the journal's, so that they are written once, with its end; the metrics count them all the same."""
    sink = bench.call(is_job=True)
    box = bench.one()
    box.burn(100, children_us=900)
    box.answer()
    assert cpu(list(sink.result.usage)) == 1000
    assert [row.kind for row in sink.result.usage] == ["call", "call"]
    assert bench.rows("call") == []
    assert (bench.journal.counted().total().runs, bench.journal.counted().total().cpu_us) == (1, 1000)
    begun(bench)
    box.answer()
    assert [row.count for row in bench.rows("call")] == [1]


async def test_an_attempt_that_died_has_its_rows(bench: Metered) -> None:
    """What the end of the container found is with the attempt, too."""
    sink = bench.call(is_job=True)
    box = bench.one()
    box.burn(0, children_us=900)
    box.end()
    assert (sink.result.outcome, cpu(list(sink.result.usage))) == (Outcome.CRASHED, 900)
    assert bench.rows("call") == []


async def test_an_import_that_dies_is_told(bench: Metered) -> None:
    """A container that ended while it imported has a row of kind init with what it burnt."""
    bench.workers.is_slow = True
    bench.call()
    (box,) = [each for each in bench.workers.containers.values() if each.is_loading]
    box.burn(500, children_us=5)
    box.end()
    assert [(row.kind, row.cpu_us) for row in bench.rows()] == [("init", 505)]


async def test_what_the_network_carried_is_the_runs(bench: Metered) -> None:
    """Bytes are told by VM: they are the run's that goes on there, else the last one's, and long after that nobody's run."""
    entry = bench.registry.entry(A, "f")
    made = bench.dispatcher.lane(entry, entry.versions[1])
    made.network = NetworkPlan(entries=("example.com:443",), doors=())
    bench.call()
    await settle(bench)
    box = bench.one()
    bench.meter.network_used(box.vm, 10, 20, 1)
    bench.meter.network_used(box.vm, 1, 2, 0)
    box.answer()
    (row,) = bench.rows("call")
    assert (row.net_in, row.net_out, row.connections) == (11, 22, 1)
    bench.meter.network_used(box.vm, 5, 0, 0)
    late = bench.rows()[-1]
    assert (late.kind, late.outcome, late.count, late.net_in, late.cpu_us, late.wall_us) == ("call", Outcome.OK, 0, 5, 0, 0)
    before = len(bench.rows())
    bench.meter.network_used("v-unknown", 5, 0, 0)
    assert len(bench.rows()) == before


@pytest.mark.parametrize(
    ("stack", "place"),
    [
        (['  File "/app/code/main.py", line 9, in handler'], " at main.py:9"),
        (['  File "/app/code/lib/part.py", line 2, in f', '  File "/app/code/main.py", line 9, in g'], " at lib/part.py:2"),
        (['  File "/usr/lib/json.py", line 1, in x', '  File "/app/code/main.py", line 1, in g'], " at main.py:1"),
        (['  File "/app/code/main.py", line 10, in handler'], ""),
        (['  File "/app/code/secret.py", line 1, in handler', '  File "/app/code/main.py", line 1, in g'], ""),
        (['  File "/app/code/ma in.py", line 1, in handler'], ""),
        (["nonsense", 7, None], ""),
        ("text", ""),
        (None, ""),
    ],
    ids=str,
)
async def test_an_owner_is_told_only_lines_that_it_wrote(bench: Metered, stack: object, place: str) -> None:
    """A frame of a file or a line that the version does not have tells nothing: it could be made of what the run has read."""
    bench.fleet.finisher.lines = lambda code_id, path: {"main.py": 9, "lib/part.py": 2}.get(path, 0) if code_id else 0
    alias(bench, "lent", lend(bench, A))
    bench.call(B, "lent")
    await settle(bench)
    bench.one().answer(json.dumps({"errorType": "KeyError", "errorMessage": "hers", "stackTrace": stack}).encode(), Status.ERROR)
    assert [(line.function, line.stream, line.line) for line in bench.journal.lines] == [
        (FunctionId(A), "platform", f"a lent run failed: KeyError{place}")
    ]


async def test_a_step_of_a_preparation_is_its_owners(bench: Metered) -> None:
    """All containers of the step's VM are counted from when they were given something, and the network by the VM."""
    build = bench.meter.build(version(FunctionId(A), 3), A)
    first, second = (FakeContainer(bench.workers, "v9", name) for name in ("c1", "c2"))
    build.began("v9")
    for box in (first, second):
        build.given(box)
    build.saw("c1", Usage(cpu_us=10_500, memory_peak_bytes=7))
    build.ended("c1", Ending(fate=Fate.EXITED, evidence={"cpu_us": 10_700, "memory_peak_bytes": 9}))
    build.saw("c2", Usage(cpu_us=11_000, memory_peak_bytes=5))
    build.saw("c2", Usage())
    bench.meter.network_used("v9", 100, 10, 2)
    build.over("v9", 1 << 30, Outcome.ERROR)
    (row,) = bench.rows("build")
    assert (row.account, row.owner, row.version, row.cpu_us, row.peak_bytes, row.net_in, row.outcome) == (A, A, 3, 1700, 9, 100, Outcome.ERROR)


def test_a_row_without_a_run_is_no_run_in_the_metrics() -> None:
    """What is found later adds its time to the sums, and is in no bucket of the durations."""
    tally = Tally()
    given: dict[str, Any] = {"at": 0.0, "account": A, "caller": A, "owner": A, "function": FunctionId("f"), "version": 1, "invocation": InvocationId("i")}
    tally.take([UsageRow(kind="call", outcome=Outcome.OK, wall_us=5, **given), UsageRow(kind="call", outcome=Outcome.OK, cpu_us=9, count=0, **given)])
    tally.take([UsageRow(kind="idle", outcome=None, cpu_us=4, **given), UsageRow(kind="build", outcome=Outcome.OK, cpu_us=3, **given)])
    assert (tally.total().runs, tally.total().cpu_us, dict(tally.durations().buckets)[float("inf")]) == (1, 9, 1)
    assert (tally.idle_cpu_us, tally.build_cpu_us, tally.builds) == (4, 3, 1)
