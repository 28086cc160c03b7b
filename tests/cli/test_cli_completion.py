"""Completion, by the shells that complete."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys

import pytest

from pyfaas.cli.verbs import VERBS
from tests.cli.command import Cli

BASH = """
pyfaas() {{ {python} -m pyfaas "$@"; }}
source {script}
COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMPREPLY=()
$(complete -p pyfaas | sed 's/.*-F \\([^ ]*\\).*/\\1/')
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
# What is typed, and what must and must not be offered.
TYPED = [
    (["de"], {"deploy", "describe", "demo"}, {"ls"}),
    (["jobs", ""], {"ls", "get", "wait", "cancel", "replay"}, {"deploy"}),
    (["jobs", "ls", "--"], {"--dead", "--state", "--output", "--curl", "--help"}, {"--async"}),
    (["-o", ""], {"table", "json", "yaml"}, {"ls"}),
    (["-o", "json", "jobs", ""], {"ls", "wait"}, {"json"}),
    (["ls", "-o", "y"], {"yaml"}, {"json"}),
    (["invoke", "ec"], {"echo"}, {"echo2x"}),
    (["invoke", "echo", "--s"], {"--stale", "--stream"}, {"echo"}),
    (["invoke", "--stale", ""], {"allow", "forbid"}, {"echo"}),
    (["alias", "set", "ech"], {"echo"}, {"set"}),
    (["completion", ""], {"bash", "zsh", "fish"}, set()),
    (["usage", "--by", "f"], {"function"}, {"api"}),
    (["share", "gr"], {"grant"}, {"revoke"}),
    (["share", "describe", "comp"], {"completed-alias"}, {"echo"}),
    (["share", "grant", "echo", "--placement", ""], {"pair", "owner", "caller"}, {"echo"}),
    (["api", "unsubscribe", "comp"], {"completed-api"}, {"completed-alias"}),
    (["api", "describe", "nor"], {"north/text"}, {"echo"}),
    (["ls", "--kind", ""], {"function", "alias", "subscription"}, {"echo"}),
    (["map", "echo", "-i", ""], set(), {"echo", "map"}),
]


def script(cli: Cli, shell: str) -> str:
    """Return a file with a shell's script."""
    path = cli.directory / f"pyfaas.{shell}"
    path.write_text(cli("completion", shell).stdout)
    return str(path)


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(("typed", "offered", "others"), TYPED)
def test_bash_completes(cli: Cli, typed: list[str], offered: set[str], others: set[str]) -> None:
    """Verbs, options, their values, and the names of functions that are there."""
    cli.deploy("echo")
    cli("share", "accept", "north/f", "--as", "completed-alias")
    cli("api", "subscribe", "north/text", "--as", "completed-api")
    words = " ".join(map(shlex.quote, ["pyfaas", *typed]))
    program = BASH.format(python=shlex.quote(sys.executable), script=script(cli, "bash"), words=words)
    done = subprocess.run(["bash", "-c", program], env=cli.environment, capture_output=True, text=True, timeout=60, check=False)
    found = set(done.stdout.split())
    assert (done.stderr, offered <= found, others & found) == ("", True, set()), found


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
@pytest.mark.parametrize(("typed", "offered", "others"), TYPED[::3])
def test_fish_completes(cli: Cli, typed: list[str], offered: set[str], others: set[str]) -> None:
    """The same, with what each means beside it."""
    cli.deploy("echo")
    words = " ".join(["pyfaas", *typed])
    program = (
        f"function pyfaas; {sys.executable} -m pyfaas $argv; end\nsource {script(cli, 'fish')}\ncomplete -C{shlex.quote(words)}"
    )
    done = subprocess.run(["fish", "-N", "-c", program], env=cli.environment, capture_output=True, text=True, timeout=60, check=False)
    found = {line.partition("\t")[0] for line in done.stdout.splitlines()}
    assert (done.stderr, offered <= found, others & found) == ("", True, set()), found


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_can_read_its_script(cli: Cli) -> None:
    """It is bash's, through bashcompinit, which registers it."""
    program = f"autoload -U compinit && compinit -u -D\nsource {script(cli, 'zsh')}\nprint $_comps[pyfaas]"
    done = subprocess.run(["zsh", "-f", "-c", program], env=cli.environment, capture_output=True, text=True, timeout=60, check=False)
    assert "_pyfaas" in done.stdout, done.stderr


def test_every_verb_is_completed(cli: Cli) -> None:
    """A verb that is added is in all three scripts."""
    for shell in ("bash", "zsh", "fish"):
        text = cli("completion", shell).stdout
        assert [verb for verb in VERBS if verb not in text] == []


def test_names_are_asked_of_a_server_that_may_be_away(cli: Cli) -> None:
    """Where no server is, completing a name offers none, and says nothing."""
    cli.url = "http://127.0.0.1:1"
    words = "pyfaas describe ''"
    program = BASH.format(python=shlex.quote(sys.executable), script=script(cli, "bash"), words=words)
    done = subprocess.run(["bash", "-c", program], env=cli.environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout.strip(), done.stderr) == ("", "")
