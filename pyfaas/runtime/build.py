"""Builds (placeholder until the next commit)."""

from __future__ import annotations

from typing import Any

from sandbox.wire import Kind


def run(payload: dict[str, Any]) -> tuple[Kind, dict[str, Any]]:
    """Refuse."""
    return Kind.FAILED, {"code": "internal", "errorMessage": "builds are not there yet"}
