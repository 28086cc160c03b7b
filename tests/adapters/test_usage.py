"""Usage in SQLite: both sides of lent runs, their names, and what is written with an attempt's end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from pyfaas.adapters.sqlite.sharing import SqliteSharing
from pyfaas.adapters.sqlite.store import SqliteStore
from pyfaas.errors import PyfaasError
from pyfaas.model import AccountId, FunctionId, InvocationId, JobState, LogLine, Outcome, UsageRow
from pyfaas.ports import CallSum
from pyfaas.sharing import AccountAlias, CallableId, Grant, GrantId, Terms
from tests.adapters.samples import ALICE, BOB, RESIZE, account, function, job, move, token, version

if TYPE_CHECKING:
    from pyfaas.adapters.sqlite.connection import Database
    from pyfaas.adapters.sqlite.queue import SqliteQueue

pytestmark = pytest.mark.asyncio
CAROL, SMALLER = AccountId("000000000003"), CallableId("a-smaller")


def lent(at: float = 60.0, **more: Any) -> UsageRow:
    """Make the row of a run of Alice's function that Bob called and pays for."""
    given = {"kind": "call", "account": BOB, "caller": BOB, "owner": ALICE, "function": RESIZE, "version": 7, "invocation": None}
    return UsageRow(**{"at": at, "outcome": Outcome.OK, "way": SMALLER, "wall_us": 2000, "cpu_us": 1500, **given, **more})


@pytest_asyncio.fixture
async def house(store: SqliteStore, database: Database) -> SqliteStore:
    """Give a store in which Bob has an alias on Alice's function."""
    await store.add_account(account(), token())
    await store.add_account(account(BOB, "bob"), None)
    await store.publish(function(), version(), move())
    sharing, grant = SqliteSharing(database), GrantId("g")
    await sharing.put_grant(Grant(id=grant, owner=ALICE, target=CallableId(RESIZE), name="resize", caller=BOB, terms=Terms(), created=1.0))
    await sharing.put_alias(
        AccountAlias(
            id=SMALLER, account=BOB, name="smaller", grant=grant, owner=ALICE, target=CallableId(RESIZE), target_name="resize", created=1.0
        )
    )
    return store


async def test_each_side_finds_its_rows(house: SqliteStore) -> None:
    """Owner, caller and payer have a row each, a stranger none."""
    await house.add_usage([lent(), lent(account=ALICE, kind="idle", outcome=None), lent(account=CAROL, caller=CAROL, owner=CAROL, way="")])
    assert [(r["kind"], r["account"]) for r in await house.usage(ALICE, 0, 1e6)] == [("idle", ALICE), ("call", BOB)]
    assert [(r["kind"], r["account"]) for r in await house.usage(BOB, 0, 1e6)] == [("idle", ALICE), ("call", BOB)]
    assert [r["way"] for r in await house.usage(CAROL, 0, 1e6)] == [""]
    assert len(await house.usage(None, 0, 1e6)) == 3


async def test_names_outlive_what_they_named(house: SqliteStore, database: Database) -> None:
    """An alias, a function and an account that were removed are still told by name, and that they are gone."""
    await house.add_usage([lent()])
    (row,) = await house.usage(BOB, 0, 1e6)
    assert (row["name"], row["way_name"], row["target_name"], row["lender_name"]) == ("resize", "smaller", "resize", "alice")
    assert (row["removed"], row["way_removed"]) == (False, False)
    await database.write(lambda connection: connection.execute("UPDATE account_aliases SET removed = 5 WHERE id = ?", (SMALLER,)))
    await house.remove_account(ALICE, 5.0)
    (row,) = await house.usage(BOB, 0, 1e6)
    assert (row["way_name"], row["owner_name"], row["removed"], row["way_removed"]) == ("smaller", "alice", True, True)


async def test_a_row_without_a_run_adds_to_another(house: SqliteStore) -> None:
    """What was found later adds its time, and the peak is the highest: it is no run more."""
    await house.add_usage([lent(peak_bytes=5), lent(count=0, wall_us=0, cpu_us=700, peak_bytes=9, net_in=3, net_out=4, connections=1)])
    (row,) = await house.usage(BOB, 0, 1e6)
    assert (row["calls"], row["outcomes"], row["wall_ms"], row["cpu_ms"], row["peak_bytes"]) == (1, {"ok": 1}, 2.0, 2.2, 9)
    assert (row["net_in"], row["net_out"], row["connections"]) == (3, 4, 1)


async def test_calls_of_a_day_are_counted_by_payer_and_way(house: SqliteStore) -> None:
    """A start learns how many runs each payer had since a minute, by way; other kinds are no runs, but move bytes."""
    await house.add_usage([lent(0.0), lent(120.0, net_in=5), lent(130.0, outcome=Outcome.ERROR), lent(140.0, kind="idle", outcome=None, net_out=2)])
    expected = CallSum(account=BOB, caller=BOB, owner=ALICE, function=RESIZE, way=SMALLER, calls=2, net_bytes=7)
    assert await house.calls_since(2) == [expected]


async def test_an_attempts_usage_is_written_with_its_end(house: SqliteStore, sqlite_queue: SqliteQueue) -> None:
    """The rows of an attempt are there when its end is, once; what an attempt that counts no more used is kept all the same."""
    await sqlite_queue.put(job())
    (claimed,) = await sqlite_queue.claim(1, 50.0, "here")
    attempt = claimed.attempts[-1]
    assert await sqlite_queue.finish_attempt(claimed.id, claimed.fence, attempt, JobState.SUCCEEDED, [lent()])
    assert [row["calls"] for row in await house.usage(BOB, 0, 1e6)] == [1]
    assert not await sqlite_queue.finish_attempt(claimed.id, claimed.fence, attempt, JobState.SUCCEEDED, [lent()])
    assert [row["calls"] for row in await house.usage(BOB, 0, 1e6)] == [2]


async def test_an_end_that_cannot_be_written_leaves_no_usage(house: SqliteStore, sqlite_queue: SqliteQueue) -> None:
    """Usage and end are one transaction: a failure of the second takes the first back."""
    await sqlite_queue.put(job())
    (claimed,) = await sqlite_queue.claim(1, 50.0, "here")
    with pytest.raises(PyfaasError, match="the database failed"):
        await sqlite_queue.finish_attempt(claimed.id, claimed.fence, claimed.attempts[-1], JobState.QUEUED, [lent()], due=object())
    assert await house.usage(BOB, 0, 1e6) == []


async def test_an_accounts_logs_are_those_of_its_aliases_too(house: SqliteStore) -> None:
    """A caller's logs of lent runs count as the caller's, and the oldest go first."""

    def said(at: float) -> LogLine:
        return LogLine(at=at, function=FunctionId(SMALLER), version=0, invocation=InvocationId("i"), stream="out", line="x" * 1000)

    await house.add_logs([said(float(n)) for n in range(20)])
    assert await house.cap_logs(1 << 20) == 0
    assert await house.cap_logs(5000) > 0
