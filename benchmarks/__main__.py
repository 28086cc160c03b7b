"""`python -m benchmarks [--quick] [page …]`: run pages, print tables, write JSON, plots and one HTML page.

`--results` also writes benchmarks/RESULTS.md; `--render` does all but the measuring, from the JSON files of earlier runs. Exit
status: 0, 1 when a must is missed and `--check` was given, 3 when a page could not be measured, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks import compare, host, html, plots, report, result
from benchmarks.result import Result

_HERE = Path(__file__).resolve().parent
PAGES = ("warm", "cold", "memory", "payload", "functions", "profile", "publish", "rollback", "broken", "store", "lent", "egress")
_LONG = frozenset({"broken", "store"})  # left out of a quick run, unless they are named


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    made = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure pyfaas against baselines of the same run.")
    made.add_argument("pages", nargs="*", metavar="page", help=f"one or more of {', '.join(PAGES)}; all when none is named")
    made.add_argument("--quick", action="store_true", help="fewer rounds: under two minutes on a machine that does nothing else")
    made.add_argument("--out", type=Path, default=_HERE / "out", help="where JSON, PNG files and index.html go")
    made.add_argument("--json", action="store_true", help="print the results as JSON instead of tables")
    made.add_argument("--check", action="store_true", help="exit with 1 when a must is missed")
    made.add_argument("--results", action="store_true", help="write benchmarks/RESULTS.md")
    made.add_argument("--render", action="store_true", help="measure nothing: write everything from the JSON files in --out")
    made.add_argument("--compare", type=Path, metavar="DIR", help="compare with the JSON files of an earlier run on the same host")
    return made


def main(arguments: Sequence[str]) -> int:
    """Run; returns the exit status."""
    given = parser().parse_args(arguments)
    names = given.pages or [name for name in PAGES if not (given.quick and name in _LONG)]
    if unknown := [name for name in names if name not in PAGES]:
        print(f"no such page: {', '.join(unknown)}; there are {', '.join(PAGES)}", file=sys.stderr)
        return 2
    status = 0
    if given.render:
        results = _read(given.out, names)
        if not results:
            print(f"{given.out} holds no results of {', '.join(names)}", file=sys.stderr)
    else:
        results, status = _measured(names, quick=given.quick, out=given.out)
    if not results:
        return status or 3
    command = "python -m benchmarks " + " ".join(word for word in (("--quick" if results[0].quick else ""), *given.pages, "--results") if word)
    page = _written(results, given.out, command)
    if given.results:
        (_HERE / "RESULTS.md").write_text(report.markdown(results, command))
    print(json.dumps([asdict(one) for one in results]) if given.json else report.text(results))
    if given.compare:
        status = max(status, _compared(_read(given.compare, names), results))
    print(f"\nwritten: {page}", file=sys.stderr)
    return status or int(given.check and any(one.missed for one in results))


def _measured(names: Sequence[str], *, quick: bool, out: Path) -> tuple[list[Result], int]:
    """Run pages one after the other; what one could not do is told, and the others go on."""
    from benchmarks.stage import progress, run_page  # noqa: PLC0415 - --render needs no server

    tell, results, status = progress(), [], 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # everything that was started ends either way
    state = host.busy()
    for warning in host.warnings(state, os.getloadavg()[0], len(os.sched_getaffinity(0))):
        print(f"warning: {warning}", file=sys.stderr)
    for name in (ahead := list(names)):
        try:
            found = run_page(name, quick=quick, tell=tell)
        except Exception as error:  # noqa: BLE001 - a page that fails is told, and the others go on
            traceback.print_exc()
            print(f"\n{name}: not measured: {type(error).__name__}: {error}", file=sys.stderr)
            status = 3
            continue
        found.host = {**found.host, "busy before": f"{state['busy']:.0%}", "taken by the machine below": f"{state['stolen']:.0%}"}
        result.write(found, out)
        results.append(found)
        if name == "warm" and found.missed and "profile" not in ahead:
            ahead.append("profile")  # a missed must is not told without where the time goes
    print(file=sys.stderr)
    return results, status


def _read(folder: Path, names: Sequence[str]) -> list[Result]:
    return [result.read(folder / f"{name}.json") for name in names if (folder / f"{name}.json").exists()]


def _written(results: Sequence[Result], out: Path, command: str) -> Path:
    """Write the plots and the HTML page; returns the page's path."""
    pictures = {plot.name: plots.png(plot) for one in results for plot in one.plots} if plots.is_possible() else {}
    for name, png in pictures.items():
        (out / f"{name}.png").write_bytes(png)
    page = out / "index.html"
    page.write_text(html.page(results, pictures, command, "" if plots.is_possible() else plots.HOW))
    return page


def _compared(before: Sequence[Result], after: Sequence[Result]) -> int:
    try:
        table = compare.compare(before, after)
    except compare.HostsDiffer as differ:
        print(f"not compared: {differ}", file=sys.stderr)
        return 3
    print("\n\n" + report.text_table(table))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print("\nstopped; everything that was started has ended", file=sys.stderr)
        sys.exit(130)
