"""`pyfaas dev` against the real server: new code answers, and the last good version goes on answering."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.cli.developer import Dev, save
from tests.e2e.house import REPOSITORY, House, started
from tests.e2e.test_cli_real import wait_until


def code(number: int) -> str:
    """Return a handler that answers with a number."""
    return f"def handler(event, context):\n    print('ran', {number})\n    return {number}\n"


@dataclass(slots=True)
class Desk:
    """A directory with a function in it, and the environment of who develops it."""

    house: House
    directory: Path
    name: str
    running: list[Dev] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """What commands find: the server's data directory, as on its own machine."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        return {**kept, "HOME": str(self.directory), "PYFAAS_DATA_DIR": str(self.house.data), "PYTHONPATH": str(REPOSITORY)}

    @property
    def file(self) -> Path:
        """The handler's file."""
        return self.directory / self.name / "main.py"

    def dev(self, *words: str) -> Dev:
        """Start to develop."""
        self.running.append(Dev(self, self.name, *words))
        return self.running[-1]

    def answer(self) -> tuple[int, object]:
        """Call the function; returns the status, and what it answered."""
        done = self.house.invoke(self.name)
        return done.status, json.loads(done.body)


@contextlib.contextmanager
def desk_of(house: House, directory: Path, name: str) -> Iterator[Desk]:
    """Make a directory with a function that answers 1; ends what was started there."""
    desk = Desk(house, directory, name)
    desk.file.parent.mkdir()
    desk.file.write_text(code(1))
    try:
        yield desk
    finally:
        for running in desk.running:
            running.close()


@pytest.fixture
def desk(house: House, tmp_path: Path, name: Callable[[], str]) -> Iterator[Desk]:
    """A function under development."""
    with desk_of(house, tmp_path, name()) as made:
        yield made


@contextlib.contextmanager
def calling(desk: Desk) -> Iterator[list[tuple[int, object]]]:
    """Call all the time; gives what was answered."""
    answers: list[tuple[int, object]] = []
    over = threading.Event()

    def call() -> None:
        while not over.is_set():
            answers.append(desk.answer())

    thread = threading.Thread(target=call)
    thread.start()
    try:
        yield answers
    finally:
        over.set()
        thread.join()


def test_saved_code_answers(desk: Desk) -> None:
    """A save is a version that answers the next call; the log follows with invocation ids; Ctrl-C leaves it deployed."""
    running = desk.dev("-d", "{}")
    running.says("→ 1")
    assert desk.answer() == (200, 1)
    with calling(desk) as answers:
        wait_until(lambda: (200, 1) in answers)
        save(desk.file, code(2))
        running.says("version 2 ready")
        wait_until(lambda: (200, 2) in answers)
    numbers = [answer for status, answer in answers if status == 200]
    assert len(numbers) == len(answers), "no call fails because of a save"
    assert numbers == sorted(numbers, key=str), "once the new code answers the old one is gone"
    last = desk.house.invoke(desk.name)
    running.says(last.headers["pyfaas-invocation-id"])
    running.says("→ 2")
    code_, said = running.interrupted()
    assert (code_, said) == (130, f"{desk.name} stays deployed; remove it: pyfaas rm {desk.name}\n")
    assert desk.answer() == (200, 2)


def test_the_last_good_version_goes_on_answering(desk: Desk) -> None:
    """Through a syntax error, which is not published, and a failed import, which `latest` is taken back from."""
    running = desk.dev()
    running.says("version 1 ready")
    with calling(desk) as answers:
        save(desk.file, "def handler(event, context:\n    return 2\n")
        running.says("main.py:1 cannot be compiled; version 1 goes on answering")
        save(desk.file, "import a_module_that_is_not_there\n")
        running.says("version 2 failed: ModuleNotFoundError: No module named 'a_module_that_is_not_there'; version 1 goes on answering")
        count = len(answers)
        wait_until(lambda: len(answers) > count + 5)
        assert set(answers) == {(200, 1)}
        save(desk.file, code(3))
        running.says("version 3 ready")
        wait_until(lambda: answers[-1] == (200, 3))
    assert set(answers) == {(200, 1), (200, 3)}
    shown = desk.house.call("GET", f"/v1/functions/{desk.name}").json
    assert shown["latest"] == 3


def test_who_forbids_old_answers_is_served_too(desk: Desk) -> None:
    """With stale = forbid a failed version would be answered by itself: `latest` is moved back, so it is the good one's turn."""
    (desk.file.parent / "pyfaas.toml").write_text('stale = "forbid"\n')
    running = desk.dev()
    running.says("version 1 ready")
    save(desk.file, "import a_module_that_is_not_there\n")
    running.says("version 1 goes on answering")
    assert desk.answer() == (200, 1)
    save(desk.file, "import a_module_that_is_not_there\n\n")
    running.says("version 3 failed")
    running.says("version 1 goes on answering", 2)
    assert desk.answer() == (200, 1)


def test_a_server_that_is_away_is_waited_for(tmp_path: Path) -> None:
    """That is said once; what was saved meanwhile is published when it is back."""
    data = tmp_path / "data"
    with started(data) as house:
        port = urlsplit(house.url).port
        with desk_of(house, tmp_path, "away") as desk:
            running = desk.dev()
            running.says("version 1 ready")
            house.stop()
            save(desk.file, code(2))
            running.says("waiting for it")
            save(desk.file, code(3))
            with started(data, "--port", str(port)) as again:
                running.says("the server is back")
                running.says("version 2 ready")
                desk.house = again
                assert desk.answer() == (200, 3)
                save(desk.file, code(4))
                running.says("version 3 ready")
                wait_until(lambda: any("ran 3" in line for line in running.lines))
            assert "".join(running.lines).count("waiting for it") == 1
