"""The server: build, open, serve, drain, close, in page order.

The keeper starts it confined, with every descriptor that it needs: the listening socket, the launcher's control socket,
a socket to the keeper, and the pipe that ties launcher and server together. It never forks and never executes.

A server that replaces another starts as far as it can without the store, says `waiting`, and opens once its predecessor
has yielded: of two servers one decides. What the predecessor still does is end what runs there: rows of jobs that it had
claimed, which nobody else touches until it is gone, and the journal. So a call of 900 seconds holds up nothing.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

from pyfaas.adapters import keyring
from pyfaas.adapters.archive import KEYS, TOKENS
from pyfaas.adapters.backups import BackupDirectory
from pyfaas.adapters.clock import SystemClock
from pyfaas.adapters.egress import EgressSocket
from pyfaas.adapters.places import open_bundles
from pyfaas.adapters.sqlite.apis import SqliteApis
from pyfaas.adapters.sqlite.copying import copy
from pyfaas.adapters.sqlite.locks import SqliteLocks
from pyfaas.adapters.sqlite.queue import SqliteQueue
from pyfaas.adapters.sqlite.schema import open_database
from pyfaas.adapters.sqlite.sharing import SqliteSharing
from pyfaas.adapters.sqlite.store import SqliteStore
from pyfaas.adapters.sqlite.vault import SqliteVault
from pyfaas.adapters.trees import TreeDirectories
from pyfaas.adapters.workers import SandboxWorkers
from pyfaas.errors import Code, PyfaasError
from pyfaas.handover import Handover, hear, tell
from pyfaas.model import Scope, VersionState
from pyfaas.passing import Incoming, Outgoing
from pyfaas.service import lending
from pyfaas.service.accounts import OWN_SCOPES, new_token
from pyfaas.service.backup import Backup
from pyfaas.service.dispatch import Dispatcher
from pyfaas.service.environments import Environments
from pyfaas.service.events import EventLog
from pyfaas.service.finish import Finisher
from pyfaas.service.fleet import Fleet
from pyfaas.service.happenings import opened
from pyfaas.service.journal import Journal
from pyfaas.service.preparing import Preparing
from pyfaas.service.publishing import Publisher
from pyfaas.service.registry import Registry
from pyfaas.service.retention import Retention
from pyfaas.service.secrets import Secrets
from pyfaas.service.service import Service, write_secret
from pyfaas.service.storage import forget_missing
from pyfaas.service.traffic import Traffic, resume_day
from pyfaas.web.front import Site, start
from sandbox.errors import LauncherGone, SandboxError
from sandbox.host.launcher import Launcher

log = logging.getLogger(__name__)
_REFUSES = 78  # EX_CONFIG of sysexits.h: the keeper does not try again
_AGAIN = 75  # EX_TEMPFAIL: it does
_FLUSH_S = 1.0
_LAST_WORDS_S = 2.0
_SWEEP_S, _SWEEP_BEATS = 60.0, 10
_RESUMED_S = 1.0  # preparations that an earlier server left begin again so long after a start
_PREPARED_S = 10.0  # an upgrade waits so long for preparations to end; longer ones are begun again by the successor
_SETTLED_S = 2.0  # and for requests that change something, before they are refused
_LAST_ANSWERS_S = 2.0


class Server:
    """Everything that runs in this process. `open`, then `serve`, then `drain` and `close`."""

    def __init__(self, given: Handover) -> None:
        """Keep what the keeper handed over."""
        self.given, self.config, self.clock = given, given.config, SystemClock()
        self.keeper = socket.socket(fileno=given.keeper)
        self.stopping = asyncio.Event()
        self.service: Service
        self.site: Site
        self._upkeep: list[asyncio.Task[None]] = []
        self._sweeping: asyncio.Task[None]
        self._rolling: asyncio.Task[None]
        self._resuming: asyncio.TimerHandle
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_open = False
        self._handed: socket.socket | None = None  # a launcher that came before we were open
        # an upgrade: with a predecessor, and with a successor
        self._going, self._is_alone = asyncio.Event(), given.inherit < 0
        self._incoming: Incoming | None = None
        self._outgoing: Outgoing | None = None
        self._yielding: asyncio.Task[None] | None = None
        self._has_successor = False

    async def open(self) -> None:
        """Take the launcher, wait for a predecessor to yield, open the store, put the parts together, and listen."""
        loop = asyncio.get_running_loop()
        self.egress = EgressSocket(socket.socket(fileno=self.given.egress))
        loop.add_reader(self.keeper.fileno(), self._hear_keeper)
        if self.given.inherit >= 0:
            self._incoming = Incoming(socket.socket(fileno=self.given.inherit))
        launcher = await Launcher.adopt(socket.socket(fileno=self.given.launcher), self.given.weaker)
        if self.given.inherit >= 0:
            tell(self.keeper, "waiting")
            await self._going.wait()
            if self.stopping.is_set():
                raise LauncherGone("the keeper has ended")
        data = Path(self.config.data_dir)
        self.database = database = open_database(str(data / "pyfaas.db"))
        self.store = SqliteStore(database)
        registry = Registry(snapshot := await self.store.load())
        self.workers = SandboxWorkers(launcher, self.given.layers, files_bytes=self.config.code_cache, egress=self.egress)
        self.journal = Journal(self.store)
        happenings = await opened(self.clock, self.journal, self.store)
        finisher = Finisher(self.journal, self.clock)
        self.fleet = Fleet(self.config, self.workers, self.clock, finisher)
        self.fleet.listen(happenings.tell)
        self.lending = await lending.opened(registry, SqliteSharing(database), SqliteApis(database), self.clock, await self._secrets(data, registry))
        dispatcher = Dispatcher(self.config, registry, self.lending.ways, self.fleet, finisher, self.clock)
        traffic = Traffic(self.config, self.fleet, self.journal, self.clock, self.egress)
        dispatcher.is_spent = traffic.is_spent
        bundles, trees = open_bundles(self.given.place, data / "bundles", self.config.reserve_bytes), TreeDirectories(data)
        locks = SqliteLocks(database)
        environments = Environments(self.config, registry, locks, trees, self.workers, self.journal, self.clock, self.given.tool, self.given.exits)
        environments.meter, finisher.lines = finisher.meter, trees.lines_nowait
        preparing = Preparing(self.config, self.workers, bundles, environments, self.journal, self.clock, happenings)
        publisher = Publisher(self.config, registry, self.store, bundles, preparing, environments, self.clock, happenings)
        queue = SqliteQueue(database)
        self.service = Service(
            self.config, registry, self.store, queue, self.workers, self.clock, self.journal, dispatcher, publisher,
            happenings, self.lending, snapshot.canaries, self.given.weaker,
        )
        backups = BackupDirectory(data, partial(copy, str(data / "pyfaas.db")), bundles, TOKENS if self.given.sealing_keys else KEYS)
        backup = self.service.backup = Backup(backups, self.journal, self.clock)
        self.retention = Retention(
            *(self.config, self.store, bundles, trees, self.workers, self.clock),
            is_held=lambda: backup.is_running or publisher.is_preparing,
            locks=locks,
            turn=environments.turn,
        )
        await self._first_start(data)
        await self._mend(registry, trees)
        self._recover(registry, publisher)
        await resume_day(self.store, self.clock, dispatcher, self.lending.ways, traffic)
        dispatcher.open()
        _tell_recovered(await self.service.jobs.open(beside=not self._is_alone))
        self.site = await start(self.service, self.config, self._listen())
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopping.set)
        self._upkeep = [loop.create_task(self._keep_up())]
        self._rolling = self._task(self.service.rollouts.run())
        self._sweeping = loop.create_task(self._sweep())
        self._opened()

    def _opened(self) -> None:
        """Take what came while this server was being opened."""
        self._is_open = True
        if self._incoming is not None:
            self._incoming.give(self._adopt_connection)
            if self._is_alone:
                self._task(self._inherit_jobs())
        if self._handed is not None:
            self._task(self._adopt(self._handed))

    def _adopt_connection(self, connection: socket.socket, read: bytes) -> None:
        self._task(self.site.adopt(connection, read))

    def _listen(self) -> socket.socket:
        return socket.socket(fileno=os.dup(self.given.listen))  # the front closes its own

    async def serve(self) -> None:
        """Tell the keeper, and serve until told to stop."""
        tell(self.keeper, "ready")
        await self.stopping.wait()

    async def drain(self) -> int:
        """Take no more calls and let the running ones finish; returns how many were left."""
        os.close(self.given.listen)
        self.service.happenings.close()
        if not self._has_successor:
            self.site.stop_accepting()
        await self.service.jobs.stop_claiming()
        left = await self.service.dispatcher.drain(self.config.drain_seconds)
        await self.service.jobs.drain(_LAST_ANSWERS_S if not left else 0.0)  # their ends are written
        if left:
            log.warning("drain_over", extra={"left": left})
        return left

    async def close(self) -> None:
        """Close everything in the reverse order of opening."""
        await self.site.stop(self.config.drain_seconds if self._has_successor else _LAST_ANSWERS_S)
        if self._outgoing is not None:
            self._outgoing.close()
        for task in (*self._upkeep, self._sweeping, self._rolling, *self._tasks):
            task.cancel()
        self._resuming.cancel()
        await self.service.jobs.close()
        await self.service.rollouts.stop(self._rolling)
        await self.service.publisher.close()
        await self.service.dispatcher.close()
        await self.service.secrets.close()
        await self.journal.flush()
        await self.lending.audit.flush(is_whole=True)
        await self.store.close()

    # ---- inside

    async def _secrets(self, data: Path, registry: Registry) -> Secrets:
        """Return the secrets with their keys. Raises internal when there are some and no key can be had."""
        vault = SqliteVault(self.database)
        sealed, given = await vault.load(), self.given.sealing_keys
        keys = keyring.given(given, data, is_needed=bool(sealed)) if given else keyring.opened(data, is_needed=bool(sealed))
        secrets = Secrets(registry, vault, keys, self.clock, self.config.secret_bytes, lambda: self.service.backup.is_running)
        secrets.take(sealed)
        return secrets

    async def _first_start(self, data: Path) -> None:
        """Make the account `default` and the two tokens where they are missing, and say where they are."""
        accounts, registry = self.service.accounts, self.service.registry
        if "default" not in registry.account_names:
            await accounts.make("default", OWN_SCOPES)
        default = registry.account_names["default"]
        for name, scopes in (("default", OWN_SCOPES), ("admin", frozenset(Scope))):
            path = data / f"{name}.token"
            if not path.exists():
                text, token = new_token(default.id, scopes, name, self.clock.now(), None)
                await self.store.add_token(token)
                registry.put_token(token)
                write_secret(str(path), text)
                log.info("token_written", extra={"path": str(path)})

    async def _mend(self, registry: Registry, trees: TreeDirectories) -> None:
        """Take note of what is lost of the disk, and end what was lent of what a server that died had removed."""
        if lost := forget_missing(registry, trees.names_nowait("prepared"), trees.names_nowait("environments")):
            log.warning("versions_without_files", extra={"count": lost})
        if ended := await self.lending.sharing.recover():
            log.warning("rights_ended", extra={"count": ended})

    def _recover(self, registry: Registry, publisher: Publisher) -> None:
        """Go on where an earlier server stopped: pointers to ready versions are cut over, the rest is prepared again.

        The latter a little later, since it takes a processor, and calls that waited while nobody served come first; a call
        of such a version begins its preparation at once.
        """
        for entry in registry.entries.values():
            for number, version in entry.versions.items():
                if version.state is VersionState.READY:
                    for pointer in entry.pointers_to(number):
                        entry.cut_over(pointer, number)
        self._resuming = asyncio.get_running_loop().call_later(_RESUMED_S, self._resume_preparations, publisher)

    def _resume_preparations(self, publisher: Publisher) -> None:
        resumed = publisher.resume()
        self.service.rollouts.resume()
        self.service.secrets.resume()
        if resumed:
            log.warning("preparations_resumed", extra={"count": resumed})

    # ---- the keeper's words

    def _hear_keeper(self) -> None:  # noqa: C901 - one branch a word
        word, given = hear(self.keeper)
        if word == "":
            self.stopping.set()  # the keeper is gone, and with it everything else
            self._going.set()
            asyncio.get_running_loop().remove_reader(self.keeper.fileno())
        elif word == "launcher" and given is not None:
            if self._is_open:
                self._task(self._adopt(given))
            else:
                self._handed = given
        elif word == "egress" and given is not None:
            self.egress.adopt(given)
        elif word == "go":
            self._going.set()
        elif word == "alone":
            self._is_alone = True
            if self._is_open:
                self._task(self._inherit_jobs())
        elif word == "yield" and given is not None:
            self._yielding = self._task(self._yield(given))
        elif word == "resume" and self._yielding is not None:
            self._task(self._resume(self._yielding))
        elif word == "done":
            self._has_successor = True
            self.site.succeeded()
            self.stopping.set()

    def _task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("task_failed", exc_info=task.exception())

    async def _yield(self, way: socket.socket) -> None:
        """Take no more requests and change nothing more; what runs goes on. Connections go to the successor by `way`."""
        await self.service.publisher.finish(_PREPARED_S)
        await self.service.rollouts.stop(self._rolling)
        self._sweeping.cancel()
        self._resuming.cancel()
        await self.service.jobs.stop_claiming()
        self._outgoing = Outgoing(way)
        self.site.pass_on(self._outgoing.put)
        self.service.happenings.close()  # whoever waits is answered, and its connection passed on
        if not await self.site.settled(_SETTLED_S):
            log.warning("requests_refused", extra={"reason": "they took too long to let a successor begin"})
        await self.service.publisher.close()
        await self.service.secrets.close()
        self.service.dispatcher.await_no_preparation()
        await self.database.yield_writes()
        tell(self.keeper, "yielded")

    async def _resume(self, yielding: asyncio.Task[None]) -> None:
        """Go on as if nothing had been: the successor did not come up."""
        await asyncio.wait({yielding})
        self._yielding = None
        self.database.is_yielded = False
        if self._outgoing is not None:
            self._outgoing.close()
            self._outgoing = None
        self._sweeping = asyncio.get_running_loop().create_task(self._sweep())
        self._rolling = self._task(self.service.rollouts.run())
        self.service.happenings.reopen()
        await self.site.take_back(self._listen())
        self.service.jobs.start_claiming()
        self.service.publisher.resume()
        self.service.secrets.resume()

    async def _inherit_jobs(self) -> None:
        """Queue again what the predecessor claimed and did not finish."""
        _tell_recovered(await self.service.jobs.recover())

    async def _adopt(self, control: socket.socket) -> None:
        try:
            self.workers.adopt(await Launcher.adopt(control, self.given.weaker))
        except SandboxError as error:
            log.error("launcher_not_adopted", extra={"error": str(error)})  # noqa: TRY400 - the keeper starts another

    async def _keep_up(self) -> None:
        """Write the journal each second."""
        while True:
            await asyncio.sleep(_FLUSH_S)
            await self.journal.flush()
            await self.lending.audit.flush()

    async def _sweep(self) -> None:
        """Remove what is too old or needed by nobody, soon after the start and then now and then."""
        await asyncio.sleep(_FLUSH_S)
        for beat in itertools.count():
            await (self.retention.relieve() if beat % _SWEEP_BEATS else self.retention.sweep())
            await asyncio.sleep(_SWEEP_S)


def _tell_recovered(count: int) -> None:
    if count:
        log.warning("jobs_recovered", extra={"count": count})


async def _run(given: Handover) -> int:
    server = Server(given)
    try:
        await server.open()
    except LauncherGone as error:
        print(f"pyfaas serve: {error}", file=sys.stderr)
        return _AGAIN
    except (PyfaasError, SandboxError, OSError) as error:
        hint = f"; {error.hint}" if isinstance(error, PyfaasError) and error.hint else ""
        print(f"pyfaas serve: {error}{hint}", file=sys.stderr)
        is_full = isinstance(error, PyfaasError) and error.code is Code.STORAGE_FULL
        return _AGAIN if is_full or isinstance(error, OSError) else _REFUSES
    gc.collect()
    gc.freeze()
    gc.enable()
    await server.serve()
    await server.drain()
    await server.close()
    return 0


def main(given: Handover) -> None:
    """Be the server; leaves the process with its status."""
    events = EventLog(sys.stderr.fileno())
    logging.basicConfig(level=logging.INFO, handlers=[events])
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))  # a connection needs one, a container several; 1024 is the usual start
    status = uvloop.run(_run(given))
    events.finish(_LAST_WORDS_S)
    os._exit(status)
