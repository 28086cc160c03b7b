"""What is made of results: text, Markdown, HTML, JSON, comparisons."""

from __future__ import annotations

import html.parser
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as program
from benchmarks import compare, report
from benchmarks import html as page
from benchmarks import result as results
from benchmarks.result import Result
from tests.benchmarks.sample import HOST, result

ROOT = Path(__file__).resolve().parents[2]


def test_a_result_survives_its_file(tmp_path: Path) -> None:
    """A result read from its JSON file tells what the one that was written told."""
    made = result()
    read = results.read(results.write(made, tmp_path))
    assert report.text([read]) == report.text([made])
    assert read.rows == made.rows
    assert read.host == HOST


def test_a_missed_must_comes_with_the_profile() -> None:
    """Where a must is missed the profile is shown in every form, and where it is reached in none."""
    missed, reached = result([2.0, 2.1]), result([1.0, 1.1])
    for render in (lambda r: report.text([r]), lambda r: report.markdown([r], "c"), lambda r: page.page([r], {}, "c")):
        assert "Where it goes" in render(missed)
        assert "Where it goes" not in render(reached)
    assert "NOT REACHED" in report.text([missed])
    assert "Not reached: warm call" in report.markdown([missed], "c")


def test_what_is_missing_is_named() -> None:
    """A baseline that could not run stands in every form, with its reason."""
    for text in (report.text([result()]), report.markdown([result()], "c"), page.page([result()], {}, "c")):
        assert "bubblewrap: not installed" in text


def test_markdown_keeps_its_cells() -> None:
    """A bar within a word does not end its cell, and every line of a table has as many cells as its head."""
    text = report.markdown([result()], "python -m benchmarks")
    assert "a\\|b" in text
    for table in report.promises([result()]), *result().tables:
        counts = {line.replace("\\|", "").count("|") for line in report.markdown_table(table).splitlines()}
        assert counts == {len(table.head) + 1}


class _Outside(html.parser.HTMLParser):
    """Collects what a page would load, and the tags that were not closed."""

    def __init__(self) -> None:
        """Begin with nothing."""
        super().__init__()
        self.loads: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take an opening tag."""
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href")]
        assert tag not in ("script", "link", "iframe")

    def handle_endtag(self, tag: str) -> None:
        """Take a closing tag."""
        assert self.open.pop() == tag


def test_the_page_stands_alone() -> None:
    """The HTML page is well formed, loads nothing from elsewhere, has its pictures in it and escapes what it tells."""
    text = page.page([result()], {"latency": b"png"}, "c")
    parser = _Outside()
    parser.feed(text)
    assert parser.open == []
    assert parser.loads == ["data:image/png;base64,cG5n"]
    assert "a|b &lt;c&gt;" in text


def test_without_pictures_the_page_says_why() -> None:
    """A page that could not be drawn says how to get the plots, and has its tables."""
    text = page.page([result()], {}, "c", "no matplotlib")
    assert "no matplotlib" in text
    assert "Promises" not in text
    assert "<img" not in text
    assert "<table" in text


def test_runs_of_one_host_are_compared() -> None:
    """A change beyond the noise is told as one, a change within it is not."""
    before = [result([1.0, 1.1, 1.2])]
    changed, within = compare.compare(before, [result([2.0, 2.1, 2.2])]), compare.compare(before, [result([1.1, 1.15, 1.2])])
    assert changed.rows[0][-2:] == ("+90.9%", "changed")
    assert within.rows[0][-1] == "within the noise"


def test_runs_of_different_hosts_are_not() -> None:
    """What ran on another kernel is not compared, and the message names the difference."""
    other = result()
    other.host = {**HOST, "kernel": "Linux 6.12"}
    with pytest.raises(compare.HostsDiffer, match=r"kernel: Linux 6\.1 / Linux 6\.12"):
        compare.compare([result()], [other])


def test_a_busier_host_is_the_same_host() -> None:
    """Load, and how long the filter is at another commit, do not make it another host."""
    other = result()
    other.host = {**HOST, "load": 9.0, "layers": {"seccomp": "150 calls"}}
    assert compare.compare([result()], [other]).rows


def _undrawn(ratios: list[float]) -> Result:
    """Return a result without plots: drawing takes a second, and what draws need not be installed."""
    made = result(ratios)
    made.plots = []
    return made


def test_earlier_results_are_rendered_without_measuring(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--render makes the page from the JSON files that are there."""
    results.write(_undrawn([1.0, 1.1]), tmp_path)
    assert program.main(["--render", "--out", str(tmp_path), "warm"]) == 0
    assert "Warm calls" in capsys.readouterr().out
    assert "<html" in (tmp_path / "index.html").read_text()


def test_a_missed_must_is_the_exit_status_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missed must is told in any case, and makes the command fail with --check only: figures wander."""
    results.write(_undrawn([3.0, 3.1]), tmp_path)
    assert program.main(["--render", "--json", "--out", str(tmp_path)]) == 0
    assert '"verdict": "missed"' in capsys.readouterr().out
    assert program.main(["--render", "--check", "--out", str(tmp_path)]) == 1
    assert "NOT REACHED" in capsys.readouterr().out


def test_nothing_to_render_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--render of a folder without results says so and fails."""
    assert program.main(["--render", "--out", str(tmp_path), "warm"]) == 3
    assert "holds no results of warm" in capsys.readouterr().err


def test_an_unknown_page_is_refused() -> None:
    """A page that there is not ends the command at once, with the names of those there are."""
    told = subprocess.run([sys.executable, "-m", "benchmarks", "wram"], capture_output=True, text=True, cwd=ROOT, check=False)
    assert told.returncode == 2
    assert "no such page: wram; there are warm, cold" in told.stderr


def test_every_page_is_told_of() -> None:
    """Each page has its file and its line in the README, and no file is left out."""
    readme = (ROOT / "benchmarks" / "README.md").read_text()
    files = {path.stem for path in (ROOT / "benchmarks" / "pages").glob("*.py")} - {"__init__"}
    assert files == set(program.PAGES)
    assert [name for name in program.PAGES if f"| `{name}` |" not in readme] == []
