"""Documents of the server in the words of a person: plain functions from a document to a piece of text.

A key that a document lacks is left out of the text, never an error: what is told is told by servers of several releases.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pyfaas.cli.console import cell

Document = Mapping[str, Any]
POLICY = ("stale", "max_stale_time", "max_stale_requests", "stale_percent", "min_version", "max_wait")
_STEPS = {
    "fetch": "fetching the code",
    "lock": "resolving requirements",
    "install": "installing requirements",
    "compile": "compiling",
    "probe": "importing the handler",
}
_REASON = 60  # letters of a reason in a table; `describe` has all of it
_UNITS = ((86_400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def span(seconds: float) -> str:
    """Write a duration as `5m0s`: its two largest units, or tenths of a second."""
    if seconds < 1:
        return f"{seconds:.1f}s" if seconds > 0 else "0s"
    rest = round(seconds)
    first = next(i for i, (size, _) in enumerate(_UNITS) if rest >= size)
    parts = []
    for size, unit in _UNITS[first : first + 2]:
        parts.append(f"{rest // size}{unit}")
        rest %= size
    return "".join(parts)


def step(event: Document) -> str:
    """Say which step of a preparation goes on, with its bytes when they are counted; empty for another event."""
    if event.get("kind") != "preparing":
        return ""
    name = str(event.get("step") or "")
    said = _STEPS.get(name, name or "preparing")
    done, total = event.get("done"), event.get("total")
    if isinstance(done, int) and isinstance(total, int) and total > 1:
        key = "size" if name == "fetch" else ""
        said += f", {cell(done, key)} of {cell(total, key)}"
    line = str(event.get("line") or "").strip()
    return f"{said}: {line}" if line else said


def happened(event: Document) -> str:
    """Say what an event tells."""
    version, pointer = f"version {event.get('version')}", str(event.get("pointer") or "latest")
    kind = str(event.get("kind"))
    reason = f": {event.get('reason')}" if event.get("reason") else ""
    plain = {
        "stored": f"{version} is stored",
        "prepared": f"{version} is ready",
        "failed": f"{version} failed: {event.get('message') or event.get('code')}",
        "first_run": f"{version} ran for the first time",
        "cut_over": f"{pointer} is answered by {version} alone",
        "old_gone": f"the last container of {version} ended",
        "moved": f"{pointer} is {version}{_also(event.get('weights') or {})}",
        "rolled_back": f"{pointer} went back to {version}{reason}",
        "promoted": f"{pointer} is {version}, all of it",
        "withdrawn": f"{version} is withdrawn{reason}",
    }
    if kind == "preparing":
        return f"{version}: {step(event)}"
    if kind == "downloaded":
        where = f" in VM {event['vm']}" if event.get("vm") else ""
        size = f", {cell(event['bytes'], 'size')}" if isinstance(event.get("bytes"), int) else ""
        return f"{version} was loaded to {event.get('target')}{where}{size}"
    return plain.get(kind, f"{version}: {kind}")


def _also(weights: Mapping[str, Any]) -> str:
    return "".join(f", {share} % go to version {number}" for number, share in weights.items())


def shares(alias: Document) -> str:
    """Say which versions a release alias names besides its main one."""
    return ", ".join(f"{share} % to {number}" for number, share in (alias.get("weights") or {}).items()) or "-"


def policy(document: Document) -> str:
    """Say how long older versions may answer, as far as a document says anything of it."""
    said = [f"{key}={document[key]}" for key in POLICY if document.get(key) is not None]
    return " ".join(said) or "-"


def quota(document: Document) -> str:
    """Say what an account may run, or a caller through a grant, as far as a document says anything of it."""
    units = {"concurrency": "at once", "max_concurrency": "at once", "rate": "a second", "per_day": "a day"}
    return ", ".join(f"{cell(document[key])} {unit}" for key, unit in units.items() if document.get(key) is not None) or "-"


def canary(alias: Document) -> str:
    """Say where a release alias's canary stands."""
    shown = alias.get("canary")
    if not shown:
        return "-"
    state, number = shown.get("state"), shown.get("version")
    runs = f"{shown.get('faults', 0)} of {shown.get('runs', 0)} runs failed"
    if state == "waiting":
        return f"version {number}, once it is ready"
    if state == "running":
        at = f", step {shown['step'] + 1} of {len(shown['steps'])}" if shown.get("steps") else ""
        return f"{shown.get('weight', shown.get('percent'))} % to {number}{at}: {shown.get('reason') or runs}"
    reason = f": {shown['reason']}" if shown.get("reason") else f", {runs}"
    return f"version {number} {_ENDS.get(str(state), state)}{reason}"


_ENDS = {"promoted": "has all", "back": "went back", "ended": "ended"}


def names(alias: Document, version: int) -> bool:
    """Tell whether a release alias names a version, with all its runs or a share."""
    return alias.get("version") == version or str(version) in (alias.get("weights") or {})


def released(target: str, version: int, alias: Document) -> str:
    """Say in a line what goes on with `target`, a function's release alias, that a version was published for."""
    shown = alias.get("canary") or {}
    is_its = shown.get("version") == version
    weight = (alias.get("weights") or {}).get(str(version))
    if weight is not None:
        return f"{target} sends {weight} % to version {version}{_promised(shown) if is_its else ''}"
    if alias.get("version") == version:
        return f"{target} is version {version}"
    stays = f"stays at version {alias['version']}" if alias.get("version") else "names nothing"
    if is_its and shown.get("state") not in ("waiting", "running"):
        return f"{target} {stays}: {shown.get('reason') or shown.get('state')}"
    return f"{target} {stays} until version {version} is ready"


def _promised(canary: Document) -> str:
    """Say when a canary has all, from how long its step lasts; the steps before the last share the time equally."""
    since, next_at, steps = canary.get("since"), canary.get("next_at"), canary.get("steps") or ()
    if since is None or next_at is None or not steps:
        return ""
    left = (next_at - since) * max(1, len(steps) - 1 - canary.get("step", 0))
    budget = canary.get("error_budget")
    return f"; all of it after {span(left)}" + (f" unless more than {budget:g} % fail" if budget is not None else "")


def withdrawn(answer: Document, name: str) -> str:
    """Say what a roll-back left behind."""
    target = f"{name}:{answer['pointer']}" if answer.get("pointer") not in (None, "latest") else name
    said = f"{target} is version {answer.get('version')} again"
    if answer.get("withdrawn") is None:
        return said
    return f"{said}; version {answer['withdrawn']} is withdrawn, and answers only who names it"


def running(containers: Sequence[Document] | int | None) -> str:
    """Say what containers of a version do, and in which VM: `2 idle, 1 busy in v3`."""
    if not isinstance(containers, Sequence):
        return str(containers) if containers else "-"
    by_vm: dict[str, Counter[str]] = {}
    for each in containers:
        by_vm.setdefault(str(each.get("vm")), Counter())[str(each.get("state"))] += 1
    said = [f"{_counted(states)} in {_vm(vm)}" for vm, states in by_vm.items()]
    return "; ".join(said) or "-"


def _vm(name: str) -> str:
    return f"v{name}" if name.isdigit() else name


def _counted(states: Counter[str]) -> str:
    return ", ".join(f"{count} {state}" for state, count in states.items())


def named_by(version: Document) -> str:
    """Say which pointers name a version, with the share of their runs that it gets when that is not all."""
    found = {str(name): 100 for name in version.get("pointers") or ()}
    found |= {str(name): share for name, share in (version.get("shares") or {}).items()}
    return ", ".join(name if share == 100 else f"{name} {share} %" for name, share in found.items()) or "-"  # noqa: PLR2004 - all


def all_shares(found: Mapping[str, Any]) -> str:
    """Say how much of each pointer's runs a version gets."""
    return ", ".join(f"{name} {share} %" for name, share in (found or {}).items()) or "-"


def places(version: Document) -> str:
    """Say where a version's code lies now."""
    found = version.get("code_in")
    if isinstance(found, Mapping):
        vms = _vms(found.get("vms") or ())
        near = ["near store"] if found.get("near_store") else []
        return ", ".join([*near, *vms]) or "-"
    return ", ".join(_vms(found)) if isinstance(found, Sequence) and found else "-"


def _vms(found: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(_vm(str(each.get("vm") if isinstance(each, Mapping) else each)) for each in found))


def why(version: Document) -> str:
    """Say in short why a version failed, or that it is withdrawn."""
    reason = version.get("reason") or {}
    said = str(reason.get("message") or reason.get("code") or "").partition("\n")[0].removeprefix("error: ")
    short = said if len(said) <= _REASON else said[: _REASON - 1] + "…"
    return ", ".join(filter(None, ["withdrawn" if version.get("withdrawn") else "", short])) or "-"


def age(created: Any, now: float) -> str:
    """Say how long ago something was."""
    return span(max(0.0, now - created)) if isinstance(created, int | float) else "-"


def version_row(version: Document, now: float) -> list[str]:
    """Return the cells of a version's line, in the order of VERSION_COLUMNS."""
    containers = version.get("running", version.get("containers"))
    return [
        str(version.get("version")),
        str(version.get("state")),
        age(version.get("created"), now),
        cell(version.get("size"), "size"),
        named_by(version),
        running(containers),
        places(version),
        why(version),
    ]


VERSION_COLUMNS = ("version", "state", "age", "size", "named by", "containers", "code in", "note")


def clock(at: float | None = None) -> str:
    """Write a time of the day."""
    return time.strftime("%H:%M:%S", time.localtime(at))
