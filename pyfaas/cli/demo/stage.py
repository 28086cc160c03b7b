"""What the demo's steps share: the server's URL, a client for each account, the examples; and how each step is told."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyfaas.cli import console
from pyfaas.cli.demo.store import Store
from pyfaas.cli.options import Globals, Output
from pyfaas.client.aio import AsyncClient
from pyfaas.client.errors import Error


@dataclass(slots=True)
class Report:
    """Prints a line for each step as it ends, and remembers them."""

    options: Globals
    steps: list[dict[str, Any]] = field(default_factory=list)
    start: float = field(default_factory=time.perf_counter)

    @property
    def failed(self) -> int:
        """How many steps failed."""
        return sum(not step["ok"] for step in self.steps)

    async def step(self, name: str, work: Callable[[], Awaitable[str]]) -> bool:
        """Do a step and tell what it saw and how long it took; returns whether it worked."""
        began = time.perf_counter()
        try:
            seen, ok = await work(), True
        except (Error, StepFailed, OSError) as error:
            seen, ok = f"{type(error).__name__}: {error}", False
        took = (time.perf_counter() - began) * 1000
        self.steps.append({"step": name, "ok": ok, "ms": round(took, 1), "seen": seen})
        if self.options.output is Output.TABLE:
            console.out(f"{'ok' if ok else 'FAILED':<6} {took:>8.0f} ms  {name:<22} {seen}")
        return ok

    def end(self) -> None:
        """Tell the sum."""
        took = time.perf_counter() - self.start
        if self.options.output is not Output.TABLE:
            console.show_list(self.options, self.steps, ())
        else:
            console.out(f"{len(self.steps)} steps, {self.failed} failed, {took:.1f} s")


class StepFailed(Exception):
    """A step saw something else than it should."""


def check(fact: object, seen: object) -> None:
    """Raise StepFailed with what was seen, unless the fact holds."""
    if not fact:
        raise StepFailed(str(seen)[:300])


@dataclass(slots=True)
class Stage:
    """What the steps share."""

    report: Report
    examples: Path
    place: Path
    store: Store  # south's documents
    url: str = ""
    network: tuple[str, ...] = ()  # what leads to the store; nothing where VMs cannot have a network
    clients: dict[str, AsyncClient] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    exits: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    @property
    def north(self) -> AsyncClient:
        """The first account's client."""
        return self.clients["north"]

    @property
    def south(self) -> AsyncClient:
        """The second account's client."""
        return self.clients["south"]

    def photo(self, name: str) -> bytes:
        """Return a photograph."""
        return (self.examples / "photos" / f"{name}.jpg").read_bytes()

    @property
    def table(self) -> str:
        """Return a table."""
        return (self.examples / "tables" / "penguins.csv").read_text()
