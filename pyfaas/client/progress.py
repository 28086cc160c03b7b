"""Lines that show what is waited for: on a terminal only, and on stderr, so that output stays whole."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from typing import Any, TypeVar

T = TypeVar("T")


@contextlib.contextmanager
def working(text: str) -> Iterator[None]:
    """Show that something goes on, for the length of a block."""
    if not _is_terminal():
        yield
        return
    with importlib.import_module("rich.console").Console(stderr=True).status(text):
        yield


def shown(results: Iterator[T], inputs: Any, name: str) -> Iterator[T]:
    """Yield the results while a bar counts them; inputs without a length are counted without an end."""
    if not _is_terminal():
        return results
    try:
        total = len(inputs)
    except TypeError:
        total = None
    return _counted(results, total, name)


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _counted(results: Iterator[T], total: int | None, name: str) -> Iterator[T]:
    rich = importlib.import_module("rich.progress")  # 50 ms that only a terminal pays
    columns = (rich.TextColumn("{task.description}"), rich.BarColumn(), rich.MofNCompleteColumn(), rich.TimeElapsedColumn())
    console = importlib.import_module("rich.console").Console(stderr=True)
    try:
        with rich.Progress(*columns, console=console) as bar:
            task = bar.add_task(name, total=total)
            for result in results:
                bar.advance(task)
                yield result
    finally:
        close = getattr(results, "close", None)
        if close is not None:
            close()
