"""Lending on the command line: grants, account aliases, secrets, APIs and subscriptions."""

from __future__ import annotations

import json
import shlex
import signal
from typing import Any

import pytest
from fake import until

from tests.cli.command import Cli

API = """
name = "text"
version = "1"

[[operations]]
name = "summarise"
method = "POST"
path = "/summaries/{id}"
function = "summarise"
input = "summary.json"
"""


def sent(cli: Cli, method: str, path: str) -> dict[str, Any]:
    """Return the last document that was sent so."""
    found = [each["document"] for each in cli.fake.seen()["sent"] if (each["method"], each["path"]) == (method, path)]
    assert found, (method, path)
    last: dict[str, Any] = found[-1]
    return last


def run(cli: Cli, line: str, **options: Any) -> str:
    """Run a command that must work; returns its output."""
    done = cli(*shlex.split(line), **options)
    assert done.returncode == 0, done.stderr
    text: str = done.stdout
    return text


def test_a_grant_says_all_that_was_typed(cli: Cli) -> None:
    """Every option of `share grant` is a term; K=V is text, K:=JSON is JSON; a line says what the other account types."""
    done = cli(
        *shlex.split(
            "share grant summarise --to south --version 3 --lock tone=plain --lock 'limits:={\"most\": [1, null]}' --lock eq=a=b --require text"
            " --allow length --max-concurrency 5 --rate 2.5 --per-day 100 --relend --network api.example.com:443 --secret key --logs --reuse"
            " --placement owner --payer owner"
        )
    )
    assert done.returncode == 0, done.stderr
    assert sent(cli, "PUT", "/v1/functions/summarise/grants/south") == {
        "version": 3,
        "lock": {"tone": "plain", "limits": {"most": [1, None]}, "eq": "a=b"},
        "require": ["text"],
        "allow": ["length"],
        "max_concurrency": 5,
        "rate": 2.5,
        "per_day": 100,
        "relend": True,
        "network": ["api.example.com:443"],
        "secrets": ["key"],
        "logs": True,
        "reuse": True,
        "placement": "owner",
        "payer": "owner",
    }
    assert "pyfaas share accept default/summarise --as NAME" in done.stderr
    assert "not set yet: key" in done.stderr
    listed = run(cli, "share ls")
    assert "lock eq, limits, tone; require text; allow length" in listed
    assert "5 at once, 2.5 a second, 100 a day" in listed


def test_a_grant_to_everybody(cli: Cli) -> None:
    """`--to public` is everybody, sent as `*`; nothing is said that was not typed."""
    run(cli, "share grant open --to public")
    assert sent(cli, "PUT", "/v1/functions/open/grants/*") == {}
    assert any(line.split()[:2] == ["open", "everybody"] for line in run(cli, "share ls").splitlines())
    run(cli, "share revoke open --from public --running finish")
    asked = [r["path"] for r in cli.fake.seen()["requests"] if r["method"] == "DELETE"][-1]
    assert asked == "/v1/functions/open/grants/*?running=finish"


def test_accepting_makes_a_name(cli: Cli) -> None:
    """Parameters, secrets from a file and from stdin, bounds; the answer is a name, a URL and how to call it, and no secret."""
    (cli.directory / "key.txt").write_text("s3cret one\n")
    line = (
        "share accept north/summarise:2 --as brief --param tone=7 --param size:=7 --secret a=@key.txt --secret b=- --memory 64M"
        " --timeout 5s --network api.example.com:443 --placement pair"
    )
    done = cli(*shlex.split(line), input="s3cret two\n")
    assert done.returncode == 0, done.stderr
    assert sent(cli, "PUT", "/v1/aliases/brief") == {
        "target": "north/summarise:2",
        "params": {"tone": "7", "size": 7},
        "secrets": {"a": "s3cret one", "b": "s3cret two"},
        "memory": "64M",
        "timeout": "5s",
        "network": ["api.example.com:443"],
        "placement": "pair",
    }
    shown = dict(each.split(None, 1) for each in done.stdout.splitlines())
    assert (shown["name"], shown["target"], shown["secrets"]) == ("brief", "north/summarise:2", "a, b")
    assert shown["invoke"].endswith("/v1/functions/brief/invoke")
    assert done.stderr == "call it: pyfaas invoke brief -d JSON\n"
    assert "s3cret" not in done.stdout + done.stderr


def test_a_secret_that_is_typed_is_warned_of(cli: Cli) -> None:
    """K=VALUE works, and a line says who could see it; the value itself is in nothing that is printed."""
    done = cli("secret", "set", "charge", "key=visible")
    assert sent(cli, "PUT", "/v1/functions/charge/secrets/key") == {"value": "visible"}
    assert "visible in `ps`" in done.stderr
    assert "key=visible" not in done.stderr
    assert cli("secret", "set", "charge", "key=visible", "-q").stderr == ""
    assert run(cli, "secret ls charge -q") == "key\n"
    run(cli, "secret rm charge key")
    assert cli("secret", "rm", "charge", "key").returncode == 2
    assert "pyfaas secret set charge K=@FILE" in cli("secret", "ls", "charge").stderr
    assert json.loads(run(cli, "secret rotate -o json")) == {"key": "k2", "sealed": 3}


@pytest.mark.parametrize(
    "line",
    [
        "secret set charge key=hush",
        "secret set charge key=@key.txt",
        "share accept north/f --as mine --secret key=hush --secret other=@key.txt",
        "api subscribe north/text --as mine --secret key=hush --secret other=@key.txt",
    ],
)
def test_curl_never_shows_a_secret(cli: Cli, line: str) -> None:
    """A placeholder stands where its value would be, and nothing is read for it."""
    (cli.directory / "key.txt").write_text("hush")
    for words in (["--curl", *shlex.split(line)], [*shlex.split(line), "--curl"]):
        done = cli(*words)
        assert done.returncode == 0, done.stderr
        assert "<the value of key>" in done.stdout
        assert "hush" not in done.stdout + done.stderr


def test_a_secret_that_is_no_text_is_refused(cli: Cli) -> None:
    """Bytes that are no UTF-8 are told by the key."""
    (cli.directory / "key").write_bytes(b"\xff\xfe")
    done = cli("secret", "set", "charge", "key=@key")
    assert (done.returncode, "no text in UTF-8" in done.stderr) == (2, True)


def test_what_was_taken_back_and_what_never_was(cli: Cli) -> None:
    """Both end with 2 and the server's words; a hint says where to look."""
    done = cli("share", "accept", "north/gone", "--as", "mine")
    assert (done.returncode, "was taken back" in done.stderr) == (2, True)
    done = cli("share", "accept", "north/nothing", "--as", "mine")
    assert (done.returncode, "no function 'north/nothing'" in done.stderr) == (2, True)
    done = cli("share", "rm", "unknown", "-y")
    assert "pyfaas ls --kind alias" in done.stderr
    for words in (["share", "accept", "f", "--as", "mine"], ["api", "subscribe", "f", "--as", "mine"]):
        assert "write OWNER/NAME" in cli(*words).stderr


def test_names_of_all_kinds_are_listed(cli: Cli) -> None:
    """`ls` tells functions, account aliases and subscriptions apart; `--kind` keeps one kind, for completion too."""
    cli.deploy("listed")
    run(cli, "share accept north/f --as listed-alias")
    run(cli, "api subscribe north/text --as listed-api")
    rows = [line.split() for line in run(cli, "ls").splitlines()]
    assert rows[0][:4] == ["NAME", "KIND", "STANDS", "FOR"]
    assert ["listed-alias", "alias", "north/f"] in [row[:3] for row in rows]
    assert ["listed-api", "subscription", "north/text"] in [row[:3] for row in rows]
    kinds = {row["name"]: row.get("kind") for row in json.loads(run(cli, "ls -o json"))["items"]}
    assert (kinds["listed"], kinds["listed-alias"], kinds["listed-api"]) == (None, "alias", "subscription")
    assert "listed" not in run(cli, "ls -q --kind alias").split()
    assert run(cli, "share describe listed-alias").splitlines()[0].split() == ["name", "listed-alias"]
    run(cli, "share rm listed-alias -y")
    run(cli, "api unsubscribe listed-api -y")
    assert "listed-alias" not in run(cli, "ls -q").split()


def test_a_name_of_another_kind_is_told(cli: Cli) -> None:
    """`describe` shows whatever has the name; a verb for functions says what else the name is, and how to go on."""
    run(cli, "share accept north/f --as other-alias")
    run(cli, "api subscribe north/text --as other-api")
    assert json.loads(run(cli, "describe other-alias -o json"))["target"] == "north/f"
    assert json.loads(run(cli, "describe other-api -o json"))["api"] == "north/text"
    assert "pyfaas share rm other-alias" in cli("rm", "other-alias", "-y").stderr
    assert "pyfaas api unsubscribe other-api" in cli("versions", "other-api").stderr
    assert "did you mean other-alias?" in cli("describe", "other-alia").stderr
    assert json.loads(cli("describe", "nowhere", "-o", "json").stderr)["detail"] == "no function 'nowhere'"


def test_a_secret_is_typed_unseen(cli: Cli) -> None:
    """On a terminal `K=-` asks, and does not show what is typed."""
    code, shown = cli.on_terminal("secret", "set", "typed", "key=-", typed="unseen\n")
    assert code == 0, shown
    assert sent(cli, "PUT", "/v1/functions/typed/secrets/key") == {"value": "unseen"}
    assert "unseen" not in shown


def test_the_audit_trail_is_followed(cli: Cli) -> None:
    """`share audit -f` tells each line once, and goes on until Ctrl-C, which is 130."""
    process = cli.start("share", "audit", "-f", "-o", "json")
    try:
        assert process.stdout is not None
        lines = [json.loads(process.stdout.readline()) for _ in range(2)]
        assert [line["cursor"] for line in lines] == [1, 2]
        assert until(lambda: any(r["path"].startswith("/v1/audit") and "after=2" in r["path"] for r in cli.fake.seen()["requests"]))
        process.send_signal(signal.SIGINT)
        rest, said = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, rest, said) == (130, b"", b"")


def test_an_own_function_is_described_by_its_grants(cli: Cli) -> None:
    """`share describe` of a function says to whom it is lent; to nobody is said too."""
    cli.deploy("described")
    assert "is lent to nobody" in cli("share", "describe", "described").stderr
    run(cli, "share grant described --to south --logs")
    assert ["south", "described", "logs"] in [line.split()[:3] for line in run(cli, "share describe described").splitlines()]
    assert json.loads(run(cli, "share describe described -o json"))["items"][0]["account"] == "south"
    assert "no account alias 'nowhere'" in cli("share", "describe", "nowhere").stderr


def test_the_audit_trail(cli: Cli) -> None:
    """Pages are joined; what is counted is told in words."""
    lines = run(cli, "share audit").splitlines()
    assert [line.split()[2] for line in lines[1:]] == ["granted", "called"]
    assert lines[2].endswith("count 3, outcomes ok = 3")
    assert [row["kind"] for row in json.loads(run(cli, "share audit -o json"))["items"]] == ["granted", "called"]


def test_an_api_is_published_from_its_file(cli: Cli) -> None:
    """Schemas beside the file travel in the request; the operations are shown; a name on the line wins."""
    (cli.directory / "api.toml").write_text(API)
    (cli.directory / "summary.json").write_text('{"type": "object"}')
    shown = run(cli, "api publish")
    assert sent(cli, "PUT", "/v1/apis/text")["operations"][0]["input"] == {"type": "object"}
    assert shown.splitlines()[-1].split() == ["summarise", "POST", "/summaries/{id}"]
    run(cli, "api publish renamed -f api.toml")
    assert sent(cli, "PUT", "/v1/apis/renamed")["name"] == "renamed"
    for line, state in (("api deprecate text 1", "deprecated"), ("api retire text 1 -y", "retired")):
        assert json.loads(run(cli, f"{line} -o json"))["state"] == state
    assert "default/text" in run(cli, "api ls -q").split()
    run(cli, "api rm text -y")
    assert cli("api", "rm", "text", "-y").returncode == 2


def test_who_asked_is_approved_or_refused(cli: Cli) -> None:
    """`approve`, with --refuse, and `revoke`, which ends what was approved."""
    assert "south" in run(cli, "api approvals text -q").split()
    assert json.loads(run(cli, "api approve text south -o json"))["state"] == "active"
    assert sent(cli, "POST", "/v1/apis/text/approvals/south") == {"approve": True}
    assert json.loads(run(cli, "api approve text south --refuse -o json"))["state"] == "refused"
    run(cli, "api revoke text south --running finish")
    assert cli.fake.asked("DELETE", "/v1/apis/text/approvals/south")


def test_the_directory(cli: Cli) -> None:
    """A line an API: versions with their states, how many operations, who may subscribe."""
    line = next(line for line in run(cli, "api ls").splitlines() if line.startswith("north/text"))
    assert line.split() == ["north/text", "1", "(deprecated),", "2", "2", "approval", "Texts", "-"]
    described = run(cli, "api describe north/text")
    assert "version 1, retired" in described
    assert "/summaries/{id}" in described
    assert json.loads(run(cli, "api openapi north/text"))["info"]["version"] == "2"
    assert json.loads(run(cli, "api openapi north/text --version 1"))["info"]["version"] == "1"
    assert run(cli, "api openapi north/text -o yaml").startswith("openapi: ")


def test_a_subscription_is_called_by_its_operations(cli: Cli) -> None:
    """`subscribe` says how; `invoke NAME/OPERATION` calls; sealed failures hint at the owner; what is retired is gone."""
    done = cli(*shlex.split("api subscribe north/text --as sub --param tone=plain --network api.example.com:443"))
    assert "sub/summarise" in done.stdout
    assert done.stderr == "call it: pyfaas invoke sub/OPERATION -d JSON\n"
    assert sent(cli, "PUT", "/v1/subscriptions/sub") == {
        "api": "north/text",
        "params": {"tone": "plain"},
        "network": ["api.example.com:443"],
    }
    assert run(cli, """invoke sub/summarise -d '{"id": 1}'""") == '{"id": 1}'
    failed = cli("invoke", "sub/boom", "-v")
    assert (failed.returncode, "told to its owner only" in failed.stderr) == (1, True)
    over = cli("invoke", "sub/over")
    assert (over.returncode, "is retired" in over.stderr) == (2, True)
    assert cli("invoke", "unknown/summarise").returncode == 2
    assert "north has to approve it" in cli(*shlex.split("api subscribe north/asked --as asked-api")).stderr


def test_map_calls_an_operation(cli: Cli) -> None:
    """`map` takes SUBSCRIPTION/OPERATION as `invoke` does."""
    run(cli, "api subscribe north/text --as mapped")
    assert run(cli, "map mapped/summarise", input='{"n": 1}\n') == '{"i": 0, "ok": {"n": 1}}\n'


def test_an_account_has_a_quota(cli: Cli) -> None:
    """Runs at once, a second and a day, and the network; `none` is what the server says."""
    line = "account set south --concurrency 5 --rate 2.5 --per-day none --no-network --stale forbid -o json"
    shown = json.loads(run(cli, line))
    assert shown["quota"] == {"concurrency": 5, "rate": 2.5, "per_day": None}
    assert (shown["network"], shown["stale"]) == (False, "forbid")
    assert json.loads(run(cli, "account set south --network -o json"))["network"] is True


def test_an_empty_house_says_how_to_begin(cli: Cli) -> None:
    """Lists that are empty say what to type."""
    for line, told in (("ls --kind alias", "pyfaas share ls"), ("ls --kind subscription", "pyfaas api ls")):
        done = cli(*line.split())
        assert done.stdout or told in done.stderr
