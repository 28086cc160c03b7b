"""Whether a version may list where it goes."""

from __future__ import annotations

from typing import Any

import pytest

from pyfaas.decisions.exits import permit
from pyfaas.errors import Code, PyfaasError

ALLOWED: dict[str, Any] = {"may_use_network": True, "private": "10.0.0.0/8", "has_doors": True}


def refused(*entries: str, **facts: Any) -> PyfaasError:
    """Return why a list is refused; the same list is allowed without the facts."""
    with pytest.raises(PyfaasError) as caught:
        permit(entries, **{**ALLOWED, **facts})
    return caught.value


def test_a_list_that_is_allowed() -> None:
    """Public destinations and the operator's private ranges are permitted."""
    permit(["api.test:443", "*.test:443", "8.8.8.8:53000", "10.1.2.3:5432", "db.test:1@10.0.0.0/8"], **ALLOWED)


def test_no_list_needs_nothing() -> None:
    """A version that lists nothing is published by anybody, on any kernel."""
    permit([], may_use_network=False, private="", has_doors=False)


def test_an_account_without_network() -> None:
    """An account that may not use the network is told so."""
    error = refused("api.test:443", may_use_network=False)
    assert (error.code, "this account" in error.message) == (Code.NOT_ALLOWED, True)


def test_a_kernel_that_cannot() -> None:
    """What cannot be enforced is refused, and not ignored; the layer and where to look are named."""
    error = refused("api.test:443", has_doors=False)
    assert error.code is Code.INVALID_REQUEST
    assert "cannot be enforced on this kernel" in error.message
    assert "doctor" in error.hint
    assert error.evidence["layer"] == "doors"


@pytest.mark.parametrize("entry", ["127.0.0.1:80", "db.test:1@127.0.0.0/8", "169.254.169.254:80", "0.0.0.0/0:80", "11.0.0.0/8:80"])
def test_private_ranges_are_the_operators(entry: str) -> None:
    """A private range that the operator did not allow is refused with the range and the option; a public one is not."""
    if entry == "11.0.0.0/8:80":
        permit([entry], **ALLOWED)
        return
    error = refused("api.test:443", "10.1.1.1:80", entry)
    assert error.code is Code.NOT_ALLOWED
    assert "egress_private" in error.hint
    assert not [one for one in error.evidence["ranges"] if one.startswith("10.")]
    assert all(one in error.message for one in error.evidence["ranges"][:5])
