"""What holds for every verb alike: its help, and the options before and after it."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pyfaas.cli import tree
from pyfaas.cli.options import Globals, Output
from pyfaas.cli.verbs import LOCAL, VERBS
from tests.cli.command import Cli

# What each verb needs to be run at all, with --curl; `{…}` are files that the test makes.
ARGUMENTS = {
    "deploy": "echo.py",
    "dev": "echo.py",
    "invoke": "echo -d {}",
    "run": "echo.py",
    "map": "echo -i in.ndjson",
    "logs": "echo",
    "describe": "echo",
    "versions": "echo",
    "rm": "echo",
    "rollback": "echo",
    "alias set": "echo:live 1",
    "alias ls": "echo",
    "alias rm": "echo:live",
    "secret set": "echo key=@in.ndjson",
    "secret ls": "echo",
    "secret rm": "echo key",
    "share grant": "echo --to south --lock tone=plain --lock limit:=3",
    "share revoke": "echo --from south",
    "share accept": "north/echo --as mine --param tone=plain --secret key=@in.ndjson",
    "share describe": "mine",
    "share rm": "mine",
    "api publish": "-f api.toml",
    "api approve": "text south",
    "api approvals": "text",
    "api revoke": "text south",
    "api deprecate": "text 1",
    "api retire": "text 1",
    "api rm": "text",
    "api describe": "north/text",
    "api openapi": "north/text",
    "api subscribe": "north/text --as text",
    "api unsubscribe": "text",
    "jobs get": "job-1",
    "jobs wait": "job-1",
    "jobs cancel": "job-1",
    "jobs replay": "job-1",
    "account create": "north",
    "account set": "north --stale forbid",
    "account rm": "north",
    "token revoke": "tok-1",
    "backup": "out.backup",
    "login": "--url http://127.0.0.1:1",
}
OWN_OUTPUT = {"map"}  # whose -o is a file


def leaves(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Yield the commands that do something, by their path."""
    children = getattr(command, "commands", None)
    if not children:
        yield path, command
    for name, child in (children or {}).items():
        yield from leaves(f"{path} {name}", child)


LEAVES = dict(pair for verb in VERBS for pair in leaves(verb, tree.load(verb)))
ASKING = [path for path in LEAVES if path.split()[0] not in LOCAL]


@pytest.mark.parametrize("path", LEAVES)
def test_help_says_what_a_verb_does(path: str) -> None:
    """Each verb has a sentence, each argument a name in capitals and a meaning, each option a meaning."""
    command = LEAVES[path]
    assert re.fullmatch(r"[A-Z].*[^.]\.", command.help.strip(), re.DOTALL), command.help
    for param in command.params:
        assert param.help, param.name
        if param.param_type_name == "option":
            assert all(name == name.lower() for name in param.opts), "some typers take a metavar that is the name for the flag"
        if param.param_type_name == "argument":
            assert param.metavar, param.name
            assert command.epilog, "a verb with an argument has an example"


@pytest.mark.parametrize("path", [path for path in LEAVES if LEAVES[path].epilog])
def test_examples_of_the_help_can_be_typed(path: str) -> None:
    """The example in a verb's help is that verb, with arguments and options that it has."""
    text = LEAVES[path].epilog.removeprefix("Example: ")
    words = shlex.split(re.split(r" [|<>]|&&|; ", text.replace("source <(", "").replace(")", ""))[0])
    assert words[: 1 + len(path.split())] == ["pyfaas", *path.split()]
    context = LEAVES[path].make_context(path, words[1 + len(path.split()) :], obj=Globals())
    context.close()


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], Globals]:
    """Return what tells what the options of a command line said to its verb, which is not run."""
    heard: list[Globals] = []
    load = tree.load

    def deaf(verb: str) -> Any:
        command = load(verb)
        for _, leaf in leaves(verb, command):
            leaf.invoke = lambda context: heard.append(context.find_object(Globals))
        return command

    def of(words: list[str]) -> Globals:
        assert tree.run(words) == 0
        return heard.pop()

    monkeypatch.setattr(tree, "load", deaf)
    return of


@pytest.mark.parametrize("path", LEAVES)
def test_options_work_before_and_after_the_verb(said: Callable[[list[str]], Globals], path: str) -> None:
    """-o, -q, -v and --curl say the same on both sides of every verb."""
    words = [*path.split(), *shlex.split(ARGUMENTS.get(path, "f" if path in ("restore",) else ""))]
    options = ["-q", "-v", "--curl", *([] if path in OWN_OUTPUT else ["-o", "yaml"])]
    before, after = said([*options, *words]), said([*words, *options])
    assert before == after
    assert (before.quiet, before.verbose, before.curl) == (True, True, True)
    assert path in OWN_OUTPUT or before.output is Output.YAML


@pytest.mark.parametrize("path", ASKING)
def test_curl_prints_and_does_nothing(cli: Cli, path: str) -> None:
    """--curl before and after every verb prints one and the same command, and no request is made."""
    (cli.directory / "echo.py").write_text("def handler(event, context): ...\n")
    (cli.directory / "in.ndjson").write_text("{}\n")
    (cli.directory / "api.toml").write_text('name = "text"\nversion = "1"\n')
    cli.url = "http://127.0.0.1:1"  # where nobody is
    words = [*path.split(), *shlex.split(ARGUMENTS.get(path, ""))]
    done = [cli("--curl", *words), cli(*words, "--curl")]
    assert [each.returncode for each in done] == [0, 0], done[0].stderr
    assert "pf_good" not in done[0].stdout
    first, second = (re.sub(r"run-\w+|[\d.]{14,}", "", each.stdout) for each in done)
    assert first == second
    assert "curl" in shlex.split(first)
    assert sorted(path.name for path in cli.directory.iterdir()) == ["api.toml", "echo.py", "in.ndjson"]


@pytest.mark.parametrize("path", [path for path in LEAVES if path.split()[0] in LOCAL])
def test_a_verb_without_a_request_says_so(cli: Cli, path: str) -> None:
    """--curl never makes a verb do something else than print."""
    done = cli(path, *(["x"] if path == "restore" else []), "--curl")
    assert (done.returncode, done.stdout) == (2, "")
    assert "sends no request" in done.stderr
    assert list(cli.directory.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("depoly x", "no verb 'depoly'; did you mean deploy?"),
        ("jobs cancle x", "Did you mean 'cancel'?"),
        ("ls --quite", "--quiet"),
        ("invoke echo --dat x", "--data"),
        ("serve -s prt=1", "did you mean port?"),
        ("serve -s port=x", "port must be an int, not 'x'"),
        ("serve --port x", "not a whole number"),
        ("jobs ls --state ded", "dead"),
        ("usage --by fuction", "function, alias, api or caller"),
        ("invoke echo --stale no", "allow or forbid"),
        ("completion bsh", "bash, zsh and fish"),
        ("deploy x.py --canary 10%", "a release alias"),
        ("deploy x.py --alias live --promote-after 5m", "canary 10%"),
        ("deploy x.py --alias live --canary 2.5%", "a whole percent"),
        ("deploy x.py --alias live --canary much", "write 10%"),
        ("deploy x.py --alias live --canary 1% --promote-after soon", "30s, 5m"),
        ("deploy x.py --alias 7", "already means something else"),
        ("dev nowhere.py", "pyfaas init"),
        ("dev x.py --env A", "'A' is not K=V"),
        ("alias set f:live 3 --weight 4=10 --weight 5=10", "one other version"),
        ("alias set f:live 3 --weight 4=100", "from 1 to 99"),
        ("alias set f:live 3 --stale maybe", "neither allow, forbid nor none"),
        ("alias set f:live 3 --stale-percent 101", "a whole number up to 100"),
        ("alias set f:live 3 --max-stale-time soon", "30s, 5m"),
        ("account set north", "nothing is said"),
        ("account set north --min-version 3", "No such option"),
        ("account set north --concurrency many", "a whole number, or none"),
        ("account set north --rate -1", "a number of runs"),
        ("ls --kind alais", "none of function, alias, subscription"),
        ("share grant f --to south --lock tone", "'tone' is not K=V, or K:=JSON"),
        ("share grant f --to south --lock limit:=much", "for text write limit=much"),
        ("share grant f --to south --lock limit:=NaN", "for text write limit=NaN"),
        ("share grant f --to south --lock a=1 --lock a=2", "a is given twice"),
        ("share grant f --to south --placement mine", "none of pair, owner, caller"),
        ("share grant f --to south --payer me", "none of caller, owner"),
        ("share grant f", "--to"),
        ("share revoke f --from south --running on", "none of stop, finish"),
        ("share accept north/f --as n/m", "'n/m' is not a name for an account alias"),
        ("share accept north/f --as mine --secret sk_live_1", "write K=@FILE"),
        ("share accept north/f --as mine --secret key=@nowhere.txt", "nowhere.txt: No such file"),
        ("share accept north/f --as mine --secret a=- --secret b=-", "one secret's value only"),
        ("secret set f sk_live_1", "write K=@FILE"),
        ("api publish -f nowhere.toml", "nowhere.toml"),
        ("invoke a/b/c", "is not a name for an operation"),
    ],
)
def test_what_is_mistyped_is_answered_with_what_was_meant(words: str, told: str) -> None:
    """A wrong verb, option, key or value is answered with the right one."""
    shown = io.StringIO()
    with contextlib.redirect_stderr(shown):
        assert tree.run(shlex.split(words)) in (2, 3)
    assert told in shown.getvalue()
