"""What a terminal shows, and what is never sent anywhere else."""

from __future__ import annotations

import json
import re

import pytest

from pyfaas.cli import console
from tests.cli.command import Cli

ESCAPE = "\x1b["
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def plain(shown: str) -> str:
    """Return what is to read, without the codes that move and colour."""
    return CODES.sub("", shown).replace("\r", "")


def write_events(cli: Cli) -> None:
    """Write a few events, one of them broken."""
    (cli.directory / "in.ndjson").write_text("".join(f'{{"n": {n}}}\n' for n in range(30)) + "{broken\n")


def test_a_deploy_shows_its_progress_on_a_terminal(cli: Cli) -> None:
    """What goes on is drawn and wiped away; the result stays."""
    (cli.directory / "drawn.py").write_text("def handler(event, context): ...\n")
    code, shown = cli.on_terminal("deploy", "drawn.py")
    assert code == 0
    assert "publishing drawn" in plain(shown)
    assert "preparing drawn:1" in plain(shown)
    assert ESCAPE + "2K" in shown, "the line is wiped away"
    assert "FUNCTION" in plain(shown)


def test_a_map_shows_a_bar_on_a_terminal(cli: Cli) -> None:
    """How much is done, how much failed; the summary stays."""
    cli.deploy("echo")
    write_events(cli)
    code, shown = cli.on_terminal("map", "echo", "-i", "in.ndjson", "-o", "out.ndjson")
    assert code == 1
    assert "100%" in shown
    assert "30 ok, 1 failed" in plain(shown)
    assert plain(shown).splitlines()[-1].startswith("31 items: 30 ok, 1 failed, in ")
    assert len((cli.directory / "out.ndjson").read_text().splitlines()) == 31


def test_a_bar_is_not_drawn_over_results(cli: Cli) -> None:
    """Results that go to the same terminal are lines, and nothing else is among them."""
    cli.deploy("echo")
    write_events(cli)
    _, shown = cli.on_terminal("map", "echo", "-i", "in.ndjson")
    assert ESCAPE not in shown
    assert len([line for line in shown.splitlines() if line.startswith('{"i": ')]) == 31


@pytest.mark.parametrize("words", ["deploy drawn.py", "map echo -i in.ndjson -o out.ndjson", "invoke echo", "run drawn.py"])
@pytest.mark.parametrize(("name", "value"), [("TERM", "dumb"), ("TERM", "")])
def test_a_terminal_that_cannot_be_drawn_on_is_written_to(cli: Cli, words: str, name: str, value: str) -> None:
    """On TERM=dumb nothing moves and nothing is coloured."""
    (cli.directory / "drawn.py").write_text("def handler(event, context): ...\n")
    cli.deploy("echo")
    write_events(cli)
    cli.variables[name] = value
    code, shown = cli.on_terminal(*words.split())
    assert code in (0, 1)
    assert ESCAPE not in shown


@pytest.mark.parametrize("words", [["deploy", "drawn.py"], ["map", "echo", "-i", "in.ndjson", "-o", "out.ndjson"], ["ls"]])
def test_no_color_is_honoured(cli: Cli, words: list[str]) -> None:
    """NO_COLOR (no-color.org): progress moves, and has no colours; without it, it has."""
    (cli.directory / "drawn.py").write_text("def handler(event, context): ...\n")
    cli.deploy("echo")
    write_events(cli)
    _, coloured = cli.on_terminal(*words)
    cli.variables["NO_COLOR"] = "1"
    (cli.directory / "out.ndjson").unlink(missing_ok=True)
    _, shown = cli.on_terminal(*words)
    codes = {code for found in COLOUR.findall(shown) for code in re.findall(r"\d+", found)}
    assert COLOUR.search(coloured)
    assert not [code for code in codes if 30 <= int(code) <= 107], codes


@pytest.mark.parametrize("words", [["deploy", "drawn.py"], ["-q", "deploy", "drawn.py"], ["deploy", "drawn.py", "-o", "json"], ["ls"]])
def test_off_a_terminal_there_are_no_frames(cli: Cli, words: list[str]) -> None:
    """No code of a terminal is in a file or a pipe, not even with FORCE_COLOR's friends set."""
    (cli.directory / "drawn.py").write_text("def handler(event, context): ...\n")
    cli.variables["TERM"] = "xterm-256color"
    done = cli(*words)
    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr
    assert "\r" not in done.stdout + done.stderr
    assert "publishing" not in done.stderr


def test_quiet_draws_nothing(cli: Cli) -> None:
    """-q and -o json keep a terminal clean."""
    (cli.directory / "drawn.py").write_text("def handler(event, context): ...\n")
    assert "publishing" not in cli.on_terminal("-q", "deploy", "drawn.py")[1]
    shown = cli.on_terminal("deploy", "drawn.py", "-o", "json")[1]
    assert json.loads(shown)["function"] == "drawn"


@pytest.mark.parametrize("columns", [20, 40, 200])
def test_nothing_is_lost_where_it_is_narrow(cli: Cli, columns: int) -> None:
    """A table folds what is too wide; every letter is there, on as many lines as it takes."""
    name = "long_" + "x" * 50
    cli.deploy(name)
    code, shown = cli.on_terminal("ls", columns=columns)
    assert code == 0
    assert plain(shown).count("x") >= 50
    assert "…" not in shown
    assert name in cli("ls").stdout, "off a terminal a name is never folded"


def test_columns_of_wide_letters_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    """A letter that takes two cells counts for two, a mark upon a letter for none."""
    console.table(("name", "x"), [["日本", "1"], ["ab", "2"], ["e\u0301", "3"]])
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["NAME  X", "日本  1", "ab    2", "e\u0301     3"]


def test_what_others_wrote_is_shown_and_not_obeyed(cli: Cli) -> None:
    """An escape code in a log line is told to a terminal in letters; a file gets it as it is."""
    cli.deploy("echo")
    _, shown = cli.on_terminal("logs", "echo")
    assert "hello \\x1b[31m" in shown
    assert ESCAPE not in shown
    assert "hello \x1b[31m" in cli("logs", "echo").stdout


@pytest.mark.parametrize(("typed", "code", "is_there"), [("n\n", 1, True), ("y\n", 0, False)])
def test_rm_asks_on_a_terminal(cli: Cli, typed: str, code: int, is_there: bool) -> None:  # noqa: FBT001 - a value, not a mode
    """A no keeps it, a yes removes it."""
    cli.deploy("asked")
    assert cli.on_terminal("rm", "asked", typed=typed)[0] == code
    assert (cli("describe", "asked").returncode == 0) == is_there


def test_login_asks_for_the_token_and_does_not_show_it(cli: Cli) -> None:
    """What is typed as a token is not on the screen."""
    cli.token = ""
    code, shown = cli.on_terminal("login", "--url", cli.fake.url, typed="pf_good\n")
    assert (code, "logged in" in shown) == (0, True), shown
    assert "token: " in shown


def test_map_says_what_it_waits_for(cli: Cli) -> None:
    """Somebody who names no file is told to type, and how to end."""
    cli.deploy("echo")
    code, shown = cli.on_terminal("map", "echo", typed='{"a": 1}\n\x04')
    assert (code, "type an event a line" in shown) == (0, True)
    assert '{"i": 0, "ok": {"a": 1}}' in shown


def test_json_is_indented_for_a_reader_only(cli: Cli) -> None:
    """On a terminal a document has lines; elsewhere it is the server's, byte for byte."""
    assert '\n  "account": "default"' in cli.on_terminal("whoami", "-o", "json")[1].replace("\r", "")
    assert cli("whoami", "-o", "json").stdout.count("\n") == 1
