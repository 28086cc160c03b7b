"""Exit codes, and what failures look like."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from fake import until

from pyfaas.cli.main import main
from tests.cli.command import Cli


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("echo", 0),
        ("boom", 1),
        ("badinit", 1),
        ("oom", 1),
        ("gone", 1),
        ("lost", 1),
        ("breaks", 1),
        ("badevent", 2),
        ("nowhere", 2),
        ("busy", 3),
        ("full", 3),
        ("broken", 3),
        ("slow", 5),
    ],
)
def test_invoke_exits_as_the_run_ended(cli: Cli, name: str, code: int) -> None:
    """Failed outcomes are 1, other 4xx 2, 429 and 5xx 3, a timeout 5; the reason is on stderr only."""
    if name != "nowhere":
        cli.deploy(name)
    done = cli("invoke", name)
    assert done.returncode == code, done
    assert done.stderr.startswith("error: ") == (code != 0)
    assert "error" not in done.stdout


@pytest.mark.parametrize(("name", "code"), [("echo", 0), ("boom", 1), ("late", 5)])
def test_jobs_wait_exits_as_invoke_does(cli: Cli, name: str, code: int) -> None:
    """A queued run's result goes to stdout, its failure to the exit code; an expired one is 5."""
    cli.deploy(name)
    queued = cli("invoke", name, "-d", '{"a": 1}', "--async").stdout.strip()
    done = cli("jobs", "wait", queued)
    assert done.returncode == code
    assert json.loads(done.stdout or "{}") == ({"a": 1} if code == 0 else {})


def test_an_own_wait_that_is_over_is_5(cli: Cli) -> None:
    """Giving up is told apart from failing."""
    cli.deploy("hangs", "forever")
    queued = cli("invoke", "hangs", "--async").stdout.strip()
    assert cli("jobs", "wait", queued, "--timeout", "200ms").returncode == 5
    done = cli("deploy", "forever.py", "--wait-timeout", "200ms")
    assert (done.returncode, "preparing" in done.stderr) == (5, True)


def test_a_failed_version_is_1(cli: Cli) -> None:
    """deploy says why on stderr, with the build log's tail, and how to see all of it."""
    (cli.directory / "fails.py").write_text("import nothing\n")
    done = cli("deploy", "fails.py")
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[1] == "world"
    assert lines[2:] == [
        "error: fails:1 failed: ModuleNotFoundError: no module named 'nothing'",
        "hint: the whole build log: pyfaas logs fails:1 --build",
    ]


@pytest.mark.parametrize(
    "words",
    [
        ["nothing"],
        ["ls", "--nothing"],
        ["invoke"],
        ["invoke", "a b"],
        ["versions", "a b"],
        ["jobs", "get", ".."],
        ["token", "revoke", ""],
        ["deploy", "missing"],
        ["-o", "xml", "ls"],
        ["alias", "set", "f", "1"],
    ],
)
def test_usage_is_2(cli: Cli, words: list[str]) -> None:
    """What cannot be understood is refused in a line and a hint, before any server is asked."""
    cli.url = "http://127.0.0.1:1"
    done = cli(*words)
    assert done.returncode == 2, done
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) <= 2


def test_unreachable_is_3_and_not_allowed_4(cli: Cli) -> None:
    """No server, no token, a wrong token and a missing scope."""
    cli.deploy("echo")
    cli.token = "pf_wrong"
    assert cli("ls").returncode == 4
    cli.token = "pf_read"
    assert (cli("ls").returncode, cli("rm", "echo", "-y").returncode) == (0, 4)
    cli.url = "http://127.0.0.1:1"
    done = cli("ls")
    assert (done.returncode, "pyfaas serve" in done.stderr) == (3, True)
    assert done.stderr.startswith("error: cannot reach http://127.0.0.1:1: Connection refused\n")
    cli.url = "http://127.0.0.1:99999"
    assert cli("ls").returncode == 2
    cli.url = "http://127.0.0.1:1"
    cli.token = ""
    assert cli("ls").returncode == 3


def test_a_document_is_shown_to_programs(cli: Cli) -> None:
    """With -o json a failure is the problem document on stderr, before and after the verb."""
    for words in (("-o", "json", "describe", "nowhere"), ("describe", "nowhere", "-o", "json")):
        done = cli(*words)
        assert (done.returncode, done.stdout) == (2, "")
        assert json.loads(done.stderr)["code"] == "not_found"
    assert json.loads(cli("-o", "json", "invoke").stderr)["code"] == "invalid_request"
    cli.deploy("boom")
    assert json.loads(cli("invoke", "boom", "-o", "json").stderr)["errorType"] == "ValueError"


def test_rm_asks_nobody_off_a_terminal(cli: Cli) -> None:
    """Without -y and without a terminal nothing is removed."""
    cli.deploy("echo")
    assert cli("rm", "echo").returncode == 2
    assert cli("describe", "echo").returncode == 0
    assert cli("rm", "echo", "-y").returncode == 0
    assert cli("rm", "echo", "-y").returncode == 2


def interrupt(cli: Cli, path: str, *words: str) -> tuple[int, bytes]:
    """Start a command, interrupt it once the server was asked for `path`; returns its code and stderr."""
    before = len(cli.fake.seen()["requests"])
    process = cli.start(*words)
    try:
        assert until(lambda: any(r["path"].startswith(path) for r in cli.fake.seen()["requests"][before:]), 60)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    return process.returncode, err


def test_interrupting_invoke_cancels_the_run(cli: Cli) -> None:
    """Ctrl-C exits with 130, without a traceback, and the server sees the connection close."""
    cli.deploy("hangs")
    before = cli.fake.seen()["cancelled"]
    code, err = interrupt(cli, "/v1/functions/hangs/invoke", "invoke", "hangs")
    assert (code, err) == (130, b"")
    assert until(lambda: cli.fake.seen()["cancelled"] > before, 60)


def test_interrupting_deploy_says_that_it_goes_on(cli: Cli) -> None:
    """After the 201 the version exists, and the CLI says so."""
    cli.deploy("forever")
    code, err = interrupt(cli, "/v1/functions/forever/versions/", "deploy", "forever.py")
    assert code == 130
    assert b"preparation goes on" in err


def test_a_closed_pipe_ends_quietly(cli: Cli) -> None:
    """`pyfaas … | head` leaves no traceback."""
    cli.deploy("endless")
    process = cli.start("invoke", "endless", "--stream")
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b'{"n": 0}\n'
        process.stdout.close()
        assert process.wait(20) == 0
        assert process.stderr.read() == b""
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_a_closed_pipe_of_a_list_ends_quietly(cli: Cli) -> None:
    """A reader that is gone before the first line is no failure."""
    cli.deploy("echo")
    read, write = os.pipe()
    os.close(read)
    try:
        done = cli("ls", capture_output=False, stdout=write, stderr=subprocess.PIPE)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("words", [["ls"], ["--version"], ["--help"]])
def test_a_closed_stdout_is_no_failure(cli: Cli, words: list[str]) -> None:
    """`pyfaas … >&-` ends quietly, and no connection takes the place of the stream."""
    command = ["sh", "-c", 'exec "$0" -m pyfaas "$@" >&-', sys.executable, *words]
    done = subprocess.run(command, env=cli.environment, stderr=subprocess.PIPE, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("words", [["ls"], ["--version"]])
def test_output_that_cannot_be_written_is_told(cli: Cli, words: list[str]) -> None:
    """A full disk is one line on stderr and no success."""
    with open("/dev/full", "wb") as full:
        done = cli(*words, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (2, "error: No space left on device\n")


def test_interrupting_the_start_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while modules are imported is told by the exit code, not by a traceback."""

    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("importlib.import_module", interrupted)
    with pytest.raises(SystemExit) as end:
        main(["ls"])
    assert end.value.code == 130


def test_a_file_that_cannot_be_made_is_named(cli: Cli) -> None:
    """What the machine refuses is one line that names the file."""
    (cli.directory / "here").symlink_to("/proc/nowhere")
    done = cli("init", "here")
    assert (done.returncode, done.stderr) == (2, "error: here: File exists\n")


def test_a_locale_without_the_letters_is_no_failure(cli: Cli) -> None:
    """What cannot be written in the locale's encoding is shown escaped; JSON stays JSON."""
    cli.variables["PYTHONIOENCODING"] = "ascii"
    assert "\\xe9" in cli("token", "create", "--label", "é").stdout
    assert json.loads(cli("token", "create", "--label", "é", "-o", "json").stdout)["label"] == "é"
    done = cli("-o", "json", "deploy", "été.txt")
    assert json.loads(done.stderr)["detail"].startswith("été.txt")
    assert "\\xe9t\\xe9.txt" in cli("deploy", "été.txt").stderr
