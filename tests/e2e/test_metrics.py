"""What Prometheus reads: its format, the figures before and after calls that are known, and who may see names."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from pyfaas import __version__
from pyfaas.model import AccountId, FunctionId, Outcome, UsageRow
from pyfaas.ports import Snapshot
from pyfaas.service.metrics import BOUNDS, Tally
from pyfaas.service.registry import Registry
from tests.e2e.house import House, needs_cgroups, started
from tests.e2e.test_front import Wire

Sample = tuple[str, tuple[tuple[str, str], ...]]
CODE = "def handler(event, context):\n    if event == 'raise':\n        raise ValueError(event)\n    return event\n"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Return a server that nobody else calls: its sums are this file's alone."""
    with started(tmp_path_factory.mktemp("metrics") / "data", "-s", "account_concurrency=2", "-s", "queue_limit=1") as running:
        yield running


def scrape(house: House, token: str | None = None) -> dict[Sample, float]:
    """Return the samples by name and labels."""
    answer = house.call("GET", "/metrics", token=token)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in read_text(answer.body.decode()) for s in family.samples}


def grown(before: dict[Sample, float], after: dict[Sample, float], name: str, **labels: str) -> float:
    """Return by how much a sample grew; one that was not there was zero."""
    key = (name, tuple(sorted(labels.items())))
    return after[key] - before.get(key, 0.0)


def test_calls_by_outcome(house: House) -> None:
    """Calls that are known to have ended well, badly, cold and warm are counted as such, and their bytes with them."""
    house.deploy("counted", CODE)
    before = scrape(house)
    for event in (1, 22, 333, "raise"):
        house.invoke("counted", event)
    assert house.call("POST", "/v1/functions/counted/invoke", "{no", content_type="application/json").status == 400
    after = scrape(house)
    assert grown(before, after, "pyfaas_calls_total", outcome="ok") == 3
    assert grown(before, after, "pyfaas_calls_total", outcome="error") == 1
    assert grown(before, after, "pyfaas_calls_total", outcome="rejected") == 1
    assert grown(before, after, "pyfaas_calls_total", outcome="oom") == 0
    assert grown(before, after, "pyfaas_starts_total", kind="cold") == 1
    assert grown(before, after, "pyfaas_starts_total", kind="warm") == 4
    assert grown(before, after, "pyfaas_loads_total") == 1
    assert grown(before, after, "pyfaas_event_bytes_total") == len('122333"raise"{no')
    assert grown(before, after, "pyfaas_run_duration_seconds_count") == 5
    assert grown(before, after, "pyfaas_run_duration_seconds_bucket", le="+Inf") == 5
    assert grown(before, after, "pyfaas_run_duration_seconds_sum") > 0
    assert grown(before, after, "pyfaas_run_cpu_seconds_total") >= 0


def until(house: House, condition: Callable[[dict[Sample, float]], bool]) -> dict[Sample, float]:
    """Return the first scrape for which a condition holds."""
    deadline = time.monotonic() + 30
    while not condition(now := scrape(house)):
        assert time.monotonic() < deadline, now
        time.sleep(0.02)
    return now


def test_what_never_ran(house: House) -> None:
    """A call whose version failed, one over the limit, and one that was cancelled in the queue are counted, and do not run."""
    house.deploy("broken", "raise ValueError('no')")
    house.deploy("slow", "import time\n\ndef handler(event, context):\n    time.sleep(60)")
    before = scrape(house)
    assert house.invoke("broken").status == 502
    with contextlib.ExitStack() as opened:
        wires = [opened.enter_context(Wire(house)) for _ in range(3)]
        for wire in wires:
            wire.send(wire.call("slow", {}, "Pyfaas-On-Disconnect: cancel\r\n"))
        during = until(house, lambda now: now["pyfaas_calls_running", ()] == 2 and now["pyfaas_calls_waiting", ()] == 1 and now["pyfaas_containers", (("state", "busy"),)] == 2)
        assert during["pyfaas_http_connections", ()] >= 4
        assert house.invoke("slow").status == 429
    after = until(house, lambda now: now["pyfaas_calls_running", ()] == 0 and now["pyfaas_calls_waiting", ()] == 0)
    assert grown(before, after, "pyfaas_calls_total", outcome="init_error") == 1
    assert grown(before, after, "pyfaas_calls_throttled_total") == 1
    assert grown(before, after, "pyfaas_calls_total", outcome="cancelled") == 3
    assert grown(before, after, "pyfaas_run_duration_seconds_count") == 2


def test_asynchronous_work(house: House) -> None:
    """Jobs are counted by how they ended, retries apart, and none is left."""
    house.deploy("later", CODE, retries={"max": 1, "initial": "10ms"})
    before = scrape(house)
    for event in ("1", '"raise"'):
        house.call("POST", "/v1/functions/later/invoke", event, Prefer="respond-async")
    after = until(house, lambda now: grown(before, now, "pyfaas_jobs_ended_total", state="dead") == 1 and now["pyfaas_jobs", (("state", "running"),)] == 0)
    assert grown(before, after, "pyfaas_jobs_ended_total", state="succeeded") == 1
    assert grown(before, after, "pyfaas_job_retries_total") == 1
    assert after["pyfaas_jobs", (("state", "queued"),)] == 0


def test_the_state_of_the_server(house: House) -> None:
    """Release, layers, containers, VMs, versions, the database and the process are there, with values that can be."""
    house.deploy("here", CODE)
    house.invoke("here", 1)
    now = scrape(house)
    (build,) = [dict(labels) for name, labels in now if name == "pyfaas_build_info"]
    assert build["version"] == __version__
    layers = {layer["name"]: float(layer["live"]) for layer in house.call("GET", "/readyz", token=None).json["layers"]}
    assert {dict(labels)["layer"]: value for (name, labels), value in now.items() if name == "pyfaas_isolation_layer"} == layers
    assert now["pyfaas_ready", ()] == 1
    assert now["pyfaas_containers", (("state", "idle"),)] >= 1
    assert now["pyfaas_vms", (("state", "active"),)] >= 1
    assert now["pyfaas_warming_hits_total", ()] + now["pyfaas_warming_misses_total", ()] >= 1
    assert now["pyfaas_warming_target", ()] >= 1
    assert now["pyfaas_versions", (("state", "ready"),)] >= 1
    assert now["pyfaas_functions", ()] == len(house.call("GET", "/v1/functions").json["items"])
    assert now["pyfaas_accounts", ()] == 1
    assert now["pyfaas_database_bytes", (("file", "main"),)] > 0
    assert now["pyfaas_journal_dropped_rows_total", ()] == 0
    assert now["process_resident_memory_bytes", ()] > 10 << 20
    assert now["process_open_fds", ()] > 5
    assert now["process_max_fds", ()] == resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # all that the starter may have


def test_names_are_for_the_operator(house: House) -> None:
    """Nobody else sees which accounts and functions there are; an admin sees sums by both, and they agree with usage."""
    house.deploy("secret-project", CODE)
    house.invoke("secret-project", 1)
    for token in (None, "default"):
        body = house.call("GET", "/metrics", token=token).body
        assert b"secret-project" not in body
        assert b"account=" not in body
    now = scrape(house, "admin")
    who = (("account", "default"), ("function", "secret-project"))
    assert now["pyfaas_function_runs_total", tuple(sorted((*who, ("outcome", "ok"))))] == 1
    assert now["pyfaas_function_running", who] == 0
    assert now["pyfaas_function_run_seconds_total", who] > 0
    rows = house.call("GET", "/v1/usage").json["items"]
    assert sum(row["calls"] for row in rows if row["function"] == "secret-project") == 1
    house.tokens["wrong"] = "pf_wrong"
    assert house.call("GET", "/metrics", token="wrong").status == 401  # noqa: S106 - a name, not a token


def test_both_formats_are_well_formed(house: House) -> None:
    """Each figure has its HELP and TYPE, is named by Prometheus' conventions, and OpenMetrics is given when asked for."""
    answer = house.call("GET", "/metrics", token="admin", Accept="application/openmetrics-text; version=1.0.0")  # noqa: S106 - a name
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    open_families = {family.name: family for family in read_openmetrics(answer.body.decode())}
    text = {family.name: family for family in read_text(house.call("GET", "/metrics", token="admin").body.decode())}  # noqa: S106 - a name
    assert set(open_families) == set(text)
    for name, family in text.items():
        assert family.type in ("counter", "gauge", "histogram"), name
        assert family.documentation, name
        assert name.startswith(("pyfaas_", "process_")), name
        assert not name.endswith(("_total", "_ms", "_us", "_count")), name


# ---- the sums, without a server

_A, _F, _G = AccountId("000000000001"), FunctionId("f"), FunctionId("g")
_EMPTY = Snapshot(accounts=(), tokens=(), functions=(), versions=(), moves=())


def row(function: FunctionId, wall_us: int, **more: Any) -> UsageRow:
    """Return a run's row."""
    given = {"kind": "call", "outcome": Outcome.OK, **more}
    return UsageRow(at=0.0, account=_A, caller=_A, owner=_A, function=function, version=1, invocation=None, wall_us=wall_us, **given)


def test_a_distribution_counts_each_run_once() -> None:
    """A run is in the bucket of the first bound that it does not exceed, and in all that follow."""
    tally = Tally()
    tally.take([row(_F, 100), row(_F, 101), row(_F, 900_000_000), row(_F, 900_000_001)])
    counts = dict(tally.durations().buckets)
    assert (counts[BOUNDS[0]], counts[BOUNDS[1]], counts[900.0], counts[float("inf")]) == (1, 2, 3, 4)
    assert tally.durations().sum == pytest.approx(1800.000202)


def test_what_is_gone_stays_in_the_sums() -> None:
    """A function that is removed loses its name and not its runs: a counter never goes down."""
    tally = Tally()
    tally.take([row(_F, 5), row(_G, 7, outcome=Outcome.ERROR), row(_G, 9)])
    before = tally.outcomes(), tally.durations()
    tally.forget(Registry(_EMPTY))
    tally.forget(Registry(_EMPTY))
    assert (tally.outcomes(), tally.durations()) == before
    assert {function for _, function, _ in tally.sums} == {""}


@needs_cgroups
def test_a_run_that_is_out_of_memory(house: House) -> None:
    """A run that the kernel ended is counted as such, once."""
    house.deploy("hungry", "def handler(event, context):\n    return len(bytearray(512 << 20))", memory="64M")
    before = scrape(house)
    assert house.invoke("hungry").outcome == "oom"
    assert grown(before, scrape(house), "pyfaas_calls_total", outcome="oom") == 1
