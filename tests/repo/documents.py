"""The tables of the documents that are made from the code; run as a program it writes them in their places.

`python -m tests.repo.documents` from the repository's root.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any

from tests.repo.source import ROOT

_BLOCK = re.compile(r"<!-- made: ([a-z-]+) -->\n(.*?)<!-- end -->", re.DOTALL)


def blocks(path: str) -> dict[str, str]:
    """Return the made tables of a document, by name."""
    return {name: text.strip() for name, text in _BLOCK.findall((ROOT / path).read_text())}


def step_table(steps: Iterable[tuple[Any, Callable[..., Any]]]) -> str:
    """Return the steps with what they do, in order."""
    lines = [f"{number}. `{step.value}`: {_first(work)}" for number, (step, work) in enumerate(steps, 1)]
    return "\n".join(lines)


def route_table(routes: Iterable[Any]) -> str:
    """Return the routes with the scope that each asks for."""
    lines = [f"| `{r.method} {r.path}` | {r.scope.value if r.scope else 'none'} |" for r in routes]
    return "\n".join(["| request | scope |", "|---|---|", *lines])


def option_table(config: type) -> str:
    """Return the server's options with their defaults."""
    lines = [f"| `{f.name}` | `{f.default!r}` | {f.metadata['help']} |" for f in fields(config)]
    return "\n".join(["| option | default | meaning |", "|---|---|---|", *lines])


def _first(work: Callable[..., Any]) -> str:
    return (work.__doc__ or "").strip().splitlines()[0]


def main() -> None:
    """Write the tables where they belong."""
    from pyfaas.config import Config  # noqa: PLC0415 - a program's own needs
    from pyfaas.web.routes import ROUTES  # noqa: PLC0415 - likewise
    from sandbox.launcher.confine import CONTAINER_STEPS, VM_STEPS  # noqa: PLC0415 - likewise

    made = {
        "vm-steps": step_table(VM_STEPS),
        "container-steps": step_table(CONTAINER_STEPS),
        "routes": route_table(ROUTES),
        "options": option_table(Config),
    }
    for name in ("pyfaas/README.md", "sandbox/README.md"):
        path = ROOT / name
        text = _BLOCK.sub(lambda m: f"<!-- made: {m[1]} -->\n{made[m[1]]}\n<!-- end -->", path.read_text())
        path.write_text(text)


if __name__ == "__main__":
    main()
