"""Where builds get to, as the settings of pip and uv say."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyfaas.adapters.indexes import discover

DEFAULT = {"*:443", "pypi.org:443@0.0.0.0/0", "files.pythonhosted.org:443@0.0.0.0/0"}


@pytest.mark.parametrize(
    ("environ", "more"),
    [
        ({}, set()),
        ({"UV_DEFAULT_INDEX": "http://127.0.0.1:3141/simple"}, {"*:3141", "127.0.0.1:3141"}),
        ({"PIP_INDEX_URL": "https://user:secret@Pypi.Corp:8443/simple"}, {"*:8443", "pypi.corp:8443@0.0.0.0/0"}),
        ({"UV_INDEX": "corp=https://pypi.corp/simple https://other.corp/simple"}, {"pypi.corp:443@0.0.0.0/0", "other.corp:443@0.0.0.0/0"}),
        ({"UV_DEFAULT_INDEX": "http://localhost:3141/simple"}, {"*:3141", "localhost:3141@0.0.0.0/0"}),
        ({"PIP_EXTRA_INDEX_URL": "http://a.corp/x http://b.corp/y"}, {"*:80", "a.corp:80@0.0.0.0/0", "b.corp:80@0.0.0.0/0"}),
        ({"PIP_FIND_LINKS": "/srv/wheels", "UV_DEFAULT_INDEX": "file:///srv/simple"}, set()),
        ({"HTTPS_PROXY": "http://proxy.corp:3128"}, {"*:3128", "proxy.corp:3128@0.0.0.0/0"}),
        ({"http_proxy": "10.0.0.1:3128"}, {"*:3128", "10.0.0.1:3128"}),
        ({"UV_DEFAULT_INDEX": "http://[::1]:3141/simple"}, set()),
        ({"UV_DEFAULT_INDEX": "http://a:b:c/simple"}, set()),
    ],
)
def test_what_builds_reach(environ: dict[str, str], more: set[str], tmp_path: Path) -> None:
    """Builds reach public hosts on the indexes' ports, and each configured index or proxy wherever it is; nothing else of what is private."""
    given = {"PIP_CONFIG_FILE": "/dev/null", "UV_DEFAULT_INDEX": "", "PIP_INDEX_URL": "", "PIP_EXTRA_INDEX_URL": "", **environ}
    found = discover(given, str(tmp_path))
    expected = DEFAULT | more
    own = set(discover({**given, **dict.fromkeys(environ, "")}, str(tmp_path)).exits)  # this machine's own settings
    assert set(found.exits) - own == expected - own
    assert expected <= set(found.exits)
    assert not any("secret" in entry for entry in found.exits)
