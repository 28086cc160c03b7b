"""What `--curl` prints: one request as a command of a POSIX shell that does the same when it is pasted.

The token is named and never shown: read from the file that holds it, or expected in the environment. Bytes that a shell
or an argument cannot carry travel as base64 through a pipe; `printf` is a part of the shell, so no limit of execve(2)
holds for it.
"""

from __future__ import annotations

import base64
import contextlib
import json
import shlex
from collections.abc import AsyncIterator

import typer

from pyfaas.cli import console
from pyfaas.client.errors import invalid
from pyfaas.client.http import Call, Reply
from pyfaas.client.profile import Endpoint, profiles_path

_ARGUMENT = 100_000  # bytes; Linux takes 131072 for one argument (execve(2), MAX_ARG_STRLEN)
_SHOWN = 4 << 20  # bytes of base64 that still can be pasted


class CurlTransport:
    """Prints the first call as a curl command, and ends the verb."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Keep where the call would go."""
        self._endpoint = endpoint

    @contextlib.asynccontextmanager
    async def exchange(self, call: Call) -> AsyncIterator[Reply]:
        """Print the call; always raises Exit."""
        console.out(as_curl(self._endpoint, call))
        raise typer.Exit
        yield  # pragma: no cover - makes this a generator

    async def close(self) -> None:
        """Nothing was opened."""


def as_curl(endpoint: Endpoint, call: Call) -> str:
    """Return a call as a command of a shell; raises InvalidRequest for a body that nobody would paste."""
    words = ["curl", "-sS", *_method(call), shlex.quote(endpoint.url + call.target)]
    words += ["-H", f'"Authorization: Bearer {_token(endpoint)}"']
    for name, value in call.headers.items():
        words += ["-H", shlex.quote(f"{name}: {value}")]
    piped = None
    for name, (kind, content) in call.form.items():
        if kind.endswith("json"):
            words += ["-F", shlex.quote(f"{name}={_form_value(content)};type={kind}")]
        else:
            piped = content
            words += ["-F", shlex.quote(f"{name}=@-;filename={name};type={kind}")]
    if call.body is not None:
        text = _text(call.body)
        piped = call.body if text is None else None
        words += ["--data-binary", "@-"] if text is None else ["--data-raw", shlex.quote(text)]
    command = " ".join(words)
    return command if piped is None else f"{_pipe(piped)} | {command}"


def _method(call: Call) -> list[str]:
    is_default = call.method == ("GET" if call.body is None and not call.form else "POST")
    return [] if is_default else ["-X", call.method]


def _token(endpoint: Endpoint) -> str:
    if endpoint.source.startswith("/"):
        return f"$(cat {shlex.quote(endpoint.source)})"
    if endpoint.source.startswith("profile "):
        # The file is ours (profile.write_profile): a table a profile, a key a line.
        table = json.dumps(endpoint.source.removeprefix("profile ")).replace("/", "\\/")
        script = f'/^\\[{table}\\]$/,/^$\\|^token/s/^token = "\\(.*\\)"$/\\1/p'
        return f"$(sed -n {shlex.quote(script)} {shlex.quote(str(profiles_path()))})"
    return "$PYFAAS_TOKEN"


def _text(body: bytes) -> str | None:
    """Return a body as an argument; None when it cannot be one."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return None
    return text if len(body) < _ARGUMENT and text.replace("\n", "").isprintable() else None


def _pipe(content: bytes) -> str:
    encoded = base64.b64encode(content).decode()
    if len(encoded) > _SHOWN:
        raise invalid(
            f"{len(content)} bytes are too many for a command", "--curl is for what can be pasted; take a smaller one"
        )
    return f"printf %s {encoded or repr('')} | base64 -d"


def _form_value(content: bytes) -> str:
    # curl ends a part's value at a semicolon unless it is quoted; inside quotes \ and " are escaped, as JSON does it.
    return json.dumps(content.decode())
