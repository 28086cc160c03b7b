"""Who may do what, in an account and across accounts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pyfaas.errors import Code, PyfaasError
from pyfaas.model import AccountId, Caller, Scope, TenantKey, Token
from pyfaas.sharing import MAX_HOPS, Grant, Payer, Placing


def check_token(token: Token | None, now: float) -> Token:
    """Return a token that is known, unexpired and not revoked; raises unauthenticated, the same for all three."""
    if token is None or token.revoked is not None or (token.expires is not None and token.expires <= now):
        raise PyfaasError(Code.UNAUTHENTICATED, "the token is missing, unknown, expired or revoked", hint="run pyfaas login")
    return token


def require(caller: Caller, scope: Scope) -> None:
    """Raise not_allowed unless the caller's token carries the scope."""
    if not caller.may(scope):
        have = ", ".join(sorted(caller.token.scopes)) or "none"
        raise PyfaasError(Code.NOT_ALLOWED, f"this needs the scope {scope.value!r}; the token has {have}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """An account alias on the way to a function: who holds it, whose what it stands for is, and by which grant it may.

    `grant` None: the alias is on something of its holder's own, else nothing is left of the right that it was made with.
    `version` is what the alias names as a number, if it does.
    """

    holder: AccountId
    owner: AccountId
    grant: Grant | None
    qualifier: str | None = None
    placement: Placing = Placing.PAIR


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """What a chain of account aliases comes to. `accounts` are the function's owner first, the outermost holder last."""

    accounts: tuple[AccountId, ...]
    payer: AccountId
    qualifier: str | None
    placement: Placing
    is_fresh: bool
    keeps_logs: bool

    @property
    def is_own(self) -> bool:
        """Whether nobody else has a part in it."""
        return len(self.accounts) == 1

    @property
    def tenant(self) -> TenantKey:
        """Whose VMs it runs in: the ordered accounts', or, where both sides asked for it, one side's."""
        if self.placement is Placing.PAIR:
            return TenantKey("+".join(self.accounts))
        return TenantKey(self.accounts[0] if self.placement is Placing.OWNER else self.accounts[-1])


def gone() -> PyfaasError:
    """Say to who held a right that it has ended, in the same words whatever ended it."""
    return PyfaasError(Code.GONE, "this is not lent any more", hint="ask its owner; pyfaas share ls shows what is lent to you")


def authorise(hops: Sequence[Hop]) -> Allowed:
    """Check every hop, the outermost alias first, and return what the chain comes to; raises gone or invalid_request.

    A hop needs a grant that lives, names its holder (or everybody) and the version that the alias names; beyond the innermost one, each
    grant that is passed on must allow that (`relend`). Only the innermost alias says which version.
    """
    if len(hops) > MAX_HOPS:
        raise PyfaasError(Code.INVALID_REQUEST, f"more than {MAX_HOPS} account aliases lead to this function", hint="alias its target directly")
    for hop in hops:
        _check(hop)
    lent = [hop for hop in hops if hop.grant is not None]
    terms = [hop.grant.terms for hop in lent if hop.grant is not None]
    if not all(inner.relend for inner in terms[1:]):
        raise gone()
    innermost = lent[-1].grant if lent else None
    accounts = _in_order([hops[-1].owner, *(hop.holder for hop in reversed(hops))])
    placings = {hop.placement for hop in lent} | {t.placement for t in terms}
    return Allowed(
        accounts=accounts,
        payer=accounts[0] if innermost is not None and innermost.terms.payer is Payer.OWNER else hops[0].holder,
        qualifier=_qualifier(hops, {str(t.version) for t in terms if t.version is not None}),
        placement=placings.pop() if len(placings) == 1 else Placing.PAIR,
        is_fresh=not all(t.reuse for t in terms),
        keeps_logs=all(t.logs for t in terms),
    )


def _in_order(accounts: Sequence[AccountId]) -> tuple[AccountId, ...]:
    return tuple(account for n, account in enumerate(accounts) if n == 0 or account != accounts[n - 1])


def _qualifier(hops: Sequence[Hop], pins: set[str]) -> str | None:
    """Return what the innermost alias that says anything says, or what a grant is limited to."""
    named = next((hop.qualifier for hop in reversed(hops) if hop.qualifier is not None), None)
    if len(pins | ({named} if named is not None and pins else set())) > 1:
        raise gone()
    return pins.pop() if pins else named


def _check(hop: Hop) -> None:
    if hop.grant is None:
        if hop.owner != hop.holder:
            raise gone()
        return
    terms = hop.grant.terms
    is_for_holder = hop.grant.caller in (None, hop.holder)
    if hop.grant.ended is not None or not is_for_holder or (terms.version is not None and hop.qualifier not in (None, str(terms.version))):
        raise gone()
