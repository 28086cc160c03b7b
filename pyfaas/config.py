"""The server's configuration: one frozen value whose fields are the flags, the environment names and the file keys.

Flag > `PYFAAS_…` > file > default. Adding an option is one line here.
This is the only module that reads the process's environment.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from pyfaas.errors import Code, PyfaasError


def _option(default: Any, help: str, one_of: tuple[str, ...] = ()) -> Any:  # noqa: A002 - the word every option parser uses
    return field(default=default, metadata={"help": help, "one_of": one_of})


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Every option of `pyfaas serve`. Sizes are bytes, times milliseconds unless the name says otherwise."""

    host: str = _option("127.0.0.1", "address to listen on")
    port: int = _option(8787, "port to listen on; 0 picks a free one")
    data_dir: str = _option("", "where everything is kept (default /var/lib/pyfaas, or ~/.local/share/pyfaas)")
    user: str = _option("", "user the server runs as when started as root (default: the first uid of the range)")
    allow_weaker_isolation: str = _option("", "comma-separated layers that may be missing")
    uid_base: int = _option(2_000_000, "first uid of the range for the server and the VMs (root only)")
    uid_count: int = _option(10_000, "how many uids the range has")
    warm_vms: int = _option(4, "unassigned VMs kept ready")
    max_vms: int = _option(1000, "VMs alive at once")
    max_containers: int = _option(4000, "containers alive at once")
    max_connections: int = _option(10_000, "connections of clients at once, and never more than half of the process's open files")
    max_memory: int = _option(0, "sum of the memory limits of busy containers, bytes; 0 is three quarters of the host's")
    idle_seconds: int = _option(300, "an idle container is ended after this many seconds")
    account_concurrency: int = _option(200, "runs at once of one account")
    account_rate: int = _option(0, "runs of one account that begin in a second; 0 is no limit")
    account_daily: int = _option(0, "runs of one account in a day, UTC; 0 is no limit")
    queue_limit: int = _option(1000, "calls of one account that may wait for a container")
    sync_payload: int = _option(6 << 20, "largest body of a synchronous call and of its answer, bytes")
    async_payload: int = _option(1 << 20, "largest body of an asynchronous call, bytes")
    bundle_packed: int = _option(50 << 20, "largest uploaded bundle, bytes")
    bundle_unpacked: int = _option(250 << 20, "largest bundle when unpacked, bytes")
    environment_size: int = _option(2 << 30, "largest set of installed requirements, bytes")
    env_bytes: int = _option(4096, "largest sum of a version's environment variables, bytes")
    log_bytes: int = _option(1 << 20, "log kept of one invocation, bytes")
    log_days: int = _option(7, "days that logs are kept")
    log_account_bytes: int = _option(1 << 30, "logs kept of one account, bytes; the oldest go first")
    build_log_days: int = _option(90, "days that the logs of installations are kept")
    job_days: int = _option(7, "days that finished asynchronous calls and their results are kept")
    usage_days: int = _option(400, "days that usage, by the hour after two, and the audit trail are kept")
    bundles: str = _option("", "where bundles are kept: s3://BUCKET/PREFIX, one server's own (default: the data directory)")
    s3_endpoint: str = _option("", "the object store's URL; http:// is taken only here (default: AWS)")
    s3_region: str = _option("", "the object store's region (default: AWS_REGION, else us-east-1)")
    egress_private: str = _option("", "comma-separated private ranges that a version may list: 10.1.0.0/16, 127.0.0.1/32, …")
    egress_hosts: str = _option("", "a hosts file for the way out, in place of the system's")
    egress_resolver: str = _option("", "ADDRESS[:PORT] of the name server for the way out (default: the system's)")
    egress_connections: int = _option(128, "connections of one VM to the network at once")
    egress_daily: int = _option(0, "bytes that one account may move over the network in a day, UTC; 0 is no limit")
    secret_bytes: int = _option(16384, "largest secret, bytes; those of one function, alias or subscription together twice as much")
    unused_hours: int = _option(24, "hours that bundles, code and installed requirements of no version stay on the disk")
    reserve_bytes: int = _option(64 << 20, "free disk space that a publication must leave, bytes")
    drain_seconds: int = _option(30, "how long a stop waits for running calls")
    async_workers: int = _option(16, "asynchronous runs at once")
    builds: int = _option(2, "preparations at once")
    preload: bool = _option(True, "prepare and load a version when it is published; false: when it is first named")
    download_to: str = _option(
        "second-container",
        "where a new version's code goes beside the one that runs: second-container, instance-cache, same-container or near-store",
        one_of=("second-container", "instance-cache", "same-container", "near-store"),
    )
    code_cache: int = _option(256 << 20, "code that one VM keeps in its own memory, bytes")
    grace_seconds: int = _option(60, "an idle container of a version that was left stays so long, for going back at once")
    debug: bool = _option(False, "tell in a response header which VM and container answered, and why")


def load(
    flags: Mapping[str, Any], environ: Mapping[str, str] | None = None, file: Path | None = None
) -> tuple[Config, dict[str, str]]:
    """Combine flags, environment and file into a Config, and tell where each value came from.

    Raises unknown_key or invalid_request, naming the key and its place.
    """
    values: dict[str, Any] = {}
    origin = {f.name: "default" for f in fields(Config)}
    table = tomllib.loads(file.read_text()) if file else {}
    names = {f.name for f in fields(Config)}
    for key, value in table.items():
        _known(key, names, str(file))
        values[key], origin[key] = value, str(file)
    env = os.environ if environ is None else environ
    for name in names:
        if (value := env.get("PYFAAS_" + name.upper())) is not None:
            values[name], origin[name] = value, "PYFAAS_" + name.upper()
    for key, value in flags.items():
        if value is not None:
            _known(key, names, "flag")
            values[key], origin[key] = value, "flag"
    typed = {key: _typed(key, value, origin[key]) for key, value in values.items()}
    if not typed.get("data_dir"):
        typed["data_dir"] = default_data_dir(env)
    return Config(**typed), origin


def default_data_dir(environ: Mapping[str, str] | None = None) -> str:
    """Return the data directory that is used when none is named."""
    if os.geteuid() == 0:
        return "/var/lib/pyfaas"
    env = os.environ if environ is None else environ
    home = env.get("XDG_DATA_HOME") or str(Path(env.get("HOME", "/tmp")) / ".local/share")  # noqa: S108 - last resort
    return str(Path(home) / "pyfaas")


def environment(name: str) -> str | None:
    """Return one variable of the process's environment, for the faces that honour PYFAAS_URL and the like."""
    return os.environ.get(name)


def _known(key: str, names: set[str], place: str) -> None:
    if key not in names:
        near = difflib.get_close_matches(key, names, 1)
        hint = f"did you mean {near[0]}?" if near else "see pyfaas serve --help"
        raise PyfaasError(Code.UNKNOWN_KEY, f"{place}: unknown option {key!r}", hint=hint)


def _typed(key: str, value: Any, place: str) -> Any:
    found = next(f for f in fields(Config) if f.name == key)
    kind, one_of = found.type, found.metadata["one_of"]
    if one_of and value not in one_of:
        raise PyfaasError(Code.INVALID_REQUEST, f"{place}: {key} must be one of {', '.join(one_of)}, not {value!r}")
    try:
        if kind == "int":
            return int(value)
        if kind == "bool":
            return value if isinstance(value, bool) else {"1": True, "true": True, "0": False, "false": False}[str(value).lower()]
        return str(value)
    except (ValueError, KeyError):
        raise PyfaasError(Code.INVALID_REQUEST, f"{place}: {key} must be {'an' if kind == 'int' else 'a'} {kind}, not {value!r}") from None


def process_environment() -> Mapping[str, str]:
    """Return the process's environment, for what reads the settings of other tools (pip, uv)."""
    return dict(os.environ)
