"""What the operator says of the way out is read before anything is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pyfaas.config import Config
from pyfaas.errors import PyfaasError
from pyfaas.premises import Refused
from pyfaas.starting import check_exits


@pytest.mark.parametrize(
    ("options", "proxy", "word"),
    [
        ({"egress_private": "10.0.0.1/8"}, "", "egress_private"),
        ({"egress_private": "everything"}, "", "egress_private"),
        ({"egress_resolver": "ns.example.com"}, "", "egress_resolver"),
        ({"egress_hosts": "/nowhere/hosts"}, "", "egress_hosts"),
        ({}, "socks5://proxy.test:1080", "HTTPS_PROXY"),
    ],
)
def test_a_mistake_is_told_by_its_option(options: dict[str, Any], proxy: str, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A range, a name server, a file or a proxy that is none refuses the start, by the option's name."""
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises((Refused, ValueError, PyfaasError), match=word):
        check_exits(Config(**options))


def test_what_is_right_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without options there is no hosts file; with all of them set right its text is returned."""
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.test:3128")
    assert check_exits(Config()) is None
    (tmp_path / "hosts").write_text("127.0.0.1 a.test\n")
    config = Config(egress_private="10.0.0.0/8, 127.0.0.1", egress_resolver="10.0.0.1:5353", egress_hosts=str(tmp_path / "hosts"))
    assert check_exits(config) == "127.0.0.1 a.test\n"
