"""The verb that prints a systemd unit (systemd.service(5), systemd.exec(5)).

The hardening stops short of what the launcher lives on. A mount over a part of /proc (`ProtectKernelTunables`,
`ProtectProc`, `ProtectKernelLogs`) keeps the kernel from mounting the fresh /proc of a function (mount_too_revealing);
`ProtectControlGroups` would make the delegated cgroup read-only; `RestrictNamespaces` and `RestrictSUIDSGID` forbid what
a VM is made of; a `SystemCallFilter` would be one more filter on every system call of every function, each of which has
a stricter one of its own. No `StateDirectory` either: systemd would give all of it to root at each start, and the database
is the server's.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from pyfaas.cli import console
from pyfaas.config import Config

app = typer.Typer(rich_markup_mode=None)
_SYSTEM_DATA = "/var/lib/pyfaas"
_SPARE_S = 15  # after the drain: VMs are killed, mounts and cgroups removed

_SYSTEM = """\
# A server for the whole machine. Install it with:
#   sudo install -d -m 0700 {data}
#   pyfaas service | sudo tee /etc/systemd/system/pyfaas.service
#   sudo systemctl daemon-reload
#   sudo systemctl enable --now pyfaas
# Its log: journalctl -u pyfaas. Its tokens: {data}. An upgrade without a gap: systemctl reload pyfaas.
"""
_USER = """\
# A server of your own, without root. Install it with:
#   mkdir -p ~/.config/systemd/user
#   pyfaas service --user > ~/.config/systemd/user/pyfaas.service
#   systemctl --user daemon-reload
#   systemctl --user enable --now pyfaas
#   loginctl enable-linger    # it goes on when you log out
"""
_UNIT = """
[Unit]
Description=pyfaas, a serverless server
After=network.target

[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
ExecReload=kill -HUP $MAINPID
# The keeper drains at SIGTERM; what is left after that is killed.
KillMode=mixed
TimeoutStopSec={stop}
Restart=on-failure
RestartSec=1
# 3: serving is refused, which another try would not change.
RestartPreventExitStatus=3
# Limits of functions are set in cgroups below the unit's own.
Delegate=yes
TasksMax=infinity
LimitNOFILE=524288
UMask=0077
"""
_HARDENING = """\
NoNewPrivileges=yes
ProtectSystem=strict
PrivateTmp=yes
ProtectHome=read-only
ReadWritePaths={data}
LockPersonality=yes
KeyringMode=private
CapabilityBoundingSet=~CAP_SYS_MODULE CAP_SYS_RAWIO CAP_SYS_BOOT CAP_SYS_TIME CAP_SYSLOG CAP_MAC_ADMIN CAP_MAC_OVERRIDE CAP_AUDIT_CONTROL
"""
_INSTALL = """
[Install]
WantedBy={target}
"""


@app.callback()
def _group() -> None:
    """Keep the one verb a verb of a group."""


@app.command(epilog="Example: pyfaas service --port 8787 | sudo tee /etc/systemd/system/pyfaas.service")
def service(
    host: Annotated[
        str | None, typer.Option("--host", metavar="ADDRESS", help="address to listen on", show_default=False)
    ] = None,
    port: Annotated[int | None, typer.Option("--port", metavar="PORT", help="port to listen on", show_default=False)] = None,
    data_dir: Annotated[
        str | None, typer.Option("--data-dir", metavar="DIR", help="where everything is kept", show_default=False)
    ] = None,
    is_user: Annotated[bool, typer.Option("--user", help="a unit for systemctl --user, without root")] = False,  # noqa: FBT002
) -> None:
    """Print a systemd unit that runs the server, with the lines that install it as a comment."""
    console.out(unit(host=host, port=port, data_dir=data_dir, is_user=is_user).rstrip("\n"))


def unit(
    *, host: str | None = None, port: int | None = None, data_dir: str | None = None, is_user: bool = False
) -> str:
    """Return the unit's text: a system's, or a user's; both run this very interpreter."""
    data = str(Path(data_dir).absolute()) if data_dir else _SYSTEM_DATA
    words = [sys.executable, "-P", "-m", "pyfaas", "serve"]
    words += ["--host", host] if host else []
    words += ["--port", str(port)] if port is not None else []
    words += ["--data-dir", data] if data_dir or not is_user else []
    stop = Config().drain_seconds + _SPARE_S
    text = (_USER if is_user else _SYSTEM).format(data=data)
    text += _UNIT.format(command=" ".join(map(quoted, words)), stop=stop)
    if not is_user:  # a user's manager may not do most of it
        hardening = _HARDENING.format(data=quoted(data))
        is_hidden = data.startswith(("/tmp/", "/var/tmp/"))  # noqa: S108 - told apart, not used
        text += hardening.replace("PrivateTmp=yes", "ReadWritePaths=/tmp") if is_hidden else hardening
    return text + _INSTALL.format(target="default.target" if is_user else "multi-user.target")


def quoted(word: str) -> str:
    """Return a word as systemd reads it: its specifiers and variables are doubled (systemd.service(5), COMMAND LINES)."""
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{word}"' if not word or any(c in word for c in " \t\\\"'") else word
