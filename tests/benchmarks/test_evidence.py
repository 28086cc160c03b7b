"""What every figure rests on: the proof of confinement, the host check, and how answers are read."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from benchmarks import hollow, host, proof
from benchmarks.load import Order
from benchmarks.pages import cold, profile
from pyfaas import server
from pyfaas.handover import Handover

DONE = dict.fromkeys(proof.ATTEMPTS, "done")
REFUSED = dict.fromkeys(proof.ATTEMPTS, "Operation not permitted")


def test_what_is_refused_inside_and_possible_outside_is_a_proof() -> None:
    """Each attempt is told with both sides, and proves when only the outside could do it."""
    lines = proof.judge(REFUSED, {**DONE, "unshare": "Operation not permitted"})
    assert [line["proves"] for line in lines] == [False, True, True]


def test_something_possible_inside_ends_the_measurement() -> None:
    """One attempt that succeeds in a container is enough to measure nothing."""
    with pytest.raises(proof.NotConfined, match="read a file of the host"):
        proof.judge({**REFUSED, "file": "done"}, DONE)


def test_what_is_refused_everywhere_proves_nothing() -> None:
    """Without a control that succeeds there is no proof, and no figure."""
    with pytest.raises(proof.NotConfined, match="no proof"):
        proof.judge(REFUSED, REFUSED)


def test_the_attempts_succeed_without_a_boundary() -> None:
    """The proof's own program reads a file in a plain process, and is not content with another one."""
    event = {"attempts": ["file"], "file": __file__}
    assert proof._outside({**event, "text": Path(__file__).read_text()}) == {"file": "done"}
    assert proof._outside({**event, "text": "something else"}) == {"file": "another file"}


@pytest.mark.parametrize(
    ("mounts", "mode"),
    [
        ("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n", "v2"),
        ("cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n", "v1"),
        ("cgroup /a cgroup rw 0 0\ncgroup2 /b cgroup2 rw 0 0\n", "v1 and v2"),
        ("proc /proc proc rw 0 0\n", "none"),
    ],
)
def test_the_cgroups_are_told_from_the_mounts(mounts: str, mode: str) -> None:
    """The host check names which cgroups there are."""
    assert host.cgroup_mode(mounts) == mode


def test_a_busy_machine_is_warned_of() -> None:
    """Processors that are busy or taken before anything was started are told; idle ones are not."""
    before, after = [0] * 8, [40, 0, 10, 40, 0, 0, 0, 10]
    state = host.shares(before, after)
    assert state == {"busy": 0.6, "stolen": 0.1}
    assert len(host.warnings(state, 0.0, 2)) == 2
    assert host.warnings({"busy": 0.01, "stolen": 0.0}, 0.1, 2) == []
    assert len(host.warnings({"busy": 0.01, "stolen": 0.0}, 3.0, 2)) == 1


def test_a_request_has_its_body() -> None:
    """An order's bytes are its head and its text, or that many zero bytes."""
    assert Order(host="", port=0, head="H", body="ab", size=2).request == b"Hab"
    assert Order(host="", port=0, head="H", body_bytes=3, size=3).request == b"H\0\0\0"


def test_server_timing_is_read() -> None:
    """The parts of Server-Timing come as milliseconds; an answer without them has none."""
    assert cold.timings("X: 1\r\nServer-Timing: queue;dur=0.1, exec;dur=2.5\r\nY: 2") == {"queue": 0.1, "exec": 2.5}
    assert cold.timings("X: 1") == {}


@pytest.mark.parametrize(
    ("why", "queue", "name"), [("warm", 0.1, "warm VM"), ("blank", 0.1, "blank"), ("blank", 20.0, "fork"), ("idle", 0.0, "idle")]
)
def test_a_blank_that_had_to_come_was_forked(why: str, queue: float, name: str) -> None:
    """A call that waited for its blank is counted as one for which it was forked."""
    assert cold.placed(why, {"queue": queue}) == name


def test_the_hops_of_a_call_are_the_call() -> None:
    """The profile's hops add up to the confined call."""
    medians = {"bare socket": 30.0, "bare aiohttp": 100.0, profile.HOLLOW: 70.0, "pyfaas": 160.0}
    rows = profile.hops(medians, 10.0)
    assert [row[1] for row in rows] == ["30", "40", "10", "80", "160", "70"]
    assert sum(int(row[1]) for row in rows[:4]) == int(rows[4][1])


def _named(made: type) -> dict[str, None]:
    """Return what a class is made with by name only."""
    return {name: None for name, given in inspect.signature(made).parameters.items() if given.kind is given.KEYWORD_ONLY}


def test_the_server_without_containers_fits_the_server() -> None:
    """What the profile's server replaces are names of the server, and what it is given survives being handed over."""
    assert [name for name in hollow.REPLACED if not hasattr(server, name)] == []
    inspect.signature(hollow.EchoWorkers).bind(None, (), **_named(server.SandboxWorkers))
    given = hollow.handover("/nowhere", 3, 4, 5)
    assert Handover.decode(given.encode()) == given
