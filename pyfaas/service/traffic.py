"""What VMs move over the network: whose it is, how much a day has of it, and what was refused.

Bytes are told by egress about once a second, so an account may go over its day's limit by what a second carries; then the doors of its VMs
are closed, and calls that need the network are refused until the day ends.
"""

from __future__ import annotations

from collections import Counter

from pyfaas.config import Config
from pyfaas.decisions.quota import DAY_S
from pyfaas.model import AccountId
from pyfaas.ports import Clock, Egress, Store
from pyfaas.service.dispatch import Dispatcher
from pyfaas.service.fleet import Fleet
from pyfaas.service.journal import Journal
from pyfaas.service.lane import Call
from pyfaas.service.session import Session
from pyfaas.service.ways import Ways

_RECENT_S = 2.0  # so long after a call a refusal in its VM is still its own


class Traffic:
    """Hears egress. `is_spent` tells whether an account may use the network today."""

    def __init__(self, config: Config, fleet: Fleet, journal: Journal, clock: Clock, egress: Egress) -> None:
        """Begin a day in which nothing was moved; `resume` says what was."""
        self._limit, self._fleet, self._journal, self._clock, self._egress = config.egress_daily, fleet, journal, clock, egress
        self._day, self._moved = 0, dict[AccountId, int]()
        self._ended: dict[str, tuple[float, Session, Call]] = {}  # by VM, the last call
        egress.on_used, egress.on_refused = self._used, self._refused
        fleet.left_network = self._left

    def resume(self, account: AccountId, moved: int) -> None:
        """Go on with a day in which an account moved so many bytes already."""
        self._today()[account] = moved

    def is_spent(self, payer: AccountId) -> bool:
        """Tell whether an account has no bytes left today."""
        return bool(self._limit) and self._today().get(payer, 0) >= self._limit

    def _today(self) -> dict[AccountId, int]:
        day = int(self._clock.now() // DAY_S)
        if day != self._day:
            self._day, self._moved = day, {}
        return self._moved

    def _used(self, vm: str, bytes_in: int, bytes_out: int, connections: int) -> None:
        self._fleet.finisher.meter.network_used(vm, bytes_in, bytes_out, connections)
        sessions = self._in(vm)
        if sessions and self._limit:
            payer, moved = sessions[0].lane.payer, self._today()
            moved[payer] = moved.get(payer, 0) + bytes_in + bytes_out
            if moved[payer] >= self._limit:
                self._shut(payer)

    def _shut(self, payer: AccountId) -> None:
        """Close the doors of all VMs that an account pays for; they go when they are idle."""
        for session in list(self._fleet.sessions.values()):
            if session.lane.payer == payer and session.lane.network is not None:
                self._egress.close(session.slot.vm)
        self._fleet.leave(lambda lane: lane.payer == payer and lane.network is not None)

    def _refused(self, vm: str, why: str) -> None:
        """Write why a way out was refused into the log of what runs in the VM, where that has one."""
        running = [(session, session.call) for session in self._in(vm) if session.call is not None]
        if not running and vm in self._ended:  # what a kernel refused at once is heard of after a short call's end
            at, session, call = self._ended[vm]
            running = [(session, call)] if self._clock.monotonic() - at < _RECENT_S else []
        for session, call in running:
            version, home = session.lane.version, call.log
            if home is not None:
                number = version.number if home == version.function else 0
                self._journal.text(self._clock.now(), home, number, call.id, "platform", why.encode())

    def _left(self, session: Session, call: Call) -> None:
        """Remember a VM's last call for a while."""
        now = self._clock.monotonic()
        for vm in [vm for vm, (at, _, _) in self._ended.items() if now - at >= _RECENT_S]:
            del self._ended[vm]
        self._ended[session.slot.vm] = now, session, call

    def _in(self, vm: str) -> list[Session]:
        return [session for session in self._fleet.sessions.values() if session.slot.vm == vm]


async def resume_day(store: Store, clock: Clock, dispatcher: Dispatcher, ways: Ways, traffic: Traffic) -> None:
    """Count what began and was moved today before this server did: of each payer, and through each grant and subscription."""
    at = clock.now()
    began, moved = Counter[AccountId](), Counter[AccountId]()
    for row in await store.calls_since(int(at // DAY_S) * (DAY_S // 60)):
        began[row.account] += row.calls
        moved[row.account] += row.net_bytes
        for use in ways.uses_by(row.way):
            use.pace.resume(use.pace.begun + row.calls, at)
    for account, calls in began.items():
        if account in dispatcher.registry.accounts:
            dispatcher.admissions.load(account).pace.resume(calls, at)
            traffic.resume(account, moved[account])
