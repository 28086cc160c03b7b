"""`map`: a line in, a line out, whatever happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fake import until

from tests.cli.command import Cli


def lines(path: Path) -> list[dict[str, Any]]:
    """Return what a file's lines say, by their number; fails for one that is torn."""
    text = path.read_text()
    assert text.endswith("\n") or not text
    return sorted((json.loads(line) for line in text.splitlines()), key=lambda each: int(each["i"]))


def write(cli: Cli, count: int) -> None:
    """Write so many events."""
    (cli.directory / "in.ndjson").write_text("".join(f'{{"n": {n}}}\n' for n in range(count)))


def test_each_line_is_a_call(cli: Cli) -> None:
    """Results carry the number of their line; a summary is on stderr, unless told to be quiet."""
    cli.deploy("echo")
    write(cli, 50)
    done = cli("map", "echo", "-i", "in.ndjson", "-o", "out.ndjson", "--concurrency", "7")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("50 items: 50 ok, 0 failed, in ")
    assert lines(cli.directory / "out.ndjson") == [{"i": n, "ok": {"n": n}} for n in range(50)]
    assert cli("map", "echo", "-i", "in.ndjson", "-q").stderr == ""


def test_stdin_and_stdout_are_the_default(cli: Cli) -> None:
    """Without files it is a filter; empty lines are no items, and the last line needs no end."""
    cli.deploy("echo")
    done = cli("map", "echo", input='{"a": 1}\n\n  \n{"a": 2}')
    assert sorted(done.stdout.splitlines()) == ['{"i": 0, "ok": {"a": 1}}', '{"i": 1, "ok": {"a": 2}}']
    assert (cli("map", "echo").stdout, cli("map", "echo").returncode) == ("", 0)


def test_what_results_may_be(cli: Cli) -> None:
    """Bytes are tagged, a stream is an array, and one that breaks is the item's error."""
    cli.deploy("picture", "ticks", "breaks")
    assert cli("map", "picture", input="{}").stdout == '{"i": 0, "ok": {"$bytes":"iVBORwA="}}\n'
    assert json.loads(cli("map", "ticks", input="{}").stdout)["ok"] == [{"n": 0}, {"n": 1}, {"n": 2}]
    done = cli("map", "breaks", input="{}")
    assert (done.returncode, json.loads(done.stdout)["error"]["errorType"]) == (1, "KeyError")


def test_a_failed_item_is_a_line_and_exit_status_1(cli: Cli) -> None:
    """What a run says of its failure is in its line; a line that is no JSON is an item's error that calls nobody."""
    cli.deploy("boom", "echo")
    done = cli("map", "boom", input="{}\n{}\n")
    assert (done.returncode, "2 items: 0 ok, 2 failed" in done.stderr) == (1, True)
    assert [json.loads(line)["error"]["errorType"] for line in done.stdout.splitlines()] == ["ValueError"] * 2
    before = len(cli.fake.seen()["requests"])
    done = cli("map", "echo", input='{"a": 1\n' + "[" * 50_000 + "\n\udc80\n".encode(errors="surrogateescape").decode("latin-1"))
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, [row["error"]["code"] for row in rows]) == (1, ["invalid_event"] * 3)
    assert len(cli.fake.seen()["requests"]) == before


def test_what_would_meet_every_item_ends_it(cli: Cli) -> None:
    """No such function, a wrong token, no server: one failure with its code, and no line for any item."""
    cli.deploy("echo")
    write(cli, 30)
    words = ("map", "echo", "-i", "in.ndjson", "-o", "out.ndjson")
    assert cli("map", "nowhere", *words[2:]).returncode == 2
    cli.token = "pf_wrong"
    assert cli(*words).returncode == 4
    cli.token, cli.url = "pf_good", "http://127.0.0.1:1"
    assert cli(*words).returncode == 3
    assert (cli.directory / "out.ndjson").read_bytes() == b""


def test_throttled_calls_are_made_again(cli: Cli) -> None:
    """429 is no failure of an item: it is asked again after the time that the server named."""
    cli.deploy("busyonce")
    write(cli, 6)
    done = cli("map", "busyonce", "-i", "in.ndjson", "-o", "out.ndjson", "--concurrency", "1")
    assert done.returncode == 0, done.stderr
    assert [row["ok"]["n"] for row in lines(cli.directory / "out.ndjson")] == list(range(6))
    asked = [r for r in cli.fake.seen()["requests"] if r["path"].startswith("/v1/functions/busyonce/invoke")]
    assert len(asked) == 12


def test_resume_skips_what_is_there(cli: Cli) -> None:
    """Only what is missing is called; a torn last line is cut off and made again; what failed before still counts."""
    cli.deploy("echo")
    write(cli, 5)
    out = cli.directory / "out.ndjson"
    out.write_text('{"i": 3, "ok": "kept"}\n{"i": 0, "error": {"code": "oom"}}\n{"i": 1, "ok": "to')
    before = len(cli.fake.seen()["requests"])
    done = cli("map", "echo", "-i", "in.ndjson", "-o", "out.ndjson", "--resume")
    assert (done.returncode, "5 items, 2 of them before: 4 ok, 1 failed" in done.stderr) == (1, True), done.stderr
    assert len(cli.fake.seen()["requests"]) == before + 3
    assert [row.get("ok") for row in lines(out)] == [None, {"n": 1}, {"n": 2}, "kept", {"n": 4}]


@pytest.mark.parametrize(
    ("there", "words", "told"),
    [
        ('{"i": 0, "ok": 1}\n', "", "out.ndjson is not empty"),
        ("name,age\n", "--resume", "out.ndjson, line 1 was not written by map"),
        ('{"i": true}\n', "--resume", "was not written by map"),
    ],
)
def test_what_is_there_is_not_destroyed(cli: Cli, there: str, words: str, told: str) -> None:
    """An output that has something is only gone on with, and only when it is map's own."""
    cli.deploy("echo")
    write(cli, 2)
    (cli.directory / "out.ndjson").write_text(there)
    done = cli("map", "echo", "-i", "in.ndjson", "-o", "out.ndjson", *words.split())
    assert (done.returncode, told in done.stderr) == (2, True), done.stderr
    assert (cli.directory / "out.ndjson").read_text() == there


@pytest.mark.parametrize("words", ["-i missing", "-i .", "-o /nowhere/x", "--resume", "--concurrency 0", "--concurrency x"])
def test_usage_is_2(cli: Cli, words: str) -> None:
    """A file that cannot be read or made, and options that make no sense, are refused before anything is called."""
    done = cli("map", "echo", *words.split())
    assert (done.returncode, done.stderr.startswith("error: ")) == (2, True), done.stderr


def test_ctrl_c_keeps_whole_lines_and_says_how_to_go_on(cli: Cli) -> None:
    """What runs is cancelled, exit status 130, and the command that is named goes on."""
    cli.deploy("hangs", "echo")
    write(cli, 30)
    out = cli.directory / "out.ndjson"
    out.write_text("".join(f'{{"i": {n}, "ok": 1}}\n' for n in range(25)))
    asked, before = _asked(cli, "/v1/functions/hangs/invoke"), cli.fake.seen()["cancelled"]
    process = cli.start("map", "hangs", "-i", "in.ndjson", "-o", "out.ndjson", "--resume")
    try:
        assert until(lambda: _asked(cli, "/v1/functions/hangs/invoke") == asked + 5, 60)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, err.count(b"\n")) == (130, 1), err
    assert b"25 items" in err
    assert b"the same command goes on" in err
    assert until(lambda: cli.fake.seen()["cancelled"] == before + 5, 60)
    assert len(lines(out)) == 25
    assert cli("map", "echo", "-i", "in.ndjson", "-o", "out.ndjson", "--resume").returncode == 0
    assert len(lines(out)) == 30


def _asked(cli: Cli, path: str) -> int:
    return sum(r["path"].startswith(path) for r in cli.fake.seen()["requests"])


def test_ctrl_c_ends_a_wait_for_input(cli: Cli) -> None:
    """Nobody types, Ctrl-C is pressed: it ends at once."""
    cli.deploy("echo")
    read, write_end = os.pipe()
    command = [sys.executable, "-m", "pyfaas", "map", "echo"]
    process = subprocess.Popen(command, env=cli.environment, stdin=read, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        os.write(write_end, b'{"a": 1}\n')
        assert process.stdout is not None
        assert process.stdout.readline() == b'{"i": 0, "ok": {"a": 1}}\n'  # though the input goes on
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()
        os.close(read)
        os.close(write_end)
    assert process.returncode == 130
    assert b"ended early: 1 item:" in err


def test_a_killed_one_leaves_whole_lines(cli: Cli) -> None:
    """kill -9 in the middle: every line is whole, and what is missing is made by --resume."""
    cli.deploy("echo")
    write(cli, 2000)
    out = cli.directory / "out.ndjson"
    process = cli.start("map", "echo", "-i", "in.ndjson", "-o", "out.ndjson")
    try:
        assert until(lambda: out.exists() and out.stat().st_size > 500, 60)
    finally:
        process.kill()
        process.communicate()
    assert 0 < len(lines(out)) < 2000
    write(cli, len(lines(out)) + 20)
    assert cli("map", "echo", "-i", "in.ndjson", "-o", "out.ndjson", "--resume").returncode == 0
    rows = lines(out)
    assert [row["i"] for row in rows[:20]] == list(range(20))
    assert len({row["i"] for row in rows}) == len(rows)


def test_a_closed_pipe_ends_quietly(cli: Cli) -> None:
    """`pyfaas map … | head` is no failure."""
    cli.deploy("echo")
    write(cli, 200)
    read, write_end = os.pipe()
    os.close(read)
    try:
        done = cli("map", "echo", "-i", "in.ndjson", capture_output=False, stdout=write_end, stderr=subprocess.PIPE)
    finally:
        os.close(write_end)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_is_told(cli: Cli) -> None:
    """What cannot be written is one line on stderr and no success."""
    cli.deploy("echo")
    write(cli, 3)
    done = cli("map", "echo", "-i", "in.ndjson", "-o", "/dev/full")
    assert (done.returncode, "No space left on device" in done.stderr) == (2, True)


def test_a_long_input_is_not_held(cli: Cli) -> None:
    """Ten times the lines take no more memory: what is read is what is being called."""
    cli.deploy("echo")
    program = (
        "import resource, sys\nfrom pyfaas.cli.main import main\ntry: main(sys.argv[1:])\n"
        "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
    )

    def peak_kib(megabytes: int) -> int:
        event = '{"x": "' + "x" * 50_000 + '"}\n'
        (cli.directory / "in.ndjson").write_text(event * (20 * megabytes))
        command = [sys.executable, "-c", program, "map", "echo", "-i", "in.ndjson", "-o", "/dev/null", "-q"]
        done = subprocess.run(command, cwd=cli.directory, env=cli.environment, capture_output=True, text=True, check=True)
        return int(done.stderr.split()[-1])

    assert peak_kib(10) - peak_kib(1) < 5_000
