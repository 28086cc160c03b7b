"""The keys for secrets: a file that only the server reads, a credential, and what is sealed with them."""

from __future__ import annotations

import base64
import logging
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given as examples
from hypothesis import strategies as st

from pyfaas.adapters import credentials, keyring
from pyfaas.adapters.keyring import KeyFile, given, opened
from pyfaas.errors import Code, PyfaasError

LINES = [f"k{n} {base64.b64encode(bytes([n]) * 32).decode()} {n}" for n in range(3)]
VALUE = "canary-é-\n"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    """Return the keys of a new data directory."""
    return opened(tmp_path, is_needed=False)


def test_a_first_start_makes_a_key(tmp_path: Path, keys: KeyFile) -> None:
    """A new file is its owner's only, has one key, and the next start reads the same."""
    assert mode(tmp_path / "secrets.key") == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["secrets.key"]
    again = opened(tmp_path, is_needed=True)
    assert (again.ids(), again.current, again.is_fixed) == (keys.ids(), keys.current, False)
    assert again.open(keys.seal("f", "K", VALUE, 7.0)) == VALUE


@examples(value=st.text(st.characters(codec="utf-8")), owner=st.text(st.characters(codec="utf-8"), max_size=40), key=st.from_regex(r"[A-Z]{1,9}", fullmatch=True))
def test_what_is_sealed_opens(value: str, owner: str, key: str) -> None:
    """Any text opens as it was, and the sealed bytes do not have it."""
    ring = KeyFile(LINES, None)
    sealed = ring.seal(owner, key, value, 1.5)
    assert ring.open(sealed) == value
    assert (sealed.owner, sealed.key, sealed.key_id, sealed.at, len(sealed.sealed)) == (owner, key, "k0", 1.5, len(value.encode()) + 28)
    assert len(value) < 4 or value.encode() not in sealed.sealed


def test_two_seals_differ(keys: KeyFile) -> None:
    """The same value sealed twice has another nonce and another ciphertext."""
    first, second = (keys.seal("f", "K", VALUE, 1.0).sealed for _ in range(2))
    assert first[:12] != second[:12]
    assert first[12:] != second[12:]


@pytest.mark.parametrize("change", [{"owner": "g"}, {"key": "L"}, {"key_id": "k1"}, {"key_id": "other"}, {"sealed": b""}, {"sealed": b"x" * 40}])
def test_what_was_moved_or_changed_stays_closed(change: dict[str, object]) -> None:
    """A ciphertext opens only for its owner, its key and its key's id, and says nothing of the value when it does not."""
    ring = KeyFile(LINES, None)
    sealed = ring.seal("f", "K", VALUE, 1.0)
    assert ring.open(sealed) == VALUE
    with pytest.raises(PyfaasError) as refused:
        ring.open(replace(sealed, **change))  # type: ignore[arg-type]
    assert refused.value.code is Code.INTERNAL
    assert "canary" not in f"{refused.value} {refused.value.evidence}"


def test_every_bit_counts(keys: KeyFile) -> None:
    """One flipped bit anywhere, in the nonce too, closes a secret."""
    sealed = keys.seal("f", "K", "v", 1.0)
    for at in range(len(sealed.sealed)):
        flipped = bytearray(sealed.sealed)
        flipped[at] ^= 1
        with pytest.raises(PyfaasError):
            keys.open(replace(sealed, sealed=bytes(flipped)))


def test_renewing_and_retiring(tmp_path: Path, keys: KeyFile) -> None:
    """A new key seals, the old one opens what it sealed, and leaves the file when it is told that nothing needs it."""
    first = str(keys.current)
    old = keys.seal("f", "K", VALUE, 1.0)
    second = keys.renew()
    assert second != first
    assert (keys.current, list(keys.ids()), mode(tmp_path / "secrets.key")) == (second, [second, first], 0o600)
    assert keys.seal("f", "K", VALUE, 1.0).key_id == second
    assert keys.retire({first}) == []
    assert opened(tmp_path, is_needed=True).open(old) == VALUE
    assert keys.retire(set()) == [first]
    assert list(opened(tmp_path, is_needed=True).ids()) == [second]
    with pytest.raises(PyfaasError):
        keys.open(old)


def test_a_failed_write_changes_nothing(tmp_path: Path, keys: KeyFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the file cannot be replaced, the keys in it and in memory are those before."""
    before, text = keys.ids(), (tmp_path / "secrets.key").read_bytes()

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PyfaasError) as refused:
        keys.renew()
    assert refused.value.code is Code.STORAGE_FULL
    assert (keys.ids(), (tmp_path / "secrets.key").read_bytes()) == (before, text)
    monkeypatch.undo()
    assert len(keys.renew()) == 12  # what the failure left is no obstacle


def test_nothing_shows_a_key(keys: KeyFile, tmp_path: Path) -> None:
    """Neither repr nor str of the keys has one of them."""
    key = (tmp_path / "secrets.key").read_text().split()[1]
    assert key not in f"{keys!r} {keys}"
    assert str(keys.current) in repr(keys)


def test_an_open_file_is_closed_and_told(tmp_path: Path, keys: KeyFile, caplog: pytest.LogCaptureFixture) -> None:
    """A file that others could read is closed to them, and the log says so."""
    path = tmp_path / "secrets.key"
    path.chmod(0o644)
    with caplog.at_level(logging.WARNING):
        assert opened(tmp_path, is_needed=True).ids() == keys.ids()
    assert (mode(path), [record.message for record in caplog.records]) == (0o600, ["secrets_key_was_open"])


def test_a_damaged_line_costs_itself_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Lines that are no keys are told by their numbers, without their text; the others are used, the first of them current."""
    short = base64.b64encode(b"canary").decode()
    (tmp_path / "secrets.key").write_text(f"bad {short} 1\n{LINES[1]}\n\n# remark\n{LINES[1]}\ncanary\n{LINES[2]}\n")
    (tmp_path / "secrets.key").chmod(0o600)
    with caplog.at_level(logging.INFO):
        assert list(opened(tmp_path, is_needed=True).ids()) == ["k1", "k2"]
    (record,) = caplog.records
    assert (record.message, record.__dict__["lines"]) == ("secrets_key_damaged", [1, 5, 6])
    assert "canary" not in str(record.__dict__)
    assert short not in str(record.__dict__)


@pytest.mark.parametrize("content", [None, "", "nothing\n"])
def test_what_is_sealed_needs_its_key(tmp_path: Path, content: str | None) -> None:
    """Without any key, and with secrets, a start is refused with what to do, and nothing is written over."""
    path = tmp_path / "secrets.key"
    if content is not None:
        path.write_text(content)
    with pytest.raises(PyfaasError) as refused:
        opened(tmp_path, is_needed=True)
    assert (refused.value.code, bool(refused.value.hint)) == (Code.INTERNAL, True)
    assert (path.read_text() if path.exists() else None) == content


def test_a_damaged_file_that_nobody_needs_is_set_aside(tmp_path: Path) -> None:
    """Without secrets a file without keys is kept beside, and a new one made."""
    (tmp_path / "secrets.key").write_text("nothing\n")
    keys = opened(tmp_path, is_needed=False)
    assert keys.open(keys.seal("f", "K", VALUE, 1.0)) == VALUE
    assert (tmp_path / "secrets.key.damaged").read_text() == "nothing\n"


def test_no_link_is_followed(tmp_path: Path) -> None:
    """A link in the file's place is not read, nor written through: where nothing is sealed the server has no key, and says so."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text(LINES[0] + "\n")
    (tmp_path / "secrets.key").symlink_to(elsewhere)
    with pytest.raises(PyfaasError):
        opened(tmp_path, is_needed=True)
    keys = opened(tmp_path, is_needed=False)
    assert (keys.current, list(keys.ids())) == (None, [])
    for refused in (lambda: keys.seal("f", "K", VALUE, 1.0), keys.renew):
        with pytest.raises(PyfaasError) as error:
            refused()
        assert error.value.code is Code.NOT_READY
    assert elsewhere.read_text() == LINES[0] + "\n"


def test_a_credential_is_fixed(tmp_path: Path) -> None:
    """Keys that the operator gives are used in their order; none is made or removed, and the refusal says how to rotate."""
    (tmp_path / credentials.NAME).write_text("\n".join(LINES[:2]))
    text = credentials.find({"CREDENTIALS_DIRECTORY": str(tmp_path)})
    keys = given(text, tmp_path, is_needed=True)
    assert (keys.current, list(keys.ids()), keys.is_fixed) == ("k0", ["k0", "k1"], True)
    with pytest.raises(PyfaasError) as refused:
        keys.renew()
    assert refused.value.code is Code.CONFLICT
    assert "credential" in refused.value.message
    assert keys.retire(set()) == ["k1"]
    assert list(keys.ids()) == ["k0", "k1"]


def test_a_credential_after_a_file(tmp_path: Path, keys: KeyFile) -> None:
    """Where keys become the operator's, what was sealed under the data directory's still opens, and only the operator's seal."""
    sealed = keys.seal("f", "K", VALUE, 1.0)
    both = given("\n".join(LINES[:1]), tmp_path, is_needed=True)
    assert (list(both.ids()), both.open(sealed), both.seal("f", "K", VALUE, 1.0).key_id) == (["k0", keys.current], VALUE, "k0")
    again = given(f"{LINES[0]}\n{(tmp_path / keyring.FILE).read_text()}", tmp_path, is_needed=True)
    assert again.ids() == both.ids()


def test_what_a_crash_left_is_cleared(tmp_path: Path, keys: KeyFile) -> None:
    """A key file that was being written when the server died is removed at the next start; the one before is used."""
    (tmp_path / "secrets.key.new").write_text(LINES[0])
    assert opened(tmp_path, is_needed=True).ids() == keys.ids()
    assert not (tmp_path / "secrets.key.new").exists()


@pytest.mark.parametrize("environ", [{}, {"CREDENTIALS_DIRECTORY": ""}, {"CREDENTIALS_DIRECTORY": "/nonexistent"}])
def test_without_a_credential_there_is_none(environ: dict[str, str]) -> None:
    """No directory, or none of our credential in it, means the data directory's file."""
    assert credentials.find(environ) == ""


def test_an_empty_credential_is_refused(tmp_path: Path) -> None:
    """A credential without a word, or a damaged one where secrets are, is told and not replaced by a new key."""
    (tmp_path / credentials.NAME).write_text("\n")
    with pytest.raises(PyfaasError) as refused:
        credentials.find({"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert refused.value.code is Code.INVALID_REQUEST
    with pytest.raises(PyfaasError):
        given("nothing", tmp_path, is_needed=True)
    assert given("nothing", tmp_path, is_needed=False).current is None
    assert keyring.FILE not in os.listdir(tmp_path)
