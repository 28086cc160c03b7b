"""Which version answers a request: the table of the design's *versions*, first row that matches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum

from pyfaas.model import VersionState


class Supply(IntEnum):
    """What a tenant key has of a version; higher is better."""

    NONE = 0
    CACHED = 1  # its code lies in a VM of the tenant key
    BUSY = 2
    TEMPLATE = 3
    FREE = 4


class Answer(Enum):
    """What happens to the request."""

    NEW = "new"  # the named version
    OLD = "old"  # a substitute, with this request's arguments
    WAIT = "wait"  # joins the preparation that runs
    INIT_ERROR = "init_error"  # the named version failed
    NOT_READY = "not_ready"  # it has waited as long as it may


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """`version` answers (or is waited for); `prepare` and `load` say what of the named version is to be started."""

    answer: Answer
    version: int
    prepare: bool = False
    load: bool = False


def decide(
    requested: int,
    state: VersionState,
    substitutes: tuple[int, ...],
    supply: Mapping[int, Supply],
    *,
    may_be_stale: bool,
    is_cut_over: bool,
    has_waited: bool = False,
) -> Decision:
    """Decide which version serves; `supply` tells of the named version and its substitutes, missing means none.

    `substitutes` are ready, best first: the first that is better supplied answers, not the best supplied, lest answers jump further
    back because the last version's containers are busy. `may_be_stale` is the merged policy with its limits; once the cut-over is done the
    named version is the only one. `has_waited`: the request joined a preparation, and its wait is over. Deleted or
    unknown versions never get here: routing refuses them.
    """
    is_ready = state is VersionState.READY
    mine = supply.get(requested, Supply.NONE)
    if is_ready and (mine >= Supply.TEMPLATE or is_cut_over):
        return Decision(answer=Answer.NEW, version=requested)
    prepare = state is VersionState.STORED
    if may_be_stale and substitutes:
        better = next((n for n in substitutes if supply.get(n, Supply.NONE) > mine), None)
        if better is not None or not is_ready:
            return Decision(answer=Answer.OLD, version=better or substitutes[0], prepare=prepare, load=is_ready)
    if is_ready:
        return Decision(answer=Answer.NEW, version=requested)
    if state is VersionState.FAILED:
        return Decision(answer=Answer.INIT_ERROR, version=requested)
    return Decision(answer=Answer.NOT_READY if has_waited else Answer.WAIT, version=requested, prepare=prepare)
