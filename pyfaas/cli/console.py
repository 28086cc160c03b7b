"""Where the CLI writes: results on stdout, everything else on stderr.

Off a terminal there are no frames, colours or truncation; on one, control characters in what others wrote (names,
log lines, messages) are shown, not obeyed. rich is only loaded for a terminal.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TextIO

from pyfaas.cli.options import Globals, Output
from pyfaas.config import environment


def out(text: str) -> None:
    """Write a line of result."""
    sys.stdout.write((_tame(text) if sys.stdout.isatty() else text) + "\n")
    sys.stdout.flush()


def err(text: str) -> None:
    """Write a line that is no result."""
    sys.stderr.write((_tame(text) if sys.stderr.isatty() else text) + "\n")
    sys.stderr.flush()


def note(chosen: Globals, text: str) -> None:
    """Write a line that is no result, unless told to be quiet."""
    if not chosen.quiet:
        err(text)


def raw(content: bytes) -> None:
    """Write bytes of a result as they are."""
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()


def end_of_result(last: bytes) -> None:
    """End a result with a newline on a terminal, where the prompt follows."""
    if sys.stdout.isatty() and not last.endswith(b"\n"):
        raw(b"\n")


def render(document: Any, output: Output) -> str:
    """Write a document for programs."""
    if output is Output.YAML:
        text: str = importlib.import_module("yaml").safe_dump(document, sort_keys=False, allow_unicode=True)
        return text.rstrip("\n")
    is_ascii = "utf" not in (sys.stdout.encoding or "").lower()
    return json.dumps(document, ensure_ascii=is_ascii, indent=2 if sys.stdout.isatty() else None)


def document_out(chosen: Globals, document: Any) -> None:
    """Write a document for programs: where it is the server's own answer, and nobody watches, byte for byte."""
    if chosen.output is Output.JSON and chosen.body and not sys.stdout.isatty() and _same(chosen.body, document):
        raw(chosen.body + b"\n")
    else:
        out(render(document, chosen.output))


def _same(body: bytes, document: Any) -> bool:
    try:
        return bool(json.loads(body) == document)
    except ValueError:
        return False


def show(chosen: Globals, document: Mapping[str, Any], columns: Sequence[str] = ()) -> None:
    """Show one thing: as a document, or as a line for each of its keys (or the `columns` of it)."""
    if chosen.output is not Output.TABLE:
        document_out(chosen, document)
        return
    keys = [key for key in columns if key in document] or list(document)
    if chosen.quiet:
        out(cell(document[keys[0]]))
        return
    width = max(map(len, keys), default=0)
    for key in keys:
        out(f"{key.ljust(width)}  {cell(document[key], key)}".rstrip())


def show_list(
    chosen: Globals, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], nothing: str = "nothing to list"
) -> None:
    """Show many things: as {items, next}, or as a table of `columns`; quiet leaves only the first of these.

    Where there is nothing, people are told so by `nothing`, on stderr.
    """
    if chosen.output is not Output.TABLE:
        document_out(chosen, {"items": list(rows), "next": None})
    elif not rows:
        note(chosen, nothing)
    elif chosen.quiet:
        for row in rows:
            out(cell(row.get(columns[0]), columns[0]))
    else:
        table(columns, [[cell(row.get(name), name) for name in columns] for row in rows])


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write aligned columns; on a terminal with rich, which folds what is too wide."""
    if _is_capable(sys.stdout):
        rich_table = importlib.import_module("rich.table").Table(box=None, pad_edge=False, header_style="bold")
        for head in heads:
            rich_table.add_column(head.upper(), overflow="fold")
        text = importlib.import_module("rich.text").Text
        for row in rows:
            rich_table.add_row(*(text(_tame(value)) for value in row))
        importlib.import_module("rich.console").Console().print(rich_table)
        return
    lines = [[head.upper() for head in heads], *rows]
    widths = [max(width(line[i]) for line in lines) for i in range(len(heads))]
    for line in lines:
        out("  ".join(value + " " * (wide - width(value)) for value, wide in zip(line, widths, strict=True)).rstrip())


def width(text: str) -> int:
    """Return how many cells of a terminal a text takes: two for a wide letter, none for a mark upon another one."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _is_capable(stream: TextIO) -> bool:
    return stream.isatty() and environment("TERM") not in ("dumb", "", None)


def draws(chosen: Globals) -> bool:
    """Tell whether progress is shown: on a terminal that can be drawn on, to somebody who wants it."""
    return _is_capable(sys.stderr) and not chosen.quiet and chosen.output is Output.TABLE


@contextlib.contextmanager
def progress(chosen: Globals, text: str) -> Iterator[Callable[[str], None]]:
    """Show that something goes on, on a terminal only; gives what says more of it."""
    if not draws(chosen):
        yield lambda _: None
        return
    escape = importlib.import_module("rich.markup").escape
    shown = importlib.import_module("rich.console").Console(stderr=True)
    with shown.status(escape(_tame(text))) as status:
        yield lambda more: status.update(escape(_tame(f"{text}: {more}")))


@contextlib.contextmanager
def bar(chosen: Globals, text: str, total: int | None) -> Iterator[Callable[[int, str], None]]:
    """Show how much is done of a total (None: nobody knows), on a terminal only; gives what moves it on."""
    if not draws(chosen):
        yield lambda _done, _more: None
        return
    rich = importlib.import_module("rich.progress")
    shown = importlib.import_module("rich.console").Console(stderr=True)
    columns = [rich.TextColumn("{task.description}", markup=False), rich.BarColumn(bar_width=None)]
    columns += [rich.TaskProgressColumn()] if total is not None else []
    columns += [rich.TextColumn("{task.fields[more]}", markup=False)]
    columns += [rich.TimeRemainingColumn(compact=True)] if total is not None else [rich.TimeElapsedColumn()]
    with rich.Progress(*columns, console=shown, transient=True, expand=True) as drawn:
        task = drawn.add_task(_tame(text), total=total, more="")
        yield lambda done, more: drawn.update(task, completed=done, more=more)


def cell(value: Any, key: str = "") -> str:
    """Write a value for people; times, sizes and durations are told by their key."""
    if value is None or value in ({}, [], ""):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return _number(value, key)
    if isinstance(value, dict):
        return _mapping(value, key)
    if key == "attempts":
        return f"{len(value)}: " + ", ".join(str(each.get("outcome") or "running") for each in value)
    if isinstance(value, list) and not any(isinstance(item, dict | list) for item in value):
        return ", ".join(cell(item) for item in value)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else str(value)


def _mapping(value: Mapping[str, Any], key: str) -> str:
    if key == "reason" and value.get("message"):
        return str(value["message"])
    if key == "error" and (value.get("errorType") or value.get("detail")):
        said = [str(value[part]) for part in ("errorType", "errorMessage") if value.get(part)]
        return ": ".join(said) or str(value["detail"])
    if key == "aliases" and all(isinstance(each, dict) for each in value.values()):
        return ", ".join(f"{name} = {each.get('version')}{_weights(each)}" for name, each in value.items())
    if any(isinstance(each, dict | list) for each in value.values()):
        return json.dumps(value, ensure_ascii=False)
    return ", ".join(f"{name} = {cell(each)}" for name, each in value.items())


def _weights(alias: Mapping[str, Any]) -> str:
    return "".join(f", {share}% {version}" for version, share in (alias.get("weights") or {}).items())


def _number(value: float, key: str) -> str:
    if key in _TIMES:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value))
    if key in ("memory", "size"):
        return f"{value / _MIB:g}M" if value >= _MIB else f"{value / 1024:.1f}K" if value >= _KIB else f"{value}B"
    if key == "timeout":
        return f"{value / 1000:g}s"
    return f"{value:.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


_KIB, _MIB = 1 << 10, 1 << 20
_TIMES = frozenset({"at", "changed", "created", "ended", "expires", "finished", "started", "since", "from", "sunset", "to", "updated"})


def _tame(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf") else f"\\x{ord(c):02x}" for c in text
    )
