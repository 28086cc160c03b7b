"""Lent calls in the dispatcher: where they run, who pays, what limits them, and what a revocation reaches."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from pyfaas.errors import Code, PyfaasError
from pyfaas.model import Outcome, Quota
from pyfaas.sharing import Payer, Placing
from sandbox.wire import Status
from tests.service.fake import A, B, Bench, FakeContainer
from tests.service.lending import C, add_account, alias, lend, take_back


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    """A dispatcher that runs."""
    made = Bench()
    made.dispatcher.open()
    add_account(made, C)
    yield made
    await made.dispatcher.close()


async def until(condition: Callable[[], Any]) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def running(bench: Bench, count: int = 1) -> list[FakeContainer]:
    """Wait until so many containers run a call, and return them."""
    await until(lambda: len(bench.workers.running()) == count)
    return bench.workers.running()


async def test_a_lent_call_runs_in_a_vm_of_the_pair(bench: Bench) -> None:
    """Neither the owner's nor the caller's own containers answer it, and their VMs are others."""
    alias(bench, "lent", lend(bench, A))
    bench.call(A)
    bench.call(B)
    bench.call(B, "lent")
    boxes = await running(bench, 3)
    homes = {str(bench.fleet.pool.vms[box.vm].tenant) for box in boxes}
    assert homes == {A, B, f"{A}+{B}"}


async def test_a_container_of_a_lent_function_answers_once(bench: Bench) -> None:
    """Without `reuse` each call has a container that nobody had before; with it the same answers again."""
    alias(bench, "fresh", lend(bench, A))
    alias(bench, "kept", lend(bench, A, caller=C, reuse=True), account=C)
    seen: dict[str, list[str]] = {"fresh": [], "kept": []}
    for account, name in ((B, "fresh"), (B, "fresh"), (C, "kept"), (C, "kept")):
        sink = bench.call(account, name)
        (box,) = await running(bench)
        seen[name].append(box.id)
        box.answer()
        assert sink.result.outcome is Outcome.OK
    assert len(set(seen["fresh"])) == 2
    assert len(set(seen["kept"])) == 1
    assert all(bench.workers.containers[box].is_dead for box in seen["fresh"])


async def test_two_aliases_of_a_pair_share_vms_and_no_container(bench: Bench) -> None:
    """What one alias left in a container no call of another finds, `reuse` or not."""
    grant = lend(bench, A, reuse=True)
    alias(bench, "one", grant)
    alias(bench, "two", grant)
    boxes = []
    for name in ("one", "two"):
        bench.call(B, name)
        (box,) = await running(bench)
        box.answer()
        boxes.append(box)
    assert boxes[0].id != boxes[1].id
    assert boxes[0].vm == boxes[1].vm


@pytest.mark.parametrize(("asked", "home"), [(Placing.OWNER, A), (Placing.CALLER, B)])
async def test_another_placement_needs_both_sides(bench: Bench, asked: Placing, home: str) -> None:
    """In the owner's or the caller's VMs only when grant and alias say so, and even then in no container of theirs."""
    grant = lend(bench, A, placement=asked, reuse=True)
    alias(bench, "one_sided", grant)
    alias(bench, "agreed", grant, placement=asked)
    own = bench.call(A if home == A else B)
    (own_box,) = await running(bench)
    own_box.answer()
    homes, boxes = [], []
    for name in ("one_sided", "agreed"):
        bench.call(B, name)
        (box,) = await running(bench)
        homes.append(str(bench.fleet.pool.vms[box.vm].tenant))
        boxes.append(box.id)
        box.answer()
    assert homes == [f"{A}+{B}", home]
    assert own_box.id not in boxes
    assert own.result.outcome is Outcome.OK


async def test_errors_of_a_lent_function_are_sealed(bench: Bench) -> None:
    """The caller is told that it failed; the owner's own call shows why (the control)."""
    alias(bench, "lent", lend(bench, A))
    told = json.dumps({"errorType": "ValueError", "errorMessage": "3.1337", "stackTrace": ["/app/code/main.py"]}).encode()
    lent, own = bench.call(B, "lent"), bench.call(A)
    for box in await running(bench, 2):
        box.answer(told, Status.ERROR)
    assert json.loads(lent.result.body) == {"errorType": "FunctionError", "invocationId": lent.result.id}
    assert b"3.1337" in own.result.body


async def test_a_crash_is_sealed(bench: Bench) -> None:
    """Neither signal nor any other evidence of a crash is told to the caller."""
    alias(bench, "lent", lend(bench, A))
    sink = bench.call(B, "lent")
    (box,) = await running(bench)
    box.end()
    assert (sink.result.outcome, dict(sink.result.evidence)) == (Outcome.CRASHED, {})
    assert "signal" not in sink.result.message


async def test_parameters_and_names_travel_with_the_call(bench: Bench) -> None:
    """The container is told who calls by which alias, and the layers of parameters, outermost first."""
    first = lend(bench, A, lock={"a": 1}, relend=True)
    inner = alias(bench, "inner", first, params={"b": 2})
    second = lend(bench, inner.id, owner=B, caller=C, allow=("c",))
    alias(bench, "outer", second, account=C, params={"c": 3})
    bench.call(C, "outer")
    await running(bench)
    way = bench.ways.find(C, "outer")
    assert way.tenant.startswith(f"{A}+{B}+{C}/")
    assert way.meta == {
        "caller": C,
        "alias": "outer",
        "params": [{"allow": ["c"], "stored": {"c": 3}}, {"lock": {"a": 1}, "stored": {"b": 2}}],
    }


async def test_secrets_are_opened_when_a_call_begins(bench: Bench) -> None:
    """Nothing of a secret is in a call that waits; who may see which keys follows the grant."""
    grant = lend(bench, A, secrets=("shared",))
    held = alias(bench, "lent", grant)
    assert bench.ways.find(B, "lent").secrets == ((held.id, None), (A, ("shared",)))


# ---- who may


async def test_a_chain_needs_relend(bench: Bench) -> None:
    """An alias of an alias is gone unless the grant behind it may be lent on."""
    inner = alias(bench, "inner", lend(bench, A))
    alias(bench, "outer", lend(bench, inner.id, owner=B, caller=C), account=C)
    with pytest.raises(PyfaasError) as caught:
        bench.call(C, "outer")
    assert caught.value.code is Code.GONE


async def test_a_chain_of_eight_and_no_more(bench: Bench) -> None:
    """Eight aliases lead to a function, nine are refused; a loop is refused."""
    target: str = A
    for n in range(1, 10):
        target = alias(bench, f"own{n}", None, account=A, owner=A, target=target).id
    bench.call(A, "own8")
    with pytest.raises(PyfaasError, match="more than 8"):
        bench.call(A, "own9")
    loop = alias(bench, "loop", None, account=A, owner=A, target=target)
    bench.shares.put_alias(replace(bench.shares.alias_names[(A, "own1")], target=loop.id))
    with pytest.raises(PyfaasError, match=r"leads to itself|more than 8"):
        bench.call(A, "loop")


async def test_an_alias_takes_no_qualifier(bench: Bench) -> None:
    """The alias itself says which version."""
    alias(bench, "lent", lend(bench, A))
    with pytest.raises(PyfaasError, match="takes no qualifier"):
        bench.call(B, "lent", qualifier="1")


async def test_a_grant_of_one_version_runs_that(bench: Bench) -> None:
    """An alias that follows is pinned by its grant, and one that names another version is gone."""
    grant = lend(bench, A, version=1)
    alias(bench, "follows", grant)
    alias(bench, "other", grant, qualifier="2")
    assert bench.ways.find(B, "follows").qualifier == "1"
    with pytest.raises(PyfaasError) as caught:
        bench.ways.find(B, "other")
    assert caught.value.code is Code.GONE


async def test_a_removed_function_is_gone_for_its_callers(bench: Bench) -> None:
    """Who held an alias is told so, and a function of the same name made later is not what it stands for."""
    alias(bench, "lent", lend(bench, A))
    entry = bench.registry.entry(A, "f")
    bench.registry.drop_function(entry)
    bench.registry.put_function(replace(entry.function, id="another"))
    with pytest.raises(PyfaasError) as caught:
        bench.call(B, "lent")
    assert caught.value.code is Code.GONE


# ---- who pays, and how much


async def test_the_caller_pays_unless_the_owner_does(bench: Bench) -> None:
    """A lent run counts against the outermost caller's limits, or against the owner's where the grant says so."""
    alias(bench, "mine", lend(bench, A))
    alias(bench, "theirs", lend(bench, A, caller=C, payer=Payer.OWNER), account=C)
    bench.call(B, "mine")
    bench.call(C, "theirs")
    assert {load.id: load.running for load in bench.dispatcher.admissions.loads.values()} == {B: 1, A: 1}


async def test_caps_of_a_grant_hold_across_aliases(bench: Bench) -> None:
    """A third run waits under max_concurrency 2, whichever alias it comes by, and begins when one ends."""
    grant = lend(bench, A, max_concurrency=2)
    for name in ("one", "two", "three"):
        alias(bench, name, grant)
    sinks = [bench.call(B, name) for name in ("one", "two", "three")]
    boxes = await running(bench, 2)
    boxes[0].answer()
    await until(lambda: len(sinks[0].results) + len(sinks[1].results) == 1)
    (third,) = [box for box in await running(bench, 2) if box is not boxes[1]]
    third.answer()
    assert sinks[2].result.outcome is Outcome.OK


async def test_a_day_and_a_second_have_their_bounds(bench: Bench) -> None:
    """A grant's per_day and rate, and an account's own, are 429 with the time to wait; a refused call is not counted."""
    alias(bench, "daily", lend(bench, A, per_day=1))
    bench.call(B, "daily")
    with pytest.raises(PyfaasError) as caught:
        bench.call(B, "daily")
    assert (caught.value.code, caught.value.evidence["limit"]) == (Code.THROTTLED, "per_day")
    assert 1 < (caught.value.retry_after or 0) <= 86_400
    bench.registry.put_account(replace(bench.registry.accounts[A], quota=Quota(rate=2.0)))
    bench.dispatcher.admissions.load(A)
    bench.call(A)
    bench.call(A)
    with pytest.raises(PyfaasError) as caught:
        bench.call(A)
    assert (caught.value.evidence["limit"], 0 < (caught.value.retry_after or 0) <= 0.5) == ("account_rate", True)


# ---- the end


async def test_revocation_reaches_waiting_and_running(bench: Bench) -> None:
    """What waits and what runs ends as `cancelled: revoked`, later calls are gone, and the owner's own goes on."""
    grant = lend(bench, A, max_concurrency=1)
    alias(bench, "lent", grant)
    own = bench.call(A)
    sinks = [bench.call(B, "lent") for _ in range(3)]
    await running(bench, 2)
    take_back(bench, grant)
    assert [(s.result.outcome, s.result.code, s.result.message) for s in sinks] == [(Outcome.CANCELLED, Code.GONE, "cancelled: revoked")] * 3
    with pytest.raises(PyfaasError) as caught:
        bench.call(B, "lent")
    assert caught.value.code is Code.GONE
    (left,) = bench.workers.running()
    left.answer()
    assert own.result.outcome is Outcome.OK
    assert bench.dispatcher.calls_now() == 0


async def test_revocation_may_let_runs_finish(bench: Bench) -> None:
    """With `finish` what runs is answered, what waits is not."""
    grant = lend(bench, A, max_concurrency=1)
    alias(bench, "lent", grant)
    first, second = bench.call(B, "lent"), bench.call(B, "lent")
    (box,) = await running(bench)
    take_back(bench, grant, is_stopping=False)
    assert second.result.code is Code.GONE
    box.answer(b"7")
    assert (first.result.outcome, first.result.body) == (Outcome.OK, b"7")


async def test_what_loads_for_a_revoked_call_runs_nothing(bench: Bench) -> None:
    """A call that went along with its container's order ends with the grant, and nobody is given that container."""
    bench.workers.is_slow = True
    grant = lend(bench, A, reuse=True)
    alias(bench, "lent", grant)
    sink = bench.call(B, "lent")
    await until(lambda: any(c.is_loading for c in bench.workers.containers.values()))
    (box,) = [c for c in bench.workers.containers.values() if c.is_loading]
    take_back(bench, grant)
    assert sink.result.code is Code.GONE
    assert box.withdrawn == [sink.result.id.encode()]
    box.load()
    box.answer(b"", Status.CANCELLED)
    await until(lambda: box.is_dead)
    assert len(sink.results) == 1


async def test_the_vms_of_a_pair_go_when_empty_and_others_stay(bench: Bench) -> None:
    """Another function lent to the same caller keeps its containers in the pair's VM; then the last one's end closes that."""
    other = replace(bench.registry.entry(A, "f").function, id="other", name="g")
    entry = bench.registry.put_function(other)
    for version in bench.registry.entry(A, "f").versions.values():
        entry.put(replace(version, function=other.id))
    grants = [lend(bench, A, reuse=True), lend(bench, "other", reuse=True)]
    alias(bench, "f_lent", grants[0])
    alias(bench, "g_lent", grants[1], qualifier="1")
    for name in ("f_lent", "g_lent"):
        bench.call(B, name)
        (box,) = await running(bench)
        box.answer()
    pair = f"{A}+{B}"
    take_back(bench, grants[0])
    assert [s.tenant for stack in bench.fleet.pool.idle.values() for s in stack if str(s.tenant).startswith(pair)] != []
    assert pair in bench.fleet.pool.by_tenant
    take_back(bench, grants[1])
    await until(lambda: pair not in bench.fleet.pool.by_tenant)


async def test_an_alias_on_ones_own_function_is_the_function(bench: Bench) -> None:
    """It runs in the account's own containers, with its parameters, and nothing is sealed."""
    alias(bench, "own", None, account=A, owner=A, target=A, params={"k": 1})
    first = bench.call(A)
    (box,) = await running(bench)
    box.answer()
    second = bench.call(A, "own")
    (again,) = await running(bench)
    assert again is box
    again.answer(b'{"errorType": "E", "errorMessage": "m", "stackTrace": []}', Status.ERROR)
    assert first.result.outcome is Outcome.OK
    assert b'"E"' in second.result.body


async def test_refusals_are_told_to_the_trail(bench: Bench) -> None:
    """A call over the owner's caps is refused with its way, one by an alias that leads nowhere by its name."""
    told: list[tuple[str, str]] = []
    bench.dispatcher.refused = lambda way, code: told.append((way.name, code))
    bench.dispatcher.turned_away = lambda _account, name, code: told.append((name, code))
    grant = lend(bench, A, per_day=1)
    alias(bench, "lent", grant)
    bench.call(B, "lent")
    for expected in (("lent", "throttled"), ("lent", "gone")):
        with pytest.raises(PyfaasError):
            bench.call(B, "lent")
        assert told[-1] == expected
        take_back(bench, grant)
