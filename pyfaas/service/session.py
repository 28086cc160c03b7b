"""The server's end of one container: what it was sent, what it may answer, and how its run ended.

Everything read here comes from a hostile process. A packet that does not fit the state (an answer for another id,
a second answer, one longer than announced) ends the container: nobody else can be given its bytes. The functions
on the way of a warm call are `start` and `packet`; they make no task and no future.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pyfaas.model import Outcome
from sandbox.errors import RemoteWireError
from sandbox.spec import Ending, Fate
from sandbox.wire import MAX_PACKET, Answer, Kind, Status, parse_answer

if TYPE_CHECKING:
    from pyfaas.decisions.placement import Slot
    from pyfaas.ports import Container
    from pyfaas.service.lane import Call, Lane

_NO_META = b""
_ANSWER = int(Kind.ANSWER)


class Doom:
    """Why we end a container: the outcome its call gets, with its evidence."""

    __slots__ = ("evidence", "message", "outcome")

    def __init__(self, outcome: Outcome, message: str, evidence: Mapping[str, Any] | None = None) -> None:
        """Name the outcome."""
        self.outcome, self.message, self.evidence = outcome, message, evidence or {}


class Session:
    """One container at work for one lane. `finished` and `loaded` are the dispatcher's."""

    __slots__ = (
        "_finished",
        "_head",
        "_loaded",
        "_rest",
        "_wanted",
        "box",
        "call",
        "cpu_ns",
        "deadline",
        "doom",
        "is_streaming",
        "lane",
        "logs",
        "ooms",
        "pids_refused",
        "promised",
        "slot",
        "state",
        "why",
    )

    def __init__(
        self,
        slot: Slot,
        box: Container,
        lane: Lane,
        loaded: Callable[[Session, Mapping[str, Any] | None, Mapping[str, Any] | None], None],
        finished: Callable[[Session, Answer | None, bytes, Ending | None], None],
    ) -> None:
        """Bind a container to a lane; `loaded(session, ok, error)`, `finished(session, answer, rest, ending)`."""
        self.slot, self.box, self.lane = slot, box, lane
        self._loaded, self._finished = loaded, finished
        self.state = "LOADING"
        self.call: Call | None = None
        self.deadline = 0.0
        self.promised: Call | None = None  # sent with the order, and begun when that is done
        self.doom: Doom | None = None
        self.is_streaming = False
        self.why = ""  # which step of the cascade gave it, until its first call
        self.logs: list[tuple[bytes, bytes]] = []
        self.cpu_ns = self.ooms = self.pids_refused = 0
        self._head: Answer | None = None
        self._rest: list[bytes | memoryview] = []
        self._wanted = 0
        box.on_packet, box.on_end = self.packet, self.ended

    # ---- down

    def start(self, call: Call, deadline: float, now: float, wall: float) -> None:
        """Send a call; `deadline` and `now` are monotonic, `wall` is the epoch's time at `now`."""
        self.begin(call, deadline, now)
        until = wall + (deadline - now)
        self.box.send(call.packets(until))

    def order(self, call: Call | None) -> None:
        """Send the order to load the lane's version, and behind it a call to begin as soon as that is done."""
        packets = [self.lane.load]
        if call is not None:
            self.promised, call.session = call, self
            packets += call.packets(-self.lane.timeout_s)
        self.box.send(packets)

    def begin(self, call: Call, deadline: float, now: float) -> None:
        """Take note that the container runs a call: one that it has."""
        self.call, self.state, self.deadline = call, "BUSY", deadline
        call.session, call.started = self, now

    def withdraw(self, call: Call) -> None:
        """Tell the container that nobody waits for a call any more: its stream is closed, and one not begun never begins."""
        self.box.send((bytes((Kind.CANCEL,)) + call.id.encode(),))

    def end(self, doom: Doom) -> None:
        """End the container; its call, if any, gets the doom's outcome when the process is gone."""
        if self.doom is None:
            self.doom = doom
            self.box.kill()

    def drain_logs(self) -> None:
        """Take what waits in the log pipes, so that a talkative call does not block."""
        out, err = self.box.read_logs()
        if out or err:
            self.logs.append((out, err))

    # ---- up

    def packet(self, packet: bytes) -> None:
        """Take one packet from the container."""
        kind = packet[0] if packet else 0
        try:
            if kind == _ANSWER and self.call is not None and self._head is None:
                answer = parse_answer(packet)
                if answer.id != self.call.id.encode():
                    raise RemoteWireError("an answer for another call")
                if len(answer.rest) == answer.rest_length:
                    self._answered(answer, answer.rest)
                else:
                    self._collect(answer)
            else:
                self._other(kind, packet)
        except RemoteWireError as error:
            self.end(Doom(Outcome.CRASHED, f"the container broke the protocol: {error}", {"protocol": str(error)}))

    def ended(self, ending: Ending) -> None:
        """Take the container's end."""
        self.state = "GONE"
        self._finished(self, None, b"", ending)

    def _answered(self, answer: Answer, rest: bytes) -> None:
        self.state, self._head = "IDLE", None
        self._finished(self, answer, rest, None)

    def _collect(self, answer: Answer) -> None:
        limit = self.lane.output_limit + 2 * self.lane.log_limit + MAX_PACKET
        if answer.rest_length > limit:
            raise RemoteWireError("an answer over every limit")
        self._head, self._rest, self._wanted = answer, [answer.rest], answer.rest_length - len(answer.rest)

    def _other(self, kind: int, packet: bytes) -> None:
        if kind == Kind.PART and self._head is not None:
            self._part(packet)
        elif kind == Kind.ITEM and self.call is not None and self.is_streaming:
            self.call.sink.item(packet[1:])
        elif kind == Kind.HEAD and self.call is not None and not self.is_streaming:
            self.is_streaming = True
            self.call.sink.head(self.call, _json(packet))
        elif kind == Kind.LOADED and self.state == "LOADING":
            self.state = "IDLE"
            self._loaded(self, _json(packet), None)
        elif kind == Kind.FAILED and self.state == "LOADING":
            self.state = "SPENT"
            self._loaded(self, None, _json(packet))
        else:
            raise RemoteWireError(f"packet {kind} in state {self.state}")

    def _part(self, packet: bytes) -> None:
        self._wanted -= len(packet) - 1
        self._rest.append(memoryview(packet)[1:])
        if self._wanted < 0:
            raise RemoteWireError("more parts than announced")
        if self._wanted == 0 and self._head is not None:
            rest, self._rest = b"".join(self._rest), []
            self._answered(self._head, rest)


def _json(packet: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(packet[1:])
    except (ValueError, RecursionError):
        raise RemoteWireError("a packet that should be JSON is not") from None
    if not isinstance(value, dict):
        raise RemoteWireError("a packet's JSON is not an object")
    return value


OUTCOME_OF_STATUS: dict[int, tuple[Outcome, str]] = {
    Status.OK_JSON: (Outcome.OK, "json"),
    Status.OK_BYTES: (Outcome.OK, "bytes"),
    Status.OK_HTTP: (Outcome.OK, "http"),
    Status.OK_STREAM: (Outcome.OK, "stream"),
    Status.ERROR: (Outcome.ERROR, "error"),
    Status.INVALID_EVENT: (Outcome.REJECTED, "none"),
    Status.LIMIT: (Outcome.LIMIT, "none"),
    Status.EXPIRED: (Outcome.TIMEOUT, "none"),
    Status.CANCELLED: (Outcome.CANCELLED, "none"),
}

OUTCOME_OF_FATE: dict[Fate, Outcome] = {
    Fate.OOM: Outcome.OOM,
    Fate.FORBIDDEN_SYSCALL: Outcome.FORBIDDEN_SYSCALL,
    Fate.SIGNALLED: Outcome.CRASHED,
    Fate.EXITED: Outcome.CRASHED,
    Fate.KILLED: Outcome.LOST,
    Fate.LOST: Outcome.LOST,
}
