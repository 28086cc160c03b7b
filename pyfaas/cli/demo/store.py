"""The demo's store of documents: what an account has elsewhere, behind a key of its own. It stands in for any HTTP service."""

from __future__ import annotations

import json
import secrets
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

HOST = "documents.test"  # RFC 6761: a name that is nobody's; the demo's server has a hosts file with it
DOCUMENTS = {
    "penguins": "Penguins live on the southern half of the earth. Penguins cannot fly, but penguins swim better than other birds. "
    "An Adelie penguin weighs four kilograms. The weather there is often bad."
}


@dataclass(slots=True)
class Store:
    """A server on loopback, in threads of its own, that answers who sends `key`; it counts whom it served, and refused."""

    key: str
    server: ThreadingHTTPServer
    served: int = 0
    refused: int = 0

    @property
    def url(self) -> str:
        """Where the documents are, for a function."""
        return f"http://{HOST}:{self.server.server_port}"

    @property
    def entry(self) -> str:
        """What a `network` list says to reach it: the name, although it leads to this machine."""
        return f"{HOST}:{self.server.server_port}@127.0.0.1/32"

    def close(self) -> None:
        """Stop listening."""
        self.server.shutdown()
        self.server.server_close()


def opened() -> Store:
    """Open a store on a free port, whose key nobody else has."""
    store = Store(key=f"key-{secrets.token_hex(8)}", server=ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler))

    class Answer(BaseHTTPRequestHandler):
        """One request."""

        def do_GET(self) -> None:
            """Give a document to who has the key."""
            has_key = self.headers.get("Authorization") == f"Bearer {store.key}"
            store.served, store.refused = store.served + has_key, store.refused + (not has_key)
            text = DOCUMENTS.get(unquote(self.path.removeprefix("/"))) if has_key else None
            body = json.dumps({"text": text}).encode()
            self.send_response(200 if text is not None else 404 if has_key else 401)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_told: Any) -> None:
            """Say nothing: the demo does."""

    store.server.RequestHandlerClass = Answer
    store.server.daemon_threads = True
    threading.Thread(target=store.server.serve_forever, name="pyfaas-demo-store", daemon=True).start()
    return store
