"""What the host says of package indexes, read once at start and told to the build containers.

The operator's own pip and uv settings are honoured: index addresses, find-links, constraints, certificates and
proxies. Local paths among them are bound read-only into build VMs, and nowhere else. Builds leave by the same door as
functions: to any public host on the ports of the indexes, and to indexes and proxies themselves wherever they are. uv does not read pip's files,
so they are translated (pip's documentation, *Configuration*; uv's, *Environment variables*).
"""

from __future__ import annotations

import configparser
import importlib.util
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pyfaas import network

_INSIDE = "/opt/pyfaas"  # where a build container finds the installers, wherever the host has them
_UV_KEPT = (
    *("UV_INDEX_STRATEGY", "UV_INDEX", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_NO_INDEX", "UV_FIND_LINKS"),
    *("UV_CONSTRAINT", "UV_INSECURE_HOST", "UV_HTTP_TIMEOUT", "UV_HTTP_RETRIES", "PIP_TIMEOUT", "PIP_RETRIES"),
)
_NET_KEPT = ("SSL_CERT_FILE", "SSL_CERT_DIR", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "https_proxy", "http_proxy", "no_proxy")
_TO_UV = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "constraint": "UV_CONSTRAINT",
    "cert": "SSL_CERT_FILE",
    "trusted-host": "UV_INSECURE_HOST",
    "no-index": "UV_NO_INDEX",
}

_ADDRESSES = ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL")
_PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy")
_DEFAULTS = ("https://pypi.org", "https://files.pythonhosted.org")
_PORTS = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True, kw_only=True)
class Indexes:
    """`env` is the build container's; `binds` are host paths that it reads, as a launcher takes them; `uv` and `pip` are paths inside it, or None.

    `exits` is the network list of builds: the operator's own, so it may say `*:PORT`.
    """

    env: Mapping[str, str]
    binds: tuple[str, ...]
    uv: str | None
    pip: str | None
    exits: tuple[str, ...] = ()

    def order(self) -> dict[str, object]:
        """Return the `tool` part of a build order."""
        return {"env": dict(self.env), "uv": self.uv, "pip": self.pip, "allow_sdist": False}


def discover(environ: Mapping[str, str], home: str) -> Indexes:
    """Read pip's configuration files and both tools' variables; later sources override earlier ones."""
    pip = dict(_pip_files(environ, home))
    for key in _TO_UV:
        if value := environ.get("PIP_" + key.replace("-", "_").upper()):
            pip[key] = value
    env: dict[str, str] = {}
    for key, value in pip.items():
        env["PIP_" + key.replace("-", "_").upper()] = value
        if uv_name := _TO_UV.get(key):
            env[uv_name] = _uv_list(uv_name, value)
    if "extra-index-url" in pip:
        env["UV_INDEX_STRATEGY"] = "unsafe-best-match"  # pip takes the best of all its indexes: whoever set it up relies on that
    env.update({name: environ[name] for name in (*_UV_KEPT, *_NET_KEPT) if name in environ})
    uv, pip_path = _uv(), _pip()
    binds = {path for value in env.values() for path in _local_paths(value)}
    tools = {f"{_INSIDE}/uv": uv, f"{_INSIDE}/pip": pip_path}
    binds |= {f"{source}:{target}" for target, source in tools.items() if source}
    found = [target if source else None for target, source in tools.items()]
    return Indexes(env=env, binds=tuple(sorted(binds)), uv=found[0], pip=found[1], exits=_exits(env))


def _exits(env: Mapping[str, str]) -> tuple[str, ...]:
    """Return where builds get to: public hosts on the ports of the indexes, and each configured host wherever it is."""
    words = [word for name, value in env.items() if name in _ADDRESSES for word in value.replace(",", " ").split()]
    words += _DEFAULTS  # where these are is the operator's name server's to say: a mirror perhaps
    words += [env[name] if "://" in env[name] else f"http://{env[name]}" for name in _PROXIES if env.get(name)]
    found: set[str] = set()
    for word in words:
        parts = urlsplit(word.rpartition("=")[2] if "=http" in word else word)  # uv's name=URL
        try:
            host, port = parts.hostname, parts.port or _PORTS.get(parts.scheme)
        except ValueError:
            continue
        if host and port and ":" not in host:  # an index at an address of IPv6 cannot be reached
            is_address = host.replace(".", "").isdigit()
            found |= {f"*:{port}"} | ({f"{host}:{port}"} if is_address else {f"{host}:{port}@0.0.0.0/0"})
    return network.canonical_trusted(found)


def _pip_files(environ: Mapping[str, str], home: str) -> Iterator[tuple[str, str]]:
    names = ["/etc/xdg/pip/pip.conf", "/etc/pip.conf", f"{home}/.pip/pip.conf", f"{home}/.config/pip/pip.conf"]
    names += [f"{sys.prefix}/pip.conf", environ.get("PIP_CONFIG_FILE", "")]
    for name in names:
        parser = configparser.RawConfigParser()
        try:
            parser.read(name, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):
            continue  # pip itself would refuse it; the build's log will say what is missing
        for section in ("global", "install"):
            if parser.has_section(section):
                yield from ((k, v) for k, v in parser.items(section) if k in _TO_UV)


def _uv_list(name: str, value: str) -> str:
    """pip separates by white space; uv's find-links by commas."""
    return ",".join(value.split()) if name == "UV_FIND_LINKS" else " ".join(value.split())


def _local_paths(value: str) -> Iterator[str]:
    for word in value.replace(",", " ").split():
        path = unquote(urlsplit(word).path) if word.startswith("file://") else word
        if path.startswith("/") and Path(path).exists():
            found = Path(path).resolve()
            yield str(found.parent if found.name == "simple" else found)  # an index links to the files beside it


def _uv() -> str | None:
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.exists() else shutil.which("uv")
    return str(Path(found).resolve()) if found else None


def _pip() -> str | None:
    spec = importlib.util.find_spec("pip")
    return str(Path(spec.origin).parent) if spec is not None and spec.origin else None
