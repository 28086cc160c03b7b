"""A user's own programs, run as processes of their own against a house, and what they printed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

from tests.e2e.house import REPOSITORY, House

# A notebook's kernel, as far as code can tell: cells in one namespace that is __main__ and has no file, on a running loop.
KERNEL = """
import ast, asyncio, json, linecache, sys

cells, space = json.loads(sys.stdin.read()), sys.modules["__main__"].__dict__

async def kernel():
    for number, cell in enumerate(cells, 1):
        name = f"<ipython-input-{number}-0a1b2c>"
        linecache.cache[name] = (len(cell), None, cell.splitlines(True), name)
        done = eval(compile(cell, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), space)
        if done is not None:
            await done

asyncio.run(kernel())
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """How a program ended."""

    status: int
    out: list[str]
    errors: str


def environment(house: House) -> dict[str, str]:
    """Return what a program finds its server by; warnings are errors, as in the tests themselves."""
    ours = {"PYFAAS_URL": house.url, "PYFAAS_TOKEN": house.token("default"), "PYTHONPATH": str(REPOSITORY)}
    return {**os.environ, **ours, "PYTHONWARNINGS": "error", "PYTHONDONTWRITEBYTECODE": "1"}


def write(directory: Path, files: Mapping[str, str]) -> None:
    """Write files by path, their text dedented."""
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))


def run(house: House, directory: Path, *arguments: str, given: str = "") -> Ran:
    """Run `python ARGUMENTS…` in a directory."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=directory,
        env=environment(house),
        input=given,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return Ran(status=done.returncode, out=done.stdout.splitlines(), errors=done.stderr)
