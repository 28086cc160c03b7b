"""The entry of `pyfaas`: reads the command line, loads the one module that has the verb, and ends with the right code.

Start-up time is part of the interface: a verb's module is imported when the verb is used, and `--version` needs nothing.
Ctrl-C and a closed pipe end quietly at any time, while modules are still being imported too.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Sequence

from pyfaas import __version__

_INTERRUPTED = 130
_STREAMS = ("stdin", "stdout", "stderr")


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command line and exit with its code."""
    _prepare_streams()
    try:
        code = _run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except BrokenPipeError:
        code = 0
        forget_output()
    except OSError as error:
        sys.stderr.write(f"error: {error.strerror or error}\n")
        code = 2
        forget_output()
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    if arguments == ["--version"]:
        sys.stdout.write(f"pyfaas {__version__}\n")
        return 0
    code: int = importlib.import_module("pyfaas.cli.tree").run(arguments)
    return code


def forget_output() -> None:
    """Give what is left in the buffer to nobody; without this the interpreter would complain at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _prepare_streams() -> None:
    _fill_closed_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):  # what a locale has no letter for is shown, not a failure
        sys.stdout.reconfigure(errors="backslashreplace")


def _fill_closed_streams() -> None:
    # A descriptor that was closed by the caller would be given to the next socket, and Python has None for its stream.
    for number, name in enumerate(_STREAMS):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115, PTH123 - as long as the process


if __name__ == "__main__":
    main()
