"""A real server in a temporary directory, started as users start it, and the least that is needed to talk to it."""

from __future__ import annotations

import contextlib
import functools
import http.client
import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from sandbox import doctor

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(slots=True)
class Answer:
    """An HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def outcome(self) -> str | None:
        """The invocation's outcome."""
        return self.headers.get("pyfaas-outcome")


@dataclass(slots=True)
class House:
    """A running server; `process` is its keeper."""

    process: subprocess.Popen[str]
    data: Path
    url: str
    isolation: str
    tokens: dict[str, str] = field(default_factory=dict)

    def call(
        self,
        method: str,
        path: str,
        body: bytes | str | None = None,
        *,
        token: str | None = "default",  # noqa: S107 - a name, not a token
        timeout: float = 60.0,
        **headers: str,
    ) -> Answer:
        """Make one request on a connection of its own."""
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=timeout)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            sent["Authorization"] = "Bearer " + self.token(token)
        try:
            connection.request(method, path, body.encode() if isinstance(body, str) else body, sent)
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def token(self, name: str) -> str:
        """Return a token by the account's name; `default` and `admin` are the data directory's."""
        if name not in self.tokens:
            self.tokens[name] = (self.data / f"{name}.token").read_text().strip()
        return self.tokens[name]

    def account(self, name: str) -> str:
        """Create an account and keep its token; returns the name."""
        made = self.call("POST", "/v1/accounts", json.dumps({"name": name}), token="admin", content_type="application/json")
        assert made.status in (200, 201), made.body
        self.tokens[name] = made.json["token"]
        return name

    def deploy(self, name: str, source: str | Mapping[str, str | bytes], *, token: str = "default", wait: bool = True, **config: Any) -> Answer:  # noqa: S107
        """Publish a function from source text, or from files by path; waits until it is ready or failed."""
        files = {"main.py": source} if isinstance(source, str) else source
        answer = self.put(name, packed(files), token=token, **config)
        if wait and answer.status in (200, 201):
            return self.wait(name, answer.json["version"], token=token)
        return answer

    def put(self, name: str, bundle: bytes, *, token: str = "default", **config: Any) -> Answer:  # noqa: S107
        """Send a bundle as it is."""
        body, kind = multipart({"config": json.dumps(config).encode(), "code": bundle})
        return self.call("PUT", f"/v1/functions/{name}", body, token=token, content_type=kind)

    def wait(self, name: str, version: int, *, token: str = "default", seconds: float = 60.0) -> Answer:  # noqa: S107
        """Wait until a version is ready or failed."""
        until = time.monotonic() + seconds
        while True:
            answer = self.call("GET", f"/v1/functions/{name}/versions/{version}?wait=5", token=token)
            if answer.status != 200 or answer.json["state"] in ("ready", "failed") or time.monotonic() > until:
                return answer

    def invoke(self, name: str, event: Any = None, *, token: str = "default", **headers: str) -> Answer:  # noqa: S107
        """Call a function with a JSON event."""
        return self.call("POST", f"/v1/functions/{name}/invoke", json.dumps(event), token=token, content_type="application/json", **headers)

    def logs(self, name: str, *, token: str = "default", **query: str) -> list[dict[str, Any]]:  # noqa: S107
        """Return a function's log lines."""
        text = "&".join(f"{k}={v}" for k, v in query.items())
        answer = self.call("GET", f"/v1/functions/{name}/logs?{text}", token=token)
        assert answer.status == 200, answer.body
        return [json.loads(line) for line in answer.body.splitlines()]

    def children(self) -> dict[str, int]:
        """Return the pids of the launcher, the egress and the server, by what they are."""
        found: dict[str, int] = {}
        for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split():
            try:
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:  # it ended while it was looked at
                continue
            found["egress" if "pyfaas-egress" in line else "launcher" if "launcher" in line and "server" not in line else "server"] = int(pid)
        return found

    def stop(self, seconds: float = 20.0) -> int:
        """Stop gracefully; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def packed(files: Mapping[str, str | bytes]) -> bytes:
    """Return a zip of files by path."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def multipart(parts: Mapping[str, bytes]) -> tuple[bytes, str]:
    """Return a multipart/form-data body and its content type (RFC 7578)."""
    boundary = "pyfaas-test-boundary"
    out = b""
    for name, content in parts.items():
        out += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}"\r\n\r\n'.encode() + content + b"\r\n"
    return out + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


@functools.cache
def missing() -> tuple[str, ...]:
    """Return the layers that an ordinary user lacks here; root lacks none, or the server refuses and the tests fail."""
    if os.getuid() == 0:
        return ()
    return tuple(layer.name for layer in doctor.layers() if not layer.live and layer.name in doctor.OPTIONAL)


def given_up() -> list[str]:
    """Return the options that serve without what an ordinary user lacks."""
    return ["--allow-weaker-isolation", ",".join(missing())] if missing() else []


needs_cgroups = pytest.mark.skipif("cgroups" in missing(), reason="memory and processes are not limited without a delegated cgroup")


@contextlib.contextmanager
def started(data: Path, *options: str, env: Mapping[str, str] | None = None) -> Iterator[House]:
    """Run `pyfaas serve` over a data directory, and stop it."""
    command = [sys.executable, "-m", "pyfaas", "serve", "--port", "0", "--data-dir", str(data), *given_up(), *options]
    with running(command, data, env) as house:
        yield house


@contextlib.contextmanager
def running(command: list[str], data: Path, env: Mapping[str, str] | None = None) -> Iterator[House]:
    """Run a command that serves `data`, and stop it."""
    log = data.parent / "serve.log"
    with log.open("a") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env={**os.environ, **(env or {})}, cwd=REPOSITORY
        )
    try:
        line = process.stdout.readline() if process.stdout else ""
        assert line.startswith("pyfaas ready "), f"{line!r} {log.read_text()[-3000:]}"
        words = dict(word.split("=", 1) for word in line.split()[2:])
        yield House(process, data, words["url"], words["isolation"])
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout:
            process.stdout.close()
