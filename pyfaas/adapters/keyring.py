"""The keys that secrets are sealed with: AES-256-GCM (NIST SP 800-38D) under a key file or a systemd credential.

Theory of operation. A key is a line `ID BASE64KEY CREATED`; the first line is the current key, which seals, and the others only
open what was sealed before. Each seal has a random nonce of 96 bits, and what belongs to it as additional data (the owner's id, the
secret's key, the key's id): a ciphertext that is moved to another row opens for nobody.

The file is `DATA/secrets.key`, mode 0600, made at the first start, and always replaced as a whole. Where the operator gives keys
by systemd (`LoadCredential=pyfaas-secrets-key:…`, systemd.exec(5)), the keeper, which alone may read them, hands their text over,
nothing is written, and to rotate is to put a new line on top and start again.

What must stay true: keys and values are in no message, no repr and no log; a key leaves the file only when nothing is sealed under
it; a damaged line costs what was sealed under that key and nothing else.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import errno
import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pyfaas.adapters.bundles import sync_directory
from pyfaas.errors import Code, PyfaasError
from pyfaas.ports import Sealed

log = logging.getLogger(__name__)
FILE = "secrets.key"
_LINE = re.compile(r"([A-Za-z0-9_-]{1,64})\s+([A-Za-z0-9+/]{43}=)(?:\s+([0-9]{1,12}))?")
_KEY_BYTES, _NONCE_BYTES, _ID_BYTES = 32, 12, 6
_MOST_BYTES = 1 << 20
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class KeyFile:
    """`ports.Keyring`; made by `opened` or `given`."""

    def __init__(self, lines: Sequence[str], path: Path | None) -> None:
        """Take good lines, the current key's first; `path` None keeps them fixed."""
        self._path, self.is_fixed = path, path is None
        self._lines: dict[str, str] = {}
        self._ciphers: dict[str, AESGCM] = {}
        self._take(lines)

    def _take(self, lines: Sequence[str]) -> None:
        self._lines = {line.split()[0]: line for line in lines}
        self._ciphers = {key_id: AESGCM(base64.b64decode(line.split()[1])) for key_id, line in self._lines.items()}
        self.current: str | None = next(iter(self._lines), None)

    def __repr__(self) -> str:
        """Show ids, and no key."""
        return f"<KeyFile {' '.join(self._lines)}>"

    def seal(self, owner: str, key: str, value: str, at: float) -> Sealed:
        """Seal a value under the current key. Raises not_ready where no key can be had."""
        if self.current is None:
            raise _keyless()
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._ciphers[self.current].encrypt(nonce, value.encode(), _bound(owner, key, self.current))
        return Sealed(owner=owner, key=key, key_id=self.current, sealed=nonce + sealed, at=at)

    def open(self, sealed: Sealed) -> str:
        """Return the value. Raises internal when its key is gone, or it was sealed for another place."""
        cipher = self._ciphers.get(sealed.key_id)
        if cipher is None:
            raise _closed(sealed, "its key is not there")
        try:
            nonce, text = sealed.sealed[:_NONCE_BYTES], sealed.sealed[_NONCE_BYTES:]
            return cipher.decrypt(nonce, text, _bound(sealed.owner, sealed.key, sealed.key_id)).decode()
        except (InvalidTag, ValueError):
            raise _closed(sealed, "it is damaged, or was sealed with another key") from None

    def ids(self) -> Sequence[str]:
        """Return the ids of all keys, the current one first."""
        return list(self._lines)

    def renew(self) -> str:
        """Make a new current key and return its id. Raises conflict where the keys are fixed, not_ready, storage_full or internal."""
        if self._path is None and self.current is None:
            raise _keyless()
        if self._path is None:
            hint = "put a line with a new key at the credential's top, leave the others, and start the server again"
            raise PyfaasError(Code.CONFLICT, "the keys for secrets come from a systemd credential", hint=hint)
        lines = [_new_line(), *self._lines.values()]
        _write(self._path, lines)
        self._take(lines)
        return next(iter(self._lines))

    def retire(self, used: Collection[str]) -> Sequence[str]:
        """Remove the keys that are neither current nor used; returns their ids. Raises storage_full or internal."""
        gone = [key_id for key_id in self._lines if key_id != self.current and key_id not in used]
        if self._path is not None and gone:
            lines = [line for key_id, line in self._lines.items() if key_id not in gone]
            _write(self._path, lines)
            self._take(lines)
        return gone


def opened(data: Path, *, is_needed: bool) -> KeyFile:
    """Return the keys of a data directory; where there is no file yet and nothing `is_needed`, a first key is made.

    Raises internal when keys are needed, since something is sealed, and none can be had. Anything else that is wrong with the file is
    one line in the log.
    """
    path = data / FILE
    with contextlib.suppress(OSError):
        _made(path).unlink(missing_ok=True)  # a crash left it: a key that nothing was sealed with
    try:
        text = _read(path)
    except FileNotFoundError:
        if is_needed:
            raise _lost(f"{path} is gone") from None
        return _first(path)
    except OSError as error:
        if is_needed:
            raise _lost(f"{path} cannot be read: {error.strerror}") from None
        log.error("secrets_key_unreadable", extra={"path": str(path), "error": error.strerror})  # noqa: TRY400 - one line
        return KeyFile([], None)
    lines = _good(text, str(path))
    if not lines and is_needed:
        raise _lost(f"{path} is damaged: there is no key in it")
    if not lines:
        _set_aside(path)
        return _first(path)
    return KeyFile(lines, path)


def given(text: str, data: Path, *, is_needed: bool) -> KeyFile:
    """Return the keys of a credential's text, fixed; those of a file in the data directory, from before, only open.

    Raises internal when there is no key in the credential and keys are needed.
    """
    lines = _good(text, "the credential pyfaas-secrets-key")
    if not lines and is_needed:
        raise _lost("the credential pyfaas-secrets-key is damaged: there is no key in it")
    with contextlib.suppress(OSError):
        lines = _distinct([*lines, *_good(_read(data / FILE), str(data / FILE))]) if lines else lines
    return KeyFile(lines, None)


def _bound(owner: str, key: str, key_id: str) -> bytes:
    return f"{owner}\0{key}\0{key_id}".encode()  # none of them has a NUL


def _new_line() -> str:
    key = base64.b64encode(os.urandom(_KEY_BYTES)).decode()
    return f"{secrets.token_hex(_ID_BYTES)} {key} {int(time.time())}"


def _first(path: Path) -> KeyFile:
    lines = [_new_line()]
    _write(path, lines)
    log.info("secrets_key_written", extra={"path": str(path)})
    return KeyFile(lines, path)


def _good(text: str, place: str) -> list[str]:
    """Return the lines that are keys, each id once; the others are told by their numbers."""
    found: dict[str, str] = {}
    bad = []
    for number, line in enumerate(text.splitlines(), 1):
        match = _LINE.fullmatch(line.strip())
        if match and match[1] not in found and _is_key(match[2]):
            found[match[1]] = line.strip()
        elif line.strip() and not line.startswith("#"):
            bad.append(number)
    if bad:
        log.error("secrets_key_damaged", extra={"place": place, "lines": bad})
    return list(found.values())


def _distinct(lines: Sequence[str]) -> list[str]:
    """Return the lines without those whose id came before."""
    found: dict[str, str] = {}
    for line in lines:
        found.setdefault(line.split()[0], line)
    return list(found.values())


def _is_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == _KEY_BYTES
    except binascii.Error:
        return False


def _read(path: Path) -> str:
    """Read the file; one that others may read is closed to them, and told: whoever read it can open what was sealed."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is no plain file", str(path))
        if stat.S_IMODE(found.st_mode) & 0o077:
            log.warning("secrets_key_was_open", extra={"path": str(path), "mode": f"{stat.S_IMODE(found.st_mode):04o}", "advice": "rotate"})
            with contextlib.suppress(PermissionError):  # it is somebody else's, who let us read it
                os.fchmod(descriptor, 0o600)
        return file.read(_MOST_BYTES).decode("ascii", "replace")


def _write(path: Path, lines: Sequence[str]) -> None:
    """Replace the file in one step, on the disk when this returns. Raises storage_full or internal; then it is as it was."""
    made = _made(path)
    try:
        made.unlink(missing_ok=True)  # a crash left it
        descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write("".join(f"{line}\n" for line in lines))
            file.flush()
            os.fsync(descriptor)
        os.replace(made, path)
        sync_directory(path.parent)
    except OSError as error:
        code = Code.STORAGE_FULL if error.errno in _FULL else Code.INTERNAL
        raise PyfaasError(code, f"the key file {path} cannot be written: {error.strerror}", hint="nothing was changed") from None


def _made(path: Path) -> Path:
    return path.with_suffix(".key.new")


def _set_aside(path: Path) -> None:
    kept = path.with_suffix(".key.damaged")
    os.replace(path, kept)
    log.error("secrets_key_set_aside", extra={"path": str(kept)})


def _keyless() -> PyfaasError:
    return PyfaasError(Code.NOT_READY, "the server has no key for secrets", hint="the server's log says what is wrong with its key file")


def _closed(sealed: Sealed, why: str) -> PyfaasError:
    message = f"the secret {sealed.key!r} cannot be opened: {why}"
    return PyfaasError(Code.INTERNAL, message, hint="set it again", evidence={"key_id": sealed.key_id})


def _lost(what: str) -> PyfaasError:
    hint = "put it back from a backup; to give the stored secrets up, delete the rows of the database's table secrets"
    return PyfaasError(Code.INTERNAL, f"{what}, and there are secrets that were sealed with it", hint=hint)
