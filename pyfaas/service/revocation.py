"""The end of a right: what waits, is queued or runs by it ends, before whoever took it back is answered."""

from __future__ import annotations

from pyfaas.service.dispatch import Dispatcher
from pyfaas.service.jobs import Jobs
from pyfaas.service.ways import Ways
from pyfaas.sharing import AccountAlias, Grant, Subscription


class Revocation:
    """Reaches the runs of what has ended, durably and in memory: by the time it is called no new call can come by it."""

    def __init__(self, ways: Ways, dispatcher: Dispatcher, jobs: Jobs) -> None:
        """Take what finds the runs and what ends them."""
        self._ways, self._dispatcher, self._jobs = ways, dispatcher, jobs

    async def ended(self, right: Grant | AccountAlias | Subscription, is_stopping: bool) -> None:  # noqa: FBT001 - the hook's shape
        """End what waits and what is queued by a grant, an account alias or a subscription; with `is_stopping` what runs, too.

        Raises as the queue does; then what is queued still never runs, since its way is gone.
        """
        self._dispatcher.revoke(self._ways.uses_of(right.id), is_stopping=is_stopping)
        for way in self._ways.names_through(right):
            await self._jobs.cancel_way(way)
