"""The pool as a decision: cascade, reservation in the same call, upkeep, and its invariants under random events."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from pyfaas.decisions.placement import Pool, PoolLimits, State, Step
from pyfaas.model import FunctionId, TenantKey

A, B = TenantKey("000000000001"), TenantKey("000000000002")
ECHO, OTHER = (FunctionId("echo"), 1), (FunctionId("other"), 1)


def pool(**limits: int) -> Pool:
    """Return a pool with two warm VMs."""
    made = Pool(PoolLimits(**{"warm": 2, **limits}))
    for number in range(made.refill(0.0)):
        made.vm_opened(f"vm{number}", f"c{number}", 0.0)
    return made


def test_first_call_takes_a_warm_vm() -> None:
    """A tenant without a VM is assigned one from the warming pool, and its blank is bound at once."""
    made = pool()
    placed = made.place(A, ECHO, 1.0)
    assert placed.step is Step.WARM
    assert placed.slot is not None
    assert placed.slot.state is State.LOADING
    assert made.vms[placed.slot.vm].tenant == A


def test_idle_container_is_preferred_and_last_used_first() -> None:
    """An idle container of the version comes before a blank, the one used last before the others."""
    made = pool()
    first = made.place(A, ECHO, 1.0).slot
    assert first is not None
    assert made.spare(first.vm)
    made.forked(first.vm, "c9", 1.0)
    second = made.place(A, ECHO, 1.0).slot
    assert second is not None
    made.release(first, 2.0)
    made.release(second, 3.0)
    placed = made.place(A, ECHO, 4.0)
    assert (placed.step, placed.slot) == (Step.IDLE, second)


def test_blank_of_the_own_vm_before_a_warm_vm() -> None:
    """A second version of the tenant is loaded into the blank of the VM that it has."""
    made = pool()
    first = made.place(A, ECHO, 1.0).slot
    assert first is not None
    made.spare(first.vm)
    made.forked(first.vm, "c9", 1.0)
    placed = made.place(A, OTHER, 2.0)
    assert placed.step is Step.BLANK
    assert placed.slot is not None
    assert placed.slot.vm == first.vm


def test_vm_without_a_blank_is_forked_into() -> None:
    """Where the tenant has a VM with room and no blank, one is forked there; no second VM is assigned."""
    made = pool()
    first = made.place(A, ECHO, 1.0).slot
    assert first is not None
    placed = made.place(A, ECHO, 1.0)
    assert (placed.step, placed.vm) == (Step.FORK, first.vm)


def test_no_two_tenants_share_a_vm() -> None:
    """Another tenant is given another VM, however idle the first one is."""
    made = pool()
    first, second = made.place(A, ECHO, 1.0).slot, made.place(B, ECHO, 1.0).slot
    assert first is not None
    assert second is not None
    assert first.vm != second.vm


def test_empty_warming_pool_opens_a_vm_and_counts_a_miss() -> None:
    """Without a warm VM one is opened for the call; the miss is counted."""
    made = Pool(PoolLimits(warm=0))
    assert made.place(A, ECHO, 1.0).step is Step.OPEN
    assert (made.opening, made.misses, made.hits) == (1, 1, 0)


def test_full_names_the_container_idle_for_longest() -> None:
    """At the bound of containers the cascade says which idle one should go."""
    made = pool(max_containers=2)
    first, second = made.place(A, ECHO, 1.0).slot, made.place(B, ECHO, 1.0).slot
    assert first is not None
    assert second is not None
    made.release(second, 2.0)
    made.release(first, 3.0)
    placed = made.place(TenantKey("000000000003"), ECHO, 4.0)
    assert (placed.step, placed.evict) == (Step.FULL, second.id)


def test_refill_counts_what_is_opening() -> None:
    """Asking twice does not open twice."""
    made = Pool(PoolLimits(warm=3))
    assert (made.refill(0.0), made.refill(0.0)) == (3, 0)
    made.open_failed()
    assert made.refill(0.0) == 1


def test_warm_target_follows_the_rate_of_assignments() -> None:
    """Many assignments in the last seconds raise the target; quiet brings it back to the floor."""
    made = Pool(PoolLimits(warm=2, warm_ceiling=10, max_vms=500))
    made._assigned = [10.0 + i / 100 for i in range(40)]
    assert made.warm_target(11.0) == 10
    assert made.warm_target(100.0) == 2


def test_aged_names_idle_containers_and_quiet_vms() -> None:
    """Containers idle beyond their time are to end, and a VM that only has an old blank too."""
    made = pool(idle_seconds=10)
    slot = made.place(A, ECHO, 1.0).slot
    assert slot is not None
    made.release(slot, 2.0)
    assert made.aged(5.0) == ([], [])
    assert made.aged(13.0) == ([slot], [])
    made.spare(slot.vm)
    made.forked(slot.vm, "c9", 3.0)
    made.container_gone(slot.vm, slot.id)
    assert made.aged(14.0) == ([], [slot.vm])


def test_gone_vm_leaves_nothing() -> None:
    """A VM that went away, with whatever it held, is in no list any more."""
    made = pool()
    slot = made.place(A, ECHO, 1.0).slot
    assert slot is not None
    made.release(slot, 2.0)
    for vm in list(made.vms):
        made.vm_gone(vm)
    assert made.statistics() == dict.fromkeys(made.statistics(), 0)
    assert made.take_idle(A, ECHO, 3.0) is None


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_invariants_under_random_events(seed: int) -> None:
    """No container is in two hands, no VM has two tenants, counts equal what is there, whatever happens."""
    rng = random.Random(seed)
    made, taken, forks, now = pool(max_containers=12, max_vms=6, per_vm=4), {}, [], 0.0
    names = iter(range(1000))
    for _ in range(150):
        now += 0.1
        event = rng.randrange(6)
        if event <= 1:
            placed = made.place(rng.choice((A, B)), rng.choice((ECHO, OTHER)), now)
            if placed.slot is not None:
                assert placed.slot.id not in taken, "given twice"
                taken[placed.slot.id] = placed.slot
            elif placed.step is Step.FORK:
                forks.append(placed.vm)
            elif placed.step is Step.OPEN:
                made.vm_opened(f"v{next(names)}", f"n{next(names)}", now)
        elif event == 2 and taken:
            made.release(taken.pop(rng.choice(sorted(taken))), now)
        elif event == 3 and forks:
            made.forked(forks.pop(), f"n{next(names)}" if rng.random() < 0.8 else None, now)
        elif event == 4 and made.vms:
            vm = made.vms[rng.choice(sorted(made.vms))]
            if vm.slots:
                container = rng.choice(sorted(vm.slots))
                made.container_gone(vm.id, container)
                taken.pop(container, None)
        elif event == 5 and made.vms and rng.random() < 0.2:
            vm_id = rng.choice(sorted(made.vms))
            for container in made.vms[vm_id].slots:
                taken.pop(container, None)
            made.vm_gone(vm_id)
        _check(made)


def _check(made: Pool) -> None:
    assert made.containers == sum(len(vm.slots) for vm in made.vms.values())
    assert made.forking >= sum(vm.forking for vm in made.vms.values())
    idle = [slot.id for stack in made.idle.values() for slot in stack]
    assert len(idle) == len(set(idle))
    for (tenant, lane), stack in made.idle.items():
        for slot in stack:
            assert slot.state is State.IDLE
            assert slot.lane == lane
            assert made.vms[slot.vm].tenant == tenant
    for vm in made.vms.values():
        assert (vm.id in made.warm) == (vm.tenant is None)
        assert vm.tenant is not None or all(s.state is State.BLANK for s in vm.slots.values())




def test_as_many_blanks_are_kept_as_are_asked_for() -> None:
    """A VM is given blanks up to a number, those on their way included, and never beyond the room in it."""
    made = pool(per_vm=4)
    slot = made.place(A, ECHO, 1.0).slot
    assert slot is not None
    assert [made.spare(slot.vm, 2) for _ in range(3)] == [True, True, False]
    made.forked(slot.vm, "c7", 1.0)
    made.forked(slot.vm, "c8", 1.0)
    assert not made.spare(slot.vm, 2)
    assert [made.spare(slot.vm, 8) for _ in range(2)] == [True, False]


def test_a_vm_with_network_is_made_for_its_home() -> None:
    """A home without a VM has one made, whatever is warm; meanwhile no second one, and when it is there its blank is found."""
    made = pool()
    assert made.place(A, ECHO, 1.0, is_plain=False).step is Step.OPEN
    assert made.place(A, OTHER, 1.0, is_plain=False).step is Step.FULL
    made.vm_opened("net", "c9", 1.0, A)
    placed = made.place(A, ECHO, 2.0, is_plain=False)
    assert (placed.step, placed.slot.vm if placed.slot else "") == (Step.BLANK, "net")
    assert "net" not in made.warm


def test_a_failed_vm_is_tried_again() -> None:
    """After a VM for a home could not be made, the next call has one made."""
    made = pool()
    assert made.place(A, ECHO, 1.0, is_plain=False).step is Step.OPEN
    made.open_failed(A)
    assert made.place(A, ECHO, 1.0, is_plain=False).step is Step.OPEN


def test_tenants_of_one_home_share_vms_and_no_container() -> None:
    """An idle container is its tenant key's only; another key of the same home finds the blank of the same VM."""
    made = pool()
    home = TenantKey("pair")
    first = made.place(A, ECHO, 1.0, home=home).slot
    assert first is not None
    made.release(first, 1.5)
    assert made.spare(first.vm)
    made.forked(first.vm, "c9", 1.6)
    second = made.place(B, ECHO, 2.0, home=home)
    assert second.slot is not None
    assert (second.step, second.slot.vm, second.slot.id != first.id) == (Step.BLANK, first.vm, True)
    assert made.place(A, ECHO, 2.0, home=home).slot is first
