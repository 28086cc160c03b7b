"""How a run is told to its caller: outcome and evidence from the answer, the counters and the process's end.

What the container says of itself is believed only where a lie harms nobody but its owner. Time, processor time and
limits are read outside it.
"""

from __future__ import annotations

import builtins
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from pyfaas.calls import Result
from pyfaas.errors import Code
from pyfaas.model import Outcome, Version
from pyfaas.ports import Clock
from pyfaas.service.journal import Journal
from pyfaas.service.lane import CODE, Call
from pyfaas.service.metering import Meter
from pyfaas.service.sealing import is_refusal_of_parameters
from pyfaas.service.session import OUTCOME_OF_FATE, OUTCOME_OF_STATUS, Doom, Session
from sandbox.spec import Ending, Fate
from sandbox.wire import Answer

_OOM_TAKES_S = 0.005  # filling a container's memory takes longer: shorter runs are not asked about
_CUT = b"\n... (log cut at the limit)\n"
_FRAME = re.compile(rf'  File "{CODE}/([A-Za-z0-9_./-]{{1,80}}\.py)", line ([1-9][0-9]{{0,5}}), ')
_EXCEPTIONS = frozenset(name for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, BaseException))


class Finisher:
    """Makes results, and the usage and log rows beside them."""

    def __init__(self, journal: Journal, clock: Clock) -> None:
        """Write rows to `journal`."""
        self._journal, self._clock = journal, clock
        self.meter = Meter(journal, clock)
        self.lines: Callable[[str, str], int] = lambda _code_id, _path: 0  # how many a file of a version has

    def result(
        self, session: Session, call: Call, answer: Answer | None, rest: bytes, ending: Ending | None, now: float
    ) -> Result:
        """Make the result of a call that ran, from its answer or from its container's end."""
        result = Result(id=call.id, outcome=Outcome.OK, requested=call.requested, executed=session.lane.version.number)
        result.queue_s = call.started - call.submitted - call.init_s
        result.init_s = call.init_s
        result.vm, result.container, result.why = session.slot.vm, session.slot.id, call.why
        if answer is not None:
            result.exec_s = answer.micros / 1e6
            out, err = self._answered(result, answer, rest, session)
            if result.outcome is Outcome.OK and now - call.started > _OOM_TAKES_S:
                self._check_oom(result, session)
        else:
            result.exec_s = now - call.started
            out = err = b""
            self._ended(result, session, ending)
        if out or err or session.logs:
            self._logs(session, call, out, err)
        self.meter.call_ended(session, call, result, now, is_gone=ending is not None)
        return result

    def _answered(self, result: Result, answer: Answer, rest: bytes, session: Session) -> tuple[bytes, bytes]:
        result.outcome, result.kind = OUTCOME_OF_STATUS.get(answer.status, (Outcome.CRASHED, "none"))
        at = answer.out_length + answer.err_length
        result.body = rest[at:] if at else rest
        if result.outcome is not Outcome.OK:
            self._failed(result, answer, session)
        elif len(result.body) > session.lane.output_limit:
            _limit(result, "output", session.lane.output_limit, len(result.body))
        elif result.kind == "http":
            _split_http(result)
        return rest[: answer.out_length], rest[answer.out_length : at]

    def _failed(self, result: Result, answer: Answer, session: Session) -> None:
        """Overrule the container's word where a counter of its leaf says more."""
        error = _object(result.body)
        if self._check_oom(result, session):
            return
        usage = session.box.usage()
        if usage.pids_refused > session.pids_refused and result.outcome is Outcome.ERROR:
            session.pids_refused = usage.pids_refused
            _limit(result, "pids", session.lane.limits.pids, session.lane.limits.pids)
            result.message += f" ({error.get('errorType', '')}: {error.get('errorMessage', '')})"
        elif result.outcome is Outcome.LIMIT:
            _limit(result, str(error.get("limit", "output")), error.get("value"), error.get("observed"))
        elif result.outcome is Outcome.REJECTED:
            result.code, result.message = Code.INVALID_EVENT, str(error.get("errorMessage", "the event does not fit"))
            result.body = b""
            result.is_callers_word = session.lane.way is not None and is_refusal_of_parameters(session.lane.way.layers, result.message)
        elif result.outcome is Outcome.TIMEOUT:
            result.message, result.body = "the deadline had passed before the code could start", b""
        elif result.outcome is Outcome.CANCELLED:
            result.message, result.body = "the call was cancelled", b""
        elif result.outcome is Outcome.ERROR:
            result.body = _with_id(error, result.id)
            if session.lane.way is not None and not session.lane.way.is_own:
                self._tell_owner(session, error)

    def _check_oom(self, result: Result, session: Session) -> bool:
        """On v1 the kernel ends one process of a container that is over its memory: the whole of it goes, and says so."""
        usage = session.box.usage()
        if usage.oom_kills <= session.ooms:
            return False
        session.ooms = usage.oom_kills
        _oom(result, session, usage.memory_peak_bytes)
        session.end(Doom(Outcome.OOM, "a process of the container was killed"))
        return True

    def _ended(self, result: Result, session: Session, ending: Ending | None) -> None:
        doom = session.doom
        if ending is not None and ending.fate is Fate.OOM and doom is None:
            _oom(result, session, int(ending.evidence.get("memory_peak_bytes", 0)))
        elif doom is not None:
            result.outcome, result.message, result.evidence = doom.outcome, doom.message, doom.evidence
        elif ending is not None:
            result.outcome = OUTCOME_OF_FATE[ending.fate]
            result.evidence = {**ending.evidence, "signal": ending.signal, "status": ending.status}
            result.message = _told(ending)
        else:
            result.outcome, result.message = Outcome.LOST, "the container did not end when it was told to"

    # ---- loading

    def init_done(self, session: Session, took_s: float) -> None:
        """Note what an import wrote and used."""
        version, way = session.lane.version, session.lane.way
        if way is None or way.is_own:  # what a lent import prints is nobody's: it may have seen the caller's parameters before
            for out, err in session.logs:
                self._journal.text(self._clock.now(), version.function, version.number, None, "out", out)
                self._journal.text(self._clock.now(), version.function, version.number, None, "err", err)
        session.logs = []
        self.meter.loaded(session, took_s)

    def init_failed(self, call: Call, error: Mapping[str, Any], took_s: float) -> Result:
        """Make the result of a call whose code could not be loaded."""
        result = Result(id=call.id, outcome=Outcome.INIT_ERROR, kind="error", requested=call.requested, executed=call.executed)
        result.body, result.init_s = _with_id(error, call.id), took_s
        return _unrun(call, result)

    def died_loading(self, session: Session, call: Call, ending: Ending, now: float) -> Result:
        """Make the result of a call whose container ended while it imported."""
        result = Result(id=call.id, outcome=Outcome.INIT_ERROR, requested=call.requested, executed=call.executed)
        self._ended(result, session, ending)
        result.init_s = now - session.slot.since
        if result.outcome in (Outcome.CRASHED, Outcome.TIMEOUT):
            result.evidence = {**result.evidence, "while": "import"}
            result.outcome = Outcome.INIT_ERROR
        return _unrun(call, result)

    def version_failed(self, call: Call, version: Version) -> Result:
        """Make the result of a call that names a version whose preparation failed."""
        reason = version.reason
        error = {
            "errorType": reason.code if reason else "failed",
            "errorMessage": reason.message if reason else "the version could not be prepared",
            "stackTrace": [],
        }
        result = Result(id=call.id, outcome=Outcome.INIT_ERROR, kind="error", requested=call.requested, executed=version.number)
        result.body = _with_id(error, call.id)
        return _unrun(call, result)

    # ---- rows

    def _logs(self, session: Session, call: Call, out: bytes, err: bytes) -> None:
        """Keep what a run wrote, for whoever may read it."""
        lane, limit, home = session.lane, session.lane.log_limit, call.log
        written = (b"".join(o for o, _ in session.logs) + out, b"".join(e for _, e in session.logs) + err)
        session.logs = []
        if home is None:
            return
        number = lane.version.number if home == lane.version.function else 0  # which version an owner has is not the caller's
        for stream, text in zip(("out", "err"), written, strict=True):
            kept = text if len(text) <= limit else text[:limit] + _CUT
            if kept:
                self._journal.text(self._clock.now(), home, number, call.id, stream, kept)

    def _tell_owner(self, session: Session, error: Mapping[str, Any]) -> None:
        """Tell the owner of a lent function that a run of it failed: by what kind of exception and where, and nothing that was in it."""
        version = session.lane.version
        place = self._place(version, error.get("stackTrace"))
        line = f"a lent run failed: {shown_type(error.get('errorType'))}{place}"
        self._journal.text(self._clock.now(), version.function, version.number, None, "platform", line.encode())

    def _place(self, version: Version, stack: object) -> str:
        """Return where an exception came from, as long as the owner's bundle has such a line: a frame may be made up of what a run has read."""
        frames = stack if isinstance(stack, list) else []
        for frame in frames:
            found = _FRAME.match(frame) if isinstance(frame, str) else None
            if found is not None:
                path, number = found[1], int(found[2])
                return f" at {path}:{number}" if number <= self.lines(version.code_id, path) else ""
        return ""


def refused(call: Call, code: Code, message: str, hint: str = "", retry_after: float | None = 1.0) -> Result:
    """Make the result of a call that was accepted and then could not be run."""
    result = Result(id=call.id, outcome=Outcome.REJECTED, code=code, message=message, hint=hint, retry_after=retry_after)
    result.requested = call.requested
    return _unrun(call, result)


def plain(call: Call, outcome: Outcome, message: str, evidence: Mapping[str, Any] | None = None) -> Result:
    """Make the result of a call that ended without having run."""
    return _unrun(call, Result(id=call.id, outcome=outcome, message=message, evidence=evidence or {}, requested=call.requested))


def _unrun(call: Call, result: Result) -> Result:
    """Count a call that ends without a usage row."""
    call.dispatcher.unrun[result.outcome] += 1
    return result


def _told(ending: Ending) -> str:
    if ending.fate is Fate.FORBIDDEN_SYSCALL:
        return "the code made a system call that is forbidden here"
    if ending.fate is Fate.SIGNALLED:
        return f"the process was killed by signal {ending.signal}"
    if ending.fate is Fate.EXITED:
        return f"the process left with status {ending.status} before it answered"
    return "the platform lost the container"


def _oom(result: Result, session: Session, peak: int) -> None:
    result.outcome, result.kind, result.body = Outcome.OOM, "none", b""
    result.message = "the run needed more memory than its version has"
    result.hint = "raise memory in pyfaas.toml"
    result.evidence = {"limit": "memory", "value": session.lane.memory, "observed": peak, "unit": "bytes"}


def _limit(result: Result, name: str, value: Any, observed: Any) -> None:
    result.outcome, result.kind, result.body = Outcome.LIMIT, "none", b""
    result.message = f"the run reached its limit of {name}"
    result.evidence = {"limit": name, "value": value, "observed": observed}


def shown_type(name: object) -> str:
    """Return an exception's type as another account may see it: a class of the code's own could be named after what it has read."""
    return name if isinstance(name, str) and name in _EXCEPTIONS else "Exception"


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _with_id(error: Mapping[str, Any], call_id: str) -> bytes:
    shown = {key: error.get(key, default) for key, default in (("errorType", "Error"), ("errorMessage", ""), ("stackTrace", []))}
    return json.dumps({**shown, "invocationId": call_id}).encode()


def _split_http(result: Result) -> None:
    """Split a whole HTTP answer: four length bytes, a JSON head, the body."""
    length = int.from_bytes(result.body[:4], "little")
    head = _object(result.body[4 : 4 + length])
    result.http = {"status": head.get("status", 200), "headers": head.get("headers", [])}
    result.body = result.body[4 + length :]
