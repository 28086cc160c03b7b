"""Python files that this Python cannot compile, found before they are published.

A file that is broken is not always an error: a template or a test's input need not be importable. So what was in a version that
became ready is let pass, and at first only files at the top are looked at, since a handler is one of them, or
imports from them.
"""

from __future__ import annotations

import io
import traceback
import warnings
import zipfile
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A file that cannot be compiled: where, and what a traceback would say."""

    path: str
    line: int
    text: str


@dataclass(slots=True)
class Checker:
    """Remembers what was compiled, by content, so that only what is new is compiled again."""

    passed: set[tuple[str, int, int]] = field(default_factory=set)
    is_first: bool = True

    def broken(self, bundle: bytes) -> list[Broken]:
        """Return the files of a zip that cannot be compiled; an unreadable zip is none of this one's business."""
        found = []
        try:
            with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
                for each in archive.infolist():
                    key = (each.filename, each.CRC, each.file_size)
                    if not each.filename.endswith(".py") or key in self.passed or (self.is_first and "/" in each.filename):
                        continue
                    problem = _compiled(each.filename, archive.read(each))
                    if problem is None:
                        self.passed.add(key)
                    else:
                        found.append(problem)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError):
            return []
        return found

    def let_pass(self, bundle: bytes) -> None:
        """Take note that a version of these files became ready."""
        self.is_first = False
        try:
            with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
                self.passed |= {(each.filename, each.CRC, each.file_size) for each in archive.infolist()}
        except zipfile.BadZipFile:
            return


def _compiled(path: str, content: bytes) -> Broken | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(content, path, "exec", dont_inherit=True)
    except SyntaxError as error:
        text = "".join(traceback.format_exception_only(error)).rstrip("\n")
        return Broken(path=path, line=error.lineno or 0, text=text)
    except ValueError as error:  # a null byte, before Python 3.12
        return Broken(path=path, line=0, text=f"{path}: {error}")
    return None
