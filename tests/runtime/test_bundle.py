"""What a bundle may contain, and that its name depends on its content only."""

from __future__ import annotations

import io
import stat
import struct
import zipfile

import pytest

from pyfaas.bundle import BundleError, Rules, inspect, inspect_packed, open_bundle


def packed(*entries: tuple[str, bytes], mode: int = 0, method: int = zipfile.ZIP_DEFLATED, when: int = 2020) -> bytes:
    """Return a zip with the entries in order; `mode` is each one's Unix mode."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in entries:
            info = zipfile.ZipInfo("placeholder", (when, 1, 1, 0, 0, 0))
            info.filename = info.orig_filename = name  # the constructor would rewrite it
            info.external_attr, info.compress_type = mode << 16, method
            archive.writestr(info, content)
    return buffer.getvalue()


def refused(body: bytes, rules: Rules | None = None) -> BundleError:
    """Return the error of a bundle that must not be taken."""
    with pytest.raises(BundleError) as caught, open_bundle(io.BytesIO(body)) as archive:
        inspect(archive, rules)
    return caught.value


def test_files_are_listed_in_order() -> None:
    """A sound bundle yields its files by path, with executable bits and sizes; directories are no files."""
    body = packed(("b.py", b"bb"), ("pkg/", b""), ("pkg/a.py", b"a"), mode=0)
    with open_bundle(io.BytesIO(body)) as archive:
        entries = inspect(archive)
    assert [(entry.path, entry.size, entry.executable) for entry in entries] == [
        ("b.py", 2, False),
        ("pkg/a.py", 1, False),
    ]


@pytest.mark.parametrize(
    "name",
    ["../x", "a/../x", "/x", "a//x", "./x", "a\\x", "C:/x", "a\0b", "", "a/.", "a.", "a ", "a\n", "\u202ex", "a\u200db",
     "x" * 256, "d/" * 65 + "x", "e\u0301"],
)  # fmt: skip
def test_names_are_refused(name: str) -> None:
    """A name that leads elsewhere, hides something or would be rewritten is rejected, beside a sound control."""
    assert refused(packed(("main.py", b""), (name, b"x"))).code == "invalid_bundle"
    with open_bundle(io.BytesIO(packed(("main.py", b""), ("é/x.py", b"")))) as archive:
        assert len(inspect(archive)) == 2


@pytest.mark.parametrize(
    "names", [("a.py", "A.py"), ("a.py", "a.py"), ("a", "a/b.py"), ("a/b", "A"), ("straße", "STRASSE")]
)
def test_collisions_are_refused(names: tuple[str, str]) -> None:
    """Two names that are one on some file system, and a file used as a directory, are rejected."""
    with pytest.warns(UserWarning) if names[0] == names[1] else _nothing():
        body = packed(*((name, b"") for name in names))
    assert refused(body).code == "invalid_bundle"


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFDIR])
def test_other_kinds_are_refused(kind: int) -> None:
    """Links, devices, pipes and directories that pretend to be files are rejected; a regular file is taken."""
    assert refused(packed(("x", b"/etc/shadow"), mode=kind | 0o777)).code == "invalid_bundle"
    assert inspect_packed(packed(("x", b"y"), mode=stat.S_IFREG | 0o755), 100)[1] == 1


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_slow_packing_is_refused(method: int) -> None:
    """Only stored and deflated entries are taken."""
    assert "packed" in refused(packed(("x", b"y"), method=method)).message


def test_bombs_are_refused() -> None:
    """Total size, count and ratio are bounded, and each refusal is `too_large`."""
    zeros = packed(("x", bytes(2 << 20)))
    assert refused(zeros).code == "too_large"
    assert refused(zeros, Rules(unpacked_bytes=1 << 20)).code == "too_large"
    assert refused(packed(("a", b""), ("b", b"")), Rules(files=1)).code == "too_large"
    assert inspect_packed(packed(("x", bytes(1 << 20))), 1 << 20)[1] == 1 << 20


def test_encrypted_is_refused() -> None:
    """An entry with the encryption bit is rejected."""
    body = bytearray(packed(("x", b"y"), method=zipfile.ZIP_STORED))
    at = body.index(b"PK\1\2") + 8
    body[at] |= 1
    assert "encrypted" in refused(bytes(body)).message


def test_overlap_is_refused() -> None:
    """Two directory entries that share one local entry (a quoted-overlap bomb) are rejected."""
    body = packed(("a", b"x"), ("b", b"x"), method=zipfile.ZIP_STORED)
    second = body.index(b"PK\1\2", body.index(b"PK\1\2") + 1)
    changed = bytearray(body)
    struct.pack_into("<I", changed, second + 42, 0)
    assert refused(bytes(changed)).code == "invalid_bundle"


def test_foreign_data_before_is_refused() -> None:
    """A zip behind other data is rejected."""
    assert refused(b"#!/bin/sh\n" + packed(("a", b"x"))).code == "invalid_bundle"


@pytest.mark.parametrize("body", [b"", b"PK", b"no zip at all", packed(("a", b"x"))[:-10]])
def test_no_zip(body: bytes) -> None:
    """What is no zip, or half of one, is `invalid_bundle`."""
    assert refused(body).code == "invalid_bundle"


def test_empty_bundle_is_refused() -> None:
    """A bundle without files is rejected."""
    assert "no files" in refused(packed(("d/", b""))).message


def test_damage_is_found() -> None:
    """A wrong checksum and a differing local name are found when the content is read."""
    body = packed(("name", b"content"), method=zipfile.ZIP_STORED)
    for changed in (body.replace(b"content", b"contend"), body.replace(b"name", b"nama", 1)):
        with pytest.raises(BundleError, match="cannot be unpacked"):
            inspect_packed(changed, 100)


def test_digest_depends_on_content_only() -> None:
    """Order, time and compression do not change a bundle's name; path, content and executable bit do."""
    first = inspect_packed(packed(("a", b"1"), ("b", b"2")), 100)[0]
    assert first == inspect_packed(packed(("b", b"2"), ("a", b"1"), when=2024, method=zipfile.ZIP_STORED), 100)[0]
    others = [
        packed(("a", b"1"), ("c", b"2")),
        packed(("a", b"1"), ("b", b"3")),
        packed(("a", b"1"), ("b", b"2"), mode=0o755),
        packed(("a", b"12"), ("b", b"")),
    ]
    digests = {inspect_packed(body, 100)[0] for body in others}
    assert len(digests | {first}) == 5


class _nothing:  # noqa: N801 -- a context manager that does nothing
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...
