"""Secrets: what an owner wants its code to have without anybody reading it, neither in the database nor in a backup without its key.

Theory of operation. Memory holds what is sealed, never a value: `opened` decrypts at the start of each attempt, a few
microseconds a secret, and whoever asked lets go of it. An *owner* is the id of a function, an account alias or a subscription, so
what is removed and made again under its name inherits nothing.

A rotation makes a new current key and seals everything anew with it, a batch at a time. It can stop anywhere: keys are in the file
before anything is sealed with them, and leave it only when nothing is, so the next start goes on (`resume`). Everything that writes
takes turns; a key does not leave while a backup is being taken, whose database may be older than the file beside it.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec

from pyfaas.decisions.access import require
from pyfaas.errors import Code, PyfaasError, not_found
from pyfaas.model import Caller, Scope
from pyfaas.ports import Clock, Keyring, Sealed, Vault
from pyfaas.service.registry import Registry

if TYPE_CHECKING:
    from pyfaas.service.lane import Call

log = logging.getLogger(__name__)
KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,127}")
MOST_KEYS = 100  # of one owner
BATCH = 100  # sealed anew in one transaction
_HELD_S = 0.5  # between looks whether a backup is over


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """A sealed secret and what is known of its value without opening it. `is_open` is False when nothing opens it any more."""

    sealed: Sealed
    size: int  # bytes
    travels: int  # bytes, as JSON, of which it is the longest part of a call's meta
    is_open: bool = True


Sources = Iterable[tuple[str, Iterable[str] | None]]  # owners, each with the keys that are wanted of it, None for all


class Secrets:
    """Owns what is sealed. `limit` is the largest value in bytes; those of one owner have twice as many together."""

    def __init__(
        self, registry: Registry, vault: Vault, keyring: Keyring, clock: Clock, limit: int, is_held: Callable[[], bool] = lambda: False
    ) -> None:
        """Begin empty; `load` comes first. No key is removed while `is_held`."""
        self._registry, self._vault, self._keyring, self._clock, self._limit = registry, vault, keyring, clock, limit
        self._is_held = is_held
        self._kept: dict[str, dict[str, _Kept]] = {}
        self._turn = asyncio.Lock()
        self._rotating: asyncio.Task[int] | None = None
        self._retiring: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        """Show how much there is, and nothing of it."""
        return f"<Secrets of {len(self._kept)} owners>"

    def take(self, sealed: Iterable[Sealed]) -> None:
        """Take in what the vault holds; what cannot be opened any more is told in one line, and stays, closed."""
        for each in sealed:
            self._kept.setdefault(each.owner, {})[each.key] = self._seen(each)
        lost = [kept.sealed for kept in self._all() if not kept.is_open]
        if lost:
            log.error("secrets_closed", extra={"count": len(lost), "owners": sorted({e.owner for e in lost}), "key_ids": sorted({e.key_id for e in lost})})

    def _seen(self, sealed: Sealed) -> _Kept:
        try:
            return _kept(sealed, self._keyring.open(sealed))
        except PyfaasError:
            return _Kept(sealed=sealed, size=0, travels=0, is_open=False)

    # ---- what the rest of the service asks

    def has(self, owner: str) -> bool:
        """Tell whether an owner has any secret."""
        return owner in self._kept

    def names(self, owner: str) -> list[str]:
        """Return the keys of an owner's secrets, sorted."""
        return sorted(self._kept.get(owner, ()))

    def opened(self, owner: str, keys: Iterable[str] | None = None) -> dict[str, str]:
        """Return an owner's secrets, or those of `keys` that it has. Raises internal for one that cannot be opened, naming its key."""
        return {kept.sealed.key: self._keyring.open(kept.sealed) for kept in self._wanted(owner, keys)}

    def of(self, sources: Sources) -> dict[str, str]:
        """Return the secrets of several owners, of which later ones win; after `size_of` let them pass this raises nothing."""
        found: dict[str, str] = {}
        for owner, keys in sources:
            if owner in self._kept:
                found |= self.opened(owner, keys)
        return found

    def size_of(self, sources: Sources) -> int:
        """Return how many bytes `of` has at most as JSON, 0 for none. Raises internal for one that cannot be opened, naming its key."""
        total = 0
        for owner, keys in sources:
            for kept in self._wanted(owner, keys) if owner in self._kept else ():
                if not kept.is_open:
                    message = f"the secret {kept.sealed.key!r} cannot be opened: its key is gone, or it is damaged"
                    raise PyfaasError(Code.INTERNAL, message, hint="set it again")
                total += kept.travels
        return total

    async def set(self, owner: str, key: str, value: str) -> Sealed:
        """Keep a secret, durable when this returns. Raises invalid_name, payload_too_large, not_ready, or as the vault does."""
        check_key(key)
        async with self._turn:
            sizes = {of: kept.size for of, kept in self._kept.get(owner, {}).items()}
            self._check({**sizes, key: len(value.encode())}, key)
            sealed = self._keyring.seal(owner, key, value, self._clock.now())
            await self._vault.put([sealed])
            self._kept.setdefault(owner, {})[key] = _kept(sealed, value)
            return sealed

    def check(self, values: Mapping[str, str]) -> None:
        """Raise what `set_all` would refuse the values with, so that nothing is half done: invalid_name or payload_too_large."""
        for key in values:
            check_key(key)
        sizes = {key: len(value.encode()) for key, value in values.items()}
        for key in values:
            self._check(sizes, key)

    async def set_all(self, owner: str, values: Mapping[str, str]) -> None:
        """Keep these in place of all that an owner has; raises as `set` does, and then nothing has changed."""
        self.check(values)
        async with self._turn:
            at = self._clock.now()
            kept = {key: _kept(self._keyring.seal(owner, key, value, at), value) for key, value in values.items()}
            await self._vault.replace(owner, [each.sealed for each in kept.values()])
            self._kept[owner] = kept
            if not kept:
                del self._kept[owner]

    async def remove(self, owner: str, key: str) -> bool:
        """Remove a secret; tells whether there was one."""
        async with self._turn:
            if key not in self._kept.get(owner, ()):
                return False
            await self._vault.remove(owner, key)
            rest = self._kept.get(owner, {})  # it may have been forgotten meanwhile
            rest.pop(key, None)
            if not rest:
                self._kept.pop(owner, None)
            return True

    async def forget(self, owner: str) -> None:
        """Remove all that an owner has; it is not opened any more from this moment on."""
        had = self._kept.pop(owner, None)
        async with self._turn:
            had = self._kept.pop(owner, None) or had  # what was being set meanwhile
            if had is not None:
                await self._vault.remove(owner)

    # ---- what the faces ask

    async def put(self, caller: Caller, name: str, key: str, value: str) -> dict[str, Any]:
        """Keep a secret of an own function; its code has it from the next attempt on."""
        require(caller, Scope.DEPLOY)
        owner = self._registry.entry(caller.account.id, name).function.id
        sealed = await self.set(owner, key, value)
        if owner not in self._registry.entries:  # it was removed meanwhile
            await self.forget(owner)
            raise not_found("function", name)
        return _view(sealed)

    def listed(self, caller: Caller, name: str) -> list[dict[str, Any]]:
        """List the names of an own function's secrets, and when each was set."""
        require(caller, Scope.READ)
        owner = self._registry.entry(caller.account.id, name).function.id
        return [_view(kept.sealed) for _, kept in sorted(self._kept.get(owner, {}).items())]

    async def take_away(self, caller: Caller, name: str, key: str) -> None:
        """Remove a secret of an own function; raises not_found."""
        require(caller, Scope.DEPLOY)
        check_key(key)
        owner = self._registry.entry(caller.account.id, name).function.id
        if not await self.remove(owner, key):
            raise not_found("secret", key)

    async def rotate(self, caller: Caller) -> dict[str, Any]:
        """Make a new key and seal everything anew with it; goes on when the client leaves.

        Raises conflict while a rotation runs or where the keys are a credential, storage_full or internal.
        """
        require(caller, Scope.ADMIN)
        if self._rotating is not None and not self._rotating.done():
            raise PyfaasError(Code.CONFLICT, "the secrets are being sealed anew already", hint="wait for it")
        async with self._turn:
            key_id = self._keyring.renew()
        self._begin()
        return {"key": key_id, "sealed": await self._rotated()}

    # ---- rotation

    def resume(self) -> None:
        """Go on with what an earlier rotation, or a new line in the credential, left to do."""
        if self._keyring.current is not None and (self._stale() or len(self._keyring.ids()) > 1):
            self._begin()

    async def close(self) -> None:
        """Stop a rotation where it is; the next start goes on."""
        for task in (self._rotating, self._retiring):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])

    async def _rotated(self) -> int:
        """Wait for the rotation that runs; returns how many were sealed anew. Raises what ended it, not_ready when that is the server's stop."""
        assert self._rotating is not None  # noqa: S101 - begun
        await asyncio.wait([self._rotating])
        if self._rotating.cancelled():
            raise PyfaasError(Code.NOT_READY, "the server is stopping; the next one goes on with the new key", retry_after=1.0)
        return self._rotating.result()

    def _begin(self) -> None:
        self._rotating = asyncio.get_running_loop().create_task(self._seal_anew())
        self._rotating.add_done_callback(self._sealed_anew)

    async def _seal_anew(self) -> int:
        """Seal what is under older keys with the current one; returns how many. What is set meanwhile is under the current one."""
        stale, done = self._stale(), 0
        for begin in range(0, len(stale), BATCH):
            async with self._turn:
                living = [each for each in stale[begin : begin + BATCH] if self._kept.get(each.sealed.owner, {}).get(each.sealed.key) is each]
                anew = [replace(each, sealed=self._anew(each.sealed)) for each in living]
                await self._vault.put([each.sealed for each in anew])
                for each in anew:
                    if each.sealed.key in self._kept.get(each.sealed.owner, ()):  # it may have been forgotten meanwhile
                        self._kept[each.sealed.owner][each.sealed.key] = each
                done += len(anew)
        return done

    def _anew(self, sealed: Sealed) -> Sealed:
        return self._keyring.seal(sealed.owner, sealed.key, self._keyring.open(sealed), sealed.at)

    def _sealed_anew(self, task: asyncio.Task[int]) -> None:
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            log.error("secrets_not_sealed_anew", extra={"error": str(error)})
            return
        log.info("secrets_sealed_anew", extra={"count": task.result(), "key_id": self._keyring.current})
        self._retiring = asyncio.get_running_loop().create_task(self._retire())

    async def _retire(self) -> None:
        """Remove the keys that nothing is sealed under, once no backup is being taken."""
        while self._is_held():
            await asyncio.sleep(_HELD_S)
        async with self._turn:
            if self._is_held():
                return  # the next rotation or start does it
            try:
                gone = self._keyring.retire({kept.sealed.key_id for kept in self._all()})
            except PyfaasError as error:
                log.error("secrets_key_not_removed", extra={"error": str(error)})  # noqa: TRY400 - a sentence, without a trace
                return
        if gone:
            log.info("secrets_keys_not_needed" if self._keyring.is_fixed else "secrets_keys_removed", extra={"key_ids": list(gone)})

    def _stale(self) -> list[_Kept]:
        """Return what is sealed under an older key, and can be opened."""
        return [kept for kept in self._all() if kept.sealed.key_id != self._keyring.current and kept.is_open]

    # ---- inside

    def _all(self) -> list[_Kept]:
        return [kept for of_one in self._kept.values() for kept in of_one.values()]

    def _wanted(self, owner: str, keys: Iterable[str] | None) -> Iterable[_Kept]:
        found = self._kept.get(owner, {})
        return found.values() if keys is None else [found[key] for key in keys if key in found]

    def _check(self, sizes: Mapping[str, int], key: str) -> None:
        """Raise payload_too_large for a value, or for all of an owner's together."""
        if sizes[key] > self._limit:
            raise _too_large("a secret", self._limit, sizes[key], "bytes")
        if len(sizes) > MOST_KEYS:
            raise _too_large("one function, account alias or subscription", MOST_KEYS, len(sizes), "secrets")
        if (total := sum(sizes.values())) > 2 * self._limit:
            raise _too_large("the secrets of one function, account alias or subscription together", 2 * self._limit, total, "bytes")


def sources_of(call: Call) -> Sources:
    """Return whose secrets a call takes along: those of the way that it came, or the function's own."""
    return call.way.secrets if call.way is not None else ((call.entry.function.id, None),)


def check_key(key: str) -> str:
    """Return a secret's key when it is one; raises invalid_name, without what came: it may be a value in the wrong place."""
    if not KEY.fullmatch(key):
        hint = "1 to 128 of the letters A-Z a-z, digits, '_', '.' and '-', beginning with a letter or '_'"
        raise PyfaasError(Code.INVALID_NAME, "that is not a key for a secret", hint=hint)
    return key


def _kept(sealed: Sealed, value: str) -> _Kept:
    return _Kept(sealed=sealed, size=len(value.encode()), travels=len(msgspec.json.encode({sealed.key: value})))


def _view(sealed: Sealed) -> dict[str, Any]:
    return {"key": sealed.key, "updated": sealed.at}


def _too_large(what: str, limit: int, observed: int, unit: str) -> PyfaasError:
    evidence = {"limit": "secret_bytes" if unit == "bytes" else "secrets", "value": limit, "observed": observed, "unit": unit}
    hint = "the operator can raise secret_bytes" if unit == "bytes" else ""
    return PyfaasError(Code.PAYLOAD_TOO_LARGE, f"{what} may have {limit} {unit}; this would be {observed}", hint=hint, evidence=evidence)
