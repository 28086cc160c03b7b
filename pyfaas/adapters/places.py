"""Where bundles are kept: the data directory, or a place in S3-compatible object storage, told once at the start.

The keeper reads the options and the credentials (the variables that AWS's own tools read) and hands them to the server, whose
environment is empty. They are in no option, so that nothing prints them, and neither launcher nor VM ever has them. Profiles
in ~/.aws are not read. Without keys the client library asks the machine's role (EC2's metadata service).
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from pyfaas.adapters.bundles import BundleDirectory
from pyfaas.errors import Code, PyfaasError
from pyfaas.ports import Bundles

_URL = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])((?:/[A-Za-z0-9_.-]+)*)/?")
_KEYS = {"AWS_ACCESS_KEY_ID": "access_key_id", "AWS_SECRET_ACCESS_KEY": "secret_access_key", "AWS_SESSION_TOKEN": "session_token"}
_AUTHORITIES = ("AWS_CA_BUNDLE", "SSL_CERT_FILE")
_REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")
_REGION = "us-east-1"  # S3's own default, and what stores without regions take


def find(bundles: str, endpoint: str, region: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Return what `open_bundles` needs, credentials included; empty for the data directory.

    Raises invalid_request, in one sentence, for an option that is none, half a key, or a client library that is not installed.
    """
    if not bundles:
        return {}
    found = _URL.fullmatch(bundles)
    if not found or {".", ".."} & set(found[2].split("/")):
        raise _refused(f"bundles is {bundles!r}, which is not s3://BUCKET/PREFIX")
    if endpoint and not _is_endpoint(endpoint):
        raise _refused(f"s3_endpoint is {endpoint!r}, which is not https://HOST, https://HOST:PORT or the same with http")
    if importlib.util.find_spec("obstore") is None:
        raise _refused("bundles in object storage need its client library: pip install 'pyfaas[s3]'")
    region = region or next((environ[name] for name in _REGIONS if environ.get(name)), _REGION)
    place = {"bucket": found[1], "prefix": found[2].strip("/"), "endpoint": endpoint.rstrip("/"), "region": region}
    return {**place, **_credentials(environ), **_authorities(environ)}


def open_bundles(place: Mapping[str, str], directory: Path, reserve: int) -> Bundles:
    """Return the bundles that are kept at a place, near in `directory`. Raises storage_full, internal or invalid_request."""
    if not place:
        return BundleDirectory(directory, reserve)
    objects = importlib.import_module("pyfaas.adapters.objects")  # the library is an extra, and loaded where it is used
    opened: Bundles = objects.opened(place, directory, reserve)
    return opened


def _is_endpoint(text: str) -> bool:
    try:
        parts = urlsplit(text)
        is_whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return is_whole and "@" not in parts.netloc and parts.path in ("", "/") and not (parts.query or parts.fragment)


def _credentials(environ: Mapping[str, str]) -> dict[str, str]:
    found = {key: environ[name] for name, key in _KEYS.items() if environ.get(name)}
    halves = {"AWS_ACCESS_KEY_ID": "access_key_id" in found, "AWS_SECRET_ACCESS_KEY": "secret_access_key" in found}
    if len(set(halves.values())) > 1:
        (there, gone) = sorted(halves, key=lambda name: not halves[name])
        raise _refused(f"{there} is set and {gone} is not: the object store needs both, or neither")
    return found


def _authorities(environ: Mapping[str, str]) -> dict[str, str]:
    """Read the certificates that the operator names beside the system's; the server could not open every path."""
    for name in _AUTHORITIES:
        if path := environ.get(name):
            try:
                return {"root_certificate": Path(path).read_text(encoding="ascii", errors="replace")}
            except OSError as error:
                raise _refused(f"{name} names {path}, which cannot be read: {error.strerror}") from None
    return {}


def _refused(why: str) -> PyfaasError:
    return PyfaasError(Code.INVALID_REQUEST, why)
