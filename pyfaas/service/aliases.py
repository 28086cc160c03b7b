"""Release aliases as their owner moves them, and going back: every move by hand ends the pointer's canary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyfaas.decisions.access import require
from pyfaas.decisions.routing import LATEST
from pyfaas.errors import Code, PyfaasError, not_found
from pyfaas.manifest import parse_policy
from pyfaas.model import Caller, Canary, EventKind, Scope, Version, VersionState
from pyfaas.names import check_alias_name
from pyfaas.service import views
from pyfaas.service.pointers import BY_HAND, Pointers, ended_canary
from pyfaas.service.registry import Entry, Registry

_BACK = "rolled back by hand"


class Aliases:
    """The use cases around pointers that somebody moves."""

    def __init__(self, registry: Registry, pointers: Pointers) -> None:
        """Move through `pointers`."""
        self._registry, self._pointers = registry, pointers

    async def set(
        self, caller: Caller, name: str, alias: str, version: int, weights: Mapping[int, int], policy: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Point a release alias at a ready version, or at two: `weights` has the other's whole percent.

        Of the staleness `policy`, what is not there stays, None removes. Raises not_found, gone, conflict, invalid_request.
        """
        require(caller, Scope.DEPLOY)
        entry = self._registry.entry(caller.account.id, name)
        check_alias_name(alias)
        _check_weights(version, weights)
        async with self._pointers.lock(entry):
            for number in (version, *weights):
                if self._registry.version(entry, number).state is not VersionState.READY:
                    raise PyfaasError(Code.CONFLICT, f"version {number} is not ready", hint="see pyfaas versions NAME")
            merged = parse_policy(policy, self._pointers.policy(entry, alias))
            await self._pointers.move(entry, alias, version, weights=weights, policy=merged, canary=self._ended(entry, alias, BY_HAND))
        return self.view(entry, alias)

    def all(self, caller: Caller, name: str) -> dict[str, Any]:
        """Show a function's release aliases by name."""
        require(caller, Scope.READ)
        return self.views(self._registry.entry(caller.account.id, name))

    def views(self, entry: Entry) -> dict[str, Any]:
        """Show all release aliases of a function."""
        return {alias: self.view(entry, alias) for alias in sorted(entry.moves) if alias != LATEST}

    def view(self, entry: Entry, alias: str) -> dict[str, Any]:
        """Show a release alias."""
        return views.alias_view(entry.moves[alias][-1], self._pointers.canary(entry, alias), self._pointers.clock.now())

    async def remove(self, caller: Caller, name: str, alias: str) -> None:
        """Remove a release alias with its canary, also one that waits to become one."""
        require(caller, Scope.DEPLOY)
        entry = self._registry.entry(caller.account.id, name)
        async with self._pointers.lock(entry):
            if alias == LATEST or not (alias in entry.moves or self._pointers.live(entry, alias)):
                raise not_found("release alias", alias)
            await self._pointers.store.remove_pointer(entry.function.id, alias)
            entry.moves.pop(alias, None)
            entry.cut.pop(alias, None)
            self._pointers.drop(entry, alias)
            entry.changed()

    async def rollback(self, caller: Caller, name: str, pointer: str) -> dict[str, Any]:
        """Move a pointer back; the version that it leaves is withdrawn.

        One with two versions, or with a canary, goes back to its main version alone; any other to the last ready version that it
        named before. Raises not_found, or conflict when there is none.
        """
        require(caller, Scope.DEPLOY)
        entry = self._registry.entry(caller.account.id, name)
        async with self._pointers.lock(entry):
            history = entry.moves.get(pointer)
            if not history:
                raise not_found("release alias", pointer)
            current, live = history[-1], self._pointers.live(entry, pointer)
            left = next(iter(current.weights), live.version if live is not None and live.version != current.version else None)
            target = current.version
            if left is None:
                left, target = current.version, self._earlier(entry, pointer).number
            await self._pointers.move(entry, pointer, target, withdrawn={left}, canary=self._ended(entry, pointer, _BACK))
            detail = {"pointer": pointer, "from": left, "reason": _BACK}
            self._pointers.tell(entry, target, EventKind.ROLLED_BACK, **detail)
        return {"function": name, "pointer": pointer, "version": target, "withdrawn": left}

    def _earlier(self, entry: Entry, pointer: str) -> Version:
        """Return the last ready version that a pointer named before its current one; raises conflict when there is none."""
        *before, current = entry.moves[pointer]
        for move in reversed(before):
            version = entry.versions.get(move.version)
            if version is None or version.number == current.version or version.deleted or version.withdrawn:
                continue
            if version.state is VersionState.READY:
                return version
        raise PyfaasError(Code.CONFLICT, f"{entry.function.name}:{pointer} has no earlier ready version to go back to")

    def _ended(self, entry: Entry, pointer: str, reason: str) -> Canary | None:
        live = self._pointers.live(entry, pointer)
        return ended_canary(live, reason) if live is not None else None


def _check_weights(version: int, weights: Mapping[int, int]) -> None:
    if len(weights) > 1:
        hint = "raising a weight then only moves keys forward; give the weight of one version"
        raise PyfaasError(Code.INVALID_REQUEST, "a release alias names at most two versions", hint=hint)
    if version in weights or not all(0 < percent < 100 for percent in weights.values()):  # noqa: PLR2004 - percents
        raise PyfaasError(Code.INVALID_REQUEST, "a weight is a whole percent from 1 to 99 of another version than the main one")
