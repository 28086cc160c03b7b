"""Which server to talk to, and as whom.

What is given explicitly comes first, then `PYFAAS_URL` and `PYFAAS_TOKEN`, then the profile that `pyfaas login` wrote
(`PYFAAS_PROFILE` names one), and on the server's own machine the local data directory: its `endpoint` and one of its
tokens. A URL without a token takes the token of the profile or data directory that names the same URL, never another's.
"""

from __future__ import annotations

import json
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pyfaas.client.errors import NotAllowed, Unreachable, invalid
from pyfaas.config import default_data_dir, environment
from pyfaas.errors import Code

DEFAULT_PROFILE = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A server's address and the token to present; `source` says where the token came from."""

    url: str
    token: str
    source: str = "argument"


def locate(url: str | None = None, token: str | None = None, *, is_admin: bool = False) -> Endpoint:
    """Find the server and the token; `is_admin` prefers the data directory's admin token.

    Raises Unreachable when no server is known, NotAllowed when no token is, InvalidRequest for a broken profile.
    """
    url = url or environment("PYFAAS_URL")
    token, source = (token, "argument") if token else (environment("PYFAAS_TOKEN"), "environment")
    token = _usable(token) if token else None
    if url and token:
        return Endpoint(url=_clean(url), token=token, source=source)
    for known in _known(is_admin=is_admin):
        if not url or _clean(url) == known.url:
            return Endpoint(url=known.url, token=token, source=source) if token else known
    if not url:
        raise _nowhere()
    message = f"no token for {url}"
    hint = "set PYFAAS_TOKEN, or run: pyfaas login"
    raise NotAllowed(message, status=401, problem={"code": Code.UNAUTHENTICATED.value, "detail": message, "hint": hint})


def _known(*, is_admin: bool) -> list[Endpoint]:
    wanted = environment("PYFAAS_PROFILE")
    profiles = read_profiles()
    if wanted and wanted not in profiles:
        raise invalid(f"no profile {wanted!r} in {profiles_path()}", "run: pyfaas login --profile NAME")
    found = [_from_profile(wanted or DEFAULT_PROFILE, profiles)] if (wanted or DEFAULT_PROFILE) in profiles else []
    if not wanted:
        found += [local] if (local := _from_data_dir(is_admin=is_admin)) else []
    return found


def _from_profile(name: str, profiles: dict[str, Any]) -> Endpoint:
    entry = profiles[name]
    try:
        return Endpoint(url=_clean(str(entry["url"])), token=str(entry["token"]), source=f"profile {name}")
    except (TypeError, KeyError):
        raise invalid(f"profile {name!r} in {profiles_path()} lacks url or token", "run: pyfaas login") from None


def _from_data_dir(*, is_admin: bool) -> Endpoint | None:
    data = Path(environment("PYFAAS_DATA_DIR") or default_data_dir())
    path = data / ("admin.token" if is_admin else "default.token")
    try:
        url = (data / "endpoint").read_text().strip()
    except OSError:
        return None
    try:
        return Endpoint(url=_clean(url), token=path.read_text().strip(), source=str(path))
    except OSError as error:
        message = f"cannot read {path}: {error.strerror}"
        hint = "become the server's user, or ask for a token and run: pyfaas login"
        raise NotAllowed(
            message, problem={"code": Code.UNAUTHENTICATED.value, "detail": message, "hint": hint}
        ) from None


def profiles_path() -> Path:
    """Return where profiles are kept."""
    home = environment("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(home) / "pyfaas" / "profiles.toml"


def read_profiles() -> dict[str, Any]:
    """Return the profiles by name; raises InvalidRequest for a file that is no TOML."""
    try:
        return tomllib.loads(profiles_path().read_text())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise invalid(f"{profiles_path()}: {error}") from None


def write_profile(name: str, url: str, token: str) -> Path:
    """Keep a profile in a file that only its owner may read; returns the file."""
    profiles = read_profiles() | {name: {"url": _clean(url), "token": token}}
    # A JSON string of printable text is a TOML basic string too.
    text = "\n".join(
        f"[{json.dumps(key)}]\n" + "".join(f"{k} = {json.dumps(str(v))}\n" for k, v in entry.items())
        for key, entry in profiles.items()
    )
    path = profiles_path()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_suffix(".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(descriptor, 0o600)
        file.write(text)
    temporary.replace(path)
    return path


def _clean(url: str) -> str:
    url = url.strip().rstrip("/")
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that do not close, a port out of range
        is_good = False
    if not is_good or not url.isprintable() or any(c in url for c in " ?#"):
        raise invalid(f"{url!r} is not a server's URL", "write http://HOST:PORT")
    return url


def _usable(token: str) -> str:
    token = token.strip()
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise invalid("the token has characters that no token has", "pass it as it was printed, pf_…")
    return token


def _nowhere() -> Unreachable:
    message = "no server is known"
    hint = "start one with: pyfaas serve; or set PYFAAS_URL and PYFAAS_TOKEN, or run: pyfaas login"
    return Unreachable(message, problem={"code": "unreachable", "fault": "caller", "detail": message, "hint": hint})
