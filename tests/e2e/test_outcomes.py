"""One test for each outcome: its status, its evidence, and the next call served."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from tests.e2e.house import Answer, House, needs_cgroups

Name = Callable[[], str]

SOURCE = '''
import ctypes, os, signal, subprocess, sys, time

def handler(event, context):
    what = (event or {}).get("do", "echo")
    return globals()["do_" + what](event)

def do_echo(event): return event
def do_raise(event): raise ValueError("wrong " + str(event.get("x")))
def do_exit(event): sys.exit("bye")
def do_sleep(event): time.sleep(event.get("s", 60))
def do_spin(event):
    for number in range(1, 65):
        try: signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError): pass
    while True: pass
def do_memory(event):
    held = []
    while True: held.append(bytearray(1 << 20))
def do_memory_child(event):
    code = "x=[]\\nwhile True: x.append(bytearray(1<<20))"
    return subprocess.run([sys.executable, "-c", code]).returncode
def do_leave(event): os._exit(3)
def do_segfault(event): ctypes.string_at(0)
def do_kill(event): os.kill(os.getpid(), signal.SIGKILL)
def do_reboot(event): ctypes.CDLL(None).syscall(int(event["nr"]), 0, 0, 0, 0, 0)
def do_pids(event):
    import threading
    threads = [threading.Thread(target=time.sleep, args=(5,)) for _ in range(500)]
    for thread in threads: thread.start()
def do_disk(event):
    with open("/tmp/full", "wb") as file:
        while True: file.write(bytes(1 << 20))
def do_output(event): return "x" * (event["n"])
def do_nan(event): return float("nan")
def do_object(event): return object()
def do_bytes(event): return b"\\x00\\xff"
'''


@pytest.fixture(scope="module")
def function(house: House) -> str:
    """Return a function that can end in every way."""
    ready = house.deploy("outcomes", SOURCE, memory="128M", timeout="1s", concurrency=4)
    assert ready.json["state"] == "ready", ready.body
    return "outcomes"


def check(house: House, function: str, answer: Answer, status: int, outcome: str) -> dict[str, object]:
    """Check status and outcome, and that the next call is served."""
    assert (answer.status, answer.outcome) == (status, outcome), answer.body
    after = house.invoke(function, {"next": 1})
    assert (after.status, after.json) == (200, {"next": 1})
    shown: dict[str, object] = answer.json
    return shown


def test_ok(house: House, function: str) -> None:
    """A result is 200, with the versions, the id and the times in the headers."""
    answer = house.invoke(function, {"a": [1, "é"]})
    assert (answer.status, answer.json) == (200, {"a": [1, "é"]})
    headers = answer.headers
    assert (headers["pyfaas-requested-version"], headers["pyfaas-executed-version"]) == ("1", "1")
    assert headers["pyfaas-outcome"] == "ok"
    assert len(headers["pyfaas-invocation-id"]) == 36
    assert "exec;dur=" in headers["server-timing"]


def test_ok_bytes(house: House, function: str) -> None:
    """Bytes come back as an octet stream."""
    answer = house.invoke(function, {"do": "bytes"})
    assert (answer.status, answer.body) == (200, b"\x00\xff")
    assert answer.headers["content-type"] == "application/octet-stream"


def test_error(house: House, function: str) -> None:
    """An exception is 500 with its type, message and the stack from the user's first frame."""
    shown = check(house, function, house.invoke(function, {"do": "raise", "x": 7}), 500, "error")
    assert (shown["errorType"], shown["errorMessage"]) == ("ValueError", "wrong 7")
    stack = "\n".join(shown["stackTrace"])  # type: ignore[arg-type]
    assert "do_raise" in stack
    assert "runtime" not in stack


@pytest.mark.parametrize("do", ["exit", "nan", "object"])
def test_error_of_other_kinds(house: House, function: str, do: str) -> None:
    """SystemExit, NaN and what is no JSON are the function's errors."""
    check(house, function, house.invoke(function, {"do": do}), 500, "error")


@pytest.mark.parametrize("do", ["sleep", "spin"])
def test_timeout(house: House, function: str, do: str) -> None:
    """A run over its timeout is ended, whether it sleeps or ignores every signal; the evidence says by what."""
    shown = check(house, function, house.invoke(function, {"do": do}), 504, "timeout")
    evidence = shown["evidence"]
    assert isinstance(evidence, dict)
    assert (evidence["limit"], evidence["value"]) == ("timeout", 1000)
    assert evidence["observed"] >= 1000


def test_callers_deadline(house: House, function: str) -> None:
    """The caller's own timeout shortens the function's."""
    shown = check(house, function, house.invoke(function, {"do": "sleep"}, Pyfaas_Timeout="200ms"), 504, "timeout")
    assert shown["evidence"]["limit"] == "deadline"  # type: ignore[index]


@needs_cgroups
@pytest.mark.parametrize("do", ["memory", "memory_child"])
def test_oom(house: House, function: str, do: str) -> None:
    """A run that needs more memory than it has is oom, in a child process too; the limit is named."""
    shown = check(house, function, house.invoke(function, {"do": do}), 502, "oom")
    assert shown["evidence"]["value"] == 128 << 20  # type: ignore[index]


@pytest.mark.parametrize(
    ("do", "limit"), [pytest.param("pids", "pids", marks=needs_cgroups), ("disk", "disk"), ("output", "output")]
)
def test_limit(house: House, function: str, do: str, limit: str) -> None:
    """A run that failed at a limit names it."""
    answer = house.invoke(function, {"do": do, "n": 7 << 20})
    shown = check(house, function, answer, 502, "limit")
    assert shown["evidence"]["limit"] == limit  # type: ignore[index]


def test_forbidden_syscall(house: House, function: str) -> None:
    """A call with no innocent use ends the process, and the outcome names why."""
    answer = house.invoke(function, {"do": "reboot", "nr": 246})  # kexec_load on x86-64
    check(house, function, answer, 502, "forbidden_syscall")


@pytest.mark.parametrize(("do", "evidence"), [("leave", ("status", 3)), ("segfault", ("signal", 11)), ("kill", ("signal", 9))])
def test_crashed(house: House, function: str, do: str, evidence: tuple[str, int]) -> None:
    """A process that ends before its answer is crashed, with its signal or status."""
    shown = check(house, function, house.invoke(function, {"do": do}), 502, "crashed")
    assert shown["evidence"][evidence[0]] == evidence[1]  # type: ignore[index]


def test_rejected_for_an_invalid_event(house: House, function: str) -> None:
    """A body that should be JSON and is not is the caller's mistake."""
    answer = house.call("POST", f"/v1/functions/{function}/invoke", "{broken", content_type="application/json")
    shown = check(house, function, answer, 400, "rejected")
    assert shown["code"] == "invalid_event"


def test_init_error(house: House, name: Name) -> None:
    """Code that fails at import makes a failed version, and a call says why."""
    called = name()
    failed = house.deploy(called, "import nothing_of_this_name\ndef handler(event, context): return 1")
    assert failed.json["state"] == "failed"
    assert "nothing_of_this_name" in failed.json["reason"]["message"]
    answer = house.invoke(called)
    assert (answer.status, answer.outcome) == (502, "init_error")


def test_cancelled_job(house: House, function: str) -> None:
    """A running asynchronous call that is cancelled ends cancelled."""
    queued = house.invoke(function, {"do": "sleep", "s": 50}, Prefer="respond-async")
    assert queued.status == 202
    job = f"/v1/invocations/{queued.json['id']}"
    until = time.monotonic() + 10
    while house.call("GET", job).json["state"] == "queued" and time.monotonic() < until:
        pass
    assert house.call("DELETE", job).status == 200
    assert house.call("GET", job + "?wait=10").json["state"] == "cancelled"


def test_async_result_and_retries(house: House, name: Name) -> None:
    """An asynchronous call keeps its result; one that fails is tried again and ends dead, attempts told."""
    called = name()
    house.deploy(called, "def handler(event, context):\n    return {'got': event['x']}", retries={"max": 1, "initial": "50ms"})
    for event, state in (({"x": 5}, "succeeded"), ({}, "dead")):
        queued = house.invoke(called, event, Prefer="respond-async")
        assert queued.headers["location"] == f"/v1/invocations/{queued.json['id']}"
        job = house.call("GET", f"/v1/invocations/{queued.json['id']}?wait=20").json
        assert job["state"] == state, job
        assert len(job["attempts"]) == (1 if state == "succeeded" else 2)
    assert job["error"]["errorType"] == "KeyError"


def test_logs_belong_to_their_call(house: House, name: Name) -> None:
    """What a call prints, logs, or writes from C and from a child is in its log, and in no other call's."""
    source = """
import logging, os, subprocess, sys
def handler(event, context):
    print("printed", event["n"]); print("error", event["n"], file=sys.stderr)
    os.write(1, b"raw %d\\n" % event["n"])
    subprocess.run(["/bin/sh", "-c", f"echo child {event['n']}"])
    logging.getLogger().warning("logged %d", event["n"])
"""
    called = name()
    house.deploy(called, source)
    ids = [house.invoke(called, {"n": n}).headers["pyfaas-invocation-id"] for n in range(20)]
    for n, invocation in enumerate(ids):
        lines = [line["line"] for line in house.logs(called, id=invocation)]
        for word in ("printed", "error", "raw", "child"):
            assert f"{word} {n}" in lines, lines
        assert any(f"logged {n}" in line for line in lines)
        assert not [line for line in lines if not line.endswith(f" {n}")]


def test_last_lines_of_a_killed_call(house: House, name: Name) -> None:
    """A call that is ended keeps what it wrote before."""
    called = name()
    house.deploy(called, "import os, time\ndef handler(e, c):\n    print('before'); os.write(2, b'last'); time.sleep(9)", timeout="1s")
    answer = house.invoke(called)
    assert answer.outcome == "timeout"
    lines = [line["line"] for line in house.logs(called, id=answer.headers["pyfaas-invocation-id"])]
    assert lines == ["before", "last"]


def test_usage_is_counted(house: House) -> None:
    """Calls, outcomes and times are summed for the account."""
    account = house.account("counted")
    house.deploy("f", "def handler(e, c):\n    if e: raise ValueError\n    return sum(range(300000))", token=account)
    for event in (None, None, 1):
        house.invoke("f", event, token=account)
    rows = [row for row in json.loads(house.call("GET", "/v1/usage", token=account).body)["items"] if row["kind"] == "call"]
    assert sum(row["calls"] for row in rows) == 3
    assert rows[0]["outcomes"] == {"ok": 2, "error": 1}
    assert sum(row["cpu_ms"] for row in rows) > 0
