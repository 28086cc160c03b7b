"""From a qualifier to a version, and to the versions that may stand in for it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyfaas.errors import Code, PyfaasError
from pyfaas.model import PointerMove, Version, VersionState

LATEST = "latest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """What a qualifier names now: the version, and its substitutes, best first. `is_weighted` routes are drawn per call."""

    requested: int
    substitutes: tuple[int, ...] = ()
    pointer: str | None = None
    is_weighted: bool = False


def resolve(
    qualifier: str | None,
    versions: Mapping[int, Version],
    moves: Mapping[str, Sequence[PointerMove]],
    key: str,
    min_version: int | None = None,
) -> Route:
    """Resolve a qualifier; `moves` are in order, `key` (sticky key or invocation id) draws among weights.

    Substitutes of a pointer are the ready versions it named before, latest move first; of a number or code id
    any ready version, nearest lower first (used only where the request itself allows). Raises not_found or gone.
    """
    pointer = qualifier or LATEST
    if pointer in moves and moves[pointer]:
        history = moves[pointer]
        requested = _draw(history[-1], key)
        before = [move.version for move in reversed(history[:-1])]
        return Route(
            requested=_living(requested, versions, pointer),
            substitutes=_ready(before, requested, versions, min_version),
            pointer=pointer,
            is_weighted=bool(history[-1].weights),
        )
    requested = _number(pointer, versions)
    lower = sorted((n for n in versions if n < requested), reverse=True)
    higher = sorted(n for n in versions if n > requested)
    return Route(requested=requested, substitutes=_ready(lower + higher, requested, versions, min_version))


def _number(qualifier: str, versions: Mapping[int, Version]) -> int:
    if qualifier.isdigit():
        return _living(int(qualifier), versions, qualifier)
    for number in sorted(versions, reverse=True):
        if versions[number].code_id == qualifier:
            return _living(number, versions, qualifier)
    raise PyfaasError(Code.NOT_FOUND, f"no version {qualifier!r}", hint="see pyfaas versions NAME")


def _living(number: int, versions: Mapping[int, Version], qualifier: str) -> int:
    version = versions.get(number)
    if version is None:
        raise PyfaasError(Code.NOT_FOUND, f"no version {qualifier!r}", hint="see pyfaas versions NAME")
    if version.deleted:
        raise PyfaasError(Code.GONE, f"version {number} was removed")
    return number


def _ready(
    candidates: Sequence[int], requested: int, versions: Mapping[int, Version], min_version: int | None
) -> tuple[int, ...]:
    seen: dict[int, None] = {}
    for number in candidates:
        version = versions.get(number)
        if version is None or number == requested or version.deleted or version.withdrawn:
            continue
        if version.state is VersionState.READY and number >= (min_version or 0):
            seen[number] = None
    return tuple(seen)


def _draw(move: PointerMove, key: str) -> int:
    """Draw by a hash of the key: raising a weight only moves keys towards the version that was raised."""
    point = int.from_bytes(hashlib.sha256(f"{move.function}:{move.pointer}:{key}".encode()).digest()[:4], "big") % 100
    for number in sorted(move.weights):
        if point < move.weights[number]:
            return number
        point -= move.weights[number]
    return move.version
