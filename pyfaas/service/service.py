"""The use cases as the faces see them: one method each, a caller first, JSON shapes out.

What belongs to somebody else is told as what does not exist. Every control write is commit → swap the registry →
answer. The hot path is `authenticate` and `submit`; both are synchronous.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pyfaas.calls import Request, Result, Running, Sink
from pyfaas.config import Config
from pyfaas.decisions.access import require
from pyfaas.decisions.routing import LATEST
from pyfaas.errors import Code, PyfaasError, not_found
from pyfaas.model import Caller, Canary, CanaryOrder, EventKind, FunctionId, InvocationId, Scope, Version, VersionState
from pyfaas.ports import Clock, Queue, Store, Workers
from pyfaas.service import metrics, views
from pyfaas.service.accounts import Accounts
from pyfaas.service.aliases import Aliases
from pyfaas.service.backup import Backup
from pyfaas.service.dispatch import Dispatcher
from pyfaas.service.happenings import Happenings
from pyfaas.service.jobs import Jobs, job_id_of
from pyfaas.service.journal import Journal
from pyfaas.service.lending import Lending
from pyfaas.service.pointers import Pointers
from pyfaas.service.publishing import Publisher
from pyfaas.service.registry import Entry, Registry
from pyfaas.service.rollouts import Rollouts
from pyfaas.service.usage import report

_SAME = 200  # what a publication of known content is answered


class Service:
    """Everything that the faces may ask for."""

    backup: Backup  # given by whoever knows the data directory

    def __init__(
        self,
        config: Config,
        registry: Registry,
        store: Store,
        queue: Queue,
        workers: Workers,
        clock: Clock,
        journal: Journal,
        dispatcher: Dispatcher,
        publisher: Publisher,
        happenings: Happenings,
        lending: Lending,
        canaries: Sequence[Canary],
        weaker: Sequence[str],
    ) -> None:
        """Put the parts together; `weaker` names the layers of isolation that were given up."""
        self.config, self.registry, self._store, self._workers, self._clock = config, registry, store, workers, clock
        self._journal, self.dispatcher, self.publisher, self._weaker = journal, dispatcher, publisher, list(weaker)
        self.accounts = Accounts(registry, store, clock)
        self._queue = queue
        self.ways, self.lending = lending.ways, lending
        self.jobs = Jobs(
            *(queue, registry, clock, dispatcher.ids, lending.ways, self.invoke),
            workers=config.async_workers,
            payload_limit=config.async_payload,
        )
        lending.connect(dispatcher, self.jobs)
        self.secrets, self.sharing = lending.secrets, lending.sharing
        self.apis, self.subscriptions, self.operations = lending.apis, lending.subscriptions, lending.operations
        self.happenings = happenings
        pointers = self._pointers = Pointers(store, clock, happenings, dispatcher.advance)
        pointers.load(registry.entries, canaries)
        self.aliases, self.rollouts = Aliases(registry, pointers), Rollouts(registry, pointers, publisher.prepare)
        dispatcher.prepare, publisher.prepared = publisher.prepare, self._prepared
        self.submit: Callable[[Request, Sink], Running] = dispatcher.submit

    # ---- identity

    def authenticate(self, header: bytes) -> Caller:
        """Find who presents an Authorization header's value; raises unauthenticated."""
        return self.registry.authenticate(header, self._clock.now())

    def whoami(self, caller: Caller) -> dict[str, Any]:
        """Tell who a token speaks for."""
        return self.accounts.whoami(caller)

    async def create_account(self, caller: Caller, name: str, network: bool = True) -> dict[str, Any]:  # noqa: FBT001, FBT002 - the facade's shape
        """Create an account with its first token."""
        return await self.accounts.create(caller, name, network=network)

    def list_accounts(self, caller: Caller) -> list[dict[str, Any]]:
        """List the accounts that the caller may see."""
        return self.accounts.listed(caller)

    async def set_account(
        self,
        caller: Caller,
        name_or_id: str,
        policy: Mapping[str, Any],
        quota: Mapping[str, Any] | None = None,
        network: bool | None = None,  # noqa: FBT001 - a value that is kept
    ) -> dict[str, Any]:
        """Change an account's staleness policy, the own one, or, for an admin, any account's policy, quota and network."""
        shown = await self.accounts.set(caller, name_or_id, policy, quota, network)
        self.dispatcher.admissions.load(shown["id"])
        if network is not None:
            self.dispatcher.reach(shown["id"], may_use_network=network)
        return shown

    async def remove_account(self, caller: Caller, name_or_id: str) -> None:
        """Remove an account: tokens die, queued and running runs stop."""
        require(caller, Scope.ADMIN)
        account = self.registry.account(name_or_id)
        entries = self.registry.functions_of(account.id)
        await self.accounts.remove(caller, name_or_id)
        for entry in entries:
            await self._forget(entry)
        await self.sharing.account_removed(account)
        await self.apis.account_removed(account.id)

    async def create_token(
        self,
        caller: Caller,
        *,
        scopes: Sequence[str] = (),
        expires: float | None = None,
        label: str = "",
        account: str | None = None,
    ) -> dict[str, Any]:
        """Create a token; its text is shown this once."""
        return await self.accounts.create_token(caller, scopes=scopes, expires=expires, label=label, account=account)

    def list_tokens(self, caller: Caller) -> list[dict[str, Any]]:
        """List the account's tokens."""
        return self.accounts.list_tokens(caller)

    async def revoke_token(self, caller: Caller, token_id: str) -> None:
        """Revoke a token at once."""
        await self.accounts.revoke_token(caller, token_id)

    async def rotate_admin(self, caller: Caller) -> dict[str, Any]:
        """Replace the admin's token, also in the data directory."""
        path = os.path.join(self.config.data_dir, "admin.token")
        return await self.accounts.rotate_admin(caller, lambda text: write_secret(path, text))

    # ---- functions

    async def publish(
        self, caller: Caller, name: str, config: Mapping[str, Any], packed: bytes, order: CanaryOrder | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Publish a version, see Publisher.publish; `order` moves a release alias to it once it is ready.

        Both are durable when this returns. The same content again is named again: by `latest`, should that have been moved back.
        """
        status, shown = await self.publisher.publish(caller, name, config, packed, order)
        entry, number = self._own(caller, name), shown["version"]
        if status != _SAME:
            self.happenings.tell(entry.function.id, number, EventKind.MOVED, pointer=LATEST, weights={})
        elif entry.current(LATEST) != number:
            async with self._pointers.lock(entry):
                await self._pointers.move(entry, LATEST, number)
            shown["changed"] = True
        if order is not None:
            canary = await self.rollouts.begin(entry, number, order)
            shown["canary"] = views.canary_view(canary, self._clock.now()) if canary is not None else None
        return status, shown

    def _prepared(self, entry: Entry, version: Version) -> None:
        self.dispatcher.prepared(entry, version)
        self.rollouts.prepared(entry, version)

    def list_functions(self, caller: Caller, limit: int = 100, after: str | None = None) -> dict[str, Any]:
        """List the account's functions by name."""
        require(caller, Scope.READ)
        shown = [views.function_view(e, self.aliases.views(e)) for e in self.registry.functions_of(caller.account.id)]
        return views.page(shown, "name", limit, after)

    def describe(self, caller: Caller, name: str) -> dict[str, Any]:
        """Show a function."""
        require(caller, Scope.READ)
        entry = self._own(caller, name)
        return views.function_view(entry, self.aliases.views(entry))

    def list_versions(self, caller: Caller, name: str, limit: int = 100, before: int | None = None) -> dict[str, Any]:
        """List a function's living versions, newest first, those before a number."""
        require(caller, Scope.READ)
        entry = self._own(caller, name)
        rest = [v for n, v in sorted(entry.versions.items(), reverse=True) if not v.deleted and (before is None or n < before)]
        return {"items": self._version_views(entry, rest[:limit]), "next": str(rest[limit - 1].number) if len(rest) > limit else None}

    def version(self, caller: Caller, name: str, number: int) -> dict[str, Any]:
        """Show a version."""
        require(caller, Scope.READ)
        entry = self._own(caller, name)
        return self._version_views(entry, [self.registry.version(entry, number)])[0]

    async def wait_version(self, caller: Caller, name: str, number: int, wait_s: float) -> dict[str, Any]:
        """Show a version once it failed, or is ready and cut over; or as it stands after `wait_s`."""
        entry = self._own(caller, name)
        until = self._clock.monotonic() + wait_s
        moved = asyncio.Event()
        entry.watchers.add(moved.set)
        try:
            while not self._is_settled(entry, self.registry.version(entry, number)):
                moved.clear()
                async with asyncio.timeout(until - self._clock.monotonic()):
                    await moved.wait()
        except TimeoutError:
            pass  # as it stands
        finally:
            entry.watchers.discard(moved.set)
        return self.version(caller, name, number)

    def _is_settled(self, entry: Entry, version: Version) -> bool:
        if version.state is not VersionState.READY:
            return version.state is VersionState.FAILED or self.publisher.is_waiting_for_a_call(version)
        return entry.is_settled(version.number)

    async def remove_function(self, caller: Caller, name: str) -> None:
        """Remove a function: queued runs are cancelled, running ones finish, later calls are 404; conflict while an API names it."""
        require(caller, Scope.DEPLOY)
        entry = self._own(caller, name)
        self.apis.refuse_named(entry.function.id, f"the function {name!r}")
        await self._store.remove_function(entry.function.id, self._clock.now())
        self.registry.drop_function(entry)
        await self._forget(entry)

    async def _forget(self, entry: Entry) -> None:
        self._pointers.forget(entry)
        self.happenings.forget(entry.function.id)
        await self.lending.function_removed(entry)
        await self._queue.cancel_function(entry.function.id, self._clock.now())
        self.dispatcher.fleet.drop({(entry.function.id, n) for n in entry.versions})

    async def remove_version(self, caller: Caller, name: str, number: int) -> None:
        """Remove a version; raises conflict while a pointer names it."""
        require(caller, Scope.DEPLOY)
        entry = self._own(caller, name)
        async with self._pointers.lock(entry):
            version = self.registry.version(entry, number)
            if named := entry.pointers_to(number):
                raise PyfaasError(Code.CONFLICT, f"version {number} is named by {', '.join(named)}", hint="move the pointer first")
            self.apis.refuse_named(entry.function.id, f"version {number} of {name!r}", number)
            await self._store.set_version(replace(version, deleted=True))
            entry.put(replace(version, deleted=True))
        await self.rollouts.removed(entry, number)
        self.dispatcher.fleet.drop({(entry.function.id, number)})

    async def rollback(self, caller: Caller, name: str, pointer: str = LATEST) -> dict[str, Any]:
        """Move a pointer back; the version left behind is withdrawn."""
        return await self.aliases.rollback(caller, name, pointer)

    # ---- release aliases

    async def set_alias(
        self,
        caller: Caller,
        name: str,
        alias: str,
        version: int,
        weights: Mapping[int, int] | None = None,
        policy: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Point a release alias at a ready version, or at two with a weight; see Aliases.set."""
        return await self.aliases.set(caller, name, alias, version, weights or {}, policy or {})

    def get_aliases(self, caller: Caller, name: str) -> dict[str, Any]:
        """Show a function's release aliases by name."""
        return self.aliases.all(caller, name)

    async def remove_alias(self, caller: Caller, name: str, alias: str) -> None:
        """Remove a release alias."""
        await self.aliases.remove(caller, name, alias)

    # ---- events

    @property
    def is_told(self) -> bool:
        """Whether what happens is still told here: not once the server stops."""
        return not self.happenings.is_closed

    async def events(
        self, caller: Caller, name: str, *, after: int = 0, version: int | None = None, wait_s: float = 0.0, limit: int = 100
    ) -> tuple[list[dict[str, Any]], int]:
        """Return what happened to a function's versions after a cursor, waiting for something; and the cursor to go on from.

        Of a `version`, what is about it or gives it a weight. Returns early, with nothing, when the server stops; who asks to wait
        after that is refused with not_ready.
        """
        require(caller, Scope.READ)
        entry = self._own(caller, name)
        if wait_s and not self.is_told:
            raise PyfaasError(Code.NOT_READY, "the server is stopping", hint="ask again", retry_after=1.0)
        found, cursor = await self.happenings.next(entry.function.id, after, wait_s, version=version, limit=limit)
        self._own(caller, name)  # it may have been removed meanwhile
        return [views.event_view(entry, at, event) for at, event in found], cursor

    # ---- running

    def is_plain(self, caller: Caller, name: str, qualifier: str | None) -> bool:
        """Tell whether a call will be answered whole, and by what its qualifier names: what the front takes itself."""
        entry, way = self.registry.by_name.get((caller.account.id, name)), None
        if entry is None and qualifier is None:
            way = self.ways.known(caller.account.id, name)
            entry = way.entry if way is not None else None
        if entry is None or not caller.may(Scope.INVOKE):
            return False
        lane = entry.routes.get(way or qualifier)
        if lane is not None:
            return not lane.version.generator
        return self.dispatcher.is_whole(entry, (qualifier if way is None else way.qualifier) or LATEST)

    def check_url(self, caller: Caller | None, owner: str, name: str) -> None:
        """Let a call under /f/ pass when it is the owner's, or the function is public; raises unauthenticated or not_found."""
        entry = self.registry.by_name.get((self.registry.account(owner).id, name)) if self._has_account(owner) else None
        if entry is not None and entry.function.settings.public:
            return
        if caller is None:
            raise PyfaasError(Code.UNAUTHENTICATED, "a token is needed", hint="send Authorization: Bearer pf_…")
        if not self._has_account(owner) or caller.account.id != self.registry.account(owner).id:
            raise not_found("function", name)
        require(caller, Scope.INVOKE)

    def _has_account(self, name_or_id: str) -> bool:
        return name_or_id in self.registry.account_names or name_or_id in self.registry.accounts

    async def invoke(self, request: Request, accepted: Callable[[Running], None] | None = None) -> Result:
        """Run one call to its result; raises what refuses it. A stream's items are not kept here."""
        sink = _Waiter()
        running = self.dispatcher.submit(request, sink)
        if accepted is not None:
            accepted(running)
        try:
            return await sink.result
        except asyncio.CancelledError:
            running.cancel()
            raise

    def is_own(self, caller: Caller, name: str) -> bool:
        """Tell whether a name is a function of the account's own, and not of something that is lent to it."""
        return (caller.account.id, name) in self.registry.by_name

    def pin(self, request: Request) -> tuple[int, int]:
        """Return what a request's qualifier names now, and the version that serves it; raises not_found or gone."""
        return self.dispatcher.pin(request)

    async def enqueue(self, request: Request) -> dict[str, Any]:
        """Keep an asynchronous call; durable when this returns."""
        return await self.jobs.enqueue(request)

    async def job(self, caller: Caller, job_id: str, wait_s: float = 0.0) -> dict[str, Any]:
        """Show an asynchronous invocation."""
        return await self.jobs.get(caller, job_id, wait_s)

    async def list_jobs(self, caller: Caller, state: str | None = None, limit: int = 100, after: str = "") -> dict[str, Any]:
        """List asynchronous invocations."""
        require(caller, Scope.READ)
        return await self.jobs.listed(caller, state, limit, after)

    async def cancel_job(self, caller: Caller, job_id: str) -> dict[str, Any]:
        """Cancel an asynchronous invocation."""
        require(caller, Scope.INVOKE)
        return await self.jobs.cancel(caller, job_id)

    async def replay_job(self, caller: Caller, job_id: str, body: bytes | None = None) -> dict[str, Any]:
        """Run an asynchronous invocation again."""
        require(caller, Scope.INVOKE)
        return await self.jobs.replay(caller, job_id, body)

    # ---- looking

    async def logs(
        self,
        caller: Caller,
        name: str,
        version: int | None = None,
        invocation: str | None = None,
        since: float = 0.0,
        build: bool = False,  # noqa: FBT001, FBT002 - the facade's shape
        after: int = 0,
        limit: int = 1000,
    ) -> list[tuple[int, dict[str, Any]]]:
        """Return a function's log lines in order, with cursors."""
        require(caller, Scope.READ)
        source = self._log_of(caller, name)
        wanted = InvocationId(job_id_of(invocation)) if invocation else None
        await self._journal.flush()
        lines = await self._store.logs(
            source, version=version, invocation=wanted, since=since, build=build, after=after, limit=limit
        )
        return [(cursor, views.log_view(line)) for cursor, line in lines]

    async def usage(self, caller: Caller, since: float, until: float, by: str | None = None) -> list[dict[str, Any]]:
        """Sum usage by day, or by one of `usage.BY`; an admin sees every account's."""
        require(caller, Scope.READ)
        await self._journal.flush()
        account = None if caller.may(Scope.ADMIN) else caller.account.id
        return report(await self._store.usage(account, since, until), account, since, until, by)

    def fleets(self, caller: Caller) -> dict[str, Any]:
        """Show VMs and containers: an account's own, an admin all."""
        require(caller, Scope.READ)
        pool, now = self.dispatcher.fleet.pool, self._clock.monotonic()
        is_admin = caller.may(Scope.ADMIN)
        vms = [vm for vm in pool.vms.values() if vm.tenant is not None and (is_admin or str(vm.tenant) == caller.account.id)]
        entries = [e for e in self.registry.entries.values() if is_admin or e.function.account == caller.account.id]
        return {
            "warming": {"ready": len(pool.warm), "target": pool.warm_target(now), "hits": pool.hits, "misses": pool.misses},
            "vms": [
                {
                    "id": vm.id,
                    "tenant": vm.tenant,
                    "fleet": "low",
                    "containers": [
                        {
                            "id": s.id,
                            "function": self._name_of(s.lane[0]) if s.lane else None,
                            "version": s.lane[1] if s.lane else None,
                            "state": s.state.value,
                            "calls": s.calls,
                            "idle_ms": round((now - s.since) * 1000),
                        }
                        for s in vm.slots.values()
                    ],
                }
                for vm in vms
            ],
            "functions": [
                {"function": e.function.name, "tenant": e.function.account, "class": "low", "running": e.running} for e in entries
            ],
        }

    async def metrics(self, *, by_function: bool) -> list[metrics.Family | metrics.Histogram]:
        """Measure the server; `by_function` adds what names accounts and functions, which is for an admin."""
        return await metrics.measure(self, self._journal, self._clock, by_function=by_function)

    def limits(self, caller: Caller) -> dict[str, Any]:
        """Show every limit with its value, unit and the option that sets it."""
        c = self.config
        bytes_limits = (
            *("sync_payload", "async_payload", "bundle_packed", "bundle_unpacked", "environment_size", "env_bytes", "log_bytes"),
            *("log_account_bytes", "reserve_bytes", "secret_bytes", "egress_daily"),
        )
        counts = (
            *("account_concurrency", "account_daily", "queue_limit", "max_vms", "max_containers", "max_connections"),
            *("async_workers", "egress_connections"),
        )
        values: dict[str, tuple[Any, str, str]] = {name: (getattr(c, name), "bytes", name) for name in bytes_limits}
        values.update({name: (getattr(c, name), "count", name) for name in counts})
        values.update({name: (getattr(c, name), "days", name) for name in ("log_days", "build_log_days", "job_days", "usage_days")})
        values.update(
            unused_hours=(c.unused_hours, "hours", "unused_hours"), account_rate=(c.account_rate, "a second", "account_rate"),
            timeout_min=(1, "s", ""), timeout_max=(900, "s", ""), memory_min=(64 << 20, "bytes", ""), alias_chain=(8, "count", "")
        )
        return views.limits_view(values)

    def ready(self) -> dict[str, Any]:
        """Tell whether calls are taken, and which layers of isolation are live."""
        layers = [{"name": la.name, "live": la.live, "detail": la.detail} for la in self._workers.layers()]
        isolation = "weaker:" + ",".join(self._weaker) if self._weaker else "full"
        return {"ready": not self.dispatcher.is_draining, "isolation": isolation, "layers": layers}

    # ---- inside

    def _own(self, caller: Caller, name: str) -> Entry:
        return self.registry.entry(caller.account.id, name)

    def _log_of(self, caller: Caller, name: str) -> FunctionId:
        """Return whose log a name of the caller's is; of what is lent to it, the one of its own runs, if there is one."""
        entry = self.registry.by_name.get((caller.account.id, name))
        if entry is not None:
            return entry.function.id
        shares = self.lending.shares
        subscription = shares.subscription_names.get((caller.account.id, name))
        if subscription is not None:
            if any(version.terms.logs for version in shares.api_versions.get(subscription.api, {}).values()):
                return FunctionId(subscription.id)  # of all its operations
            raise PyfaasError(Code.NOT_ALLOWED, f"the owner of {name!r} lends no logs", hint="the owner can: logs = true in the next version")
        way = self.ways.find(caller.account.id, name)
        if not (way.is_own or way.keeps_logs):
            raise PyfaasError(Code.NOT_ALLOWED, f"the owner of {name!r} lends no logs", hint="the owner can: pyfaas share grant … --logs")
        return way.entry.function.id if way.is_own else FunctionId(way.id)

    def _name_of(self, function: Any) -> Any:
        entry = self.registry.entries.get(function)
        return entry.function.name if entry is not None else function

    def _version_views(self, entry: Entry, versions: Sequence[Version]) -> list[dict[str, Any]]:
        fleet = self.dispatcher.fleet
        running = views.running_views(fleet.pool, entry.function.id, self._clock.monotonic())
        return [views.version_view(entry, v, running.get(v.number, []), fleet.downloads.places(v)) for v in versions]


class _Waiter:
    """A sink for whoever awaits the result."""

    def __init__(self) -> None:
        self.result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

    def head(self, call: Running, head: Mapping[str, Any]) -> None:
        """Nobody asked for a stream."""

    def item(self, item: bytes) -> None:
        """Nobody asked for a stream."""

    def done(self, result: Result) -> None:
        """Wake whoever waits."""
        if not self.result.done():
            self.result.set_result(result)


def write_secret(path: str, text: str) -> None:
    """Write a file that only its owner may read, in one step."""
    temporary = path + ".new"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(directory)
    os.close(directory)
