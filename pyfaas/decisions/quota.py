"""Whether a call is admitted, waits, or is refused for now."""

from __future__ import annotations

from enum import Enum


class Admission(Enum):
    """What happens to a call before placement."""

    ADMIT = "admit"
    WAIT = "wait"
    REFUSE = "refuse"


def admit(*, account_running: int, account_limit: int, running: int, limit: int, waiting: int, queue_limit: int) -> Admission:
    """Admit below both limits; else wait while the account's queue has room; else refuse (429).

    `running` and `limit` are of the function and tenant key; what waits counts per account.
    """
    if account_running < account_limit and running < limit:
        return Admission.ADMIT
    return Admission.WAIT if waiting < queue_limit else Admission.REFUSE
