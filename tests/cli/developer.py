"""A running `pyfaas dev`, and saves as editors make them."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Protocol

from fake import until


class Place(Protocol):
    """Where commands run, and what they find."""

    directory: Path

    @property
    def environment(self) -> dict[str, str]:
        """The environment that commands get."""
        ...


class Dev:
    """A running `pyfaas dev`, and the lines that it wrote."""

    def __init__(self, cli: Place, *words: str) -> None:
        """Start it."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pyfaas", "dev", *words],
            cwd=cli.directory,
            env=cli.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(iter(self.process.stdout.readline, ""))

    def says(self, text: str, times: int = 1) -> None:
        """Wait until a text was written that often."""
        assert until(lambda: "".join(self.lines).count(text) >= times), (text, self.lines)

    def interrupted(self) -> tuple[int, str]:
        """Press Ctrl-C; returns exit status and what was written on stderr."""
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(60)
        self._reader.join()
        assert self.process.stderr is not None
        return code, self.process.stderr.read()

    def close(self) -> None:
        """End it in any case."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


def save(file: Path, text: str) -> None:
    """Save at once: nobody sees half of it, however busy the machine is."""
    beside = file.with_name(file.name + "~")
    beside.write_text(text)
    beside.replace(file)
