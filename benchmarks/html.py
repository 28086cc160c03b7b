"""Results as one self-contained HTML page: no script, no style sheet and no picture comes from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape

from benchmarks import report
from benchmarks.result import Result, Table
from benchmarks.targets import Row, Verdict

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 64rem; padding: 0 1rem; color: #1c1e21; background: #fff }
h1, h2 { line-height: 1.2 } h2 { margin-top: 2.5rem; border-top: 1px solid #d8dbe0; padding-top: 1rem } h3 { margin-bottom: .3rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums } td, th { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #e6e8eb }
td:first-child, th:first-child { text-align: left } th { font-weight: 600; background: #f5f6f8 }
.goal { background: #d9f2df } .must, .short { background: #fdf3d0 } .missed { background: #fbdcdc; font-weight: 600 }
img { max-width: 100% } .says, .notes { color: #4a4f57 } .wide { overflow-x: auto }
@media (prefers-color-scheme: dark) {
 body { background: #17191c; color: #e4e6e9 } th { background: #23262b } td, th { border-color: #33373d } h2 { border-color: #33373d }
 .says, .notes { color: #a7adb5 } .goal { background: #1d4028 } .must, .short { background: #4a3f16 } .missed { background: #552526 } img { background: #fff }
}
"""


def page(results: Sequence[Result], pictures: Mapping[str, bytes], command: str, lacking: str = "") -> str:
    """Return the page; `pictures` are PNG files by their plots' names, `lacking` says why there are none."""
    body = [
        "<h1>pyfaas: benchmarks</h1>",
        f"<p class=says>Written by <code>{escape(command)}</code>. Each ratio is a median of rounds in which pyfaas and its baseline took turns.</p>",
    ]
    if lacking:
        body.append(f"<p class=notes>{escape(lacking)}</p>")
    body.append(_promises([row for result in results for row in result.rows]))
    if results:
        body += ["<h2>Host</h2>", _list(report.host_lines(results[0].host)), "<h2>Proof of confinement</h2>", _list(report.proof_lines(results[0].proof))]
    for result in results:
        body += _section(result, pictures)
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>pyfaas: benchmarks</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(body)}</body></html>\n'


def _promises(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        cells = "".join(f"<td>{escape(text)}</td>" for text in report.of_row(row))
        lines.append(f"<tr class={_CLASS[row.verdict]}>{cells}</tr>")
    return _wide(_head(report.HEAD) + "".join(lines)) if rows else ""


_CLASS = {Verdict.GOAL: "goal", Verdict.MUST: "must", Verdict.SHORT: "short", Verdict.MISSED: "missed"}


def _section(result: Result, pictures: Mapping[str, bytes]) -> list[str]:
    parts = [f"<h2 id={escape(result.page)}>{escape(result.title)}</h2>", f"<p class=says>{escape(result.says)} {escape(result.at)}, {result.seconds:g} s.</p>"]
    parts.append(_promises(result.rows))
    parts.append(_list(report.notes(result), "notes"))
    parts += [_picture(plot.title, pictures[plot.name]) for plot in result.plots if plot.name in pictures]
    profile = report.shown_profile(result)
    tables = [*([profile] if profile else []), *([report.baselines(result)] if result.baselines else []), *result.tables]
    return [*parts, *map(_table, tables)]


def _table(table: Table) -> str:
    rows = "".join("<tr>" + "".join(f"<td>{escape(word)}</td>" for word in row) + "</tr>" for row in table.rows)
    return f"<h3>{escape(table.title)}</h3>" + _wide(_head(table.head) + rows)


def _head(names: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<th>{escape(name)}</th>" for name in names) + "</tr>"


def _wide(rows: str) -> str:
    return f"<div class=wide><table>{rows}</table></div>"


def _list(lines: Sequence[str], kind: str = "") -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul class={kind or 'plain'}>{items}</ul>" if lines else ""


def _picture(title: str, png: bytes) -> str:
    return f'<p><img alt="{escape(title)}" src="data:image/png;base64,{base64.b64encode(png).decode()}"></p>'
