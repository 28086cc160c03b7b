"""The SDK's guide: its examples are run in order, and print what stands beneath them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyfaas
from pyfaas import manifest
from tests.e2e.house import REPOSITORY, House
from tests.e2e.programs import KERNEL, run

GUIDE = REPOSITORY / "pyfaas" / "client" / "README.md"
BLOCK = re.compile(r"^```(python|text|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
END = "--- the cell ends"


def test_the_guide_tells_the_truth(house: House, tmp_path: Path) -> None:
    """Scripts run as scripts, all other examples as a notebook's cells, and each prints what the guide shows."""
    blocks = BLOCK.findall(GUIDE.read_text())
    cells: list[str] = []
    wanted: list[str] = []
    for kind, text in blocks:
        first = text.partition("\n")[0]
        if kind == "python" and first.startswith("# ") and first.endswith(".py"):
            (tmp_path / first[2:]).write_text(text)
        elif kind == "python":
            cells.append(text)
            wanted.append("")
        elif kind == "text":
            wanted[-1] = text
        else:
            command, _, shown = text.partition("\n")
            ran = run(house, tmp_path, *command.split()[2:])
            assert (ran.out, ran.errors) == (shown.splitlines(), "")
    assert len(cells) == 11
    printing = [part for cell in cells for part in (cell, f"print({END!r})")]
    clean = "for name in list(app.functions): app.client.remove(app.published(name))"
    ran = run(house, tmp_path, "-c", KERNEL, given=json.dumps([*printing, clean]))
    assert (ran.status, ran.errors) == (0, ""), ran.errors
    assert "\n".join(ran.out).split(END)[: len(cells)] == [
        ("\n" if number else "") + text for number, text in enumerate(wanted)
    ]


def test_the_guide_has_every_key() -> None:
    """The guide's table is about the keys that a configuration may have, and the ones that decorators add."""
    table = GUIDE.read_text().partition("| key | default |")[2].partition("\n\n")[0]
    named = {key for row in table.splitlines()[2:] for key in re.findall(r"`(\w+)`", row.split("|")[1])}
    found_by_themselves = {"handler", "shape"}
    assert named == {"name", "trust_results", *manifest._REVISION, *manifest._SETTINGS} - found_by_themselves


def test_the_guide_names_every_method() -> None:
    """The guide's list of methods is the client's."""
    text = GUIDE.read_text()
    methods = {name for name in vars(pyfaas.Client) if not name.startswith("_")} - {"close", "inner", "portal"}
    assert {name for name in methods if not re.search(rf"[` \n]{name}[` \n,]", text)} == set()
    asynchronous = {name for kind in pyfaas.AsyncClient.__mro__[:-1] for name in vars(kind) if not name.startswith("_")} - {"close", "open"}
    assert asynchronous == methods
