"""What comes back from a worker: exceptions as the caller meets them, and what a call used.

A built-in exception comes back by its name, made from arguments that are data; any other is a `RemoteError` that tells its
type, message and traceback as text. Nothing here runs code of the worker's. What leaves an interpreter, SystemExit and
KeyboardInterrupt, does not come back as itself: a call must not end its caller.
"""

from __future__ import annotations

import builtins
import linecache
import re
import signal
from collections.abc import Collection, Mapping
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool, _RemoteTraceback
from dataclasses import dataclass
from typing import Any

from sandbox import values
from sandbox.errors import SandboxError
from sandbox.spec import Ending, Fate

_FRAME = re.compile(r'( *)File "([^"\n]+)", line (\d+), in .*')
_HINT = "return built-in values, or, where the code that runs is your own, ask for trust_results=True"


class RemoteError(SandboxError):
    """A call failed in its worker, by an exception that is not built in, or with its worker.

    `error_type` is the exception's name with its module, `message` what it said, `traceback` the worker's, as text; all
    three are the worker's word.
    """

    def __init__(self, error_type: str, message: str, traceback: str = "") -> None:
        """Keep what was told."""
        self.error_type, self.message, self.traceback = error_type, message, traceback
        super().__init__(f"{error_type}: {message}" if message else error_type)

    def __reduce__(self) -> tuple[Any, ...]:
        """Let it be pickled: it may pass through another executor."""
        return type(self), (self.error_type, self.message, self.traceback)


class WorkerDied(RemoteError, BrokenProcessPool):
    """The worker ended under its call; `ending` has the evidence. Only this call failed, and the next has a new worker.

    It is a BrokenProcessPool too, so that code which was written for ProcessPoolExecutor catches it.
    """

    def __init__(self, message: str, ending: Ending) -> None:
        """Keep how it ended."""
        self.ending = ending
        super().__init__("WorkerDied", message)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.ending)


class LimitExceeded(RemoteError):
    """A call met a limit; `limit` names it as `Limits` does: memory, timeout, pids or payload. `ending`: how its worker ended, if it did."""

    def __init__(self, limit: str, message: str, ending: Ending | None = None) -> None:
        """Keep the limit's name."""
        self.limit, self.ending = limit, ending
        super().__init__("LimitExceeded", message)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.limit, self.message, self.ending)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskUsage:
    """What a call used, read outside of its worker.

    `wall_s` from the moment that a worker got it; `cpu_s` of the worker and all its processes meanwhile;
    `memory_peak_bytes` is the worker's highest since it began: with max_tasks_per_child=1 it is the call's own.
    Without cgroups the last two are 0.
    """

    wall_s: float
    cpu_s: float
    memory_peak_bytes: int


class SandboxFuture(Future[Any]):
    """A future that also knows what its call used: `usage` is a TaskUsage once the call has ended, else None."""

    usage: TaskUsage | None = None


def failure(body: bytes, sources: Collection[str] = ()) -> Exception:
    """Make the exception that a worker told of; raises BrokenValue when it told nonsense.

    `sources` are files of the caller's whose lines may be shown in the traceback.
    """
    told = values.decode(body)
    if not isinstance(told, dict):
        raise values.BrokenValue("no exception was told")
    text = with_lines(str(told.get("traceback", "")), sources)
    name = ".".join(str(told.get(key, "")) for key in ("module", "type")).removeprefix("builtins.")
    error = _by_name(told) or RemoteError(_told_type(name), _told_message(name, str(told.get("message", ""))), text)
    notes = told.get("notes")
    for note in notes if isinstance(notes, list) else ():
        error.add_note(str(note))
    error.__cause__ = _RemoteTraceback(f'\n"""\n{text}"""')  # type: ignore[arg-type]  # text is what it takes
    return error


def died(ending: Ending, limits: Mapping[str, object], overrun: str = "") -> RemoteError:
    """Say how a worker's end came about; `overrun` is why we ended it: a limit, or `protocol`."""
    if overrun == "timeout":
        return LimitExceeded(overrun, f"the call did not end within {limits['timeout']} s", ending)
    if overrun == "payload":
        return LimitExceeded(overrun, f"the result is larger than {limits['payload']} bytes", ending)
    if overrun == "memory" or ending.fate is Fate.OOM:
        return LimitExceeded("memory", f"the worker used more than {limits['memory']} bytes", ending)
    reasons = {
        Fate.EXITED: f"the worker exited with status {ending.status}",
        Fate.FORBIDDEN_SYSCALL: "the worker made a system call that has no innocent use",
        Fate.SIGNALLED: f"the worker was ended by {_signal(ending.signal)}",
        Fate.KILLED: "the worker was ended" + (": it sent what it must not send" if overrun else " with its executor"),
        Fate.LOST: "the launcher of the workers was ended",
    }
    return WorkerDied(reasons[ending.fate], ending)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _told_type(name: str) -> str:
    return "TypeError" if name == "sandbox.values.NoForm" else name


def _told_message(name: str, message: str) -> str:
    return f"the result cannot come back: {message}; {_HINT}" if name == "sandbox.values.NoForm" else message


def _by_name(told: dict[str, Any]) -> Exception | None:
    """Return a built-in exception, or None for whatever else, or arguments that it does not take."""
    arguments, names = told.get("arguments"), told.get("names")
    kind = getattr(builtins, str(told.get("type")), None) if told.get("module") == "builtins" else None
    if not isinstance(kind, type) or not issubclass(kind, Exception) or not isinstance(arguments, tuple):
        return None
    try:
        error: Exception = kind(*arguments)
    except (TypeError, ValueError, LookupError, ArithmeticError):
        return None
    if isinstance(error, (ImportError, NameError, AttributeError)) and isinstance(names, dict):
        for name in names.keys() & {"name", "path"}:
            setattr(error, name, str(names[name]))
    return error


def with_lines(text: str, sources: Collection[str]) -> str:
    """Show the lines of the caller's own files in a traceback: the worker, where it was written, does not have them.

    Only files of which code was sent are opened: the text is the worker's, and could name any.
    """
    lines = text.split("\n")
    shown = []
    for number, line in enumerate(lines):
        shown.append(line)
        found = _FRAME.fullmatch(line)
        if found is None or found[2] not in sources:
            continue
        following = lines[number + 1] if number + 1 < len(lines) else ""
        source = linecache.getline(found[2], int(found[3][:9])).strip()
        if source and not following.startswith(found[1] + "  "):
            shown.append(f"{found[1]}  {source}")
    return "\n".join(shown)
