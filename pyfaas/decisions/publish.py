"""What a publication means: a new version, the same one, or only other settings."""

from __future__ import annotations

from dataclasses import dataclass

from pyfaas.model import Settings, Version, VersionState


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`number` is the version that answers from now on; `is_new` when it does not exist yet."""

    number: int
    is_new: bool
    prepare: bool
    changed: bool


def plan(newest: Version | None, highest: int, code_id: str, settings: Settings, old_settings: Settings | None) -> Plan:
    """Compare with the newest living version only; `highest` is the highest number ever used.

    The same content is the same version (a failed one is prepared again); numbers are never reused.
    """
    changed = settings != old_settings
    if newest is not None and newest.code_id == code_id:
        return Plan(number=newest.number, is_new=False, prepare=newest.state is VersionState.FAILED, changed=changed)
    return Plan(number=highest + 1, is_new=True, prepare=True, changed=True)
