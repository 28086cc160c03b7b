"""The JSON shapes of interface.md, made from the values."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pyfaas.decisions import canary as canaries
from pyfaas.decisions.placement import Pool
from pyfaas.manifest import policy_keys
from pyfaas.model import (
    Account,
    Canary,
    CanaryState,
    Event,
    FunctionId,
    Job,
    LogLine,
    PointerMove,
    Token,
    Version,
    VersionState,
)
from pyfaas.service.registry import Entry


def function_view(entry: Entry, aliases: Mapping[str, Any]) -> dict[str, Any]:
    """Show a function as its newest version and its settings make it, with its release aliases as they are shown."""
    function, newest = entry.function, entry.newest()
    current = entry.current("latest")
    version = entry.versions.get(current) if current is not None else newest
    return {
        "function": function.name,
        "name": function.name,
        "latest": current,
        "aliases": dict(aliases),
        "handler": (version.handler or version.revision.handler) if version else None,
        "shape": (version.shape or version.revision.shape) if version else None,
        "state": version.state.value if version else None,
        "memory": version.revision.memory_bytes if version else None,
        "timeout": version.revision.timeout_ms if version else None,
        "requirements": list(version.revision.requirements) if version else [],
        "concurrency": function.settings.concurrency,
        "class": "low",
        "public": function.settings.public,
        "created": function.created,
        **policy_keys(function.settings),
    }


def alias_view(move: PointerMove, canary: Canary | None, now: float) -> dict[str, Any]:
    """Show where a release alias points, what it says of staleness, and the canary that goes on there or that moved it last."""
    is_told = canary is not None and (canary.state in (CanaryState.WAITING, CanaryState.RUNNING) or canary.seq == move.seq)
    shown = {"version": move.version, "weights": {str(n): w for n, w in move.weights.items()}, **policy_keys(move.policy)}
    return {**shown, "canary": canary_view(canary, now) if canary is not None and is_told else None}


def canary_view(canary: Canary, now: float) -> dict[str, Any]:
    """Show how a canary stands; `step` counts from 0, `next_at` is when it is due to go on, `reason` what ended or holds it."""
    is_running = canary.state is CanaryState.RUNNING
    decision = canaries.decide(canary, now) if is_running else None
    return {
        "version": canary.version,
        "base": canary.base,
        "percent": canary.percent,
        "step": canary.step,
        "steps": list(canaries.steps(canary.percent)),
        "weight": canaries.weight(canary) if is_running else canaries.ALL if canary.state is CanaryState.PROMOTED else 0,
        "since": canary.since,
        "next_at": canary.since + canaries.step_s(canary) if is_running else None,
        "runs": canary.runs,
        "faults": canary.faults,
        "error_budget": canary.error_budget,
        "state": canary.state.value,
        "reason": decision.reason if isinstance(decision, canaries.Keep) else canary.reason,
    }


def event_view(entry: Entry, cursor: int, event: Event) -> dict[str, Any]:
    """Show something that happened to a version."""
    known = {"cursor": cursor, "at": event.at, "kind": event.kind.value, "function": entry.function.name, "version": event.version}
    return {**known, **{key: value for key, value in event.detail.items() if key not in known}}


def running_views(pool: Pool, function: FunctionId, now: float) -> dict[int, list[dict[str, Any]]]:
    """Show the containers that have a function's code, or load it, by version."""
    found: dict[int, list[dict[str, Any]]] = {}
    for vm in pool.vms.values():
        for slot in vm.slots.values():
            if slot.lane is not None and slot.lane[0] == function:
                times = {"calls": slot.calls, "idle_ms": round((now - slot.since) * 1000)}
                found.setdefault(slot.lane[1], []).append({"vm": slot.vm, "container": slot.id, "state": slot.state.value, **times})
    return found


def version_view(
    entry: Entry, version: Version, running: Sequence[Mapping[str, Any]], places: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Show a version: what it is, who names it, and what runs where; `places` are VMs that have its code."""
    reason = version.reason
    return {
        "function": entry.function.name,
        "version": version.number,
        "code_id": version.code_id,
        "state": version.state.value,
        "reason": {"code": reason.code, "message": reason.message, "log": reason.log_tail} if reason else None,
        "created": version.created,
        "bundle": version.bundle,
        "size": version.size_bytes,
        "environment": version.environment,
        "handler": version.handler or version.revision.handler,
        "shape": version.shape,
        "containers": len(running),
        "withdrawn": version.withdrawn,
        "pointers": sorted(entry.pointers_to(version.number)),
        "shares": {pointer: _share(entry.moves[pointer][-1], version.number) for pointer in sorted(entry.pointers_to(version.number))},
        "running": list(running),
        "code_in": {"near_store": version.state is VersionState.READY, "vms": [dict(place) for place in places]},
    }


def _share(move: PointerMove, number: int) -> int:
    """Return the percent of a pointer's calls that a version is to have."""
    return move.weights.get(number) or canaries.ALL - sum(move.weights.values())


def account_view(account: Account) -> dict[str, Any]:
    """Show an account, with what it says of staleness and what of its quota is not the server's default."""
    shown = {"account": account.name, "id": account.id, "network": account.network, "created": account.created}
    quota = {key: value for key in ("concurrency", "rate", "per_day") if (value := getattr(account.quota, key)) is not None}
    return {**shown, "quota": quota, **policy_keys(account.policy)}


def token_view(token: Token) -> dict[str, Any]:
    """Show a token without its text, which is kept nowhere."""
    return {
        "id": token.id,
        "scopes": sorted(token.scopes),
        "label": token.label,
        "created": token.created,
        "expires": token.expires,
    }


def job_view(job: Job) -> dict[str, Any]:
    """Show an asynchronous invocation with its attempts, and its result or error once it ended."""
    shown: dict[str, Any] = {
        "id": job.id,
        "function": job.name,
        "version": job.attempts[-1].executed if job.attempts else None,
        "state": job.state.value,
        "outcome": job.outcome.value if job.outcome else None,
        "attempts": [
            {
                "started": a.started,
                "finished": a.finished,
                "requested": a.requested,
                "executed": a.executed,
                "outcome": a.outcome.value if a.outcome else None,
                "error": a.error,
            }
            for a in job.attempts
        ],
        "created": job.created,
        "finished": job.finished,
    }
    if job.replay_of is not None:
        shown["replay_of"] = job.replay_of
    if job.result is not None:
        shown["result"] = _result(job)
    if job.error is not None:
        shown["error"] = job.error
    return shown


def _result(job: Job) -> Any:
    if not job.result_is_bytes:
        return json.loads(job.result or b"null")


    return {"$bytes": base64.b64encode(job.result or b"").decode()}


def log_view(line: LogLine) -> dict[str, Any]:
    """Show a line of a log."""
    return {"ts": line.at, "stream": line.stream, "line": line.line, "invocation": line.invocation, "version": line.version or None}


def page(items: list[dict[str, Any]], key: str, limit: int, after: str | None) -> dict[str, Any]:
    """Cut a list, sorted by `key`, to the page that follows `after`; `next` is None on the last one."""
    rest = [item for item in items if after is None or str(item[key]) > after]
    shown = rest[:limit]
    return {"items": shown, "next": str(shown[-1][key]) if len(rest) > limit and shown else None}


def limits_view(values: Mapping[str, tuple[Any, str, str]]) -> dict[str, Any]:
    """Show limits as {name: {value, unit, key}}."""
    return {name: {"value": value, "unit": unit, "key": key} for name, (value, unit, key) in values.items()}
