"""What the database promises against what lies on the disk.

A version is ready when its code, and what it requires, is there for containers. After a restore with another Python, or when
somebody cleared a directory, it is not: then it is prepared again at the start, from its bundle.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from pyfaas.model import Version, VersionState
from pyfaas.service.registry import Registry


def forget_missing(registry: Registry, prepared: Collection[str], environments: Collection[str]) -> int:
    """Take ready versions whose files are not there for not yet prepared; returns how many."""
    missing = [
        (entry, as_stored(version))
        for entry, version in registry.all_versions()
        if version.state is VersionState.READY and not is_there(version, prepared, environments)
    ]
    for entry, version in missing:
        entry.put(version)
    return len(missing)


def is_there(version: Version, prepared: Collection[str], environments: Collection[str]) -> bool:
    """Tell whether a container can be given a version."""
    return version.code_id in prepared and (version.environment is None or version.environment in environments)


def as_stored(version: Version) -> Version:
    """Return a version as it is before it is prepared; its environment's name stays: it is built again from the lock that is kept."""
    return replace(version, state=VersionState.STORED)
