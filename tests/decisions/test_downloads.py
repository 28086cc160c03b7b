"""Where a download goes, and what a VM keeps of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyfaas.decisions.downloads import Target, VmFiles, choose, trees

SECOND, CACHE, SAME, NEAR = Target.SECOND_CONTAINER, Target.INSTANCE_CACHE, Target.SAME_CONTAINER, Target.NEAR_STORE


@pytest.mark.parametrize(
    ("wanted", "has_requirements", "has_room", "is_held", "target"),
    [
        (SECOND, False, True, True, SECOND),
        (SECOND, True, True, True, SECOND),
        (SECOND, False, False, True, CACHE),
        (SAME, False, True, True, SAME),
        (SAME, False, False, True, SAME),
        (SAME, True, True, True, SECOND),
        (SAME, True, False, True, CACHE),
        (SAME, False, True, False, SECOND),
        (CACHE, True, False, False, CACHE),
        (NEAR, True, False, True, NEAR),
    ],
)
def test_the_policy_s_target_or_what_is_possible(wanted: Target, has_requirements: bool, has_room: bool, is_held: bool, target: Target) -> None:  # noqa: FBT001 - a table
    """A replaced container takes no requirements, a second one needs room; the cache and the near store always serve."""
    assert choose(wanted, has_requirements=has_requirements, has_room=has_room, is_held=is_held) is target


def test_requirements_are_copied_to_a_cache_only() -> None:
    """Beside one container the code is copied, and requirements stay where all who import them share them."""
    assert trees(CACHE, ("code", "environment")) == ("code", "environment")
    assert trees(SECOND, ("code", "environment")) == trees(SAME, ("code", "environment")) == ("code",)


def kept(files: VmFiles, name: str, target: Target, size: int, used: float) -> None:
    """Keep a whole entry."""
    entry = files.begin(name, target, ("code",), used)
    entry.size_bytes, entry.is_whole = size, True


def test_an_entry_is_found_once_it_is_whole() -> None:
    """What is being made is nobody's; what is whole is found, and used."""
    files = VmFiles(100)
    entry = files.begin("a", SECOND, ("code",), 0.0)
    assert files.find("a") is None
    assert files.use("a", "c1", 1.0) is None
    entry.is_whole = True
    assert files.use("a", "c1", 1.0) is entry
    assert entry.users == {"c1"}


def test_what_was_for_a_container_goes_with_the_last_one() -> None:
    """An entry beside a container stays for as long as one has it; one of the cache stays beyond."""
    files = VmFiles(100)
    for name, target in (("a", SECOND), ("b", SAME), ("c", CACHE)):
        kept(files, name, target, 10, 0.0)
        files.use(name, "c1", 1.0)
        files.use(name, "c2", 1.0)
    files.ended("c1")
    assert files.forgettable(0) == []
    files.ended("c2")
    assert sorted(files.forgettable(0)) == ["a", "b"]


ENTRY = st.tuples(st.sampled_from((SECOND, CACHE)), st.integers(0, 40), st.booleans(), st.booleans())


@given(entries=st.lists(ENTRY, max_size=8), wanted=st.integers(0, 120))
def test_forgetting_makes_room_and_touches_nothing_in_use(entries: list[tuple[Target, int, bool, bool]], wanted: int) -> None:
    """No entry that is used or being made is forgotten, of the cache the longest unused go first, and no more than is needed."""
    files = VmFiles(100)
    for n, (target, size, is_used, is_whole) in enumerate(entries):
        kept(files, str(n), target, size, float(n))
        files.entries[str(n)].is_whole = is_whole
        if is_used:
            files.entries[str(n)].users.add("c")
    gone = files.forgettable(wanted)
    free = [k for k in files.entries.values() if k.is_whole and not k.users]
    cached = [k.name for k in free if k.target is CACHE]
    assert set(gone) <= {k.name for k in free}
    assert {k.name for k in free if k.target is not CACHE} <= set(gone)
    dropped = [name for name in gone if name in cached]
    assert dropped == cached[: len(dropped)]
    freed = sum(files.entries[name].size_bytes for name in gone)
    assert files.free_bytes + freed >= wanted or dropped == cached
    if dropped:
        assert files.free_bytes + freed - files.entries[dropped[-1]].size_bytes < wanted
