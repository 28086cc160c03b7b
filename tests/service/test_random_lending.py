"""Lending under random events: calls, answers, deaths, grants, revocations, new terms; what must hold after each of them.

A story is a seed; nothing here waits for time. The containers are the bench's, so what is tested is who is given which container, and what is counted.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from pyfaas.errors import Code, PyfaasError
from pyfaas.model import AccountId, Outcome
from pyfaas.sharing import Grant, Placing
from sandbox.spec import Fate
from tests.service.fake import A, B, Bench, Sink
from tests.service.lending import C, add_account, alias, lend, take_back

STEPS = 120


class Story:
    """A bench with three accounts, whose functions are lent to and fro."""

    def __init__(self, seed: int) -> None:
        """Begin with nothing lent."""
        self.random = random.Random(seed)
        self.bench = Bench(account_concurrency=6, queue_limit=8, max_containers=40, max_vms=20)
        add_account(self.bench, C)
        self.grants: list[Grant] = []
        self.names: dict[AccountId, list[str]] = {A: [], B: [], C: []}
        self.calls: list[tuple[AccountId, str, Sink, int]] = []  # who called what, and how many revocations there were before
        self.served: dict[int, set[str]] = {}  # container → tenant keys that it was given calls of
        self.revoked: dict[str, int] = {}  # grant → its revocation's number
        self.count = 0

    # ---- events

    def grant(self) -> None:
        """Lend a function on random terms, to one caller or to all; take an alias of it."""
        owner, caller = self.random.sample((A, B), 2) if self.random.random() < 0.5 else (self.random.choice((A, B)), C)
        if (owner, caller) in self.bench.shares.living:
            return
        terms = {"reuse": self.random.random() < 0.5, "max_concurrency": self.random.choice((None, 1, 2)), "relend": True}
        grant = lend(self.bench, owner, owner=owner, caller=caller, placement=self.random.choice(list(Placing)), **terms)
        self.grants.append(grant)
        self._alias(caller, grant)

    def _alias(self, caller: AccountId, grant: Grant) -> None:
        name = f"x{len(self.names[caller])}"
        made = alias(self.bench, name, grant, account=caller, placement=self.random.choice((Placing.PAIR, grant.terms.placement)))
        self.names[caller].append(name)
        if caller != C and (made.id, C) not in self.bench.shares.living and self.random.random() < 0.3:
            again = lend(self.bench, made.id, owner=caller, caller=C, reuse=grant.terms.reuse)
            self.grants.append(again)
            self._alias(C, again)

    def change(self) -> None:
        """Change the terms of a grant that lives."""
        living = [g for g in self.grants if self.bench.shares.grants[g.id].ended is None]
        if living:
            grant = self.bench.shares.grants[self.random.choice(living).id]
            terms = replace(grant.terms, reuse=not grant.terms.reuse, max_concurrency=self.random.choice((None, 1, 3)))
            self.bench.shares.put_grant(replace(grant, terms=terms))

    def revoke(self) -> None:
        """Take a grant back, and stop or let finish what runs."""
        living = [g for g in self.grants if self.bench.shares.grants[g.id].ended is None]
        if living:
            grant = self.random.choice(living)
            is_stopping = self.random.random() < 0.7
            running = {call for use in self.bench.ways.uses_of(grant.id) for call in use.calls if call.started}
            waiting = {call for use in self.bench.ways.uses_of(grant.id) for call in use.calls if not call.started}
            self.count += 1
            take_back(self.bench, grant, is_stopping=is_stopping)
            for call in waiting | (running if is_stopping else set()):
                assert call.is_done
                assert call.is_revoked
            self.revoked[grant.id] = self.count

    def call(self) -> None:
        """Call something by a name that an account has, or had."""
        account = self.random.choice((A, B, C))
        names = [*self.names[account], *(["f"] if account != C else [])]
        if not names:
            return
        name = self.random.choice(names)
        try:
            sink = self.bench.call(account, name)
        except PyfaasError as error:
            assert error.code in (Code.GONE, Code.THROTTLED), error
        else:
            self.calls.append((account, name, sink, self.count))

    def answer(self) -> None:
        """Let a container answer, or die."""
        running = self.bench.workers.running()
        if running:
            box = self.random.choice(running)
            if self.random.random() < 0.85:
                box.answer()
            else:
                box.end(Fate.SIGNALLED)

    def load(self) -> None:
        """Let a container that loads be done, or make loading slow or quick."""
        loading = [c for c in self.bench.workers.containers.values() if c.is_loading and not c.is_dead]
        if loading and self.random.random() < 0.7:
            self.random.choice(loading).load()
        else:
            self.bench.workers.is_slow = self.random.random() < 0.5

    # ---- what holds

    def check(self) -> None:
        """Hold the pool, the sessions and the counts against each other."""
        fleet, loads = self.bench.fleet, self.bench.dispatcher.admissions.loads.values()
        for session in fleet.sessions.values():
            slot, lane, call = session.slot, session.lane, session.call
            assert slot.tenant == lane.tenant
            assert fleet.pool.vms[slot.vm].tenant == lane.home
            if call is not None:
                assert (call.way.tenant if call.way is not None else call.entry.function.account) == lane.tenant
                assert not (lane.is_fresh and slot.calls > 1)
            self.served.setdefault(id(session.box), set()).add(str(lane.tenant))
        assert all(len(tenants) == 1 for tenants in self.served.values())
        for load in loads:
            assert load.running >= 0
            assert load.waiting == sum(1 for queue in load.held.values() for call in queue if not call.is_done)
        for use in self.bench.ways._uses.values():  # noqa: SLF001 - what is counted is what is tested
            assert use.running == sum(1 for call in use.calls if call.subject not in call.account.held or call not in call.account.held[call.subject])
        for _, _, sink, _ in self.calls:
            assert len(sink.results) <= 1

    async def end(self) -> None:
        """Let everything end, and see that each call did, once."""
        self.bench.workers.is_slow = False
        async with asyncio.timeout(20):
            while any(not sink.results for _, _, sink, _ in self.calls):
                for box in [c for c in self.bench.workers.containers.values() if c.is_loading and not c.is_dead]:
                    box.load()
                for box in self.bench.workers.running():
                    box.answer()
                await asyncio.sleep(0)
        assert {len(sink.results) for _, _, sink, _ in self.calls} <= {1}
        assert self.bench.dispatcher.calls_now() == 0
        assert all(not use.calls and not use.running for use in self.bench.ways._uses.values())  # noqa: SLF001
        for _, _, sink, _ in self.calls:
            assert sink.result.outcome in (Outcome.OK, Outcome.CRASHED, Outcome.CANCELLED, Outcome.INIT_ERROR, Outcome.LOST, Outcome.REJECTED)


@pytest.mark.parametrize("seed", range(30))
async def test_a_random_story_of_lending(seed: int) -> None:
    """No container serves two tenant keys or leaves its home, fresh ones serve once, what ended is reached, and all counts come back to 0."""
    story = Story(seed)
    story.bench.dispatcher.open()
    events: list[tuple[Callable[[], None], int]] = [
        *((story.call, 40), (story.answer, 30), (story.load, 15), (story.grant, 8), (story.change, 4), (story.revoke, 4)),
    ]
    try:
        for _ in range(STEPS):
            (event,) = story.random.choices([e for e, _ in events], [w for _, w in events])
            event()
            if story.random.random() < 0.5:
                await asyncio.sleep(0)
            story.check()
        await story.end()
        story.check()
    finally:
        await story.bench.dispatcher.close()


