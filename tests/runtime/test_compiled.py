"""A handler's module comes from its compiled file, and is what importlib would have made."""

from __future__ import annotations

import py_compile
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyfaas.runtime.compiled import import_compiled

NAME = "compiled_once"
SOURCE = "import sys\nWHERE = (__file__, __name__, __spec__.name, __spec__.origin, __cached__, __package__)\n"


@pytest.fixture
def code(tmp_path: Path) -> Iterator[Path]:
    """Return a directory with a module that was compiled as preparation compiles, and forget what was imported."""
    (tmp_path / f"{NAME}.py").write_text(SOURCE)
    compiled(tmp_path)
    yield tmp_path
    sys.modules.pop(NAME, None)


def compiled(code: Path, mode: py_compile.PycInvalidationMode = py_compile.PycInvalidationMode.UNCHECKED_HASH) -> None:
    py_compile.compile(str(code / f"{NAME}.py"), invalidation_mode=mode, doraise=True)


def test_module_is_what_importlib_makes(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file, name, spec, origin, cache and package are the same."""
    ours = import_compiled(NAME, str(code))
    assert ours is not None
    assert sys.modules.pop(NAME) is ours
    monkeypatch.syspath_prepend(str(code))
    theirs = __import__(NAME)
    assert ours.WHERE == theirs.WHERE
    assert type(ours.__loader__) is type(theirs.__loader__)


def test_code_that_moved_names_its_new_place(code: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A traceback shows where the source is, not where it was compiled."""
    moved = tmp_path_factory.mktemp("moved") / "code"
    shutil.copytree(code, moved)
    (moved / f"{NAME}.py").write_text("def f(): pass\n")
    compiled(moved)
    moved.rename(moved.with_name("again"))
    module = import_compiled(NAME, str(moved.with_name("again")))
    assert module is not None
    assert module.f.__code__.co_filename == str(moved.with_name("again") / f"{NAME}.py")


def test_what_a_search_would_decide_is_left_to_it(code: Path) -> None:
    """A checked file, none, a package of the name, a module that is there already: importlib looks for them."""
    assert import_compiled("json", str(code)) is None
    assert import_compiled("zipimport", str(code)) is None
    assert import_compiled("a.b", str(code)) is None
    assert import_compiled("not_there", str(code)) is None
    (code / NAME).mkdir()
    assert import_compiled(NAME, str(code)) is None
    (code / NAME).rmdir()
    compiled(code, py_compile.PycInvalidationMode.TIMESTAMP)
    assert import_compiled(NAME, str(code)) is None


def test_module_that_raises_is_not_kept(code: Path) -> None:
    """Its exception comes through, and a later import tries again."""
    (code / f"{NAME}.py").write_text("1 / 0\n")
    compiled(code)
    with pytest.raises(ZeroDivisionError):
        import_compiled(NAME, str(code))
    assert NAME not in sys.modules


def test_module_may_put_another_in_its_place(code: Path) -> None:
    """What the module leaves in sys.modules under its name is what was imported."""
    (code / f"{NAME}.py").write_text("import sys, math\nsys.modules[__name__] = math\n")
    compiled(code)
    assert import_compiled(NAME, str(code)) is sys.modules["math"]
