"""The command line against the real server."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cli.forker import REPOSITORY, Forker, forking
from tests.e2e.house import House

ECHO = "def handler(event, context):\n    print('seen', event)\n    return event\n"
SLEEPS = "import time\ndef handler(event, context):\n    print('began', flush=True)\n    time.sleep(event.get('s', 60))\n    return 'slept'\n"


@dataclass(slots=True)
class Cli:
    """Runs commands as the account `default` of a running server."""

    house: House
    forker: Forker
    directory: Path

    @property
    def environment(self) -> dict[str, str]:
        """What commands find: the server's data directory, as on its own machine."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        home = {"HOME": str(self.directory), "XDG_CONFIG_HOME": str(self.directory / ".config")}
        return {**kept, **home, "PYFAAS_DATA_DIR": str(self.house.data), "PYTHONPATH": str(REPOSITORY)}

    def __call__(self, *words: str, given: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        done = self.forker.run(words, self.directory, self.environment | variables, given.encode())
        return subprocess.CompletedProcess(words, done.returncode, done.stdout.decode(), done.stderr.decode())

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start a command as a process of its own."""
        command = [sys.executable, "-m", "pyfaas", *words]
        pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=self.directory, env=self.environment, text=True, **pipes)

    def deploy_told(self, name: str, source: str) -> str:
        """Publish a function with -v; returns what was told of it."""
        (self.directory / f"{name}.py").write_text(source)
        return self("deploy", f"{name}.py", "-v").stderr

    def deploy(self, name: str, source: str, *words: str) -> str:
        """Publish a function and wait until it is ready; returns the name."""
        (self.directory / f"{name}.py").write_text(source)
        done = self("deploy", f"{name}.py", *words)
        assert done.returncode == 0, done.stderr
        return name


@pytest.fixture(scope="module")
def forker() -> Iterator[Forker]:
    """What runs commands."""
    with forking() as running:
        yield running


@pytest.fixture
def cli(house: House, forker: Forker, tmp_path: Path) -> Cli:
    """The command line."""
    return Cli(house, forker, tmp_path)


def wait_until(fact: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for a fact; fails when it does not come true."""
    end = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.05)


def interrupted(process: subprocess.Popen[str], when: Callable[[], bool]) -> tuple[int, str, str]:
    """Press Ctrl-C once a fact is true; returns exit status, stdout, stderr."""
    try:
        wait_until(when)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    return process.returncode, out, err


def is_connected(process: subprocess.Popen[str]) -> bool:
    """Tell whether a command talks to somebody: a loop has a pair of sockets of its own."""
    found = 0
    with contextlib.suppress(FileNotFoundError):  # closed meanwhile
        for link in Path(f"/proc/{process.pid}/fd").iterdir():
            found += os.readlink(link).startswith("socket:")
    return found > 2


def test_a_scaffold_deploys_and_answers(cli: Cli, name: Callable[[], str]) -> None:
    """init, deploy and invoke, each as the one before says."""
    made = name()
    done = cli("init", made)
    assert done.stderr.rstrip().endswith(f"next: pyfaas deploy {made}")
    assert cli("deploy", made).returncode == 0
    assert cli("invoke", made, "-d", '{"name": "Ada"}').stdout == '{"hello":"Ada"}'


def test_json_is_the_http_body(cli: Cli, house: House, name: Callable[[], str]) -> None:
    """What -o json prints is what HTTP answers, byte for byte, and a newline."""
    f = cli.deploy(name(), ECHO)
    job = cli("invoke", f, "--async").stdout.strip()
    cli("jobs", "wait", job)
    paths = {
        f"describe {f}": f"/v1/functions/{f}",
        f"describe {f}:1": f"/v1/functions/{f}/versions/1",
        f"versions {f}": f"/v1/functions/{f}/versions?limit=1000",
        "ls": "/v1/functions?limit=1000",
        "whoami": "/v1/whoami",
        "limits": "/v1/limits",
        "token ls": "/v1/tokens",
        "openapi": "/openapi.json",
        f"jobs get {job}": f"/v1/invocations/{job}",
    }
    for words, path in paths.items():
        shown, answered = cli(*words.split(), "-o", "json").stdout.encode(), house.call("GET", path).body + b"\n"
        assert _ageless(shown) == _ageless(answered), words
    shown = json.loads(cli("describe", "nowhere", "-o", "json").stderr)
    assert shown == house.call("GET", "/v1/functions/nowhere").json


def _ageless(body: bytes) -> bytes:
    """Return a document without how long containers have been idle, which grows from one look to the next."""
    return re.sub(rb'"idle_ms": \d+', b'"idle_ms": 0', body)


@pytest.mark.skipif(shutil.which("curl") is None, reason="the system's package curl is not installed")
def test_pasted_requests_work(cli: Cli, name: Callable[[], str]) -> None:
    """What --curl prints does the same in a shell: a deploy with its code, bytes, words with quotes, a list."""
    f = name()
    (cli.directory / f"{f}.py").write_text("def handler(event, context):\n    return event if isinstance(event, dict) else len(event)\n")
    (cli.directory / "bytes").write_bytes(bytes(range(256)) * 4)

    def pasted(*words: str) -> str:
        shown = cli("--curl", *words)
        assert shown.returncode == 0, shown.stderr
        assert cli.house.token("default") not in shown.stdout
        done = subprocess.run(["sh", "-c", shown.stdout], env=cli.environment, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    assert json.loads(pasted("deploy", f"{f}.py", "--env", 'A="x;y"'))["version"] == 1
    wait_until(lambda: cli("describe", f"{f}:1", "-o", "json").stdout.find('"ready"') > 0)
    assert json.loads(pasted("invoke", f, "-d", '{"it": "it\'s $HOME `x` \\\\ é"}')) == {"it": "it's $HOME `x` \\ é"}
    assert pasted("invoke", f, "-d", "@bytes") == "1024"
    assert f in [row["name"] for row in json.loads(pasted("ls"))["items"]]
    assert json.loads(pasted("describe", f)) == json.loads(cli("describe", f, "-o", "json").stdout)


def test_map_and_resume(cli: Cli, name: Callable[[], str]) -> None:
    """A batch with a broken line, gone on with when it grew."""
    f = cli.deploy(name(), "def handler(event, context):\n    return 100 // event['n']\n")
    events = [json.dumps({"n": n}) for n in range(40)]
    (cli.directory / "in.ndjson").write_text("\n".join([*events[:20], "{broken"]))
    done = cli("map", f, "-i", "in.ndjson", "-o", "out.ndjson", "--concurrency", "8")
    assert (done.returncode, "21 items: 19 ok, 2 failed" in done.stderr) == (1, True), done.stderr
    (cli.directory / "in.ndjson").write_text("\n".join([*events[:20], "{broken", *events[20:]]))
    done = cli("map", f, "-i", "in.ndjson", "-o", "out.ndjson", "--resume")
    assert "41 items, 21 of them before: 39 ok, 2 failed" in done.stderr
    rows = {row["i"]: row for row in map(json.loads, (cli.directory / "out.ndjson").read_text().splitlines())}
    assert sorted(rows) == list(range(41))
    assert rows[0]["error"]["errorType"] == "ZeroDivisionError"
    assert rows[20]["error"]["code"] == "invalid_event"
    assert rows[40] == {"i": 40, "ok": 2}


def test_exit_statuses(cli: Cli, name: Callable[[], str]) -> None:
    """Each failure that a server makes has its exit status, and a line on stderr."""
    failing = cli.deploy(name(), "import os\ndef handler(event, context):\n    os._exit(1) if event.get('die') else 1 / 0\n")
    slow = cli.deploy(name(), SLEEPS, "--timeout", "1s")
    (cli.directory / "broken.py").write_text("import nothing_of_that_name\n")
    cases = [
        (0, ["ls"], {}),
        (1, ["invoke", failing], {}),
        (1, ["invoke", failing, "-d", '{"die": 1}'], {}),
        (1, ["deploy", "broken.py"], {}),
        (2, ["invoke", failing, "-d", "{"], {}),
        (2, ["describe", "nowhere"], {}),
        (2, ["describe", f"{failing}:99"], {}),
        (3, ["ls"], {"PYFAAS_URL": "http://127.0.0.1:1", "PYFAAS_TOKEN": "pf_x"}),
        (4, ["ls"], {"PYFAAS_TOKEN": "pf_wrong"}),
        (5, ["invoke", slow], {}),
        (5, ["jobs", "wait", cli("invoke", slow, "--async").stdout.strip(), "--timeout", "1ms"], {}),
    ]
    for code, words, variables in cases:
        done = cli(*words, **variables)
        assert done.returncode == code, (words, done)
        assert ("error: " in done.stderr) == (code != 0), (words, done)


def test_a_mistyped_function_is_named(cli: Cli, name: Callable[[], str]) -> None:
    """The nearest name is in the hint."""
    f = cli.deploy(name() + "_resize_photos", ECHO)
    assert cli("invoke", f.replace("photos", "fotos")).stderr.splitlines()[1] == f"hint: did you mean {f}?"


def test_ctrl_c_cancels_an_invocation(cli: Cli, house: House, name: Callable[[], str]) -> None:
    """The run ends as `cancelled` on the server, exit status 130, nothing is printed."""
    f = cli.deploy(name(), SLEEPS)
    process = cli.start("invoke", f)
    assert interrupted(process, lambda: _running(house, f) == 1) == (130, "", "")
    wait_until(lambda: _outcomes(cli, f).get("cancelled", 0) == 1)


def test_ctrl_c_cancels_a_batch(cli: Cli, house: House, name: Callable[[], str]) -> None:
    """What ran is cancelled, what is written is whole, and the command that goes on is named."""
    f = cli.deploy(name(), SLEEPS)
    (cli.directory / "in.ndjson").write_text('{"s": 0}\n' + '{"s": 60}\n' * 5)
    out = cli.directory / "out.ndjson"
    process = cli.start("map", f, "-i", "in.ndjson", "-o", "out.ndjson", "--concurrency", "2")
    code, _, err = interrupted(process, lambda: out.exists() and bool(out.read_text()) and _running(house, f) > 0)
    assert (code, out.read_text()) == (130, '{"i": 0, "ok": "slept"}\n')
    assert err.endswith(f"go on with: pyfaas map {f} -i in.ndjson -o out.ndjson --concurrency 2 --resume\n")
    wait_until(lambda: _outcomes(cli, f).get("cancelled", 0) > 0)


def test_ctrl_c_leaves_a_preparation_alone(cli: Cli, name: Callable[[], str]) -> None:
    """deploy says that it goes on, and it does."""
    f = name()
    (cli.directory / f"{f}.py").write_text("import time\ntime.sleep(5)\n" + ECHO)
    master, slave = pty.openpty()  # where it tells when it waits
    command = [sys.executable, "-m", "pyfaas", "deploy", f"{f}.py"]
    environment = cli.environment | {"TERM": "xterm"}
    process = subprocess.Popen(command, cwd=cli.directory, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=slave)
    os.close(slave)
    shown = b""
    try:
        with contextlib.suppress(OSError):  # EIO: it ended
            while piece := os.read(master, 4096):
                if b"preparing" not in shown and b"preparing" in shown + piece:
                    process.send_signal(signal.SIGINT)
                shown += piece
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
        os.close(master)
    assert (process.returncode, out) == (130, b"")
    assert shown.endswith(f"{f}:1 is published; its preparation goes on (pyfaas describe {f}:1)\r\n".encode())
    wait_until(lambda: json.loads(cli("describe", f"{f}:1", "-o", "json").stdout)["state"] == "ready")


def test_ctrl_c_changes_nothing_for_those_who_watch(cli: Cli, name: Callable[[], str]) -> None:
    """jobs wait, logs -f and fleet --watch end with 130; what they watched goes on."""
    f = cli.deploy(name(), SLEEPS, "--timeout", "5m")
    job = cli("invoke", f, "--async", "-d", '{"s": 200}').stdout.strip()
    for words in (["jobs", "wait", job], ["logs", f, "-f"], ["fleet", "--watch"]):
        process = cli.start(*words)
        code, _, err = interrupted(process, lambda process=process: is_connected(process))  # type: ignore[misc]
        assert (code, err) == (130, ""), words
    assert json.loads(cli("jobs", "get", job, "-o", "json").stdout)["state"] == "running"
    assert cli("jobs", "cancel", job).returncode == 0
    done = cli("jobs", "wait", job)
    assert (done.returncode, "cancelled" in done.stderr) == (1, True)


def _running(house: House, function: str) -> int:
    rows = house.call("GET", "/v1/fleets").json["functions"]
    return sum(row["running"] for row in rows if row["function"] == function)


def _outcomes(cli: Cli, function: str) -> dict[str, int]:
    rows = json.loads(cli("usage", "--by", "function", "-o", "json").stdout)["items"]
    found: dict[str, int] = next((row["outcomes"] for row in rows if row["function"] == function), {})
    return found


def test_logs_follow_and_filter(cli: Cli, name: Callable[[], str]) -> None:
    """-f goes on with what comes; --id, --since and --build narrow it; nothing at all is told on stderr."""
    f = cli.deploy(name(), ECHO)
    assert "no log lines" in cli("logs", f).stderr
    process = cli.start("logs", f, "-f")
    try:
        assert process.stdout is not None
        for count in (1, 2):
            assert cli("invoke", f, "-d", json.dumps({"n": count})).returncode == 0
            assert process.stdout.readline().rstrip().endswith(f"seen {{'n': {count}}}")
    finally:
        process.kill()
        process.communicate()
    rows = [json.loads(line) for line in cli("logs", f, "-o", "json").stdout.splitlines()]
    one = cli("logs", f, "--id", rows[0]["invocation"]).stdout.splitlines()
    assert [line.split()[1:] for line in one] == [[rows[0]["invocation"], "out", "seen", "{'n':", "1}"]]
    assert len(cli("logs", f, "--since", "1h").stdout.splitlines()) == 2
    assert cli("logs", f"{f}:1", "--build").returncode == 0


def test_run_leaves_nothing(cli: Cli, name: Callable[[], str]) -> None:
    """The result on stdout, the log on stderr, no function afterwards."""
    (cli.directory / "once.py").write_text(ECHO)
    before = cli("ls", "-q").stdout
    done = cli("run", "once.py", "-d", '{"a":1}')
    assert (done.returncode, done.stdout, done.stderr) == (0, '{"a":1}', "seen {'a': 1}\n")
    assert cli("ls", "-q").stdout == before


def test_usage_has_names_and_a_sum(cli: Cli, house: House, name: Callable[[], str]) -> None:
    """A person reads names, units and a last line; a function that is gone is told to be removed."""
    account = house.account(name())
    as_them = {"PYFAAS_URL": house.url, "PYFAAS_TOKEN": house.token(account)}
    assert cli("usage", **as_them).stderr == "nothing was used yet\n"
    assert cli("ls", **as_them).stderr.startswith("no functions yet; publish one: pyfaas deploy")
    assert cli("ls", "-o", "json", **as_them).stdout == '{"items": [], "next": null}\n'
    for f in ("kept", "dropped"):
        (cli.directory / f"{f}.py").write_text(ECHO)
        assert cli("deploy", f"{f}.py", **as_them).returncode == 0
        assert cli("invoke", f, **as_them).returncode == 0
    assert cli("rm", "dropped", "-y", **as_them).returncode == 0
    lines = [line.split() for line in cli("usage", "--by", "function", **as_them).stdout.splitlines()]
    assert lines[0] == ["FUNCTION", "CALLS", "OUTCOMES", "WALL", "CPU", "GIB·S", "IN", "OUT"]
    assert lines[-1][:4] == ["total", "2", "2", "ok"]
    assert ["kept", "1", "1", "ok"] in [line[:4] for line in lines]
    assert ["dropped", "(removed)", "1", "1", "ok"] in [line[:5] for line in lines]
    everything = cli("usage", PYFAAS_URL=house.url, PYFAAS_TOKEN=house.token("admin")).stdout
    assert account in everything, "an admin sees whose it was, by name"


def test_a_gone_reader_ends_a_list_quietly(cli: Cli) -> None:
    """`pyfaas ls | head -0` says nothing."""
    program = f'{sys.executable} -m pyfaas limits | head -0; echo "${{PIPESTATUS[0]}}"'
    done = subprocess.run(["bash", "-c", program], env=cli.environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_fleet_shows_whose_vms_there_are(cli: Cli, name: Callable[[], str]) -> None:
    """VMs, containers and functions with the account's name."""
    f = cli.deploy(name(), ECHO)
    cli("invoke", f)
    shown = cli("fleet").stdout
    assert "warming  ready" in shown
    assert any(line.split()[:2] == [f, "default"] for line in shown.splitlines())


def test_a_unit_for_systemd(cli: Cli) -> None:
    """It runs this very interpreter with the options given, and says how to install it; systemd reads it without a word."""
    shown = cli("service", "--port", "9000", "--data-dir", "/srv/a b%c").stdout
    assert f'ExecStart={sys.executable} -P -m pyfaas serve --port 9000 --data-dir "/srv/a b%%c"\n' in shown
    for line in ("Type=notify", "Delegate=yes", "NotifyAccess=main", "KillMode=mixed", "ExecReload=kill -HUP $MAINPID"):
        assert f"\n{line}\n" in shown
    assert "WantedBy=default.target" in cli("service", "--user").stdout
    if (analyze := shutil.which("systemd-analyze")) is not None:
        unit = cli.directory / "pyfaas.service"
        unit.write_text(cli("service").stdout)
        done = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, timeout=60, check=False)
        assert "pyfaas.service" not in done.stderr


def test_a_release_goes_on_without_its_command(cli: Cli, name: Callable[[], str]) -> None:
    """A canary begins, is shown, and ends by hand; an alias moves although nobody waits; going back says what is withdrawn."""
    f = cli.deploy(name(), ECHO, "--alias", "live")
    cli.deploy(f, ECHO + "# 2\n", "--alias", "live", "--canary", "10%", "--promote-after", "1h", "--error-budget", "1%")
    shown = json.loads(cli("alias", "ls", f, "-o", "json").stdout)["items"][0]
    assert (shown["version"], shown["weights"], shown["canary"]["state"]) == (1, {"2": 10}, "running")
    assert "10 % to 2, step 1 of 5" in cli("alias", "ls", f).stdout
    assert "live 90 %" in cli("versions", f).stdout
    done = cli("rollback", f"{f}:live")
    assert (done.returncode, done.stderr) == (
        0,
        f"{f}:live is version 1 again; version 2 is withdrawn, and answers only who names it\n",
    )
    (cli.directory / f"{f}.py").write_text(ECHO + "# 3\n")
    assert cli("deploy", f"{f}.py", "--alias", "live", "--no-wait").returncode == 0
    wait_until(lambda: json.loads(cli("alias", "ls", f, "-o", "json").stdout)["items"][0]["version"] == 3)
    done = cli("alias", "set", f"{f}:live", "1", "--weight", "3=20", "--stale", "forbid", "--max-wait", "2s")
    assert (done.returncode, "20 % to 3" in done.stdout, "stale=forbid max_wait=2s" in done.stdout) == (0, True, True)


def test_a_deploy_says_its_canarys_promise(cli: Cli, name: Callable[[], str]) -> None:
    """One line tells where the runs go, until when, and what would end it."""
    f = cli.deploy(name(), ECHO, "--alias", "live")
    (cli.directory / f"{f}.py").write_text(ECHO + "# 2\n")
    done = cli("deploy", f"{f}.py", "--alias", "live", "--canary", "10%", "--promote-after", "1h", "--error-budget", "1%")
    assert done.stderr == f"{f}:live sends 10 % to version 2; all of it after 1h0m unless more than 1 % fail\n"
    assert "compiling" in cli.deploy_told(f, ECHO + "# 3\n")


def test_versions_are_watched(cli: Cli, name: Callable[[], str]) -> None:
    """Events come as lines while a deploy goes on; Ctrl-C ends it with 130."""
    f = cli.deploy(name(), ECHO)
    process = cli.start("versions", f, "--watch")
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("VERSION")
        cli.deploy(f, ECHO + "# 2\n")
        line = ""
        while "version 2 is ready" not in line:
            line = process.stdout.readline()
            assert line, "it ended"
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130


def test_a_policy_of_an_account(cli: Cli, house: House, name: Callable[[], str]) -> None:
    """An account's owner says how long older versions may answer; `none` removes it."""
    account = house.account(name())
    as_them = {"PYFAAS_URL": house.url, "PYFAAS_TOKEN": house.token(account)}
    done = cli("account", "set", account, "--stale", "forbid", "--max-stale-requests", "3", "-o", "json", **as_them)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["stale"] == "forbid"
    shown = json.loads(cli("account", "set", account, "--stale", "none", "-o", "json", **as_them).stdout)
    assert ("stale" in shown, shown["max_stale_requests"]) == (False, 3)
    assert cli("account", "set", "default", "--stale", "forbid", **as_them).returncode == 2
