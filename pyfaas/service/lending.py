"""Lending as one thing: what is lent, the ways that it opens, and the use cases of both sides."""

from __future__ import annotations

from pyfaas.calls import Result
from pyfaas.model import Outcome
from pyfaas.ports import Apis as ApiStore
from pyfaas.ports import Clock
from pyfaas.ports import Sharing as SharingStore
from pyfaas.service.apis import Apis
from pyfaas.service.audit import Audit
from pyfaas.service.dispatch import Dispatcher
from pyfaas.service.jobs import Jobs
from pyfaas.service.lane import Call
from pyfaas.service.operations import Operations
from pyfaas.service.registry import Entry, Registry
from pyfaas.service.revocation import Revocation
from pyfaas.service.secrets import Secrets, sources_of
from pyfaas.service.shares import Lent, Shares
from pyfaas.service.sharing import Sharing
from pyfaas.service.subscriptions import Subscriptions
from pyfaas.service.ways import Way, Ways
from pyfaas.sharing import AuditKind


class Lending:
    """What is lent, who may call it, and who is told. Made by `opened`; `connect` comes before the first call."""

    def __init__(self, registry: Registry, lent: Lent, sharing: SharingStore, apis: ApiStore, clock: Clock, secrets: Secrets) -> None:
        """Take in what the stores hold."""
        self._registry, self._clock, self.secrets = registry, clock, secrets
        self._sharing, self._apis = sharing, apis
        self.shares = Shares(lent)
        self.ways = Ways(registry, self.shares)
        self.audit = Audit(sharing, self.shares, clock)

    def connect(self, dispatcher: Dispatcher, jobs: Jobs) -> None:
        """Make the use cases; what ends reaches the calls of `dispatcher` and `jobs`, which are given their secrets here."""
        dispatcher.secrets_of, dispatcher.secrets_size = self._secrets_of, self._secrets_size
        dispatcher.audit, dispatcher.refused, dispatcher.turned_away = self._called, self._refused, self.audit.turned_away
        ended = Revocation(self.ways, dispatcher, jobs).ended
        parts = self._registry, self.shares
        self.sharing = Sharing(*parts, self.ways, self._sharing, self._clock, self.secrets, self.audit, ended)
        self.apis = Apis(*parts, self._apis, self._clock, self.secrets, ended, self.audit)
        self.subscriptions = Subscriptions(*parts, self._apis, self._clock, self.apis)
        self.operations = Operations(self.shares, self.apis)
        jobs.checked = self.operations.event_of

    def _secrets_of(self, call: Call) -> dict[str, str]:
        return self.secrets.of(sources_of(call))

    def _secrets_size(self, call: Call) -> int:
        return self.secrets.size_of(sources_of(call))

    def _called(self, way: Way, result: Result) -> None:
        if result.outcome is Outcome.REJECTED:
            self._refused(way, (result.code or result.outcome).value)
        else:
            self.audit.count(way, AuditKind.CALLED, result.outcome.value)

    def _refused(self, way: Way, code: str) -> None:
        self.audit.count(way, AuditKind.REFUSED, code)

    async def function_removed(self, entry: Entry) -> None:
        """End what was lent of a function that is gone, and forget its secrets."""
        await self.sharing.function_removed(entry)
        await self.secrets.forget(entry.function.id)


async def opened(registry: Registry, sharing: SharingStore, apis: ApiStore, clock: Clock, secrets: Secrets) -> Lending:
    """Return what the stores hold of lending."""
    grants, aliases = await sharing.load()
    known, versions, subscriptions = await apis.load()
    lent = Lent(grants=grants, aliases=aliases, apis=known, api_versions=versions, subscriptions=subscriptions)
    return Lending(registry, lent, sharing, apis, clock, secrets)
