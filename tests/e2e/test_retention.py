"""What a running server removes by itself."""

from __future__ import annotations

import time
from pathlib import Path

from tests.e2e.house import started

SOURCE = "def handler(e, c):\n    return {}\n"


def stored(data: Path) -> dict[str, int]:
    """Return how many things lie in each store."""
    return {store: len(list((data / store).iterdir())) for store in ("bundles", "prepared", "staging")}


def test_files_of_what_was_removed_go_and_a_removed_functions_usage_stays(tmp_path: Path) -> None:
    """After a removal bundle and code go at a sweep, what lives goes on, and usage still shows the removed one by its name."""
    data = tmp_path / "data"
    with started(data) as house:
        for name in ("kept", "gone"):
            assert house.deploy(name, SOURCE + f"# {name}\n").json["state"] == "ready"
            assert house.invoke(name).status == 200
        assert house.call("DELETE", "/v1/functions/gone").status == 204
        assert stored(data) == {"bundles": 2, "prepared": 2, "staging": 0}
    with started(data, "-s", "unused_hours=0") as house:
        until = time.monotonic() + 60
        while stored(data) != {"bundles": 1, "prepared": 1, "staging": 0} and time.monotonic() < until:
            time.sleep(0.05)
        assert stored(data) == {"bundles": 1, "prepared": 1, "staging": 0}
        assert house.invoke("kept").json == {}
        rows = [row for row in house.call("GET", "/v1/usage").json["items"] if row["kind"] == "call"]
        assert {row["function"]: (row["calls"], row["removed"]) for row in rows} == {"kept": (2, False), "gone": (1, True)}
