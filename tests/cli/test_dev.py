"""`pyfaas dev` against the fake server: what is published when, and what is said of it."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake import until

from pyfaas.client.packing import pack_files
from tests.cli.command import Cli
from tests.cli.developer import Dev, save

CODE = "def handler(event, context):\n    return {}\n"


Start = Callable[..., Dev]


@pytest.fixture
def dev(cli: Cli) -> Iterator[Start]:
    """Return what starts `pyfaas dev`, and ends it after the test."""
    with contextlib.ExitStack() as stack:

        def start(*words: str) -> Dev:
            started = Dev(cli, *words)
            stack.callback(started.close)
            return started

        yield start


def project(cli: Cli, name: str) -> Path:
    """Make a directory with a handler; returns its main file."""
    (cli.directory / name).mkdir()
    file = cli.directory / name / "main.py"
    file.write_text(CODE)
    return file


def published(cli: Cli, name: str) -> list[dict[str, Any]]:
    """Return the versions that were published under a name."""
    found: list[dict[str, Any]] = cli.fake.seen()["functions"].get(name, [])
    return found


def test_each_save_is_a_version_and_nothing_else_is(cli: Cli, dev: Start) -> None:
    """The name that deploy would take is said at the start; what is written without a change, or belongs to no bundle, is no version."""
    file = project(cli, "dev-saved")
    running = dev("dev-saved")
    running.says("version 1 ready")
    assert f"watching dev-saved/ → {cli.fake.url}/f/default/dev-saved" in running.lines[0]
    save(file, CODE)
    (file.parent / ".venv").mkdir()
    (file.parent / ".venv" / "x.py").write_text("1")
    (file.parent / "main.py~").write_text("1")
    save(file, CODE + "# 2\n")
    running.says("version 2 ready")
    running.says("(main.py)")
    (cli.directory / "more").mkdir()
    (cli.directory / "more" / "x.py").write_text("1")
    (cli.directory / "more").rename(file.parent / "more")
    running.says("version 3 ready")
    assert [version["files"] for version in published(cli, "dev-saved")] == [["main.py"], ["main.py"], ["main.py", "more/x.py"]]
    assert running.interrupted() == (130, "dev-saved stays deployed; remove it: pyfaas rm dev-saved\n")


def test_the_newest_wins_and_there_are_never_two_at_once(cli: Cli, dev: Start) -> None:
    """Saves during a publication are one more publication, of what is there then."""
    file = project(cli, "slowly")
    running = dev("slowly")
    running.says("version 1 ready")
    for number in range(40):
        save(file, f"{CODE}# {number}\n")
    running.says("version 2 ready")
    last = f"{CODE}# last\n"
    for _ in range(3):
        save(file, last + "# not yet\n")
        save(file, last)
    newest = hashlib.sha256(pack_files({"main.py": (last.encode(), False)})).hexdigest()
    assert until(lambda: published(cli, "slowly")[-1]["code"] == newest)
    assert cli.fake.seen()["most_at_once"] == 1
    assert len(published(cli, "slowly")) < 40


def test_what_cannot_be_compiled_is_shown_and_not_published(cli: Cli, dev: Start) -> None:
    """File, line and caret, once however often it is saved; then the repaired one is published."""
    file = project(cli, "dev-broken")
    running = dev("dev-broken")
    running.says("version 1 ready")
    save(file, "def handler(event, context:\n    return {}\n")
    running.says("main.py:1 cannot be compiled; version 1 goes on answering")
    running.says("SyntaxError: '(' was never closed")
    assert any(line.rstrip().endswith("^") for line in running.lines)
    save(file, "def handler(event, context:\n    return {}\n")
    save(file, CODE)
    running.says("dev-broken is again what was published last; version 1 goes on answering")
    save(file, CODE + "# 2\n")
    running.says("version 2 ready")
    assert "".join(running.lines).count("cannot be compiled") == 1
    assert len(published(cli, "dev-broken")) == 2


def test_what_is_broken_at_the_start_is_waited_out(cli: Cli, dev: Start) -> None:
    """Nothing is published, and there is no version that could go on answering; the repaired file is the first one."""
    file = project(cli, "dev-early")
    file.write_text("def handler(\n")
    running = dev("dev-early")
    running.says("main.py:1 cannot be compiled\n")
    assert published(cli, "dev-early") == []
    save(file, CODE)
    running.says("version 1 ready")


def test_a_broken_configuration_is_told_and_waited_out(cli: Cli, dev: Start) -> None:
    """A pyfaas.toml that cannot be read is no end."""
    file = project(cli, "dev-configured")
    running = dev("dev-configured")
    running.says("version 1 ready")
    save(file.parent / "pyfaas.toml", "memory = \n")
    running.says("pyfaas.toml")
    running.says("version 1 goes on answering")
    save(file.parent / "pyfaas.toml", 'memory = "128M"\nrequirements = ["nothing"]\n')
    running.says("version 2 installs nothing")
    running.says("version 2 ready")
    assert published(cli, "dev-configured")[-1]["config"]["memory"] == "128M"


def test_a_version_that_fails_is_left_behind(cli: Cli, dev: Start) -> None:
    """Why, in a line; `latest` goes back."""
    file = project(cli, "fails")
    running = dev("fails")
    running.says("failed: ModuleNotFoundError: no module named 'nothing'")
    save(file, CODE + "# 2\n")
    running.says("failed: ModuleNotFoundError", 2)
    assert any(r["method"] == "POST" and r["path"] == "/v1/functions/fails/rollback" for r in cli.fake.seen()["requests"])


def test_it_is_called_after_each_publication(cli: Cli, dev: Start) -> None:
    """-d: the result is a line, a failure has its stack; a file is read anew each time. With -o json all are documents."""
    file = project(cli, "dev-called")
    event = cli.directory / "event.json"
    save(event, '{"a": 1}')
    running = dev("dev-called", "-d", "@event.json")
    running.says('→ {"a": 1}')
    save(event, '{"a": 2}')
    save(file, CODE + "# 2\n")
    running.says('→ {"a": 2}')
    project(cli, "boom")
    running = dev("boom", "-d", "{}", "-o", "json")
    running.says('"outcome": "error"')
    documents = [json.loads(line) for line in running.lines]
    assert documents[0]["function"] == "boom"
    assert [each["version"] for each in documents if each.get("state") == "ready"] == [len(published(cli, "boom"))]
    assert any("main.py:3 handler" in each.get("more", "") for each in documents)


def test_a_single_file_is_developed_too(cli: Cli, dev: Start) -> None:
    """Its neighbours are none of its business, and a rename onto it is a save."""
    file = cli.directory / "alone.py"
    file.write_text(CODE)
    running = dev("alone.py", "--name", "other", "--env", "A=1")
    running.says("version 1 ready")
    (cli.directory / "beside.py").write_text("1")
    save(file, CODE + "# 2\n")
    running.says("version 2 ready")
    assert [each["config"]["env"] for each in published(cli, "other")] == [{"A": "1"}, {"A": "1"}]


def test_a_token_that_may_not_publish_ends_it(cli: Cli, dev: Start) -> None:
    """Waiting would not help: exit status 4."""
    project(cli, "refused")
    cli.token = "pf_read"  # noqa: S105 - the fake server's
    assert dev("refused").process.wait(60) == 4
