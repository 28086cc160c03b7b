"""Lending as people use it: the command line and the SDK, two accounts, one real server."""

from __future__ import annotations

import json
import os
import secrets
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import pyfaas
from tests.cli.forker import REPOSITORY, Forker, forking
from tests.e2e.house import House

CODE = """
def handler(event, context):
    print("seen", sorted(event))
    if event.get("fail"):
        raise ValueError(context.secrets["key"])
    return {"params": dict(context.params), "keys": {key: len(value) for key, value in context.secrets.items()}, "id": event.get("id")}
"""
API = """
name = "told"
version = "1"
access = "approval"

[[operations]]
name = "tell"
method = "POST"
path = "/told/{id}"
function = "teller"
input = "told.json"
"""
SCHEMA = '{"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]}'


@dataclass(slots=True)
class Desk:
    """One account's command line."""

    house: House
    forker: Forker
    directory: Path
    account: str

    def said(self, line: str, *, status: int = 0, given: str = "") -> tuple[str, str]:
        """Run a command that must end with a status; returns its output and what else it said."""
        home = {"HOME": str(self.directory), "PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)}
        server = {"PYFAAS_URL": self.house.url, "PYFAAS_TOKEN": self.house.token(self.account)}
        done = self.forker.run(tuple(shlex.split(line)), self.directory, home | server, given.encode())
        assert done.returncode == status, (line, done.stdout, done.stderr)
        return done.stdout.decode(), done.stderr.decode()

    def __call__(self, line: str, *, given: str = "") -> str:
        """Run a command that must work; returns its output."""
        return self.said(line, given=given)[0]

    def document(self, line: str) -> Any:
        """Run a command that must work; returns the document that it prints."""
        return json.loads(self(f"{line} -o json"))


@pytest.fixture(scope="module")
def forker() -> Iterator[Forker]:
    """What runs commands."""
    with forking() as running:
        yield running


@pytest.fixture
def desks(house: House, forker: Forker, tmp_path: Path) -> tuple[Desk, Desk]:
    """An owner's, which has a function `teller`, and a caller's."""
    made = []
    for word in ("owner", "caller"):
        account = house.account(f"{word}-{secrets.token_hex(4)}")
        (tmp_path / word).mkdir()
        made.append(Desk(house, forker, tmp_path / word, account))
    assert house.deploy("teller", CODE, token=made[0].account).json["state"] == "ready"
    return made[0], made[1]


def test_a_function_is_lent_called_and_taken_back(desks: tuple[Desk, Desk]) -> None:
    """Granted, accepted, called with the caller's own parameter and secret, taken back: neither side is shown the other's."""
    owner, caller = desks
    canary, name = secrets.token_hex(12), f"mine-{secrets.token_hex(4)}"
    (caller.directory / "key.txt").write_text(canary + "\n")
    target = f"{owner.account}/teller"
    is_empty = not any(caller.document("share ls").values())  # the server is other tests' too, and they may have lent to everybody
    assert ("nothing is lent" if is_empty else "to use what is lent to you") in caller.said("share ls")[1]
    assert f"share accept {target} --as NAME" in owner.said(f"share grant teller --to {caller.account} --lock tone=plain --require size")[1]
    assert target in caller("share ls")
    assert canary not in "".join(caller.said(f"share accept {target} --as {name} --param size:=3 --secret key=@key.txt"))
    assert json.loads(caller(f"invoke {name}")) == {"params": {"size": 3, "tone": "plain"}, "keys": {"key": len(canary)}, "id": None}
    assert name in caller("ls -q --kind alias").split()
    told = "".join(caller.said(f"""invoke {name} -v -d '{{"fail": 1}}'""", status=1))
    assert "told to its owner only" in told
    assert not any(word in told for word in ("ValueError", "main.py", canary))
    seen = "".join(owner(line) for line in ("share ls", "share audit", "logs teller", "usage", "usage --by caller", "share describe teller"))
    assert caller.account in seen
    assert not any(word in seen for word in (canary, name))
    owner(f"share revoke teller --from {caller.account}")
    assert caller.said(f"invoke {name}", status=2)[1].startswith("error: ")
    assert caller.document(f"share describe {name}")["state"] == "gone"
    for desk in desks:
        assert {"granted", "accepted", "revoked"} <= {line["kind"] for line in desk.document("share audit")["items"]}
    caller(f"share rm {name} -y")
    assert name not in caller("ls -q")


def test_an_owners_secret(desks: tuple[Desk, Desk]) -> None:
    """Set from stdin, listed by name, had by the code, travelling only where the grant says so, removed."""
    owner, caller = desks
    owner("secret set teller own=-", given="hush hush\n")
    assert owner("secret ls teller -q") == "own\n"
    assert json.loads(owner("invoke teller"))["keys"] == {"own": 9}
    for words, keys in (("", {}), (" --secret own", {"own": 9})):
        owner(f"share grant teller --to {caller.account}{words}")
        caller(f"share accept {owner.account}/teller --as theirs")
        assert json.loads(caller("invoke theirs"))["keys"] == keys
    owner("secret rm teller own")
    assert json.loads(owner("invoke teller"))["keys"] == {}
    assert "no secrets; keep one" in owner.said("secret ls teller")[1]


def test_an_api_is_asked_for_approved_used_and_retired(desks: tuple[Desk, Desk]) -> None:
    """From api.toml to 410: what does not fit is refused with where, a call is an operation's, both sides see what was used."""
    owner, caller = desks
    (owner.directory / "api.toml").write_text(API)
    (owner.directory / "told.json").write_text(SCHEMA)
    assert "/told/{id}" in owner("api publish")
    assert f"{owner.account}/told" in caller("api ls -q").split()
    assert "has to approve it" in caller.said(f"api subscribe {owner.account}/told --as theirs --param size=small")[1]
    caller.said("""invoke theirs/tell -d '{"id": 7}'""", status=4)
    assert caller.account in owner("api approvals told")
    owner(f"api approve told {caller.account}")
    assert json.loads(caller("""invoke theirs/tell -d '{"id": 7}'""")) == {"params": {"size": "small"}, "keys": {}, "id": 7}
    assert "/id" in caller.said("""invoke theirs/tell -d '{"id": "seven"}'""", status=2)[1]
    assert caller.document(f"api openapi {owner.account}/told")["info"]["version"] == "1"
    assert "lends no logs" not in caller("invoke theirs/tell -v -d '{\"id\": 9}'")
    assert "lends no logs" in caller.said("logs theirs", status=4)[1]
    owner("api deprecate told 1 --sunset 720h")
    assert json.loads(caller("map theirs/tell", given='{"id": 8}\n'))["ok"]["id"] == 8
    owner("api retire told 1 -y")
    caller.said("""invoke theirs/tell -d '{"id": 7}'""", status=2)
    caller("api unsubscribe theirs -y")
    owner("api rm told -y")
    assert f"{owner.account}/told" not in caller("api ls -q").split()


def test_a_subscriber_reads_the_logs_that_are_lent(desks: tuple[Desk, Desk]) -> None:
    """With `logs = true` a subscription has one log of its own runs, for all operations; its owner's has none of them."""
    owner, caller = desks
    (owner.directory / "api.toml").write_text(API.replace('access = "approval"', "logs = true").replace('input = "told.json"', ""))
    assert owner("api publish -q") == "told\n"
    caller(f"api subscribe {owner.account}/told --as theirs")
    assert "seen ['id', 'own']" in caller.said("""invoke theirs/tell -v -d '{"id": 7, "own": 1}'""")[1]
    assert "seen ['id', 'own']" in caller("logs theirs/tell")
    assert "'own'" not in owner("logs teller")


def test_the_sdk_lends_as_the_command_line_does(desks: tuple[Desk, Desk]) -> None:
    """Grant, accept, invoke, map and revoke with two clients; what was taken back raises Gone, what never was NotFound."""
    owner, caller = desks
    with pyfaas.Client(owner.house.url, owner.house.token(owner.account)) as lends, pyfaas.Client(
        caller.house.url, caller.house.token(caller.account)
    ) as borrows:
        lends.grant("teller", caller.account, require=["size"], reuse=True)
        made = borrows.accept(f"{owner.account}/teller", "theirs", params={"size": [1, None]}, secrets={"key": "hush"})
        assert (made["state"], made["secrets"]) == ("active", ["key"])
        assert borrows.invoke("theirs", {"id": 1}) == {"params": {"size": [1, None]}, "keys": {"key": 4}, "id": 1}
        assert [each["id"] for each in borrows.map("theirs", [{"id": n} for n in range(5)])] == list(range(5))
        with pytest.raises(pyfaas.FunctionError) as failed:
            borrows.invoke("theirs", {"fail": 1})
        assert (failed.value.error_type, failed.value.stack_trace) == ("FunctionError", [])
        lends.revoke("teller", caller.account)
        with pytest.raises(pyfaas.Gone):
            borrows.invoke("theirs")
        with pytest.raises(pyfaas.NotFound) as missing:
            borrows.accept(f"{owner.account}/nothing", "other")
        assert not isinstance(missing.value, pyfaas.Gone)


def test_a_quota_is_set_by_an_admin_only(desks: tuple[Desk, Desk], forker: Forker, tmp_path: Path) -> None:
    """`account set` with a quota needs the admin's token; it holds at once, for what is published and what is run."""
    owner, caller = desks
    owner.said(f"account set {owner.account} --per-day 1", status=4)
    admin = Desk(owner.house, forker, tmp_path, "admin")
    assert admin.document(f"account set {caller.account} --per-day 1 --no-network")["network"] is False
    code = "def handler(event, context):\n    return 1\n"
    assert caller.house.deploy("reaching", code, token=caller.account, network=["example.com:443"]).status == 403
    assert caller.house.deploy("own", code, token=caller.account).json["state"] == "ready"
    assert caller("invoke own") == "1"
    assert "error: " in caller.said("invoke own", status=3)[1]
    admin(f"account set {caller.account} --per-day none --network")
    assert caller("invoke own") == "1"
