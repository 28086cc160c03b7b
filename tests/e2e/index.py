"""A package index of a test's own: wheels made by hand, served as PEP 503 and PEP 658 say, slowly or wrongly where a test says so."""

from __future__ import annotations

import base64
import hashlib
import io
import threading
import zipfile
from collections import Counter
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_PATIENCE_S = 60.0  # nobody is held longer, so that a test that forgets to let go ends


class Index:
    """An index on loopback. `asked` counts requests by what they asked for: a project's name, or a file's."""

    def __init__(self) -> None:
        """Serve nothing yet."""
        self.asked: Counter[str] = Counter()
        self.is_down = False
        self._files: dict[str, bytes] = {}
        self._links: dict[str, list[str]] = {}
        self._held: dict[str, threading.Event] = {}
        self._arrived: dict[str, threading.Event] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    @property
    def env(self) -> Mapping[str, str]:
        """The environment of a server that knows this index and no other."""
        url = f"http://127.0.0.1:{self._server.server_address[1]}/simple"
        none = dict.fromkeys(("UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_CONSTRAINT"), "")
        return {**none, "UV_DEFAULT_INDEX": url, "UV_HTTP_RETRIES": "0", "NO_PROXY": "127.0.0.1"}

    def add(
        self, name: str, version: str, files: Mapping[str, str | bytes] | None = None, *, tag: str = "py3-none-any", requires: str = "", lies: bool = False
    ) -> str:
        """Publish a wheel; one that lies is another than the index says. Returns the file's name."""
        project = name.replace("_", "-")
        contents = {f"{name}.py": f"VERSION = {version!r}\n"} if files is None else files
        metadata = f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n" + (f"Requires-Dist: {requires}\n" if requires else "")
        wheel = _wheel(f"{name}-{version}.dist-info", contents, metadata, tag)
        file = f"{name}-{version}-{tag}.whl"
        digest = hashlib.sha256(wheel + (b"lie" if lies else b"")).hexdigest()
        self._files[file], self._files[file + ".metadata"] = wheel, metadata.encode()
        self._links.setdefault(project, []).append(f'<a href="/files/{file}#sha256={digest}" data-dist-info-metadata="true">{file}</a>')
        return file

    def hold(self, what: str) -> None:
        """Answer no request for a project or a file until it is let go."""
        self._held[what], self._arrived[what] = threading.Event(), threading.Event()

    def arrived(self, what: str) -> None:
        """Wait until something that is held has been asked for."""
        assert self._arrived[what].wait(_PATIENCE_S), f"nobody asked for {what}"

    def let_go(self, what: str) -> None:
        """Answer what waits."""
        self._held.pop(what).set()

    def close(self) -> None:
        """Stop serving."""
        for held in self._held.values():
            held.set()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str) -> tuple[int, bytes]:
        """Return a request's status and body, after it was held."""
        what = path.rstrip("/").rpartition("/")[2]
        self.asked[what] += 1
        if held := self._held.get(what):
            self._arrived[what].set()
            held.wait(_PATIENCE_S)
        if self.is_down:
            return 503, b"down"
        if path.startswith("/files/") and what in self._files:
            return 200, self._files[what]
        if path.startswith("/simple/") and what in self._links:
            return 200, "".join(f"{link}<br>\n" for link in self._links[what]).encode()
        return 404, b"nothing"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = index.answer(self.path)
                try:
                    self.send_response(status)
                    self.send_header("Content-Type", "text/html" if self.path.startswith("/simple/") else "application/octet-stream")
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:
                    pass  # it was killed meanwhile, as some tests want it

            def do_HEAD(self) -> None:
                self.send_error(405)

            def log_message(self, *_said: object) -> None:
                """Say nothing."""

        return Handler


def _wheel(info: str, files: Mapping[str, str | bytes], metadata: str, tag: str) -> bytes:
    """Return a wheel (PyPA, binary distribution format)."""
    described = {**files, f"{info}/METADATA": metadata, f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n"}
    record, out = "", io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in described.items():
            body = content.encode() if isinstance(content, str) else content
            digest = base64.urlsafe_b64encode(hashlib.sha256(body).digest()).rstrip(b"=").decode()
            record += f"{path},sha256={digest},{len(body)}\n"
            archive.writestr(path, body)
        archive.writestr(f"{info}/RECORD", record + f"{info}/RECORD,,\n")
    return out.getvalue()
