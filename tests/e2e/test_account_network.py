"""An account that is kept from the network: its functions reach nothing from their next run on, and do again when it may."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.house import House, started

CODE = """
import urllib.request
def handler(event, context):
    return urllib.request.urlopen(event["url"], timeout=5).status
"""


@pytest.fixture
def port() -> Iterator[int]:
    """Return the port of a service on loopback."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        server.RequestHandlerClass.log_message = lambda *_: None  # type: ignore[method-assign]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def let(house: House, account: str, may: str) -> None:
    """Say whether an account may use the network."""
    answer = house.call("PUT", f"/v1/accounts/{account}", f'{{"network": {may}}}', token="admin", content_type="application/json")
    assert answer.status == 200, answer.body


def test_an_account_is_kept_from_the_network(tmp_path: Path, port: int) -> None:
    """What was ready with a network has none in the next run, lent runs neither; allowed again, it has."""
    (tmp_path / "hosts").write_text("127.0.0.1 service.test\n")
    options = ["-s", "egress_private=127.0.0.1/32", "-s", f"egress_hosts={tmp_path / 'hosts'}"]
    entry, event = f"service.test:{port}@127.0.0.1/32", {"url": f"http://service.test:{port}/"}
    with started(tmp_path / "data", *options) as house:
        owner, caller = house.account("owner"), house.account("caller")
        assert house.deploy("reach", CODE, token=owner, network=[entry]).json["state"] == "ready"
        terms = f'{{"network": ["{entry}"], "reuse": true}}'
        assert house.call("PUT", f"/v1/functions/reach/grants/{caller}", terms, token=owner, content_type="application/json").status == 201
        order = f'{{"target": "owner/reach", "network": ["{entry}"]}}'
        assert house.call("PUT", "/v1/aliases/theirs", order, token=caller, content_type="application/json").status == 201

        def reached() -> tuple[bool, bool]:
            own, lent = house.invoke("reach", event, token=owner), house.invoke("theirs", event, token=caller)
            assert {own.outcome, lent.outcome} <= {"ok", "error"}, (own.body, lent.body)
            return own.outcome == "ok", lent.outcome == "ok"

        assert reached() == (True, True)
        let(house, caller, "false")
        assert reached() == (True, False)
        let(house, owner, "false")
        assert reached() == (False, False)
        assert house.deploy("other", CODE, token=owner, network=[entry]).status == 403
        let(house, owner, "true")
        let(house, caller, "true")
        until = time.monotonic() + 30
        while reached() != (True, True):  # once the containers that had none have ended
            assert time.monotonic() < until
            time.sleep(0.05)
