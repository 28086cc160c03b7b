"""How a name that is no function of one's own leads to a function: through account aliases, grants and subscriptions.

Theory of operation. A *way* is resolved when a name is first called, checked at every hop, and kept until anything about lending, accounts
or functions changes; so what a revocation ends cannot be called once it was taken note of here. Running calls are known by the grants and
subscriptions that they came through (`Use`), which is what a revocation reaches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pyfaas.model import AccountId, TenantKey
from pyfaas.sharing import CallableId, Terms

if TYPE_CHECKING:
    from pyfaas.service.lane import Call
    from pyfaas.service.registry import Entry


@dataclass(slots=True, eq=False)
class Use:
    """What runs and waits through one grant, or one subscription, for one caller; the owner's caps are counted here."""

    id: str  # the grant's or the subscription's
    terms: Terms
    running: int = 0
    calls: dict[Call, None] = field(default_factory=dict)  # accepted, and not ended


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Way:
    """Everything that a call through an account alias or a subscription needs to know beside its function.

    `tenant` tells whose containers may answer it, `home` which VMs they live in. `layers` are the parameters' layers as the container
    merges them, outermost first. `secrets` are (owner's id, keys or None for all), the later ones win.
    """

    id: CallableId  # of the alias or subscription that was called
    name: str  # as its holder calls it
    caller: AccountId  # the outermost one
    owner: AccountId  # of the function
    payer: AccountId
    entry: Entry
    qualifier: str | None
    tenant: TenantKey
    home: TenantKey
    uses: tuple[Use, ...] = ()
    layers: tuple[Mapping[str, Any], ...] = ()
    secrets: tuple[tuple[str, tuple[str, ...] | None], ...] = ()
    network: tuple[str, ...] = ()
    memory_bytes: int | None = None
    timeout_ms: int | None = None
    is_fresh: bool = True  # a container answers one call
    keeps_logs: bool = False  # for the caller, under `id`
    is_own: bool = False  # an alias on a function of one's own: nothing is sealed
    api: str = ""  # OWNER/NAME
    operation: str = ""
