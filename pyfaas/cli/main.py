"""The entry of `pyfaas`: reads the command line, loads the one module that has the verb, and ends with the right code.

Start-up time is part of the interface: a verb's module is imported when the verb is used, and `--version` needs nothing.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from pyfaas import __version__


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command line and exit with its code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments == ["--version"]:
        sys.stdout.write(f"pyfaas {__version__}\n")
        sys.exit(0)
    code = importlib.import_module("pyfaas.cli.tree").run(arguments)
    _leave(code)


def _leave(code: Any) -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # What is left in the buffer has no reader; without this the interpreter would complain at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


if __name__ == "__main__":
    main()
