"""Whether a version may list where it goes: decided at publication, before anything of it is kept.

The tenant writes the list, so what it says may not open the box's own services: private ranges are the operator's to allow. A list that
this machine cannot enforce is refused, never ignored.
"""

from __future__ import annotations

from collections.abc import Sequence

from pyfaas import network
from pyfaas.errors import Code, PyfaasError


def permit(entries: Sequence[str], *, may_use_network: bool, private: str, has_doors: bool) -> None:
    """Return when a canonical list is allowed; `private` is the operator's egress_private.

    Raises not_allowed for an account without network and for a private range, invalid_request where it cannot be enforced.
    """
    if not entries:
        return
    if not may_use_network:
        raise PyfaasError(Code.NOT_ALLOWED, "network: this account may not use the network", hint="leave the key out, or ask the operator")
    if not has_doors:
        raise PyfaasError(
            Code.INVALID_REQUEST,
            "network: it cannot be enforced on this kernel",
            hint="pyfaas doctor says what the layer doors is missing; until then leave the key out",
            evidence={"key": "network", "layer": "doors"},
        )
    refused = network.not_allowed(entries, network.ranges(private))
    if refused:
        told = ", ".join(f"{one} ({what})" for one, what in refused[:5])
        raise PyfaasError(
            Code.NOT_ALLOWED,
            f"network: only the operator may allow what is not public: {told}",
            hint="the operator allows ranges with egress_private",
            evidence={"key": "network", "option": "egress_private", "ranges": [one for one, _ in refused]},
        )
