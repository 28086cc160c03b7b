"""The grammars of names, qualifiers, durations and sizes."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyfaas.errors import Code, PyfaasError
from pyfaas.names import (
    check_account_name,
    check_alias_name,
    check_name,
    check_qualifier,
    parse_duration,
    parse_size,
    split_target,
)

LETTERS = string.ascii_letters + string.digits + "_-"
NAMES = st.text(LETTERS, min_size=1, max_size=64)


@given(NAMES)
def test_every_name_of_the_grammar_is_taken_as_it_is(name: str) -> None:
    """Letters, digits, underscore and hyphen, one to 64 of them, are a name."""
    assert check_name(name) == name


@given(st.text(max_size=80))
def test_everything_else_is_invalid_name(text: str) -> None:
    """A text is either in the grammar or refused as invalid_name, with nothing in between."""
    if 1 <= len(text) <= 64 and set(text) <= set(LETTERS):
        assert check_name(text) == text
        return
    with pytest.raises(PyfaasError) as refused:
        check_name(text)
    assert refused.value.code is Code.INVALID_NAME


@pytest.mark.parametrize("text", ["", "a b", "a\n", "é", "a/b", "..", "a:b", "a" * 65, "٣"])
def test_near_misses_are_refused(text: str) -> None:
    """What a sloppy pattern would let through is refused."""
    with pytest.raises(PyfaasError):
        check_name(text)


def test_account_names_do_not_look_like_ids() -> None:
    """Twelve digits are refused as a name, eleven are one."""
    assert check_account_name("1" * 11) == "1" * 11
    with pytest.raises(PyfaasError):
        check_account_name("1" * 12)


@pytest.mark.parametrize("text", ["latest", "3", "007"])
def test_alias_names_are_no_other_qualifier(text: str) -> None:
    """`latest` and numbers mean something else, so no release alias is called so; as qualifiers they are fine."""
    assert check_qualifier(text) == text
    assert check_alias_name(text + "x") == text + "x"
    with pytest.raises(PyfaasError):
        check_alias_name(text)


@given(NAMES, st.one_of(st.none(), NAMES, st.just("sha256-" + "0a" * 32)))
def test_targets_split_where_they_were_joined(name: str, qualifier: str | None) -> None:
    """NAME and NAME:QUALIFIER come apart as they were put together, a code id included."""
    assert split_target(name if qualifier is None else f"{name}:{qualifier}") == (name, qualifier)


@pytest.mark.parametrize("text", ["a:", ":1", "a:b:c", "a:sha256-" + "g" * 64, "a:sha256-" + "A" * 64])
def test_bad_targets_are_refused(text: str) -> None:
    """An empty or doubled part, or a code id that is none, is refused."""
    with pytest.raises(PyfaasError):
        split_target(text)


@given(st.integers(0, 10**9), st.sampled_from([("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("", 1000)]))
def test_durations_have_units(amount: int, unit: tuple[str, int]) -> None:
    """A whole number with a unit is that many milliseconds; a bare one is seconds, written as text or as a number."""
    assert parse_duration(f"{amount}{unit[0]}", "timeout") == amount * unit[1]
    assert parse_duration(amount, "timeout") == amount * 1000


@given(st.integers(0, 10**6), st.sampled_from([("K", 10), ("M", 20), ("G", 30), ("MiB", 20), ("GB", 30), ("", 20)]))
def test_sizes_have_units(amount: int, unit: tuple[str, int]) -> None:
    """M is Mi, a bare number is MiB, and a space before the unit is allowed."""
    assert parse_size(f"{amount}{unit[0]}", "memory") == amount << unit[1]
    assert parse_size(f"{amount} {unit[0]}", "memory") == amount << unit[1]
    assert parse_size(amount, "memory") == amount << 20


@given(st.one_of(st.text(max_size=12), st.booleans(), st.floats(), st.integers(max_value=-1)))
def test_what_is_no_quantity_names_its_key(value: object) -> None:
    """Anything else is refused naming the key, or is read as a quantity that is not negative; nothing else happens."""
    for parse in (parse_duration, parse_size):
        try:
            assert parse(value, "the-key") >= 0  # type: ignore[arg-type]
        except PyfaasError as refused:
            assert refused.code is Code.INVALID_REQUEST
            assert "the-key" in refused.message


@pytest.mark.parametrize(
    ("text", "milliseconds"), [("1.5s", 1500), ("0.5ms", 0), (" 30s ", 30_000), ("1.25h", 4_500_000)]
)
def test_fractions_of_durations(text: str, milliseconds: int) -> None:
    """Fractions are rounded to whole milliseconds and blanks around are ignored."""
    assert parse_duration(text, "timeout") == milliseconds
