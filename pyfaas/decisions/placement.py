"""Which container takes a call: the pools as plain state, one synchronous decision at a time.

Theory of operation. A VM is *warm* (unassigned, one blank in it), *active* (assigned to one tenant key for the
rest of its life) or gone. A container is a *blank*, or bound to one version: *loading*, *idle* or *busy*. Choosing
one changes its state in the same call, so no two calls are ever given one container. The cascade, first match wins:

    idle container of the version → blank in a VM of the tenant key → a VM of the tenant key with room (fork)
    → VM from the warming pool → a new VM → no room (evict the idle one that was used longest ago, if any)

Whom a VM is dedicated to (its *home*) is the tenant key, unless several keys share VMs and not containers: aliases of one pair of
accounts do. VMs with network are made for their home, since the warming pool has none of them. `fork` and `open` make a container that is
not there yet; the caller waits, and asks again when one arrived.
Nothing here does I/O or reads a clock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from pyfaas.model import FunctionId, TenantKey

Lane = tuple[FunctionId, int]  # a function's version


class Step(StrEnum):
    """A step of the cascade: why a call got its container, or what is being made for it."""

    IDLE = "idle"
    BLANK = "blank"
    WARM = "warm"
    FORK = "fork"
    REPLACED = "replaced"  # the process of an older version's container was replaced
    OPEN = "open"
    FULL = "full"


class State(StrEnum):
    """A container's state in the pool."""

    BLANK = "blank"
    LOADING = "loading"
    IDLE = "idle"
    BUSY = "busy"


@dataclass(slots=True, kw_only=True)
class Slot:
    """A container as the pool knows it. `since` is when it entered its state (monotonic seconds)."""

    id: str
    vm: str
    state: State = State.BLANK
    tenant: TenantKey | None = None  # whose calls it may answer: not all of those whose VM it is in
    lane: Lane | None = None
    since: float = 0.0
    calls: int = 0


@dataclass(slots=True, kw_only=True)
class VmRecord:
    """A VM as the pool knows it; `tenant` is whom it is dedicated to, None means warm. `forking` counts blanks on their way."""

    id: str
    tenant: TenantKey | None = None
    slots: dict[str, Slot] = field(default_factory=dict)
    forking: int = 0
    since: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """`slot` is reserved for IDLE, BLANK and WARM; `vm` names where to fork for FORK; `evict` what to end for FULL."""

    step: Step
    slot: Slot | None = None
    vm: str = ""
    evict: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLimits:
    """The pool's bounds; `warm` is the floor of the warming pool, `per_vm` the containers of one VM."""

    warm: int = 4
    warm_ceiling: int = 64
    max_vms: int = 1000
    max_containers: int = 4000
    per_vm: int = 64
    idle_seconds: float = 300.0
    grace_seconds: float = 60.0


class Pool:
    """The warming and the active pool. Every method is one step of a state machine; none waits."""

    def __init__(self, limits: PoolLimits) -> None:
        """Start empty."""
        self.limits = limits
        self.vms: dict[str, VmRecord] = {}
        self.warm: list[str] = []
        self.opening = 0
        self.forking = 0
        self.by_tenant: dict[TenantKey, list[str]] = {}
        self.idle: dict[tuple[TenantKey, Lane], list[Slot]] = {}
        self.made_for: set[TenantKey] = set()  # homes for which a VM with network is being made
        self.containers = 0
        self.hits = self.misses = 0
        self._assigned: list[float] = []

    def __repr__(self) -> str:
        """Show the counts."""
        return f"<Pool {self.statistics()}>"

    def statistics(self) -> dict[str, int]:
        """Count VMs and containers by state."""
        counts = {"vms": len(self.vms), "warm": len(self.warm), "opening": self.opening, "containers": self.containers}
        for state in State:
            counts[state.value] = sum(s.state is state for vm in self.vms.values() for s in vm.slots.values())
        return counts

    # ---- choosing

    def take_idle(self, tenant: TenantKey, lane: Lane, now: float) -> Slot | None:
        """Reserve the idle container of the version that was used last, so that the others age out."""
        stack = self.idle.get((tenant, lane))
        if not stack:
            return None
        slot = stack.pop()
        slot.state, slot.since = State.BUSY, now
        return slot

    def place(
        self, tenant: TenantKey, lane: Lane, now: float, near: str = "", *, home: TenantKey | None = None, is_plain: bool = True
    ) -> Placement:
        """Run the cascade for one call, reserving what it finds; `near` is the VM to look at first.

        `home`: whose VMs, when that is not the tenant key. Not `is_plain`: in a VM with network, of which the first is made here.
        """
        slot = self.take_idle(tenant, lane, now)
        if slot is not None:
            return Placement(step=Step.IDLE, slot=slot)
        roomy, home = None, home or tenant
        known = self.by_tenant.get(home, ())
        for vm_id in (near, *known) if near in known else known:
            vm = self.vms[vm_id]
            blank = next((s for s in vm.slots.values() if s.state is State.BLANK), None)
            if blank is not None:
                return Placement(step=Step.BLANK, slot=self._bind(blank, tenant, lane, now))
            if len(vm.slots) + vm.forking < self.limits.per_vm:
                roomy = roomy or vm
        is_full = self.containers + self.forking + self.opening >= self.limits.max_containers
        if roomy is not None and not is_full:
            roomy.forking += 1
            self.forking += 1
            return Placement(step=Step.FORK, vm=roomy.id)
        if self.warm and roomy is None and is_plain:
            self.hits += 1
            return Placement(step=Step.WARM, slot=self._bind(self._assign(home, now), tenant, lane, now))
        if is_full or len(self.vms) + self.opening >= self.limits.max_vms:
            return Placement(step=Step.FULL, evict=self._oldest_idle())
        if home in self.made_for:
            return Placement(step=Step.FULL)  # until that one is there
        if not is_plain:
            self.made_for.add(home)
        self.misses += 1
        self.opening += 1
        return Placement(step=Step.OPEN)

    def has_room(self, vm_id: str) -> bool:
        """Say whether a VM has a blank, or takes another container."""
        vm = self.vms.get(vm_id)
        if vm is None:
            return False
        is_full = self.containers + self.forking + self.opening >= self.limits.max_containers
        has_blank = any(s.state is State.BLANK for s in vm.slots.values())
        return has_blank or (not is_full and len(vm.slots) + vm.forking < self.limits.per_vm)

    def take_idle_in(self, tenant: TenantKey, lane: Lane, vm_id: str, now: float) -> Slot | None:
        """Reserve an idle container of the version in one VM."""
        stack = self.idle.get((tenant, lane), [])
        slot = next((s for s in stack if s.vm == vm_id), None)
        if slot is not None:
            stack.remove(slot)
            slot.state, slot.since = State.BUSY, now
        return slot

    def replaced(self, vm_id: str, container: str, tenant: TenantKey, lane: Lane, now: float) -> Slot | None:
        """Take in a container whose process was replaced, bound to a version; None when the VM is gone."""
        vm = self.vms.get(vm_id)
        if vm is None:
            return None
        slot = vm.slots[container] = Slot(id=container, vm=vm_id, since=now)
        self.containers += 1
        return self._bind(slot, tenant, lane, now)

    def spare(self, vm_id: str, blanks: int = 1) -> bool:
        """Say whether the VM is to be given another blank, and count it as coming: each active VM keeps one, or as many as are asked for."""
        vm = self.vms.get(vm_id)
        if vm is None or vm.tenant is None or len(vm.slots) + vm.forking >= self.limits.per_vm:
            return False
        if self.containers + self.forking >= self.limits.max_containers:
            return False
        if vm.forking + sum(s.state is State.BLANK for s in vm.slots.values()) >= blanks:
            return False
        vm.forking += 1
        self.forking += 1
        return True

    # ---- what happened

    def vm_opened(self, vm_id: str, container: str, now: float, home: TenantKey | None = None) -> None:
        """Take in a new VM with its blank; it is warm, unless it was made for a home."""
        self.opening = max(0, self.opening - 1)
        vm = self.vms[vm_id] = VmRecord(id=vm_id, tenant=home, since=now)
        vm.slots[container] = Slot(id=container, vm=vm_id, since=now)
        self.containers += 1
        if home is None:
            self.warm.append(vm_id)
        else:
            self.made_for.discard(home)
            self.by_tenant.setdefault(home, []).append(vm_id)

    def open_failed(self, home: TenantKey | None = None) -> None:
        """Forget a VM that could not be made."""
        self.opening = max(0, self.opening - 1)
        if home is not None:
            self.made_for.discard(home)

    def forked(self, vm_id: str, container: str | None, now: float) -> bool:
        """Take in a blank that was forked into a VM (None: it failed); False when the VM is gone."""
        self.forking -= 1
        vm = self.vms.get(vm_id)
        if vm is None:
            return False
        vm.forking -= 1
        if container is not None:
            vm.slots[container] = Slot(id=container, vm=vm_id, since=now)
            self.containers += 1
        return True

    def release(self, slot: Slot, now: float) -> None:
        """Make a container idle after its load or its call."""
        vm = self.vms.get(slot.vm)
        if vm is None or slot.lane is None or slot.id not in vm.slots or slot.tenant is None:
            return
        slot.state, slot.since = State.IDLE, now
        self.idle.setdefault((slot.tenant, slot.lane), []).append(slot)

    def container_gone(self, vm_id: str, container: str) -> None:
        """Forget a container that ended, whatever its state."""
        vm = self.vms.get(vm_id)
        slot = vm.slots.pop(container, None) if vm else None
        if vm is None or slot is None:
            return
        self.containers -= 1
        if slot.state is State.IDLE and slot.tenant is not None and slot.lane is not None:
            self.idle[(slot.tenant, slot.lane)].remove(slot)
        if not vm.slots and vm.tenant is None:
            self.vm_gone(vm_id)

    def vm_gone(self, vm_id: str) -> None:
        """Forget a VM and all its containers."""
        vm = self.vms.get(vm_id)
        if vm is None:
            return
        for container in list(vm.slots):
            if vm.tenant is not None or len(vm.slots) > 1:
                self.container_gone(vm_id, container)
            else:
                del vm.slots[container]
                self.containers -= 1
        self.vms.pop(vm_id, None)
        if vm.tenant is None:
            if vm_id in self.warm:
                self.warm.remove(vm_id)
        else:
            self.by_tenant[vm.tenant].remove(vm_id)
            if not self.by_tenant[vm.tenant]:
                del self.by_tenant[vm.tenant]

    # ---- upkeep

    def refill(self, now: float) -> int:
        """Say how many VMs to open now for the warming pool, and count them as opening."""
        wanted = self.warm_target(now) - len(self.warm) - self.opening
        room = min(
            self.limits.max_vms - len(self.vms), self.limits.max_containers - self.containers - self.forking
        ) - self.opening
        wanted = max(0, min(wanted, room))
        self.opening += wanted
        return wanted

    def warm_target(self, now: float) -> int:
        """Return the warming pool's size: the floor, plus a second's assignments at the rate of the last five."""
        self._assigned = [at for at in self._assigned if at > now - 5.0]
        return min(self.limits.warm_ceiling, self.limits.warm + len(self._assigned) // 5)

    def aged(self, now: float, left: Collection[Lane] = ()) -> tuple[list[Slot], list[str]]:
        """Return idle containers to end and, apart, active VMs that have had only a blank for as long.

        Those of versions that were `left` go after the grace.
        """
        before, grace = now - self.limits.idle_seconds, now - self.limits.grace_seconds
        slots = [s for (_, lane), stack in self.idle.items() for s in stack if s.since < (grace if lane in left else before)]
        vms = [
            vm.id
            for vm in self.vms.values()
            if vm.tenant is not None
            and vm.since < before
            and not vm.forking
            and all(s.state is State.BLANK and s.since < before for s in vm.slots.values())
        ]
        return slots, vms

    def idle_of(self, lanes: Iterable[Lane]) -> list[Slot]:
        """Return the idle containers of some versions: those of a removed function, say."""
        wanted = set(lanes)
        return [s for (_, lane), stack in self.idle.items() if lane in wanted for s in stack]

    def empty(self, home: TenantKey) -> list[str]:
        """Return a home's VMs in which there are blanks only, and none on its way."""
        vms = (self.vms[vm] for vm in self.by_tenant.get(home, ()))
        return [vm.id for vm in vms if not vm.forking and all(s.state is State.BLANK for s in vm.slots.values())]

    def _assign(self, home: TenantKey, now: float) -> Slot:
        vm = self.vms[self.warm.pop()]
        vm.tenant, vm.since = home, now
        self.by_tenant.setdefault(home, []).append(vm.id)
        self._assigned.append(now)
        return next(iter(vm.slots.values()))

    def _bind(self, blank: Slot, tenant: TenantKey, lane: Lane, now: float) -> Slot:
        blank.state, blank.tenant, blank.lane, blank.since = State.LOADING, tenant, lane, now
        return blank

    def _oldest_idle(self) -> str | None:
        slots = (s for stack in self.idle.values() for s in stack)
        oldest = min(slots, key=lambda s: s.since, default=None)
        return oldest.id if oldest else None
