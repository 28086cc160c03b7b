"""Releases on the command line: canaries, policies, going back, what runs where, and events as progress."""

from __future__ import annotations

import json
import signal
from urllib.parse import parse_qs, urlsplit

import pytest
from fake import until

from tests.cli.command import Cli
from tests.cli.test_cli_terminal import ESCAPE, plain


def asked(cli: Cli, method: str, path: str) -> dict[str, list[str]]:
    """Return the query of the last request of that method and path."""
    found = [urlsplit(r["path"]) for r in cli.fake.seen()["requests"] if r["method"] == method and urlsplit(r["path"]).path == path]
    return parse_qs(found[-1].query)


def write(cli: Cli, name: str) -> str:
    """Write a function's file; returns its name."""
    (cli.directory / f"{name}.py").write_text("def handler(event, context): ...\n")
    return f"{name}.py"


def test_a_canary_is_sent_with_the_publication(cli: Cli) -> None:
    """Alias, first percent, time and budget are of the one request that publishes; a line says what goes on."""
    file = write(cli, "canaried")
    assert cli("deploy", file, "--alias", "live").stderr == "canaried:live is version 1\n"
    done = cli("deploy", file, "--alias", "live", "--canary", "10%", "--promote-after", "5m", "--error-budget", "1%")
    assert done.returncode == 0, done.stderr
    assert asked(cli, "PUT", "/v1/functions/canaried") == {
        "alias": ["live"],
        "canary": ["10"],
        "promote_after": ["5m"],
        "error_budget": ["1"],
    }
    assert done.stderr == "canaried:live sends 10 % to version 2; all of it after 5m0s unless more than 1 % fail\n"


def test_an_alias_moves_without_being_waited_for(cli: Cli) -> None:
    """--alias --no-wait leaves the move to the server, and says so."""
    done = cli("deploy", write(cli, "left"), "--alias", "live", "--no-wait")
    assert (done.returncode, done.stderr) == (0, "left:live moves once version 1 is ready\n")
    assert asked(cli, "PUT", "/v1/functions/left") == {"alias": ["live"]}
    assert cli("deploy", "left.py", "--alias", "live", "--no-wait", "-q").stderr == ""


def test_an_alias_that_did_not_move_is_a_failure(cli: Cli) -> None:
    """A version that is ready, but was taken off its alias meanwhile: said in a line, exit status 1."""
    done = cli("deploy", write(cli, "taken"), "--alias", "stuck")
    assert (done.returncode, done.stderr) == (1, "taken:stuck names nothing until version 1 is ready\n")


@pytest.mark.parametrize("name", ["stepped", "noevents"])
def test_steps_are_lines_with_v_only(cli: Cli, name: str) -> None:
    """Off a terminal -v tells each step once; without it nothing is told; without events nothing is missing but the lines."""
    file = write(cli, name)
    assert cli("deploy", file).stderr == ""
    done = cli("deploy", file, "-v")
    told = [] if name == "noevents" else ["fetching the code", "resolving requirements", "installing requirements", "compiling", "importing the handler"]
    assert done.returncode == 0
    assert done.stderr.splitlines() == [f"{name}:2: {step}" for step in told]


def test_steps_are_drawn_on_a_terminal(cli: Cli) -> None:
    """The line that changes names the step, and is gone afterwards."""
    code, shown = cli.on_terminal("deploy", write(cli, "stepping"))
    assert code == 0
    assert ESCAPE + "2K" in shown
    assert "stepping  1        ready  yes" in plain(shown).splitlines()[-1]


def test_an_alias_has_a_share_and_a_policy(cli: Cli) -> None:
    """What `alias set` says reaches the server; `none` is null; a table and a document show it."""
    cli.deploy("shared")
    words = "--weight 2=10 --stale allow --max-stale-time 10s --max-stale-requests 3 --stale-percent 50% --min-version 1 --max-wait 5s"
    done = cli("alias", "set", "shared:live", "1", *words.split())
    assert done.returncode == 0, done.stderr
    row = json.loads(cli("alias", "ls", "shared", "-o", "json").stdout)["items"][0]
    policy = {"stale": "allow", "max_stale_time": "10s", "max_stale_requests": 3, "stale_percent": 50, "min_version": 1, "max_wait": "5s"}
    assert row == {"alias": "live", "version": 1, "weights": {"2": 10}, "canary": None, **policy}
    assert "10 % to 2" in done.stdout
    assert "stale=allow max_stale_time=10s max_stale_requests=3" in cli("alias", "ls", "shared").stdout
    assert cli("alias", "set", "shared:live", "1", "--stale", "none", "--max-wait", "none").returncode == 0
    row = json.loads(cli("alias", "ls", "shared", "-o", "json").stdout)["items"][0]
    assert (row["weights"], "stale" in row, "max_wait" in row, row["max_stale_requests"]) == ({}, False, False, 3)


def test_an_account_has_a_policy(cli: Cli) -> None:
    """`account set` says how long older versions may answer in all of an account."""
    shown = json.loads(cli("account", "set", "default", "--stale", "forbid", "--max-wait", "5s", "-o", "json").stdout)
    assert (shown["stale"], shown["max_wait"]) == ("forbid", "5s")
    assert "stale" not in cli("account", "set", "default", "--stale", "none").stdout


def test_rollback_says_what_is_withdrawn(cli: Cli) -> None:
    """The document on stdout, a sentence on stderr for people."""
    cli.deploy("backed", "backed")
    done = cli("rollback", "backed:live")
    assert done.stderr == "backed:live is version 1 again; version 2 is withdrawn, and answers only who names it\n"
    assert json.loads(cli("rollback", "backed", "-o", "json").stdout)["withdrawn"] == 2
    assert cli("rollback", "backed", "-o", "json").stderr == ""


def test_versions_shows_what_runs_where(cli: Cli) -> None:
    """One look: state, age, who names it, containers by state and VM, where the code is; a document has it all."""
    cli.deploy("looked")
    head, row = cli("versions", "looked").stdout.splitlines()
    assert head.split() == ["VERSION", "STATE", "AGE", "SIZE", "NAMED", "BY", "CONTAINERS", "CODE", "IN", "NOTE"]
    assert "latest" in row
    assert "2 idle, 1 busy in v3" in row
    assert "near store, v3" in row
    assert cli("versions", "looked", "-q").stdout == "1\n"
    items = json.loads(cli("versions", "looked", "-o", "json").stdout)["items"]
    assert items[0]["running"][2]["state"] == "busy"
    shown = dict(line.split(None, 1) for line in cli("describe", "looked:1").stdout.splitlines() if " " in line)
    assert (shown["running"], shown["code_in"], shown["shares"]) == ("2 idle, 1 busy in v3", "near store, v3", "latest 100 %")


def test_a_failed_version_is_told_in_short(cli: Cli) -> None:
    """A deploy that fails shows why, exit status 1; `versions` has it in a few words."""
    done = cli("deploy", write(cli, "fails"))
    assert done.returncode == 1
    assert "ModuleNotFoundError: no module named 'nothing'" in done.stderr
    assert "ModuleNotFoundError" in cli("versions", "fails").stdout


@pytest.mark.parametrize("form", ["table", "json"])
def test_watching_versions_tells_events_as_they_come(cli: Cli, form: str) -> None:
    """Off a terminal: the table, then a line an event, in order; Ctrl-C ends it with 130 and says nothing."""
    name = f"watched-{form}"
    cli.deploy(name)
    process = cli.start("versions", name, "--watch", "-o", form)
    try:
        polled = lambda: any(f"/{name}/events" in r["path"] and "wait=" in r["path"] for r in cli.fake.seen()["requests"])  # noqa: E731
        assert until(polled)
        assert cli("deploy", f"{name}.py").returncode == 0
        assert process.stdout is not None
        lines: list[str] = []
        while not lines or ("ready" not in lines[-1] and '"prepared"' not in lines[-1]):
            lines.append(process.stdout.readline().decode())
            assert lines[-1], lines
            if form == "table" and len(lines) == 2:
                lines[-1] = "the row"  # of version 1, which is ready
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, said) == (130, b"")
    if form == "json":
        assert [json.loads(line)["kind"] for line in lines] == ["stored", *["preparing"] * 5, "prepared"]
    else:
        assert lines[0].startswith("VERSION")
        assert "version 2 is stored" in lines[2]
        assert len(lines) == 9


def test_watching_what_is_not_there_is_an_error(cli: Cli) -> None:
    """A name that nobody has: exit status 2, at once."""
    done = cli("versions", "nobody-has-this", "--watch")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no function 'nobody-has-this'" in done.stderr


def _waits(cli: Cli, before: int) -> bool:
    return any("/forever/versions/" in r["path"] for r in cli.fake.seen()["requests"][before:])


def test_ctrl_c_says_that_the_preparation_goes_on(cli: Cli) -> None:
    """Interrupted while it waits, a deploy has told the server everything; it says what goes on."""
    (cli.directory / "forever.py").write_text("def handler(event, context): ...\n")
    before = len(cli.fake.seen()["requests"])
    process = cli.start("deploy", "forever.py", "--alias", "live")
    try:
        assert until(lambda: _waits(cli, before))
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    made = f"forever:{len(cli.fake.seen()['functions']['forever'])}"
    told = f"{made} is published; its preparation goes on, and forever:live moves then (pyfaas describe {made})\n"
    assert (process.returncode, said.decode()) == (130, told)


def test_a_version_that_its_first_call_prepares_is_not_waited_for(cli: Cli) -> None:
    """Where the server prepares nothing by itself, a deploy ends at once and says so."""
    done = cli("deploy", write(cli, "unloaded"))
    assert (done.returncode, done.stdout.split()[-3:]) == (0, ["1", "stored", "yes"])
    assert done.stderr == "unloaded:1 is prepared by its first call, as the server's options say\n"
