"""An open load: so many requests a second at planned times, whatever comes back, from a process of its own.

A closed load, which sends when it has its answer, asks nothing while a server stands still, and so does not see it
(coordinated omission). Here each latency counts from the time at which the request was *planned*: a server that stands still for
a second costs every request of that second. The times are those of independent callers (a Poisson process), so that some
requests meet in any second, as they do in life; evenly spaced ones never would. What the load itself was late is kept beside it. A failure is an
answer like any other, not the load's end: a deploy is judged by them.

`Steady` starts the process (`python -m benchmarks.steady`), which begins with its order, a line of JSON, and ends with its
standard input, telling what it saw. Times are seconds of CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import random
import selectors
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any, Self

from benchmarks.load import begun

_CONNECTIONS = 400  # at most, at once; select(2) takes 1,024 descriptors
_PATIENCE_S = 10.0  # for answers that are outstanding at the end
_SEED = 1  # every load of a rate is the same one
_END = b"\r\n\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to send where, and how often. `head` and `body` make the request."""

    host: str
    port: int
    head: str
    body: str
    rate: float  # requests/s


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of one request. `status` is 0 when no answer came; `why` then says what happened.

    `requested` and `executed` are what the answer's head says, `ran` what the code that ran says of itself; 0 when nothing.
    """

    planned: float
    sent: float
    done: float
    status: int
    requested: int = 0
    executed: int = 0
    ran: int = 0
    why: str = ""

    @property
    def latency_ms(self) -> float:
        """Milliseconds from the planned time to the answer."""
        return (self.done - self.planned) * 1e3

    @property
    def late_ms(self) -> float:
        """Milliseconds that the load itself was late in sending it."""
        return (self.sent - self.planned) * 1e3

    @property
    def is_good(self) -> bool:
        """Whether it is an answer of the function."""
        return self.status == 200


class Steady:
    """The load's process; a context manager. It sends from its start until `stop`."""

    def __init__(self, plan: Plan) -> None:
        """Start it."""
        self._process = process = begun("benchmarks.steady")
        assert process.stdin
        assert process.stdout
        self._down, self._up = process.stdin, process.stdout
        self._down.write(json.dumps(asdict(plan)) + "\n")
        self._down.flush()
        self._up.readline()  # it has begun

    def stop(self) -> list[Answer]:
        """End it; returns all answers in the order of their planned times. Raises RuntimeError when the load itself failed."""
        self._down.close()
        told = self._up.readline()
        if not told:
            raise RuntimeError("the load's process ended without a word")
        return [Answer(**row) for row in json.loads(told)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._down.close()
        try:
            self._process.wait(_PATIENCE_S + 5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._up.close()


# ---- in its process


class Asked:
    """A request under way."""

    __slots__ = ("planned", "sent")

    def __init__(self, planned: float) -> None:
        """Know when it was to be sent."""
        self.planned = planned
        self.sent = 0.0


class _Line(asyncio.Protocol):
    """A keep-alive connection with at most one request under way."""

    def __init__(self, load: _Load, first: Asked) -> None:
        """Send a first request once it is open."""
        self._load, self._asked = load, first
        self._kept = b""
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._load.lines.add(self)
        self.send(self._asked)

    def close(self) -> None:
        """Close it."""
        self._transport.abort()

    def send(self, asked: Asked) -> None:
        """Send a request."""
        self._asked, asked.sent = asked, time.monotonic()
        self._transport.write(self._load.request)

    def data_received(self, data: bytes) -> None:
        self._kept += data
        told = parse(self._kept)
        if told is None:
            return
        asked, self._asked, self._kept = self._asked, None, b""
        self._load.answered(asked, told)
        if told.get("closes"):
            self._transport.abort()
        else:
            self._load.take_back(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.lost(self)
        if self._asked is not None:
            self._load.failed(self._asked, f"the connection was closed: {exc or 'without an answer'}")
            self._asked = None


class _Load:
    """What the connections share: the plan, those that are free, and what was seen."""

    def __init__(self, plan: Plan) -> None:
        """Begin with nothing."""
        self.plan, self.request = plan, (plan.head + plan.body).encode()
        self.seen: list[dict[str, Any]] = []
        self.open = 0
        self.lines: set[_Line] = set()
        self._free: list[_Line] = []
        self._held: list[Asked] = []  # wait for one of at most _CONNECTIONS
        self._tasks: set[asyncio.Task[None]] = set()
        self._under_way: dict[Asked, None] = {}

    def ask(self, planned: float) -> None:
        """Send a request over a free connection, or a new one."""
        asked = Asked(planned)
        self._under_way[asked] = None
        if self._free:
            self._free.pop().send(asked)
        elif self.open < _CONNECTIONS:
            self._connect(asked)
        else:
            self._held.append(asked)

    def _connect(self, asked: Asked) -> None:
        self.open += 1
        task = asyncio.get_running_loop().create_task(self._opened(asked))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _opened(self, asked: Asked) -> None:
        asked.sent = time.monotonic()
        try:
            await asyncio.get_running_loop().create_connection(lambda: _Line(self, asked), self.plan.host, self.plan.port)
        except OSError as error:
            self.open -= 1
            self.failed(asked, f"no connection: {os.strerror(error.errno) if error.errno else error}")

    def take_back(self, line: _Line) -> None:
        """Take a connection back, or use it at once."""
        if self._held:
            line.send(self._held.pop(0))
        else:
            self._free.append(line)

    def lost(self, line: _Line) -> None:
        """Forget a connection that was closed."""
        self.open -= 1
        self.lines.discard(line)
        if line in self._free:
            self._free.remove(line)
        if self._held:
            self._connect(self._held.pop(0))

    def answered(self, asked: Asked, told: dict[str, Any]) -> None:
        """Keep an answer."""
        told.pop("closes", None)
        self._keep(asked, **told)

    def failed(self, asked: Asked, why: str) -> None:
        """Keep that none came."""
        self._keep(asked, status=0, why=why)

    def _keep(self, asked: Asked, **told: Any) -> None:
        if asked not in self._under_way:
            return  # it was given up
        del self._under_way[asked]
        self.seen.append({"planned": asked.planned, "sent": asked.sent or asked.planned, "done": time.monotonic(), **told})

    async def run(self, stopped: asyncio.Event) -> None:
        """Ask at the planned times until stopped, then wait for what is outstanding."""
        planned, chance = time.monotonic(), random.Random(_SEED)
        while not stopped.is_set():
            if (wait := planned - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            self.ask(planned)
            planned += chance.expovariate(self.plan.rate)
        until = time.monotonic() + _PATIENCE_S
        while self._under_way and time.monotonic() < until:  # noqa: ASYNC110 - the last of many requests, not one event
            await asyncio.sleep(0.02)
        for asked in list(self._under_way):
            self.failed(asked, f"no answer in the {_PATIENCE_S:g} s after the load")
        for line in self.lines:
            line.close()
        while self.open:  # noqa: ASYNC110 - likewise
            await asyncio.sleep(0)


def parse(data: bytes) -> dict[str, Any] | None:
    """Return what an answer says, None while it is incomplete."""
    end = data.find(_END)
    if end < 0:
        return None
    lines = data[:end].decode("latin-1").split("\r\n")
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    body = data[end + len(_END) :]
    if len(body) < int(fields.get("content-length", 0)):
        return None
    status = int(lines[0].split()[1])
    versions = {name: _number(fields.get(f"pyfaas-{name}-version")) for name in ("requested", "executed")}
    return {
        "status": status,
        **versions,
        "ran": _ran(body),
        "why": "" if status == 200 else f"{status}: {body[:200].decode(errors='replace')}",
        "closes": fields.get("connection", "").lower() == "close",
    }


def _number(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 0


def _ran(body: bytes) -> int:
    try:
        value = json.loads(body)
    except ValueError:
        return 0
    return int(value.get("version", 0)) if isinstance(value, dict) else 0


async def _main(plan: Plan) -> list[dict[str, Any]]:
    load, stopped = _Load(plan), asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), stopped.set)  # readable at its end
    await load.run(stopped)
    return sorted(load.seen, key=lambda row: row["planned"])


def main() -> None:
    """Carry out one plan."""
    plan = Plan(**json.loads(sys.stdin.readline()))
    gc.disable()  # a collection would be measured as a latency
    print("begun", flush=True)
    # select(2) waits for microseconds; epoll(7) as asyncio and uvloop use it for whole milliseconds.
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    rows = loop.run_until_complete(_main(plan))
    with open(1, "w", closefd=False) as out:
        out.write(json.dumps(rows) + "\n")


if __name__ == "__main__":
    main()
