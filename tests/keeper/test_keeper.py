"""The keeper starts launcher and server, starts again what dies, and passes signals on."""

from __future__ import annotations

import os
import signal
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pyfaas import starting
from pyfaas.keeper import BackOff
from tests.keeper import fake
from tests.keeper.conftest import Kept, gone, heard, launch


def test_ready_is_one_line(kept: Kept) -> None:
    """The ready line names the place and the isolation, DATA/endpoint the place, and nothing else is on stdout."""
    assert kept.line.startswith("pyfaas ready url=http://127.0.0.1:")
    assert kept.words["isolation"] == "full"
    assert (kept.data / "endpoint").read_text() == kept.words["url"] + "\n"
    assert kept.ask("who") == kept.children()["server"]
    kept.signal(signal.SIGTERM)
    status, out, _ = kept.end()
    assert (status, out) == (0, "")


def test_the_data_directory_is_private(kept: Kept) -> None:
    """Nobody else may pass into the data directory, nor read what the keeper makes in it but what the server must read."""
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (kept.data, *kept.data.iterdir())}
    assert {name for name, mode in modes.items() if mode & 0o077} <= {"endpoint", "prepared", "environments"}
    assert modes["data"] == 0o700


def test_the_server_gets_what_it_is_handed(kept: Kept) -> None:
    """The server has the five descriptors of its hand-over, the standard three and nothing of the environment."""
    told = kept.ask("surroundings")
    assert set(told["handed"]) | {0, 1, 2} <= set(told["open"])
    assert len(told["open"]) == 3 + 5 + 1  # and the one that lists them
    assert set(told["environment"]) <= {"PATH", "LANG", "LC_CTYPE"}


def test_a_killed_server_is_started_again(kept: Kept) -> None:
    """A connection made while there is no server waits for the next one; the ready line is not repeated."""
    before = kept.children()
    os.kill(before["server"], signal.SIGKILL)
    after = kept.ask("who")
    if after is None:  # it was still the old one that took the connection
        after = kept.ask("who")
    assert after not in (None, before["server"])
    assert gone(before["launcher"])
    assert gone(before["egress"])
    kept.signal(signal.SIGTERM)
    status, out, err = kept.end()
    assert (status, out) == (0, "")
    assert "starting again" in err


def test_a_killed_launcher_is_replaced(kept: Kept) -> None:
    """The server stays, and is handed the control socket of a new launcher that is ready."""
    before = kept.children()
    os.kill(before["launcher"], signal.SIGKILL)
    launchers = kept.ask("next launcher")
    assert len(launchers) == 2
    assert all(line.startswith("0 ready ") for line in launchers)
    after = kept.children()
    assert after["server"] == before["server"]
    assert after["launcher"] != before["launcher"]


def test_a_killed_egress_is_replaced(kept: Kept) -> None:
    """The server stays, and is handed the control socket of a new way out, as often as that is killed; the launcher knows nothing of it."""
    before = kept.children()
    for number in (2, 3):
        wait_for(lambda: "egress" in kept.children())  # a process that is just executed has no name for a moment
        os.kill(kept.children()["egress"], signal.SIGKILL)
        wait_for(lambda: kept.ask("exits") == number)  # noqa: B023 - asked before the next
    wait_for(lambda: "egress" in kept.children())
    after = kept.children()
    assert (after["server"], after["launcher"]) == (before["server"], before["launcher"])
    assert after["egress"] != before["egress"]


def test_a_server_that_ends_during_a_pause_is_seen_to(kept: Kept) -> None:
    """While the keeper waits before another launcher the server ends too: it is started again, and not when something else happens."""
    for _ in range(4):  # each sooner than a launcher can have served: the keeper waits longer before the next
        kill_launcher(kept)
    before = kept.children()
    os.kill(before["launcher"], signal.SIGKILL)
    assert gone(before["launcher"])
    os.kill(before["server"], signal.SIGKILL)
    assert gone(before["server"])
    assert kept.ask("who") != before["server"]


def kill_launcher(kept: Kept) -> None:
    """Kill the launcher, and wait until there is another."""
    launcher = kept.children()["launcher"]
    os.kill(launcher, signal.SIGKILL)
    wait_for(lambda: launcher_of(kept) not in (None, launcher))


def launcher_of(kept: Kept) -> int | None:
    """Return the launcher; None when there is none, or a child ended while it was looked at."""
    try:
        return kept.children().get("launcher")
    except OSError:
        return None


def wait_for(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    until = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_killed_keeper_takes_everything_along(kept: Kept) -> None:
    """Launcher and server end with the keeper, and the data directory can be served again."""
    children = kept.children()
    kept.signal(signal.SIGKILL)
    kept.end()
    assert all(gone(pid) for pid in children.values())
    again = launch(kept.data)
    assert again.stdout is not None
    assert again.stdout.readline().startswith("pyfaas ready ")
    again.send_signal(signal.SIGTERM)
    again.communicate(timeout=60)
    assert again.returncode == 0


def test_a_stop_is_passed_on(kept: Kept) -> None:
    """SIGTERM ends the server in its own time; afterwards no process and no endpoint is left."""
    children = kept.children()
    kept.signal(signal.SIGTERM)
    assert kept.end()[0] == 0
    assert all(gone(pid, 0.0) for pid in children.values())
    assert not (kept.data / "endpoint").exists()


def test_a_second_signal_kills(kept: Kept) -> None:
    """A server that does not end is killed by the second signal, and the keeper says so by its status."""
    kept.ask("be stubborn")
    with kept.connect("signal") as connection:
        kept.signal(signal.SIGINT)
        heard(connection)
    kept.signal(signal.SIGTERM)
    assert kept.end()[0] == 1


def test_a_second_keeper_is_refused(kept: Kept) -> None:
    """The refusal names the process and the place that the directory is served by, and the first one goes on."""
    status, out, err = Kept(launch(kept.data), kept.data, "").end()
    assert (status, out) == (3, "")
    assert len(err.splitlines()) == 1
    assert str(kept.process.pid) in err
    assert kept.words["url"] in err
    assert kept.ask("who") == kept.children()["server"]


def test_a_taken_port_is_refused(tmp_path: Path) -> None:
    """A port in use is one line with the port in it."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        status, out, err = Kept(launch(tmp_path / "data", port=port), tmp_path, "").end()
    assert (status, out) == (3, "")
    assert len(err.splitlines()) == 1
    assert f":{port}" in err


@pytest.mark.parametrize(("said", "starts"), [(78, 1), (1, 3)])
def test_a_server_that_does_not_come_up(tmp_path: Path, said: int, starts: int) -> None:
    """A server that refuses is not tried twice; one that only fails is tried three times before the keeper gives up."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "status").write_text(str(said))
    status, out, _ = Kept(launch(data, fake.ENDS), data, "").end()
    assert (status, out) == (3, "")
    assert (data / "starts").read_text().splitlines() == ["start"] * starts


def test_a_server_that_cannot_be_confined(tmp_path: Path) -> None:
    """A cell that cannot be built is a refusal in one line, and is not tried again."""
    program = starting.SERVER.replace("needed=given.needed", "needed=('/no/such/place/at/all',)")
    status, out, err = Kept(launch(tmp_path / "data", program), tmp_path, "").end()
    assert (status, out) == (3, "")
    assert err.count("cannot be confined") == 1
    assert "starting again" not in err


def test_a_stop_while_starting(start: Callable[..., Kept]) -> None:
    """A signal that comes between a server's end and the next start is not lost."""
    kept = start()
    os.kill(kept.children()["server"], signal.SIGKILL)
    kept.signal(signal.SIGTERM)
    assert kept.end()[0] in (0, 1)
    assert not (kept.data / "endpoint").exists()


def test_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    """A full disk under the log ends nothing: what dies is started again, upgrades go on, and a stop is a stop."""
    full = os.open("/dev/full", os.O_WRONLY)
    kept = Kept(launch(tmp_path / "data", errors=full), tmp_path / "data", "")
    os.close(full)
    assert kept.process.stdout is not None
    kept.line = kept.process.stdout.readline()
    seen = {kept.children()["server"]}
    os.kill(kept.children()["launcher"], signal.SIGKILL)
    assert len(kept.ask("next launcher")) == 2
    os.kill(kept.children()["server"], signal.SIGKILL)
    while (answer := kept.ask("who")) in (None, *seen):
        pass
    kept.signal(signal.SIGHUP)
    while kept.ask("who") == answer:
        pass
    kept.signal(signal.SIGTERM)
    assert kept.end()[0] == 0


def test_back_off() -> None:
    """Each failure in a row waits longer, up to a limit, which is low for what had served; a steady while begins anew."""
    tries = BackOff()
    waits = [tries.after(0.1) for _ in range(9)]
    assert waits == sorted(waits)
    assert waits[0] == 0.0
    assert waits[-1] == waits[-2] == 5.0
    assert tries.after(0.1, has_served=True) == 0.5
    assert tries.after(1000.0) == 0.0
