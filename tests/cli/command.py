"""The CLI as users run it: a process, in a directory of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fake import Fake

from tests.cli.forker import Forker

REPOSITORY = Path(__file__).parents[2]


@dataclass(slots=True)
class Cli:
    """Runs `pyfaas` in a directory of its own, with nothing but the fake server in its environment."""

    fake: Fake
    forker: Forker
    directory: Path
    token: str = "pf_good"
    url: str = ""
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """The environment that commands get."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        home = {
            "HOME": str(self.directory),
            "XDG_CONFIG_HOME": str(self.directory / "config"),
            "PYFAAS_DATA_DIR": str(self.directory / "data"),
        }
        named = {"PYFAAS_URL": self.url or self.fake.url, "PYFAAS_TOKEN": self.token} if self.token else {}
        return {**kept, **home, **named, "PYTHONPATH": str(REPOSITORY), **self.variables}

    def __call__(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command to its end: a fork, or where its streams are not the usual ones a process of its own."""
        if options.keys() <= {"input", "text"}:
            text = options.get("input") or b""
            done = self.forker.run(words, self.directory, self.environment, text.encode() if isinstance(text, str) else text)
            return _decoded(done) if options.get("text", True) else done  # type: ignore[return-value]
        given = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL} | options
        if "input" in given:
            del given["stdin"]
        return subprocess.run(
            [sys.executable, "-m", "pyfaas", *words],
            cwd=self.directory,
            env=self.environment,
            timeout=60,
            check=False,
            **given,
        )

    def on_terminal(self, *words: str, typed: str = "", columns: int = 80) -> tuple[int, str]:
        """Run a command on a terminal of that width; returns its exit status and what the terminal was sent."""
        environment = {"TERM": "xterm-256color", **self.environment}
        return self.forker.run_on_terminal(words, self.directory, environment, typed.encode(), columns)

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a command."""
        return subprocess.Popen(
            [sys.executable, "-m", "pyfaas", *words],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def deploy(self, *names: str) -> None:
        """Publish functions of these names."""
        for name in names:
            (self.directory / f"{name}.py").write_text("def handler(event, context):\n    return event\n")
            done = self("deploy", f"{name}.py", "--no-wait")
            assert done.returncode == 0, done.stderr


def _decoded(done: subprocess.CompletedProcess[bytes]) -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())
