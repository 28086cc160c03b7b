"""Publication, routing and rollout: the tables of the design's *versions*."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyfaas.decisions import publish, rollout, routing
from pyfaas.decisions.rollout import Answer, Supply
from pyfaas.errors import Code, PyfaasError
from pyfaas.model import FunctionId, PointerMove, Revision, Settings, Version, VersionState

F = FunctionId("f")
READY, FAILED, STORED, PREPARING = VersionState.READY, VersionState.FAILED, VersionState.STORED, VersionState.PREPARING


def version(number: int, state: VersionState = READY, **fields: object) -> Version:
    """Return a version."""
    made = Version(
        function=F, number=number, code_id=f"sha256-{number:064x}", bundle="b", size_bytes=1, revision=Revision(), state=state, created=0.0
    )
    return replace(made, **fields)  # type: ignore[arg-type]


def versions(*made: Version) -> dict[int, Version]:
    """Return versions by number."""
    return {v.number: v for v in made}


def moves(*targets: int, weights: dict[int, int] | None = None) -> dict[str, list[PointerMove]]:
    """Return the moves of `latest`, the last one with weights."""
    made = [PointerMove(function=F, pointer="latest", seq=i, version=n, at=0.0) for i, n in enumerate(targets)]
    if weights:
        made[-1] = replace(made[-1], weights=weights)
    return {"latest": made}


def test_first_publication_is_version_one() -> None:
    """A function's first upload is version 1 and is prepared."""
    assert publish.plan(None, 0, "x", Settings(), None) == publish.Plan(number=1, is_new=True, prepare=True, changed=True)


def test_same_content_keeps_the_number() -> None:
    """The same content as the newest is the same version; a failed one is prepared again."""
    same = version(3)
    assert publish.plan(same, 3, same.code_id, Settings(), Settings()) == publish.Plan(number=3, is_new=False, prepare=False, changed=False)
    failed = version(3, FAILED)
    assert publish.plan(failed, 3, failed.code_id, Settings(), Settings()).prepare


def test_changed_settings_are_no_new_version() -> None:
    """Only settings differ: the same number, changed."""
    same = version(3)
    assert publish.plan(same, 3, same.code_id, Settings(concurrency=1), Settings()).changed


def test_numbers_are_never_reused() -> None:
    """After the highest version was removed the next one is still higher."""
    assert publish.plan(version(2), 5, "new", Settings(), Settings()).number == 6


def test_no_qualifier_means_latest() -> None:
    """No qualifier follows the pointer; its substitutes are what it named before, latest first."""
    route = routing.resolve(None, versions(version(1), version(2), version(3)), moves(1, 2, 3), "k")
    assert (route.requested, route.substitutes, route.pointer) == (3, (2, 1), "latest")


def test_substitutes_leave_out_withdrawn_failed_and_too_old() -> None:
    """A withdrawn, failed, deleted or too old version stands in for nothing."""
    known = versions(version(1), version(2, withdrawn=True), version(3, FAILED), version(4, deleted=True), version(5), version(6))
    assert routing.resolve(None, known, moves(1, 2, 3, 4, 5, 6), "k", 2).substitutes == (5,)


def test_number_and_code_id_name_one_version() -> None:
    """A number and a code id resolve without a pointer; other ready ones follow, nearest lower first."""
    known = versions(version(1), version(2), version(3), version(4))
    assert routing.resolve("3", known, {}, "k").substitutes == (2, 1, 4)
    assert routing.resolve(known[2].code_id, known, {}, "k").requested == 2


@pytest.mark.parametrize(("qualifier", "code"), [("9", Code.NOT_FOUND), ("live", Code.NOT_FOUND), ("1", Code.GONE)])
def test_unknown_and_removed_are_refused(qualifier: str, code: Code) -> None:
    """An unknown qualifier is 404 and a removed version 410, never another version."""
    with pytest.raises(PyfaasError) as caught:
        routing.resolve(qualifier, versions(version(1, deleted=True), version(2)), moves(2), "k")
    assert caught.value.code is code


@given(key=st.text(max_size=20), low=st.integers(1, 49), high=st.integers(50, 100))
def test_raising_a_weight_only_moves_keys_forward(key: str, low: int, high: int) -> None:
    """Who was drawn for the new version stays with it when its weight is raised."""
    known = versions(version(1), version(2))
    before = routing.resolve(None, known, moves(1, weights={2: low}), key).requested
    after = routing.resolve(None, known, moves(1, weights={2: high}), key).requested
    assert (before, after) != (2, 1)


def decide(state: VersionState, supply: dict[int, Supply], substitutes: tuple[int, ...] = (1,), **policy: bool) -> rollout.Decision:
    """Decide for version 2."""
    merged = {"may_be_stale": True, "is_cut_over": False, **policy}
    return rollout.decide(2, state, substitutes, supply, **merged)


def test_free_container_of_the_new_version_wins() -> None:
    """A free container of the named version serves, whatever the old one has."""
    assert decide(READY, {2: Supply.FREE, 1: Supply.FREE}).answer is Answer.NEW


def test_old_answers_while_new_is_prepared() -> None:
    """An unprepared version's request is answered by the old one and starts the preparation."""
    made = decide(STORED, {1: Supply.FREE})
    assert (made.answer, made.version, made.prepare) == (Answer.OLD, 1, True)
    assert not decide(PREPARING, {1: Supply.FREE}).prepare


def test_old_answers_while_new_is_loaded() -> None:
    """A ready version without a container is loaded beside the old one, which answers."""
    made = decide(READY, {1: Supply.BUSY})
    assert (made.answer, made.load) == (Answer.OLD, True)


def test_after_the_cut_over_never_old() -> None:
    """Once cut over the named version is the only one."""
    assert decide(READY, {1: Supply.FREE}, is_cut_over=True).answer is Answer.NEW


def test_forbidding_stale_waits() -> None:
    """Where no other version may answer the request waits for the preparation."""
    assert decide(PREPARING, {1: Supply.FREE}, may_be_stale=False).answer is Answer.WAIT


def test_failed_version_is_replaced_or_told() -> None:
    """A failed version is stood in for where allowed; else its reason is the answer."""
    assert decide(FAILED, {1: Supply.FREE}).answer is Answer.OLD
    assert decide(FAILED, {}, ()).answer is Answer.INIT_ERROR


@given(
    state=st.sampled_from(VersionState),
    supply=st.dictionaries(st.integers(1, 4), st.sampled_from(Supply)),
    substitutes=st.lists(st.sampled_from((1, 3, 4)), unique=True).map(tuple),
    stale=st.booleans(),
    cut=st.booleans(),
)
def test_no_answer_is_outside_the_policy(
    state: VersionState, supply: dict[int, Supply], substitutes: tuple[int, ...], stale: bool, cut: bool  # noqa: FBT001 - hypothesis
) -> None:
    """Another version answers only where that is allowed, and only one of the substitutes."""
    made = rollout.decide(2, state, substitutes, supply, may_be_stale=stale, is_cut_over=cut)
    if made.answer is Answer.OLD:
        assert stale
        assert made.version in substitutes
    else:
        assert made.version == 2
    assert not (made.answer is Answer.NEW and state is not READY)
