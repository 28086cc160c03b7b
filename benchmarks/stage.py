"""What a page acts on: a server of its own, baselines beside it, the load's process, and the result to fill in.

Everything that is started here ends here, also when the page fails or the user presses Ctrl-C. A server is measured
only after the host check and the proof of confinement, which go into the page's result.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import urlsplit

from benchmarks import baselines, host, procfs, proof
from benchmarks.figures import spread
from benchmarks.load import Loader, Order, Seen
from benchmarks.result import Result
from benchmarks.targets import Amount, row
from tests.e2e.house import REPOSITORY, House, given_up, running

ECHO = "def handler(event, context):\n    return event"
_SELDOM_S = 2.0
_SERVE = """
import os, sys
sys.path.insert(0, sys.argv[1])
from sandbox import kernel
kernel.set_parent_death_signal(15)
os.execv(sys.executable, [sys.executable, "-m", "pyfaas", *sys.argv[2:]])
"""
BODY = '{"a":1,"text":"hello"}'  # as json.dumps of the container writes it: the answer has the same length


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Something that answers calls: where, with which head, and the process that it started from."""

    name: str
    pid: int
    host: str
    port: int
    path: str
    token: str = ""

    def order(self, *, body: str = BODY, zeros: int = 0, kind: str = "application/json", **how: Any) -> Order:
        """Return an order of calls that echo a body, or that many zero bytes."""
        size = zeros or len(body)
        lines = [f"POST {self.path} HTTP/1.1", "Host: localhost", f"Content-Type: {kind}", f"Content-Length: {size}"]
        if self.token:
            lines.append(f"Authorization: Bearer {self.token}")
        head = "\r\n".join([*lines, "", ""])
        return Order(host=self.host, port=self.port, head=head, body="" if zeros else body, body_bytes=zeros, size=size, **how)

    def cpu_seconds(self) -> float:
        """Return the processor time of all its processes so far."""
        return procfs.cpu_seconds(procfs.descendants(self.pid))


@dataclass(slots=True, kw_only=True)
class Stage:
    """A page's surroundings."""

    quick: bool
    folder: Path
    loader: Loader
    result: Result
    open: ExitStack
    tell: Callable[[str], None]
    _servers: int = field(default=0)

    def pick(self, quick: Any, full: Any) -> Any:
        """Return a count by whether the run is a quick one."""
        return quick if self.quick else full

    def server(self, *options: str, data: Path | None = None, env: Mapping[str, str] | None = None) -> House:
        """Start a server, check the host and prove the confinement; it ends with the page."""
        self._servers += 1
        self.tell("starting a server")
        data = data or self.folder / f"data{self._servers}"
        house = self.open.enter_context(serving(data, *options, env=env))
        layers = house.call("GET", "/readyz", token=None).json["layers"]
        self.result.host = host.check(house.isolation, layers)
        self.result.proof = proof.prove(house, self.folder)
        return house

    def stop(self, house: House) -> None:
        """Stop a server before the page's end, so that it takes no processor from what comes next."""
        self.tell("stopping a server")
        house.stop()

    def deploy(self, house: House, name: str, source: str | Mapping[str, str | bytes] = ECHO, *, token: str = "default", **config: Any) -> None:  # noqa: S107
        """Deploy a function; raises RuntimeError when it does not become ready."""
        answer = house.deploy(name, source, token=token, **config)
        if answer.status != 200 or answer.json.get("state") != "ready":
            raise RuntimeError(f"{name} is not ready: {answer.body.decode()[:500]}")

    def function(self, house: House, name: str = "echo", *, token: str = "default") -> Peer:  # noqa: S107
        """Return a deployed function as something to call."""
        at, path = urlsplit(house.url), f"/v1/functions/{name}/invoke"
        return Peer(name="pyfaas", pid=house.process.pid, host=str(at.hostname), port=int(at.port or 0), path=path, token=house.token(token))

    def peer(self, name: str, start: Callable[[], contextlib.AbstractContextManager[tuple[int, int]]]) -> Peer | None:
        """Start a baseline that serves; None, and its reason in the result, when it cannot run here."""
        self.tell(f"starting {name}")
        try:
            pid, port = self.open.enter_context(start())
        except baselines.Missing as missing:
            self.result.missing[name] = str(missing)
            return None
        return Peer(name=name, pid=pid, host="127.0.0.1", port=port, path="/echo")

    def run(self, order: Order) -> Seen:
        """Let the load's process carry out an order."""
        return self.loader.run(order)

    def row(self, key: str, ratios: Sequence[float], ours: tuple[str, Sequence[float]], baseline: tuple[str, str, Sequence[float]]) -> None:
        """Add a figure with its promise, and keep its baseline."""
        made = row(key, ratios, ours, baseline)
        self.result.rows.append(made)
        self.baseline(f"{made.baseline.name}, {made.baseline.unit}", made.baseline)

    def baseline(self, name: str, amount: Amount) -> None:
        """Keep a baseline's figure: it is in every result, and tells how noisy the run was."""
        self.result.baselines[name] = amount

    def amount(self, name: str, unit: str, values: Sequence[float]) -> Amount:
        """Return values of a unit as an amount."""
        return Amount(name=name, unit=unit, spread=spread(values))


def serving(data: Path, *options: str, env: Mapping[str, str] | None = None) -> contextlib.AbstractContextManager[House]:
    """Run `pyfaas serve` over a data directory; it stops with the context, and with the harness however that ends."""
    command = [sys.executable, "-c", _SERVE, str(REPOSITORY), "serve", "--port", "0", "--data-dir", str(data), *given_up(), *options]
    return running(command, data, env)


def run_page(name: str, *, quick: bool, tell: Callable[[str], None]) -> Result:
    """Run a page; returns its result. Raises what made it impossible, when everything it started has ended."""
    page = importlib.import_module(f"benchmarks.pages.{name}")
    result = Result(page=name, title=page.TITLE, says=page.SAYS, quick=quick)
    began = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pyfaas-bench-", ignore_cleanup_errors=True)))
        folder.chmod(0o755)  # the server of root's keeper is another user
        loader = stack.enter_context(Loader())
        page.run(Stage(quick=quick, folder=folder, loader=loader, result=result, open=stack, tell=lambda text: tell(f"{name}: {text}")))
    result.seconds = round(time.monotonic() - began, 1)
    result.at = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return result


def progress(stream: TextIO = sys.stderr) -> Callable[[str], None]:
    """Return what tells of progress: a line that is written over on a terminal; elsewhere a line every few seconds."""
    began = time.monotonic()
    told = -_SELDOM_S

    def tell(text: str) -> None:
        nonlocal told
        since = time.monotonic() - began
        line = f"[{since:5.0f} s] {text}"
        if stream.isatty():
            width = os.get_terminal_size(stream.fileno()).columns - 1
            stream.write("\r" + line[:width].ljust(width))
        elif since - told >= _SELDOM_S:
            told = since
            stream.write(line + "\n")
        stream.flush()

    return tell


def accounts(house: House, count: int) -> list[str]:
    """Make accounts; returns their names, by which `house.token` knows their tokens."""
    return [house.account(f"account{number}") for number in range(count)]


def deploy_all(stage: Stage, house: House, wanted: Sequence[tuple[str, str]], source: str = ECHO) -> None:
    """Deploy functions (name, account's name), without waiting for one before the next is sent; waits for all."""
    sent = []
    for number, (name, token) in enumerate(wanted):
        if number % 50 == 0:
            stage.tell(f"deploying, {number} of {len(wanted)}")
        answer = house.deploy(name, source, token=token, wait=False)
        if answer.status not in (200, 201, 202):
            raise RuntimeError(f"{name} was refused: {answer.body.decode()[:500]}")
        sent.append((name, token, json.loads(answer.body)["version"]))
    stage.tell("waiting until all versions are ready")
    for name, token, version in sent:
        answer = house.wait(name, version, token=token)
        if answer.json.get("state") != "ready":
            raise RuntimeError(f"{name} is not ready: {answer.body.decode()[:500]}")
