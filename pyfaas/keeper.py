"""What `pyfaas serve` is: it starts launcher and server, starts again what dies, replaces them, and passes signals on.

It holds the listening socket, so that a new server answers the connections that waited while it started. It reads exit
statuses, signals and a few words from the server, and nothing of any stranger. Who dies with whom: the keeper's children
die with it (PDEATHSIG); the launcher ends when the server does, by a pipe that only the server holds; a launcher that
ends alone is started again, and its socket is handed to the server.

An upgrade (SIGHUP), step by step; whatever fails before the last one leaves the old server as it was:

1. *survey*: the code that is installed now reads the options and tries the layers, in a process that may fail.
2. The keeper executes itself: pid, socket, lock and children stay, the code is the new one. It computes nothing that
   could fail: the survey's answer goes over with it.
3. *coming*: a second team, launcher and server, starts beside the first. The server has imported everything and its
   launcher is ready when it says `waiting`; until then the old one serves.
4. *yielding*: the old server takes no request any more, gives its connections to the new one, makes no control write,
   and says `yielded`. What runs goes on. New connections wait in the listening socket's queue.
5. *opening*: the new one opens the store, and is `ready`: two servers never decide about the same rows. Then the old one
   is told `done`: it finishes what runs, for `drain_seconds` at most, and ends; what it left is then the new one's.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from pyfaas import notify, premises
from pyfaas.children import BackOff, Child, Surveying, Team
from pyfaas.config import Config, environment, load, process_environment
from pyfaas.errors import PyfaasError
from pyfaas.handover import Handover, hear, tell
from pyfaas.premises import Refused
from pyfaas.starting import SERVER, new_tag, start_egress, start_launcher, start_team, survey
from sandbox import doctor
from sandbox.errors import LayerMissing, SandboxError
from sandbox.host.spawn import memory_file

_REFUSES = 78  # EX_CONFIG of sysexits.h: said by a server that another try would not help
_LAUNCHER_SERVES_S = 1.0  # a launcher that lived for so long had come up
_FIRST_TRIES = 3  # of a server that was never ready: a defect, which more tries would only hide
_LAUNCHER_ENDS_S = 5.0
_CAUSE_S = 0.5  # a launcher ends at once when its server does: so long until that one's end is known, as the cause
_SURVEY_S = 60.0
_DRAIN_OVER_S = 15.0  # an old server's own end, after its drain
_SELF = "PYFAAS_KEEPER"  # what this program is to a keeper that executed it: `survey:DESCRIPTOR` or `resume:DESCRIPTOR`
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


def run(
    flags: Mapping[str, Any], file: Path | None = None, *, print_config: bool = False, program: str = SERVER
) -> int:
    """Serve until told to stop; returns the exit status: 0, or 3 when serving is refused, with one line on stderr."""
    what, _, descriptor = (environment(_SELF) or "").partition(":")
    try:
        if what == "resume":
            return Keeper.resumed(int(descriptor), program).serve()
        config, origin = load(flags, file=file)
        if print_config:
            for name, where in origin.items():
                print(f"{name} = {getattr(config, name)!r}  # {where}")
            return 0
        if what == "survey":
            os.write(int(descriptor), survey(config).encode())
            return 0
        return Keeper.first(config, program).serve()
    except (Refused, SandboxError, PyfaasError, OSError, ValueError) as error:
        print(f"pyfaas serve: {error}{_way_out(error)}", file=sys.stderr)
        return 3


def _way_out(error: Exception) -> str:
    """Return how to do without what is missing, where one can."""
    if isinstance(error, LayerMissing) and error.layer in doctor.OPTIONAL:
        return f" (--allow-weaker-isolation {error.layer} gives it up)"
    return ""


class Stage(StrEnum):
    """Where an upgrade is; see the module."""

    NONE = "none"
    SURVEY = "survey"
    COMING = "coming"
    YIELDING = "yielding"
    OPENING = "opening"


_LONGEST_S = {Stage.SURVEY: _SURVEY_S, Stage.COMING: 60.0, Stage.YIELDING: 30.0, Stage.OPENING: 60.0}


class Keeper:
    """Starts, watches, starts again, replaces."""

    def __init__(self, given: Handover, program: str, lock: int, listen: socket.socket, url: str) -> None:
        """Keep what was taken. `program` is what the server's interpreter runs, with {path} and {descriptor} to be filled in."""
        self.given, self.program, self.lock, self.listen, self.url = given, program, lock, listen, url
        self.config = given.config
        self.manager = notify.Manager(process_environment())
        self.is_stopping = self.is_told = self.is_wanted = False
        self.server_tries, self.launcher_tries, self.egress_tries = BackOff(), BackOff(), BackOff()
        self.team: Team | None = None
        self.coming: Team | None = None
        self.old: Team | None = None
        self.stage, self.until = Stage.NONE, 0.0
        self._egress_due: float | None = None  # when one that ended is started again
        self._is_behind = False  # a wait within a pause has heard of ends that nobody has seen to
        self._surveying: Surveying | None = None
        self._way: socket.socket | None = None  # our copy of where the old server sends its connections

    @classmethod
    def first(cls, config: Config, program: str = SERVER) -> Keeper:
        """Take the data directory and the port; raises Refused, LayerMissing or ValueError."""
        given = survey(config)
        lock = premises.take_data(given.config, given.uid)
        listen = notify.listener(process_environment()) or premises.bind(given.config)
        return cls(given, program, lock, listen, premises.url_of(listen))

    @classmethod
    def resumed(cls, descriptor: int, program: str = SERVER) -> Keeper:
        """Go on as the keeper that executed this one, whose state is in `descriptor`."""
        with os.fdopen(descriptor, "rb") as file:
            file.seek(0)
            kept = json.loads(file.read())
        for inherited in (kept["lock"], kept["listen"]):
            os.set_inheritable(inherited, False)  # noqa: FBT003 - the call's shape
        given = Handover.decode(kept["given"].encode())
        keeper = cls(given, program, kept["lock"], socket.socket(fileno=kept["listen"]), kept["url"])
        keeper.team, keeper.is_told, keeper.is_wanted = Team.kept(kept["team"]), kept["told"], kept["wanted"]
        return keeper

    # ---- running

    def serve(self) -> int:
        """Run until stopped; returns the exit status."""
        self._wake, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write)
        for caught in _SIGNALS:
            signal.signal(caught, lambda _number, _frame: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)  # held back while this program was executed anew
        if self.team is None:
            self.team = self._start()
        else:
            self._replace()
        while True:
            self._wait()
            self._tend_survey()
            self._tend_coming()
            self._tend_old()
            ended = self._tend_serving()
            if ended is not None:
                premises.forget_endpoint(self.config)
                return ended

    def _tend_serving(self) -> int | None:
        """See to the team that serves; returns the exit status when it is over."""
        team = self.team
        assert team is not None  # noqa: S101 - `serve` has started it
        status = team.server.poll()
        if status is None:
            if team.launcher.poll() is not None and not self.is_stopping:
                self._restart_launcher(team)
            self._tend_egress(team)
            return None
        if self.is_stopping and self.old is not None:
            return None  # which has its own calls to finish
        if self.coming is not None and not self.is_stopping:
            self._succeed_the_dead(team, status)
            return None
        self._end(team)
        if (ended := self._verdict(status)) is not None:
            return ended
        _say(f"pyfaas serve: the server ended with status {status}; starting again")
        self._pause(self.server_tries.after(time.monotonic() - team.since, has_served=team.has_served))
        if self.is_stopping:
            return 0
        self.team = self._start()
        return None

    def _verdict(self, status: int) -> int | None:
        """Return the keeper's own exit status after the server's; None when it is to be started again."""
        if self.is_stopping:
            return 0 if status in (0, -signal.SIGTERM) else 1  # SIGTERM: it had not begun to listen for it
        if status == _REFUSES:
            return 3
        if not self.is_told and self.server_tries.failures + 1 >= _FIRST_TRIES:
            _say(f"pyfaas serve: the server was never ready in {_FIRST_TRIES} tries; giving up")
            return 3
        return None

    def _teams(self) -> list[Team]:
        return [team for team in (self.team, self.coming, self.old) if team is not None]

    def _wait(self, seconds: float | None = None) -> None:
        """Wait for a signal (a child's end is one), a server's word or the next thing that is due, and act on them."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake, selectors.EVENT_READ)
            for team in self._teams():
                if team.end.fileno() >= 0:
                    selector.register(team.end, selectors.EVENT_READ)
            # Whoever ended during a pause was heard of there, and is yet to be seen to.
            selector.select(0.0 if self._is_behind and seconds is None else self._patience(seconds))
        self._is_behind = seconds is not None
        if self.manager.beat_s is not None:
            self.manager.tell("WATCHDOG=1")
        for team in self._teams():
            self._hear(team)
        for number in _pending(self._wake):
            self._signalled(number)

    def _patience(self, seconds: float | None) -> float | None:
        times = [self.until - time.monotonic()] if self.stage is not Stage.NONE or self.old is not None else []
        times += [t for t in (seconds, self.manager.beat_s) if t is not None]
        times += [self._egress_due - time.monotonic()] if self._egress_due is not None else []
        return max(0.0, min(times)) if times else None

    def _pause(self, seconds: float) -> None:
        """Wait before another try; a signal to stop ends it."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self.is_stopping:
            self._wait(left)

    # ---- starting

    def _start(self, inherit: socket.socket | None = None) -> Team:
        """Start a team; beside the one that serves when there is somebody to inherit from."""
        mine = self.team.half if self.team is not None else 0
        half = mine if inherit is None else 1 - mine
        given = replace(self.given, listen=self.listen.fileno())
        return start_team(given, self.program, half, self._tags(), inherit)

    def _tags(self) -> list[str]:
        return [team.tag for team in self._teams() if team.launcher.poll() is None]

    def _restart_launcher(self, team: Team) -> None:
        if not self.is_told and team.server.wait(_CAUSE_S) is not None:
            return  # of two ends the server's is the cause, and has been said
        lived = time.monotonic() - team.launcher_since
        was_killed = (team.launcher.poll() or 0) < 0  # one that cannot come up says so, and leaves with a status
        self._pause(self.launcher_tries.after(lived, has_served=was_killed or lived > _LAUNCHER_SERVES_S))
        if self.is_stopping or team is not self.team or team.server.poll() is not None:
            return
        tag = new_tag()
        control, team.launcher = start_launcher(self.given, team.life, tag, team.half, self._tags())
        team.tag, team.launcher_since = tag, time.monotonic()
        _say("pyfaas serve: the launcher ended; a new one was started")
        tell(team.end, "launcher", control)
        control.close()

    def _tend_egress(self, team: Team) -> None:
        """Start the way out again once its pause is over; what else ends meanwhile is seen to."""
        if team.egress is None or (status := team.egress.poll()) is None or self.is_stopping:
            self._egress_due = None
            return
        now = time.monotonic()
        if self._egress_due is None:
            lived = now - team.egress_since
            wait = self.egress_tries.after(lived, has_served=status < 0 or lived > _LAUNCHER_SERVES_S)
            self._egress_due = now + (wait if status else _CAUSE_S)  # it ends by itself when its server has
        if now < self._egress_due:
            return
        self._egress_due, team.egress_since = None, now
        try:
            control, team.egress = start_egress(self.given)
        except (OSError, Refused, PyfaasError) as error:
            _say(f"pyfaas serve: the way out to the network ended, and cannot be started: {error}")
            return
        _say("pyfaas serve: the way out to the network ended; a new one was started")
        tell(team.end, "egress", control)
        control.close()

    # ---- replacing

    def _hang_up(self) -> None:
        """Begin an upgrade, or remember that another one is wanted."""
        if self.is_stopping:
            return
        if self.stage is not Stage.NONE or self.old is not None or not self.is_told:
            self.is_wanted = True
            _say("pyfaas serve: an upgrade follows when what is under way is done")
            return
        self.manager.reloading()
        answer, errors = memory_file(b""), memory_file(b"")
        env = {**process_environment(), _SELF: f"survey:{answer}"}
        process = subprocess.Popen(
            _myself(), env=env, pass_fds=[answer], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors
        )
        self._surveying = Surveying(Child(process), answer, errors)
        self._to(Stage.SURVEY)

    def _to(self, stage: Stage) -> None:
        self.stage = stage
        self.until = time.monotonic() + _LONGEST_S.get(stage, 0.0)

    def _not_replaced(self, reason: str) -> None:
        """Say why the old one goes on."""
        self._to(Stage.NONE)
        _say(f"pyfaas serve: not upgraded, the server goes on as it was: {reason}")
        self.manager.tell("READY=1", f"STATUS=not upgraded: {reason}")
        self._next_wanted()

    def _next_wanted(self) -> None:
        if self.is_wanted and self.stage is Stage.NONE and self.old is None:
            self.is_wanted = False
            self._hang_up()

    def _tend_survey(self) -> None:
        surveying = self._surveying
        if surveying is None:
            return
        if time.monotonic() > self.until or self.is_stopping:
            surveying.process.signal(signal.SIGKILL)
            surveying.process.wait(_LAUNCHER_ENDS_S)
        status = surveying.process.poll()
        if status is None:
            return
        self._surveying = None
        answer, complaint = surveying.take()
        if status == 0 and answer and not self.is_stopping:
            self._execute(answer)
        elif not self.is_stopping:
            self._not_replaced(complaint)

    def _execute(self, answer: bytes) -> None:
        """Become the program that is installed now; it goes on in `resumed`."""
        team = self.team
        assert team is not None  # noqa: S101 - `serve` has started it
        given = replace(Handover.decode(answer), config=self._lasting(Handover.decode(answer).config))
        kept = {
            "given": given.encode().decode(),
            "lock": self.lock,
            "listen": self.listen.fileno(),
            "url": self.url,
            "told": self.is_told,
            "wanted": self.is_wanted,
            "team": team.keep(),
        }
        state = memory_file(json.dumps(kept).encode())
        for descriptor in (state, self.lock, self.listen.fileno()):
            os.set_inheritable(descriptor, True)  # noqa: FBT003 - the call's shape
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # the program must be there before it can take one
        try:
            os.execve(_myself()[0], _myself(), {**process_environment(), _SELF: f"resume:{state}"})  # noqa: S606
        except OSError as error:
            os.close(state)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            self._not_replaced(str(error))

    def _lasting(self, config: Config) -> Config:
        """Return new options with those that take a stop to change as they are; says so when one was changed."""
        kept = {name: getattr(self.config, name) for name in ("host", "port", "data_dir", "user", "uid_base", "uid_count")}
        if changed := [name for name, value in kept.items() if getattr(config, name) != value]:
            _say(f"pyfaas serve: {', '.join(changed)}: changed only by a stop and a start")
        return replace(config, **kept)

    def _replace(self) -> None:
        """Start another team beside the one that serves."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._way = ours
        try:
            self.coming = self._start(theirs)
        except (OSError, Refused) as error:
            self._give_up(str(error))
        else:
            self._to(Stage.COMING)
        finally:
            theirs.close()

    def _tend_coming(self) -> None:
        coming = self.coming
        if coming is None:
            return
        is_alone = coming.launcher.poll() is not None
        status = coming.server.wait(_CAUSE_S) if is_alone else coming.server.poll()  # of two ends its is the cause
        if status is not None and status < 0 and self.stage is Stage.OPENING:
            self._begin_anew(status)
        elif status is not None:
            self._give_up(f"the new server ended with status {status} before it was ready")
        elif is_alone:
            self._give_up("the new launcher ended")
        elif time.monotonic() > self.until or self.is_stopping:
            self._give_up(f"{self.stage} took longer than {_LONGEST_S[self.stage]:g} s")

    def _give_up(self, reason: str) -> None:
        """End what was coming; the old server takes back what it yielded."""
        coming, self.coming = self.coming, None
        if coming is not None:
            coming.server.signal(signal.SIGKILL)
            coming.server.wait(_LAUNCHER_ENDS_S)
            self._end(coming)
        self._close_way()
        if self.team is not None:
            tell(self.team.end, "resume")
        if not self.is_stopping:
            self._not_replaced(reason)

    def _begin_anew(self, status: int) -> None:
        """Start once more after a successor that was killed when it could already decide: the old one only finishes.

        It may have answered, and read requests that nobody else can read again.
        """
        _say(f"pyfaas serve: the new server ended with status {status} as it began to serve; starting again")
        coming, self.coming = self.coming, None
        assert coming is not None  # noqa: S101 - asked by the caller
        self._end(coming)
        half = 1 - self._retire_old().half
        self.team = start_team(replace(self.given, listen=self.listen.fileno()), self.program, half, self._tags(), None)

    def _retire_old(self) -> Team:
        """Let the old server finish what runs there; somebody else decides from now on."""
        old, self.team = self.team, None
        assert old is not None  # noqa: S101 - `serve` has started it
        self._close_way()
        self._to(Stage.NONE)
        self.old, self.until = old, time.monotonic() + self.config.drain_seconds + _DRAIN_OVER_S
        tell(old.end, "done")
        return old

    def _close_way(self) -> None:
        if self._way is not None:
            self._way.close()
            self._way = None

    def _succeed_the_dead(self, team: Team, status: int) -> None:
        """The server died while its successor came: that one serves as soon as it can."""
        _say(f"pyfaas serve: the server ended with status {status}; its successor takes over")
        self._end(team)
        self.team, self.coming = self.coming, None
        assert self.team is not None  # noqa: S101 - asked by the caller
        tell(self.team.end, "alone")
        tell(self.team.end, "go")
        self._close_way()
        self._to(Stage.NONE)
        self.manager.tell("READY=1")

    def _replaced(self) -> None:
        """The successor serves: let the old one finish."""
        coming, self.coming = self.coming, None
        self._retire_old()
        self.team = coming
        _say("pyfaas serve: upgraded; the old server finishes its calls")
        self.manager.tell("READY=1", "STATUS=serving")

    def _tend_old(self) -> None:
        old = self.old
        if old is None:
            return
        now = time.monotonic()
        if not old.ended:
            if now > self.until:
                old.server.signal(signal.SIGKILL)
            if old.server.poll() is None:
                return
            old.ended = now
            self.until = now + _LAUNCHER_ENDS_S
        if now > self.until:
            old.launcher.signal(signal.SIGKILL)
        if old.launcher.poll() is None:
            return
        if old.egress is not None:
            old.egress.end(_LAUNCHER_ENDS_S)  # it goes when its server does
        self._close(old)
        self.old = None
        if self.team is not None:
            tell(self.team.end, "alone")
        self._next_wanted()

    # ---- words and signals

    def _hear(self, team: Team) -> None:
        while team.end.fileno() >= 0:
            try:
                word, _ = hear(team.end)
            except BlockingIOError:
                return
            if not word:
                team.end.close()
            elif word == "ready":
                self._is_ready(team)
            elif word == "waiting" and team is self.coming and self.team is not None:
                tell(self.team.end, "yield", self._way)
                self._to(Stage.YIELDING)
            elif word == "yielded" and team is self.team and self.coming is not None:
                tell(self.coming.end, "go")
                self._to(Stage.OPENING)

    def _is_ready(self, team: Team) -> None:
        team.has_served = True
        if team is self.coming:
            self._replaced()
        if not self.is_told:
            premises.tell_endpoint(self.config, self.url)
            self.is_told = True
            isolation = "weaker:" + ",".join(self.given.weaker) if self.given.weaker else "full"
            with contextlib.suppress(OSError):  # a pipe that nobody reads
                print(f"pyfaas ready url={self.url} isolation={isolation}", flush=True)
            self.manager.tell("READY=1", f"STATUS=serving at {self.url}")
        self._next_wanted()

    def _signalled(self, number: int) -> None:
        if number == signal.SIGHUP:
            self._hang_up()
        elif number in (signal.SIGTERM, signal.SIGINT):
            if not self.is_stopping:
                self.manager.tell("STOPPING=1", "STATUS=finishing what runs")
                self.listen.close()  # who comes now is refused at once: nobody would answer
            for team in self._teams():
                team.server.signal(signal.SIGKILL if self.is_stopping else signal.SIGTERM)
            self.is_stopping = True

    def _end(self, team: Team) -> None:
        """See that launcher and egress of a server that is gone go too."""
        team.launcher.end(_LAUNCHER_ENDS_S)
        if team.egress is not None:
            team.egress.end(_LAUNCHER_ENDS_S)
        self._close(team)

    def _close(self, team: Team) -> None:
        team.end.close()
        os.close(team.life)


def _say(text: str) -> None:
    """Tell the operator; a full disk or a closed pipe in the way of it is no reason to end."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def _pending(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 64)
    except BlockingIOError:
        return b""


def _myself() -> list[str]:
    """Return the command that this process was started with."""
    return [sys.executable, *sys.orig_argv[1:]]
