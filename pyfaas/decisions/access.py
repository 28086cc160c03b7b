"""Who may do what."""

from __future__ import annotations

from pyfaas.errors import Code, PyfaasError
from pyfaas.model import Caller, Scope, Token


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
