"""What the verbs print, and what they ask the server for."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pyfaas import __version__
from pyfaas.cli.jobs import STATES
from pyfaas.cli.verbs import VERBS
from pyfaas.model import JobState
from tests.cli.command import REPOSITORY, Cli


def test_init_deploy_invoke(cli: Cli) -> None:
    """A scaffold deploys as it is, and answers."""
    assert cli("init", "first").returncode == 0
    done = cli("deploy", "first")
    assert re.sub(r" +", " ", done.stdout) == "FUNCTION VERSION STATE CHANGED\nfirst 1 ready yes\n"
    assert cli("invoke", "first", "-d", '{"a":  1}').stdout == '{"a":  1}'
    assert cli("init", "first").returncode == 2


def test_flags_of_deploy_win_and_env_is_merged(cli: Cli) -> None:
    """Each flag reaches the configuration that the server gets."""
    (cli.directory / "flags").mkdir()
    (cli.directory / "flags" / "main.py").write_text("def other(event, context): ...\n")
    (cli.directory / "flags" / "pyfaas.toml").write_text('memory = "64M"\nenv = { A = "1" }\n')
    (cli.directory / "needs.txt").write_text("rich\n")
    words = "deploy flags --name renamed --handler main:other --requirements needs.txt --memory 128M --timeout 3s --env B=2 --env C=x=y"
    assert cli(*words.split()).returncode == 0
    assert cli.fake.seen()["functions"]["renamed"][-1]["config"] == {
        "name": "renamed",
        "handler": "main:other",
        "requirements": ["rich"],
        "memory": "128M",
        "timeout": "3s",
        "env": {"A": "1", "B": "2", "C": "x=y"},
    }


def test_no_wait_prints_the_answer_of_publishing(cli: Cli) -> None:
    """--no-wait returns after the 201; with -o json that is its body."""
    (cli.directory / "soon.py").write_text("")
    shown = json.loads(cli("deploy", "soon.py", "--no-wait", "-o", "json").stdout)
    assert shown == {"function": "soon", "version": 1, "state": "stored", "changed": True}


def test_deploy_moves_a_release_alias(cli: Cli) -> None:
    """--alias points at the version once it is ready; alias ls shows it."""
    cli.deploy("aliased")
    assert cli("deploy", "aliased.py", "--alias", "live").returncode == 0
    assert cli("alias", "set", "aliased:canary", "1", "--weight", "2=10%").returncode == 0
    rows = json.loads(cli("alias", "ls", "aliased", "-o", "json").stdout)["items"]
    assert rows == [
        {"alias": "live", "version": 2, "weights": {}, "canary": None},
        {"alias": "canary", "version": 1, "weights": {"2": 10}, "canary": None},
    ]
    assert cli("alias", "rm", "aliased:live").returncode == 0


def test_invoke_takes_its_event_from_anywhere(cli: Cli) -> None:
    """JSON in place, from a file, from stdin; a file that is no JSON travels as bytes, and results come back exactly."""
    cli.deploy("echo", "picture")
    (cli.directory / "event.json").write_text('{"from": "file"}')
    (cli.directory / "photo").write_bytes(b"\xff\xd8\x00")
    assert cli("invoke", "echo").stdout == "{}"
    assert cli("invoke", "echo", "-d", "@event.json").stdout == '{"from": "file"}'
    assert cli("invoke", "echo", "-d", "-", input='{"from": "stdin"}').stdout == '{"from": "stdin"}'
    assert cli("invoke", "echo", "-d", "@photo", text=False).stdout == b"\xff\xd8\x00"
    assert cli.fake.asked("POST", "/v1/functions/echo/invoke")["Content-Type"] == "application/octet-stream"
    assert cli("invoke", "picture", text=False).stdout == b"\x89PNG\x00"
    assert cli("invoke", "echo", "-d", "@missing").returncode == 2


def test_invoke_says_when_an_older_version_ran(cli: Cli) -> None:
    """Executed is not requested: one line on stderr, none with -q; --stale and the qualifier reach the server."""
    cli.deploy("old")
    done = cli("invoke", "old:live", "--stale", "allow", "--timeout", "2s")
    assert done.stderr == "note: version 1 answered for version 2, which does not answer (yet)\n"
    assert cli("invoke", "old", "-q").stderr == ""
    asked = [r for r in cli.fake.seen()["requests"] if r["path"].endswith("/old/invoke?qualifier=live")]
    assert [asked[-1]["headers"][name] for name in ("Pyfaas-Stale", "Pyfaas-Timeout")] == ["allow", "2000ms"]


def test_streams_are_written_item_by_item(cli: Cli) -> None:
    """Each item is a line; an error after the first byte keeps the items and exits with 1."""
    cli.deploy("ticks", "breaks")
    for words in (["ticks"], ["ticks", "--stream"]):
        assert cli("invoke", *words).stdout == '{"n": 0}\n{"n": 1}\n{"n": 2}\n'
    done = cli("invoke", "breaks", "--stream")
    assert (done.stdout.count("\n"), done.returncode) == (3, 1)
    assert "KeyError: late" in done.stderr


def test_verbose_shows_the_log_on_stderr(cli: Cli) -> None:
    """-v works before and after the verb and leaves stdout alone."""
    cli.deploy("echo")
    for words in (("-v", "invoke", "echo"), ("invoke", "echo", "-v")):
        done = cli(*words)
        assert done.stdout == "{}"
        assert "pyfaas-invocation-id: inv-1" in done.stderr
        assert "world" in done.stderr


def test_run_leaves_nothing_behind(cli: Cli) -> None:
    """The file's function runs under a name of its own, which is gone afterwards."""
    (cli.directory / "once.py").write_text("def first(event, context): ...\ndef second(event, context): ...\n")
    before = set(cli.fake.seen()["functions"])
    assert cli("run", "once.py::second", "-d", '{"a":1}').stdout == '{"a":1}'
    assert set(cli.fake.seen()["functions"]) == before
    assert any(
        r["method"] == "DELETE" and r["path"].startswith("/v1/functions/run-") for r in cli.fake.seen()["requests"]
    )


def test_lists_join_pages_and_have_three_forms(cli: Cli) -> None:
    """A table for people, {items, next} for programs, names for the shell."""
    cli.deploy("one", "two")
    table = cli("ls", "--kind", "function").stdout.splitlines()
    assert table[0].split()[:3] == ["NAME", "LATEST", "STATE"]
    shown = json.loads(cli("ls", "-o", "json").stdout)
    assert shown["next"] is None
    names = [row["name"] for row in shown["items"]]
    assert {"one", "two"} <= set(names)
    assert cli("-q", "ls").stdout.split() == names
    assert cli("ls", "-o", "yaml").stdout.startswith("items:\n- name: ")


def test_logs_carry_the_invocation(cli: Cli) -> None:
    """Every line has its invocation's id; -o json is one object a line; filters reach the server."""
    cli.deploy("echo")
    lines = cli("logs", "echo:2", "--id", "inv-1", "--since", "1h", "--build").stdout.splitlines()
    assert [line.split()[1] for line in lines] == ["inv-1", "inv-1"]
    asked = [r["path"] for r in cli.fake.seen()["requests"] if "/echo/logs?" in r["path"]][-1]
    assert re.search(r"version=2&id=inv-1&since=\d+\.\d+&build=true", asked)
    assert [json.loads(line)["stream"] for line in cli("logs", "echo", "-o", "json").stdout.splitlines()] == [
        "out",
        "err",
    ]


def test_jobs(cli: Cli) -> None:
    """ls --dead, get and replay, with the same or another event."""
    cli.deploy("boom", "echo")
    queued = cli("invoke", "boom", "--async").stdout.strip()
    assert queued in cli("jobs", "ls", "--dead", "-q").stdout.split()
    assert json.loads(cli("jobs", "get", queued, "-o", "json").stdout)["state"] == "dead"
    again = json.loads(cli("jobs", "replay", queued, "-d", '{"b":2}', "-o", "json").stdout)
    assert (again["state"], again["replay_of"]) == ("queued", queued)
    assert queued in cli("jobs", "replay", "--dead", "-o", "json").stdout
    assert cli("jobs", "replay").returncode == 2


def test_states_of_jobs_are_the_servers() -> None:
    """`jobs ls --state` knows every state that a job can be in."""
    assert list(STATES) == list(JobState)


def test_accounts_and_tokens(cli: Cli) -> None:
    """What is shown once is shown in full."""
    assert json.loads(cli("account", "create", "new", "-o", "json").stdout) == {
        "account": "new",
        "id": "000000000002",
        "token": "pf_new",
    }
    made = json.loads(
        cli(
            "token", "create", "--scope", "read", "--scope", "invoke", "--expires", "1h", "--label", "ci", "-o", "json"
        ).stdout
    )
    assert (made["scopes"], made["label"], made["token"]) == (["read", "invoke"], "ci", "pf_new")
    for words in (("account", "create", "new", "-q"), ("token", "create", "-q")):
        assert cli(*words).stdout == "pf_new\n"
    for words in (
        "account ls",
        "account rm new -y",
        "token ls",
        "token revoke tok-1",
        "token rotate-admin",
        "whoami",
        "limits",
        "fleet",
        "usage --by function",
    ):
        done = cli(*words.split())
        assert done.returncode == 0, (words, done.stderr)


def test_login_keeps_a_profile_that_only_its_owner_reads(cli: Cli) -> None:
    """The token is tried first, then kept with mode 0600 and used."""
    cli.token = ""
    assert cli("login", "--url", cli.fake.url, "--token", "pf_wrong").returncode == 4
    path = cli.directory / "config" / "pyfaas" / "profiles.toml"
    assert not path.exists()
    assert cli("login", "--url", cli.fake.url, input="pf_good\n").returncode == 0
    assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads(cli("whoami", "-o", "json").stdout)["account"] == "default"


def test_the_servers_own_machine_needs_no_login(cli: Cli) -> None:
    """Without anything else the data directory's endpoint and tokens are used; the admin's for admin's verbs."""
    cli.token = ""
    data = cli.directory / "data"
    data.mkdir()
    for name, text in {"endpoint": cli.fake.url, "default.token": "pf_read", "admin.token": "pf_good"}.items():
        (data / name).write_text(text + "\n")
    assert cli("ls").returncode == 0
    assert cli("account", "create", "new").returncode == 0
    assert cli("token", "create").returncode == 4


needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="the system's package curl is not installed")


@needs_curl
def test_curl_prints_a_command_that_works(cli: Cli) -> None:
    """--curl sends nothing, shows no token, and what it prints does the same."""
    cli.deploy("echo")
    before = len(cli.fake.seen()["requests"])
    shown = cli("--curl", "invoke", "echo", "-d", '{"it": "it\'s"}').stdout
    assert len(cli.fake.seen()["requests"]) == before
    assert "pf_good" not in shown
    assert shlex.split(shown)[0] == "curl"
    done = subprocess.run(["sh", "-c", shown], env=cli.environment, capture_output=True, text=True, check=False)
    assert done.stdout == '{"it": "it\'s"}'


@needs_curl
def test_curl_of_a_deploy_takes_a_zip(cli: Cli) -> None:
    """The configuration is in the command, the code in a file beside it."""
    (cli.directory / "curled.py").write_text("")
    shown = cli("deploy", "curled.py", "--env", 'A="x;y"', "--curl").stdout
    with zipfile.ZipFile(cli.directory / "code.zip", "w") as archive:
        archive.writestr("curled.py", "")
    done = subprocess.run(
        ["sh", "-c", shown], env=cli.environment, cwd=cli.directory, capture_output=True, text=True, check=False
    )
    assert json.loads(done.stdout)["state"] == "stored", done
    assert cli.fake.seen()["functions"]["curled"][-1]["config"]["env"] == {"A": '"x;y"'}


def test_version_and_help_load_almost_nothing(cli: Cli) -> None:
    """`--version` needs no option parser; `--help` no HTTP client and no rich."""
    program = "import sys; from pyfaas.cli.main import main\ntry: main(sys.argv[1:])\nexcept SystemExit: pass\nprint(sorted(sys.modules), file=sys.stderr)"
    for words, absent in (
        (["--version"], ("typer", "aiohttp", "rich", "asyncio")),
        (["--help"], ("aiohttp", "rich", "sqlite3", "uvloop")),
    ):
        done = subprocess.run(
            [sys.executable, "-c", program, *words], env=cli.environment, capture_output=True, text=True, check=False
        )
        assert not [name for name in absent if f"'{name}'" in done.stderr]
    assert cli("--version").stdout == f"pyfaas {__version__}\n"
    assert cli("ls", "--help").returncode == 0


def test_help_names_every_verb(cli: Cli) -> None:
    """Each verb is in the help, in the completion, and has a help of its own with the options that every verb has."""
    text = cli("--help").stdout
    assert [verb for verb in VERBS if not re.search(rf"^  {verb} ", text, re.MULTILINE)] == []
    script = cli("completion", "bash").stdout
    assert [verb for verb in VERBS if f"    {verb}) " not in script] == []
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    assert cli("completion", "tcsh").returncode == 2


def test_serve_reads_its_options(cli: Cli) -> None:
    """--print-config shows each value with its origin; an unknown key is refused with 3."""
    (cli.directory / "c.toml").write_text("warm_vms = 2\n")
    shown = cli("serve", "--port", "0", "-s", "builds=3", "--config", "c.toml", "--print-config").stdout
    assert "port = 0  # flag" in shown
    assert "builds = 3  # flag" in shown
    assert "warm_vms = 2  # c.toml" in shown
    assert cli("serve", "-s", "warmvms=3", "--print-config").returncode == 3
    assert cli("serve", "-s", "nonsense").returncode == 2


@pytest.mark.parametrize(
    "example", sorted(path.parent.name for path in (REPOSITORY / "examples").glob("*/pyfaas.toml"))
)
def test_examples_can_be_published(cli: Cli, example: str) -> None:
    """Each example deploys as it is, under its directory's name, with its input named in a SOURCES.md when it has some."""
    done = cli("deploy", str(REPOSITORY / "examples" / example), "-o", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["function"] == example
    for place in ("photos", "tables"):
        sources = (REPOSITORY / "examples" / place / "SOURCES.md").read_text()
        assert all(
            path.name in sources
            for path in Path(REPOSITORY / "examples" / place).iterdir()
            if path.suffix in (".jpg", ".csv")
        )
