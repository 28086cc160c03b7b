"""Terms of lending and orders of account aliases: what is read, what is refused, and what is never told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyfaas.decisions.terms import (
    MAX_BYTES,
    Order,
    check_bound,
    check_network,
    check_params,
    check_placement,
    check_relent,
    check_version,
    given_terms,
    is_same,
    parse_order,
    parse_terms,
    received_terms,
)
from pyfaas.errors import Code, PyfaasError
from pyfaas.sharing import Payer, Placing, Terms

CANARY = "canary-4f1c"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=4), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)


def refusal(read: Any, *given_: Any) -> PyfaasError:
    """Return the error that a call raises."""
    with pytest.raises(PyfaasError) as raised:
        read(*given_)
    return raised.value


def test_nothing_said_is_the_default() -> None:
    """No terms, and null for each of them, lend everything to one caller with nothing beside."""
    assert parse_terms({}) == Terms() == parse_terms(dict.fromkeys(given_terms(Terms()).keys() - {"locked"}))


def test_everything_that_can_be_said() -> None:
    """Each key has its place, and what is shown to the owner can be sent again."""
    said = {
        "version": 3.0,
        "lock": {"style": {"tone": ["formal", None]}},
        "require": ["name", "name"],
        "allow": ["name", "width"],
        "max_concurrency": 2,
        "rate": 0.5,
        "per_day": 100,
        "relend": True,
        "network": ["B.example.com:443", "*.example.org:443"],
        "secrets": ["API_KEY"],
        "logs": True,
        "reuse": True,
        "placement": "owner",
        "payer": "owner",
    }
    terms = parse_terms(said)
    assert (terms.version, terms.require, terms.allow, terms.rate) == (3, ("name",), ("name", "width"), 0.5)
    assert terms.network == ("*.example.org:443", "b.example.com:443")
    assert (terms.placement, terms.payer) == (Placing.OWNER, Payer.OWNER)
    assert parse_terms({key: value for key, value in given_terms(terms).items() if key != "locked"}) == terms


WRONG: list[tuple[Mapping[str, Any], Code, str]] = [
    ({"lok": {}}, Code.UNKNOWN_KEY, "lok"),
    ({"locked": ["x"]}, Code.UNKNOWN_KEY, "locked"),
    ({"version": 0}, Code.INVALID_REQUEST, "version"),
    ({"version": "3"}, Code.INVALID_REQUEST, "version"),
    ({"version": True}, Code.INVALID_REQUEST, "version"),
    ({"lock": [1]}, Code.INVALID_REQUEST, "lock"),
    ({"lock": {"": 1}}, Code.INVALID_REQUEST, "lock"),
    ({"lock": {"x" * 129: 1}}, Code.INVALID_REQUEST, "lock"),
    ({"lock": {"k": float("nan")}}, Code.INVALID_REQUEST, "lock.k"),
    ({"lock": {"k": "\ud800"}}, Code.INVALID_REQUEST, "lock.k"),
    ({"lock": {"k": 2**63}}, Code.INVALID_REQUEST, "lock.k"),
    ({"lock": {"k": [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]}}, Code.INVALID_REQUEST, "lock.k"),
    ({"lock": {"k": CANARY}, "require": ["k"]}, Code.INVALID_REQUEST, "'k'"),
    ({"lock": {"k": CANARY}, "allow": ["k"]}, Code.INVALID_REQUEST, "'k'"),
    ({"lock": {"k": CANARY * MAX_BYTES}}, Code.PAYLOAD_TOO_LARGE, "terms"),
    ({"require": "name"}, Code.INVALID_REQUEST, "require"),
    ({"require": [1]}, Code.INVALID_REQUEST, "require"),
    ({"max_concurrency": 0}, Code.INVALID_REQUEST, "max_concurrency"),
    ({"max_concurrency": 1.5}, Code.INVALID_REQUEST, "max_concurrency"),
    ({"rate": 0}, Code.INVALID_REQUEST, "rate"),
    ({"rate": float("inf")}, Code.INVALID_REQUEST, "rate"),
    ({"per_day": -1}, Code.INVALID_REQUEST, "per_day"),
    ({"relend": 1}, Code.INVALID_REQUEST, "relend"),
    ({"network": ["no port"]}, Code.INVALID_REQUEST, "network[0]"),
    ({"network": "a.example:443"}, Code.INVALID_REQUEST, "network"),
    ({"secrets": ["no space"]}, Code.INVALID_REQUEST, "secrets"),
    ({"placement": "anywhere"}, Code.INVALID_REQUEST, "placement"),
    ({"placement": []}, Code.INVALID_REQUEST, "placement"),
    ({"payer": "nobody"}, Code.INVALID_REQUEST, "payer"),
]


@pytest.mark.parametrize(("said", "code", "word"), WRONG, ids=lambda each: str(each)[:40])
def test_terms_that_are_none(said: Mapping[str, Any], code: Code, word: str) -> None:
    """What cannot be lent is refused by its key, and no value of a parameter is repeated."""
    error = refusal(parse_terms, said)
    assert error.code is code
    assert word in error.message
    assert CANARY not in f"{error.message}{error.hint}{error.evidence}"


def test_a_misspelt_key_is_guessed() -> None:
    """A key that is nearly right is told."""
    assert refusal(parse_terms, {"max_concurency": 1}).hint == "did you mean max_concurrency?"


@given(lock=st.dictionaries(NAMES, JSON, max_size=4))
@settings(max_examples=60, deadline=None)
def test_any_json_can_be_locked(lock: dict[str, Any]) -> None:
    """Locked values are kept as they are, shown to the owner, and to nobody else."""
    terms = parse_terms({"lock": lock})
    assert json.loads(json.dumps(terms.lock)) == lock
    assert given_terms(terms)["lock"] == lock
    assert received_terms(terms)["locked"] == sorted(lock)
    assert not {"lock", "secrets"} & received_terms(terms).keys()


@given(one=JSON, other=JSON)
@settings(max_examples=60, deadline=None)
def test_what_is_the_same(one: Any, other: Any) -> None:
    """A value is the same as itself however it was written, and as another one only when both are written alike."""
    assert is_same(one, json.loads(json.dumps(one)))
    assert is_same(one, other) is is_same(other, one)
    if json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True):
        assert is_same(one, other)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [(1, 1.0, True), (1, True, False), (0, False, False), ([1], [True], False), ({"a": 1}, {"a": 1.0}, True), ({"a": 1}, {"b": 1}, False), (None, False, False)],
)
def test_numbers_and_truth(one: object, other: object, expected: bool) -> None:
    """1 is 1.0, and neither is true."""
    assert is_same(one, other) is expected


def test_an_order_as_it_is_read() -> None:
    """Each key of an account alias's order has its place; null is as good as nothing."""
    said = {"target": "ada/greet:live", "params": {"a": 1}, "secrets": {"K": "v"}, "memory": "128M", "timeout": 5, "network": ["a.example:443"], "placement": "pair"}
    order = parse_order(said)
    expected = Order(
        owner="ada", name="greet", qualifier="live", params={"a": 1}, secrets={"K": "v"}, memory_bytes=128 << 20, timeout_ms=5000, network=("a.example:443",)
    )
    assert order == expected
    assert parse_order({"target": "ada/greet", "params": None, "secrets": None, "memory": None}) == Order(owner="ada", name="greet")


@pytest.mark.parametrize(
    ("said", "code", "word"),
    [
        ({}, Code.INVALID_REQUEST, "target"),
        ({"target": 3}, Code.INVALID_REQUEST, "target"),
        ({"target": "greet"}, Code.INVALID_REQUEST, "OWNER/NAME"),
        ({"target": "ada/a b"}, Code.INVALID_NAME, "a b"),
        ({"target": "ada/greet/x"}, Code.INVALID_NAME, "greet/x"),
        ({"target": "/greet"}, Code.INVALID_NAME, "account"),
        ({"target": "ada/greet:"}, Code.INVALID_NAME, "qualifier"),
        ({"target": "ada/greet", "param": {}}, Code.UNKNOWN_KEY, "param"),
        ({"target": "ada/greet", "params": []}, Code.INVALID_REQUEST, "params"),
        ({"target": "ada/greet", "params": {"k": CANARY * MAX_BYTES}}, Code.PAYLOAD_TOO_LARGE, "params"),
        ({"target": "ada/greet", "secrets": {"K": 1}}, Code.INVALID_REQUEST, "secrets"),
        ({"target": "ada/greet", "secrets": {"a b": CANARY}}, Code.INVALID_REQUEST, "secrets"),
        ({"target": "ada/greet", "secrets": {"K": CANARY + "\ud800"}}, Code.INVALID_REQUEST, "secrets.K"),
        ({"target": "ada/greet", "memory": "1"}, Code.INVALID_REQUEST, "memory"),
        ({"target": "ada/greet", "memory": True}, Code.INVALID_REQUEST, "memory"),
        ({"target": "ada/greet", "timeout": "2h"}, Code.INVALID_REQUEST, "timeout"),
        ({"target": "ada/greet", "timeout": []}, Code.INVALID_REQUEST, "timeout"),
        ({"target": "ada/greet", "placement": "there"}, Code.INVALID_REQUEST, "placement"),
    ],
    ids=lambda each: str(each)[:50],
)
def test_orders_that_are_none(said: Mapping[str, Any], code: Code, word: str) -> None:
    """What cannot be bound is refused by its key, and no value of a parameter or a secret is repeated."""
    error = refusal(parse_order, said)
    assert (error.code, word in f"{error.message} {error.hint}") == (code, True), error.message
    assert CANARY not in f"{error.message}{error.hint}{error.evidence}"


def test_stored_parameters_and_a_grant() -> None:
    """A parameter that is locked to something else, here or further down, or that a declaring grant does not know, is refused."""
    terms = Terms(lock={"style": CANARY}, require=("name",), allow=("width",))
    check_params({"name": 1, "width": 2}, terms)
    check_params({"anything": 1}, Terms())
    check_params({"style": CANARY}, terms)
    for params, others in (({"style": "x"}, ()), ({"hight": 1}, ()), ({"name": "x"}, (Terms(lock={"name": CANARY}),))):
        error = refusal(check_params, params, terms, others)
        assert error.code is Code.INVALID_REQUEST
        assert CANARY not in f"{error.message}{error.hint}{error.evidence}"


@given(lock=st.dictionaries(NAMES, JSON, max_size=3), params=st.dictionaries(NAMES, JSON, max_size=4), allow=st.sets(NAMES, max_size=2))
@settings(max_examples=80, deadline=None)
def test_stored_parameters_are_taken_exactly_when_they_fit(lock: dict[str, Any], params: dict[str, Any], allow: set[str]) -> None:
    """Parameters are taken when each is declared, or nothing is, and none contradicts a locked one."""
    terms = Terms(lock=lock, allow=tuple(allow - lock.keys()))
    known = lock.keys() | set(terms.allow)
    fits = all((key not in lock or is_same(value, lock[key])) and (not known or key in known) for key, value in params.items())
    try:
        check_params(params, terms)
        is_taken = True
    except PyfaasError:
        is_taken = False
    assert is_taken is fits


def test_the_rest_of_a_binding() -> None:
    """Version, network, placement and limits of an alias keep within what is lent; the bound is told."""
    check_version(None, "7")
    check_version("3", None)
    check_version("3", "3")
    assert "3" in refusal(check_version, "3", "4").message
    check_network(("a.example.com:443",), ("*.example.com:443", "b.example:1"))
    assert "c.example:443" in refusal(check_network, ("c.example:443",), ("*.example.com:443",)).message
    assert "no destination" in refusal(check_network, ("c.example:443",), ()).hint
    check_placement(Placing.PAIR, Placing.OWNER)
    check_placement(Placing.OWNER, Placing.OWNER)
    assert refusal(check_placement, Placing.CALLER, Placing.OWNER).code is Code.INVALID_REQUEST
    check_bound("memory", None, 1, "bytes")
    check_bound("memory", 1, 1, "bytes")
    assert refusal(check_bound, "memory", 2, 1, "bytes").evidence["max"] == 1


@pytest.mark.parametrize("promised", [Terms(logs=True), Terms(reuse=True), Terms(payer=Payer.OWNER)])
def test_nothing_is_lent_on_that_was_not_lent(promised: Terms) -> None:
    """Logs and reuse can be lent on only by who has them, and in a chain the outermost caller pays."""
    assert refusal(check_relent, promised, [Terms(relend=True)]).code is Code.INVALID_REQUEST
    check_relent(Terms(logs=promised.logs, reuse=promised.reuse), [Terms(relend=True, logs=True, reuse=True)])
