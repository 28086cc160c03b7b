"""What goes into a bundle, and what is read beside it."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import pytest

from pyfaas.bundle import digest, inspect, open_bundle
from pyfaas.client.errors import InvalidRequest
from pyfaas.client.packing import pack, pack_files, walk
from pyfaas.client.requirements import found_beside


def write(root: Path, files: dict[str, str]) -> Path:
    """Write files by path."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def names(bundle: bytes) -> list[str]:
    """Return the names in a zip."""
    return zipfile.ZipFile(io.BytesIO(bundle)).namelist()


def test_equal_content_is_an_equal_zip(tmp_path: Path) -> None:
    """Two directories with the same files give the same bytes, whatever their times are."""
    one = write(tmp_path / "one", {"main.py": "x = 1\n", "lib/a.py": ""})
    two = write(tmp_path / "two", {"lib/a.py": "", "main.py": "x = 1\n"})
    os.utime(two / "main.py", (0, 0))
    assert pack(one).bundle == pack(two).bundle
    (two / "main.py").write_text("x = 2\n")
    assert pack(one).bundle != pack(two).bundle


def test_executable_bit_travels(tmp_path: Path) -> None:
    """A file that may be executed still may in the bundle, and that changes the bundle's name."""
    root = write(tmp_path, {"main.py": "", "tool": "#!/bin/sh\n"})
    before = pack(root).bundle
    (root / "tool").chmod(0o755)
    after = pack(root).bundle
    entries = {entry.path: entry.executable for entry in inspect(open_bundle(io.BytesIO(after)))}
    assert entries == {"main.py": False, "tool": True}
    opened = [open_bundle(io.BytesIO(bundle)) for bundle in (before, after)]
    assert digest(opened[0], inspect(opened[0])) != digest(opened[1], inspect(opened[1]))


def test_what_never_belongs_is_left_out(tmp_path: Path) -> None:
    """Repositories, environments, caches and secrets stay at home, at any depth."""
    root = write(
        tmp_path,
        {
            "main.py": "",
            ".git/config": "",
            ".venv/x.py": "",
            "venv/x.py": "",
            "a/__pycache__/x.pyc": "",
            "node_modules/x.js": "",
            ".env": "K=V",
            "a/b.py": "",
        },
    )
    assert names(pack(root).bundle) == ["a/b.py", "main.py"]


def test_ignore_file_reads_like_gitignore(tmp_path: Path) -> None:
    """Names, anchors, directories, stars and exceptions of .pyfaasignore mean what they mean in a .gitignore."""
    root = write(
        tmp_path,
        {
            ".pyfaasignore": "# comment\n*.log\n!keep.log\n/top.txt\ndata/\ndocs/**/draft.md\n",
            "main.py": "",
            "a.log": "",
            "keep.log": "",
            "top.txt": "",
            "sub/top.txt": "",
            "sub/data/x.csv": "",
            "docs/a/b/draft.md": "",
            "docs/draft.md": "",
            "docs/final.md": "",
        },
    )
    assert names(pack(root).bundle) == ["docs/final.md", "keep.log", "main.py", "sub/top.txt"]


def test_symbolic_link_is_refused_by_name(tmp_path: Path) -> None:
    """A link may lead outside; it is refused unless it is ignored."""
    root = write(tmp_path / "f", {"main.py": ""})
    (root / "out").symlink_to("/etc/hostname")
    with pytest.raises(InvalidRequest, match="out is a symbolic link"):
        list(walk(root))
    (root / ".pyfaasignore").write_text("out\n")
    assert [path.name for path in walk(root)] == ["main.py"]


def test_name_comes_from_flag_then_file_then_path(tmp_path: Path) -> None:
    """The flag wins over the configuration, which wins over the directory's name."""
    root = write(tmp_path / "plain", {"main.py": ""})
    assert pack(root).name == "plain"
    write(root, {"pyfaas.toml": 'name = "configured"\nenv = { A = "1", B = "1" }\n'})
    assert pack(root).name == "configured"
    packed = pack(root, name="flagged", overrides={"env": {"B": "2"}, "memory": "64M", "handler": None})
    assert packed.name == "flagged"
    assert packed.config == {"name": "flagged", "env": {"A": "1", "B": "2"}, "memory": "64M"}


def test_single_file_with_its_block(tmp_path: Path) -> None:
    """A Python file's PEP 723 block gives requirements and keys; a stem that is no module travels as main.py."""
    block = '# /// script\n# dependencies = ["rich"]\n# [tool.pyfaas]\n# memory = "64M"\n# ///\n'
    write(tmp_path, {"one.py": block, "two-parts.py": "x = 1\n"})
    packed = pack(tmp_path / "one.py")
    assert packed.config == {"name": "one", "requirements": ["rich"], "memory": "64M"}
    assert names(packed.bundle) == ["one.py"]
    assert names(pack(tmp_path / "two-parts.py").bundle) == ["main.py"]


def test_zip_travels_as_it_is(tmp_path: Path) -> None:
    """A zip is not packed again, and its pyfaas.toml counts."""
    bundle = pack_files({"main.py": (b"", False), "pyfaas.toml": (b'memory = "64M"', False)})
    (tmp_path / "zipped.zip").write_bytes(bundle)
    packed = pack(tmp_path / "zipped.zip")
    assert (packed.name, packed.bundle, packed.config["memory"]) == ("zipped", bundle, "64M")


@pytest.mark.parametrize("name", ["missing", "text.txt", "broken.zip", "empty"])
def test_what_is_no_bundle_is_refused(tmp_path: Path, name: str) -> None:
    """A path that is missing, of another kind, damaged or empty is the caller's mistake."""
    write(tmp_path, {"text.txt": "", "broken.zip": "no zip"})
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidRequest, match=name):
        pack(tmp_path / name)


def test_requirements_are_read_from_the_first_file_found(tmp_path: Path) -> None:
    """pylock.toml comes before requirements.txt, which comes before pyproject.toml."""
    write(tmp_path, {"pyproject.toml": '[project]\nname = "x"\ndependencies = ["c"]\n'})
    assert found_beside(tmp_path) == ["c"]
    write(tmp_path, {"more.txt": "d\n", "requirements.txt": "# note\nb==1 --hash=sha256:00 # why\n-r more.txt\n"})
    assert found_beside(tmp_path) == ["b==1", "d"]
    write(tmp_path, {"pylock.toml": '[[packages]]\nname = "a"\nversion = "2"\nmarker = "python_version > \'3\'"\n'})
    assert found_beside(tmp_path) == ["a==2 ; python_version > '3'"]


def test_options_in_requirements_are_refused(tmp_path: Path) -> None:
    """An index is the operator's to choose, not a bundle's."""
    write(tmp_path, {"requirements.txt": "--index-url https://example.com\n"})
    with pytest.raises(InvalidRequest, match="--index-url"):
        found_beside(tmp_path)


@pytest.mark.parametrize("name", ["pyfaas.toml", "pyproject.toml", "requirements.txt", ".pyfaasignore"])
def test_text_that_is_not_utf8_is_named(tmp_path: Path, name: str) -> None:
    """A file that is read on this side and is no text is refused by its name."""
    root = write(tmp_path, {"main.py": ""})
    (root / name).write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidRequest, match=rf"{name} is not UTF-8"):
        pack(root)


def test_a_name_that_is_not_utf8_is_refused_unless_it_stays(tmp_path: Path) -> None:
    """A zip names files in UTF-8; what cannot be named there is told, and may be left out."""
    root = write(tmp_path, {"main.py": ""})
    (root / os.fsdecode(b"\xff.txt")).write_text("")
    with pytest.raises(InvalidRequest, match="not UTF-8"):
        pack(root)
    write(root, {".pyfaasignore": "*.txt\n"})
    assert names(pack(root).bundle) == ["main.py"]


def test_env_that_is_no_table_is_left_to_the_server(tmp_path: Path) -> None:
    """A flag neither hides nor trips over what is wrong in the file."""
    root = write(tmp_path, {"main.py": "", "pyfaas.toml": "env = 3\n"})
    assert pack(root, overrides={"env": {"A": "b"}}).config["env"] == 3


@pytest.mark.parametrize("name", ["a b", "x" * 65, "é"])
def test_a_name_is_checked_before_anything_is_sent(tmp_path: Path, name: str) -> None:
    """The grammar of names holds on this side too."""
    with pytest.raises(InvalidRequest, match="is not a name"):
        pack(write(tmp_path, {"main.py": ""}), name=name)


def test_sets_of_characters_in_the_ignore_file(tmp_path: Path) -> None:
    """`[a-c]` and `[!a-c]` read as in .gitignore; a range the wrong way round is refused."""
    root = write(tmp_path, {"a.log": "", "x.log": "", "[.txt": "", "main.py": "", ".pyfaasignore": "[a-c].log\n"})
    assert names(pack(root).bundle) == ["[.txt", "main.py", "x.log"]
    write(root, {".pyfaasignore": "[!a-c].log\n[[]*\n"})
    assert names(pack(root).bundle) == ["a.log", "main.py"]
    write(root, {".pyfaasignore": "[c-a].log\n"})
    with pytest.raises(InvalidRequest, match="not a pattern"):
        pack(root)
