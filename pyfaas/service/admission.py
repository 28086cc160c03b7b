"""Which calls are admitted: limits of accounts, functions and what is lent, and the calls that wait for room under them.

Theory of operation. A call counts against its payer, and against *gates*: its function's, or, for a lent one, those of all that it came
through. Where there is no room it is *held* with its payer, and admitted in turn, one of each function, when a run ends. Runs of a second and a
day are counted when they are accepted, by who has a limit of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from pyfaas.config import Config
from pyfaas.decisions.quota import Admission, Pace, admit
from pyfaas.errors import Code, PyfaasError
from pyfaas.model import AccountId
from pyfaas.ports import Clock
from pyfaas.service.lane import AccountLoad, Call
from pyfaas.service.registry import Entry, Registry

if TYPE_CHECKING:
    from pyfaas.service.ways import Way


class Admissions:
    """Counts what runs and what waits; `go` takes each call that is admitted, when (monotonic seconds), and whether it was held."""

    def __init__(self, config: Config, registry: Registry, clock: Clock, go: Callable[[Call, float, bool], None]) -> None:
        """Begin without calls."""
        self._config, self._registry, self._clock, self._go = config, registry, clock, go
        self.loads: dict[AccountId, AccountLoad] = {}
        self.throttled = 0

    def load(self, account: AccountId) -> AccountLoad:
        """Return what an account has running and waiting, within the limits that it has now."""
        quota, config = self._registry.accounts[account].quota, self._config
        found = self.loads.get(account)
        if found is None:
            found = self.loads[account] = AccountLoad(account, 0, Pace())
        found.limit = config.account_concurrency if quota.concurrency is None else quota.concurrency
        rate = config.account_rate if quota.rate is None else quota.rate
        found.pace.set(rate, config.account_daily if quota.per_day is None else quota.per_day)
        return found

    def decide(self, account: AccountLoad, entry: Entry, way: Way | None, now: float) -> Admission:
        """Say whether a call is admitted or waits, and count that it begins; raises throttled."""
        is_free = account.running < account.limit and (entry.running < entry.function.settings.concurrency if way is None else way.is_free)
        admission = admit(is_free=is_free, waiting=account.waiting, queue_limit=self._config.queue_limit)
        if admission is Admission.REFUSE:
            self.throttled += 1
            raise _throttled(self._config.queue_limit)
        if account.pace.is_on or way is not None:
            self._pace(account, way, now)
        return admission

    def _pace(self, account: AccountLoad, way: Way | None, now: float) -> None:
        """Count a run that begins against the payer's rate and day and the owner's caps; raises throttled."""
        at, uses = self._clock.now(), way.gates if way is not None else ()
        paces = [pace for pace in (account.pace, *(use.pace for use in uses)) if pace.is_on]
        for pace in paces:
            if wait := pace.wait(now, at):
                self.throttled += 1
                raise _too_many(pace, wait, is_own=pace is account.pace)
        for pace in paces:
            pace.take(now, at)

    def admit(self, call: Call, now: float, *, was_held: bool = False) -> None:
        """Count a call as running, and let it go."""
        call.account.running += 1
        for gate in call.gates:
            gate.running += 1
        self._go(call, now, was_held)

    def hold(self, call: Call) -> None:
        """Let a call wait for room."""
        call.account.waiting += 1
        call.account.held.setdefault(call.subject, deque()).append(call)
        for use in call.way.gates if call.way is not None else ():
            use.held.add(call.account)

    def take_out(self, call: Call) -> None:
        """Take a call out of what is held, as if it had been admitted; one that is not held stays as it is."""
        held = call.account.held.get(call.subject)
        if held is not None and call in held:
            held.remove(call)
            call.account.waiting -= 1
            call.account.running += 1
            for gate in call.gates:
                gate.running += 1

    def ended(self, call: Call, *, is_free: bool) -> None:
        """Take note that an admitted call ended; one that was for free is not one of its day's."""
        account = call.account
        account.running -= 1
        for gate in call.gates:
            gate.running -= 1
        if is_free:
            self._give_back(call)
        if account.held:
            self._admit_held(account)
        if call.way is not None:
            self._admit_others(call.way)

    def retry(self) -> None:
        """Look again whether there is room for what is held: a limit may have been raised."""
        for account in self.loads.values():
            if account.held:
                self._admit_held(account)

    def held(self) -> Iterator[Call]:
        """Yield the calls that wait for room."""
        for account in self.loads.values():
            for queue in account.held.values():
                yield from queue

    def _give_back(self, call: Call) -> None:
        at = self._clock.now()
        call.account.pace.give_back(at)
        for use in call.way.gates if call.way is not None else ():
            use.pace.give_back(at)

    def _admit_held(self, account: AccountLoad) -> None:
        """Admit what waited over a limit that has room now, a call of each function in turn."""
        is_free = True
        while is_free:
            turn = [self._admit_next(account, subject) for subject in list(account.held)]
            is_free = any(turn)

    def _admit_next(self, account: AccountLoad, subject: Entry | Way) -> bool:
        """Admit the next call of a function, or of a way, and tell whether there was room for one; who had a turn goes to the end."""
        queue = account.held.pop(subject, None)
        while queue and queue[0].is_done:
            queue.popleft()
        if not queue:
            return False
        call = queue[0]
        is_free = account.running < account.limit and all(gate.running < gate.limit for gate in call.gates)
        if is_free:
            queue.popleft()
        if queue:
            account.held[subject] = queue
        if is_free:
            account.waiting -= 1
            self.admit(call, self._clock.monotonic(), was_held=True)
        return is_free

    def _admit_others(self, way: Way) -> None:
        """Admit what waits for a limit that several payers' calls count against: of a grant that was lent on, say."""
        for use in way.gates:
            for account in [account for account in use.held if account.held]:
                self._admit_held(account)
            use.held = {account for account in use.held if account.held}


def _too_many(pace: Pace, wait_s: float, *, is_own: bool) -> PyfaasError:
    is_daily = bool(pace.per_day) and pace.begun >= pace.per_day and wait_s > 1.0
    limit = ("account_daily" if is_daily else "account_rate") if is_own else ("per_day" if is_daily else "rate")
    whose = "this account may begin" if is_own else "the owner lets you begin"
    message = f"more runs than {whose} in {'a day' if is_daily else 'a second'}"
    value = pace.per_day if is_daily else pace.rate
    return PyfaasError(Code.THROTTLED, message, hint="call again later", evidence={"limit": limit, "value": value}, retry_after=wait_s)


def _throttled(limit: int) -> PyfaasError:
    return PyfaasError(
        Code.THROTTLED,
        "too many calls of this account are waiting",
        hint="call again later; the operator can raise queue_limit",
        evidence={"limit": "queue_limit", "value": limit},
        retry_after=1.0,
    )
