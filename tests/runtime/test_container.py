"""The loop of a container: statuses, bodies of every size, exact logs, and code that misbehaves."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sandbox import wire
from sandbox.wire import Flag, Status

from .conftest import ROOT, Guest

ECHO = "def handler(event, context):\n    return event\n"


def test_import_is_light() -> None:
    """A clean interpreter that imports the container has no event loop, threads, database or third party in it."""
    code = f"""
import sys; sys.path.insert(0, {ROOT!r})
import pyfaas.runtime.container, pyfaas.runtime.warm, json
print(json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})))
"""
    shown = subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True, capture_output=True).stdout
    names = set(json.loads(shown))
    assert names.isdisjoint(
        {"asyncio", "sqlite3", "subprocess", "threading", "logging", "zipfile", "concurrent", "ctypes"}
    )
    assert {name for name in names if not name.startswith("_")} <= {*sys.stdlib_module_names, "pyfaas", "sandbox"}


def test_warm_leaves_no_trace() -> None:
    """Warming changes neither modules, environment, directory, descriptors nor the standard streams."""
    code = f"""
import sys, os; sys.path.insert(0, {ROOT!r})
from pyfaas.runtime import warm
def look():
    files = sorted(os.listdir('/proc/self/fd'))
    return set(sys.modules), dict(os.environ), os.getcwd(), files, sys.stdout, sys.stderr
before = look(); warm.warm(); after = look()
print(before == after)
"""
    shown = subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True, capture_output=True, text=True)
    assert (shown.stdout, shown.stderr) == ("True\n", "")


@pytest.mark.parametrize(
    "event",
    [{}, {"a": [1, 2.5, None, True, "é\u2028"]}, [1], "text", 7, -0.5, None, True, {"n": 10**300}, {"s": "\ud800"}],
)
def test_echo(guest: Guest, event: Any) -> None:
    """Every JSON document comes back as the same value."""
    guest.load(ECHO)
    answered = guest.call(body=json.dumps(event).encode())
    assert (answered.status, answered.json) == (Status.OK_JSON, event)


def test_empty_body_is_an_empty_object(guest: Guest) -> None:
    """No body is the event {}."""
    guest.load(ECHO)
    assert guest.call().json == {}


def test_white_space_around_the_event(guest: Guest) -> None:
    """White space around the document is no error."""
    guest.load(ECHO)
    assert guest.call(body=b' \n {"a": 1}\r\n ').json == {"a": 1}


def test_large_bodies_travel_in_parts(guest: Guest) -> None:
    """A body of several packets arrives whole and goes back whole, text and bytes alike."""
    guest.load(ECHO)
    event = {"text": "äb" * 200_000}
    call_id = guest.send(event)
    assert guest.receive(call_id).json == event
    raw = bytes(range(256)) * 1500
    answered = guest.call(body=raw, flags=Flag.BYTES)
    assert (answered.status, answered.result) == (Status.OK_BYTES, raw)


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"{", "JSON"),
        (b"{} x", "Extra data"),
        (b"NaN", "NaN"),
        (b"-Infinity", "Infinity"),
        (b"1e999", "float"),
        (b"[" * 100_000, "deeply"),
        (b"9" * 5000, "digits"),
        (b"\xff\xfe{\x00}\x00", "UTF-8"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b'"\x00"', "control character"),
        (b'{"a":\xff}', "UTF-8"),
        (b"\x00", "JSON"),
    ],
)
def test_invalid_event(guest: Guest, body: bytes, word: str) -> None:
    """A body that is not JSON is the caller's mistake, and the next call finds the container sound."""
    guest.load(ECHO)
    answered = guest.call(body=body)
    assert answered.status is Status.INVALID_EVENT
    assert answered.json["errorType"] == "InvalidEvent"
    assert word in answered.json["errorMessage"]
    assert guest.call({"a": 1}).json == {"a": 1}


HOSTILE = """
import math
class Liar(dict):
    def items(self): raise RuntimeError("no items")
class Loud(Exception):
    def __str__(self): raise ValueError("no text")
class Number(int):
    def __repr__(self): return "}broken{"
class Unnamed: pass
def cycle():
    value = []; value.append(value); return value
def deep():
    value = []
    for _ in range(100000): value = [value]
    return value
def loud(): raise Loud()
def leave(code): raise SystemExit(code)
def interrupt(): raise KeyboardInterrupt
def recurse(): return recurse()
def memory(): raise MemoryError
def close(): raise GeneratorExit
CASES = {
    "set": lambda: {1, 2}, "nan": lambda: math.nan, "inf": lambda: [math.inf], "cycle": cycle, "deep": deep,
    "object": Unnamed,
    "key": lambda: {(1, 2): 3}, "liar": lambda: Liar(a=1), "long": lambda: 10 ** 5000, "loud": loud,
    "exit": lambda: leave(3), "interrupt": interrupt, "recurse": recurse, "memory": memory, "close": close,
    "complex": lambda: {"a": 1j}, "type": lambda: int, "inner bytes": lambda: {"a": b"x"},
}
def handler(event, context):
    return CASES[event]()
"""


@pytest.mark.parametrize(
    ("case", "kind", "word"),
    [
        ("set", "InvalidResult", "'set'"),
        ("nan", "InvalidResult", "NaN"),
        ("inf", "InvalidResult", "infinite"),
        ("cycle", "InvalidResult", "contains itself"),
        ("deep", "InvalidResult", "deeply"),
        ("object", "InvalidResult", "'Unnamed'"),
        ("key", "InvalidResult", "tuple"),
        ("liar", "InvalidResult", "no items"),
        ("long", "InvalidResult", "digits"),
        ("complex", "InvalidResult", "'complex'"),
        ("type", "InvalidResult", "'type'"),
        ("inner bytes", "InvalidResult", "'bytes'"),
        ("loud", "Loud", "cannot be read"),
        ("exit", "SystemExit", "3"),
        ("interrupt", "KeyboardInterrupt", ""),
        ("recurse", "RecursionError", "recursion"),
        ("memory", "MemoryError", ""),
        ("close", "GeneratorExit", ""),
    ],
)
def test_hostile_result(guest: Guest, case: str, kind: str, word: str) -> None:
    """What is no JSON, and whatever is raised, is an error with a name; the loop goes on."""
    guest.load(HOSTILE)
    answered = guest.call(case)
    assert answered.status is Status.ERROR
    assert answered.json["errorType"] == kind
    assert word in answered.json["errorMessage"]
    assert guest.call("set").status is Status.ERROR


def test_number_subclass_cannot_break_the_document(guest: Guest) -> None:
    """An int whose repr lies is written as the number it is, beside keys that become text."""
    source = """
    class Number(int):
        def __repr__(self): return "}broken{"
    class Text(str): pass
    def handler(event, context): return {"n": Number(5), 1: Text("x"), None: True}
    """
    guest.load(source)
    assert guest.call().json == {"n": 5, "1": "x", "null": True}


def test_lone_surrogate_is_escaped(guest: Guest) -> None:
    """Text that UTF-8 lacks leaves as an escape, so the answer stays valid UTF-8."""
    guest.load("def handler(event, context):\n    return ['\\ud800', 'é']\n")
    answered = guest.call()
    assert answered.result == b'["\\ud800","\\u00e9"]'


def test_stack_begins_in_the_code(guest: Guest) -> None:
    """The stack of an error starts at the handler, with file and source line."""
    guest.load("def inner():\n    return 1 / 0\n\ndef handler(event, context):\n    return inner()\n")
    answered = guest.call()
    trace = answered.json["stackTrace"]
    assert answered.json["errorType"] == "ZeroDivisionError"
    assert "main.py" in trace[0]
    assert "return inner()" in trace[0]
    assert len(trace) == 2


def test_expired_call_does_not_run(guest: Guest) -> None:
    """A call whose deadline has passed is EXPIRED and leaves no trace; the next one runs."""
    guest.load("calls = []\ndef handler(event, context):\n    calls.append(event)\n    return calls\n")
    assert guest.call(1, seconds=-1).status is Status.EXPIRED
    assert guest.call(2).json == [2]


def test_output_limit(guest: Guest) -> None:
    """A result above output_bytes is a limit with the size seen."""
    guest.load("def handler(event, context):\n    return 'x' * event\n", output_bytes=1000)
    assert guest.call(998).status is Status.OK_JSON
    answered = guest.call(2000)
    assert answered.status is Status.LIMIT
    assert (answered.json["limit"], answered.json["observed"], answered.json["allowed"]) == ("output", 2002, 1000)


def test_file_size_limit_is_a_disk_limit(guest: Guest) -> None:
    """EFBIG that the code lets through is the limit `disk`; another OSError is an error."""
    guest.load("import errno, os\ndef handler(event, context):\n    raise OSError(event, os.strerror(event))\n")
    answered = guest.call(27)
    assert (answered.status, answered.json["limit"]) == (Status.LIMIT, "disk")
    assert guest.call(13).status is Status.ERROR


@pytest.mark.parametrize(("left", "status"), [(0, Status.LIMIT), (1 << 20, Status.ERROR)])
def test_full_disk_is_a_limit(guest: Guest, left: int, status: Status) -> None:
    """ENOSPC is the limit `disk` with its numbers when /tmp is full, and the code's own error when it is not."""
    source = """
    import errno, os, types
    real = os.statvfs
    def handler(event, context):
        numbers = {"f_blocks": 1024, "f_frsize": 4096, "f_bavail": event, "f_files": 9, "f_favail": 9}
        os.statvfs = lambda path: types.SimpleNamespace(**numbers)
        raise OSError(errno.ENOSPC, "full")
    """
    guest.load(source)
    answered = guest.call(left // 4096)
    assert answered.status is status
    if status is Status.LIMIT:
        assert (answered.json["limit"], answered.json["observed"], answered.json["allowed"]) == (
            "disk",
            4 << 20,
            4 << 20,
        )


def test_signal_between_calls_does_not_end_the_loop(guest: Guest) -> None:
    """A signal handler of the code that raises while the container waits changes nothing for the next call."""
    source = """
    import os, signal
    def ring(number, frame):
        os.write(2, b"rung")
        raise ValueError("nobody catches this")
    def handler(event, context):
        if event:
            signal.signal(signal.SIGALRM, ring)
            signal.setitimer(signal.ITIMER_REAL, 0.05)
        return event
    """
    guest.load(source)
    assert guest.call(1).json == 1
    assert select.select([guest.err_read], [], [], 10)[0]
    answered = guest.call(0)
    assert (answered.json, answered.err) == (0, "rung")


def test_import_output_is_in_the_pipe(guest: Guest) -> None:
    """What the import printed is in the pipes when LOADED arrives, for the host to read or the first call to carry."""
    guest.load("print('importing', end='')\ndef handler(event, context): return 1\n")
    assert guest.rest_of(guest.out_read) == "importing"
    assert guest.call().out == ""


def test_logs_are_exact(guest: Guest) -> None:
    """Each call's log has what it printed, wrote to fd 1 and 2, logged, and what its children wrote: nothing else."""
    source = """
    import logging, os, subprocess, sys
    logger = logging.getLogger("mine"); logger.setLevel(logging.INFO)
    def handler(event, context):
        if event == "quiet": return
        print("printed", event); print("no newline", end=""); sys.stderr.write("half")
        sys.stdout.flush(); sys.stderr.flush()
        os.write(1, b"<raw>"); subprocess.run(["/bin/sh", "-c", "echo child; echo wrong >&2"])
        logger.info("logged"); print("last", end="")
    """
    guest.load(source)
    for number in range(5):
        answered = guest.call(number)
        assert answered.out == f"printed {number}\nno newline<raw>child\nlast"
        assert answered.err == "halfwrong\nlogged\n"
        quiet = guest.call("quiet")
        assert (quiet.out, quiet.err) == ("", "")


def test_log_is_cut_visibly(guest: Guest) -> None:
    """A log above log_bytes ends in a line that says how much is missing."""
    guest.load("def handler(event, context):\n    print('x' * 5000)\n", log_bytes=100)
    answered = guest.call()
    assert answered.out == "x" * 100 + "\n[log cut: 4901 bytes more were written]\n"


def test_closed_streams_do_not_end_the_container(guest: Guest) -> None:
    """Code that closes or replaces sys.stdout loses nothing but its own text."""
    guest.load(
        "import sys\ndef handler(event, context):\n    sys.stdout.close()\n    sys.stderr = None\n    return 1\n"
    )
    assert guest.call().json == 1
    assert guest.call().json == 1


def test_forked_child_never_answers(guest: Guest) -> None:
    """A child that returns from the handler has no channel: one call, one answer."""
    source = """
    import os
    def handler(event, context):
        pid = os.fork()
        if pid: os.waitpid(pid, 0)
        return {"child": pid == 0}
    """
    guest.load(source)
    for _ in range(3):
        assert guest.call().json == {"child": False}


def test_context_and_environment(guest: Guest) -> None:
    """The context has Lambda's attributes and pyfaas's own; the environment only what the version names."""
    source = """
    import os
    def handler(event, context):
        names = ["function_name", "function_version", "invoked_function_arn", "memory_limit_in_mb", "aws_request_id",
                 "log_group_name", "log_stream_name", "account", "caller", "alias", "params", "secrets"]
        said = {name: getattr(context, name) for name in names}
        assert context.identity.cognito_identity_id is None and context.client_context is None
        return said | {"left": context.get_remaining_time_in_millis(), "deadline": context.deadline,
                       "env": dict(os.environ), "cwd": os.getcwd(), "repr": repr(context)}
    """
    guest.load(source, env={"QUALITY": "85", "LANG": "de_DE.UTF-8"})
    meta = {"params": {"a": 1}, "secrets": {"key": "hidden"}, "caller": "other", "alias": "x", "qualifier": "live"}
    call_id = guest.send({}, meta=meta)
    said = guest.receive(call_id).json
    assert said["aws_request_id"] == said["env"]["PYFAAS_INVOCATION_ID"] == call_id.decode()
    assert (said["params"], said["secrets"], said["caller"], said["alias"]) == (
        {"a": 1},
        {"key": "hidden"},
        "other",
        "x",
    )
    assert said["invoked_function_arn"].endswith(":acct:function:f:live")
    assert 0 < said["left"] <= 30_000
    assert "hidden" not in said["repr"]
    assert said["env"].keys() == {
        "HOME", "TMPDIR", "PATH", "LANG", "QUALITY", "PYFAAS_FUNCTION", "PYFAAS_VERSION", "PYFAAS_ACCOUNT",
        "PYFAAS_MEMORY_MIB", "PYFAAS_INVOCATION_ID", "PYTHONPATH",
    }  # fmt: skip
    assert said["env"]["PYTHONPATH"] == str(guest.code)
    assert said["env"]["LANG"] == "de_DE.UTF-8"
    assert said["cwd"] == str(guest.code)


def test_a_program_that_it_starts_finds_its_packages(guest: Guest, tmp_path: Path) -> None:
    """An interpreter that the code starts imports its modules and its packages, and a package's program is found by name."""
    package = tmp_path / "packages"
    (package / "bin").mkdir(parents=True)
    (package / "installed_thing.py").write_text("NUMBER = 42")
    (package / "bin" / "thing").write_text("#!/bin/sh\necho ran")
    (package / "bin" / "thing").chmod(0o755)
    source = """
    import subprocess, sys
    def handler(event, context):
        child = [sys.executable, "-c", "import installed_thing, main; print(installed_thing.NUMBER, main.__name__)"]
        return [subprocess.run(command, cwd="/tmp", capture_output=True, text=True).stdout for command in (child, ["thing"])]
    """
    guest.load(source, paths=[str(guest.code), str(package)], env={"PYTHONPATH": "/own"})
    assert guest.call().json == ["42 main\n", "ran\n"]


def test_the_interpreter_looks_ordinary(guest: Guest) -> None:
    """What the launcher was started with shows neither in sys.flags, which decides how children are started, nor in `exit`."""
    source = """
    import subprocess, sys
    def handler(event, context):
        if event: exit("over")
        return [sys.flags.isolated, sys.flags.ignore_environment, "-I" in subprocess._args_from_interpreter_flags(), sys.flags.utf8_mode]
    """
    guest.load(source)
    plain = [sys.executable, "-c", "import sys; print(sys.flags.utf8_mode)"]
    utf8_mode = int(subprocess.run(plain, check=True, capture_output=True, text=True).stdout)  # noqa: S603 - of the locale here
    assert guest.call().json == [0, 0, False, utf8_mode]
    assert guest.call(1).json["errorType"] == "SystemExit"


def test_prefetched_calls_are_answered_in_order(guest: Guest) -> None:
    """Two calls sent at once are answered one after the other."""
    guest.load(ECHO)
    first, second = guest.send(1), guest.send(2)
    assert guest.receive(first).json == 1
    assert guest.receive(second).json == 2


def test_late_cancel_is_ignored(guest: Guest) -> None:
    """A CANCEL for a call that has ended changes nothing."""
    guest.load(ECHO)
    call_id = guest.send(1)
    guest.receive(call_id)
    guest.cancel(call_id)
    assert guest.call(2).json == 2


def test_end_of_channel_ends_the_runtime(guest: Guest) -> None:
    """When the host leaves, serve returns and the process ends with status 0."""
    guest.load(ECHO)
    guest.channel.close()
    assert guest.process.wait(10) == 0


def test_call_may_come_with_the_order(guest: Guest) -> None:
    """A call that is there before the code is loaded runs behind LOADED, and its time is counted from then."""
    (guest.code / "main.py").write_text("import time\ntime.sleep(0.4)\ndef handler(event, context):\n    return context.get_remaining_time_in_millis()\n")
    order = {"do": "load", "function": "f", "version": "1", "account": "a", "code": str(guest.code), "paths": [str(guest.code)], "awaits": True}
    guest.channel.send(wire.packet(wire.Kind.LOAD, json.dumps(order).encode()))
    call = guest.next_id()
    for packet in wire.call_packets(0, call, -1000.0, b"", b"{}"):
        guest.channel.send(packet)
    assert guest.channel.recv(wire.MAX_PACKET)[:1] == b"R"
    remaining = guest.receive(call).json
    assert 0 < remaining <= 1_000_000
    later = guest.next_id()
    for packet in wire.call_packets(0, later, -1000.0, b"", b"{}"):
        guest.channel.send(packet)
    assert guest.receive(later).json <= 1_000_000


def test_call_that_was_withdrawn_does_not_begin(guest: Guest) -> None:
    """Whoever left while the code was loaded is answered as cancelled, and the handler does not run for him."""
    (guest.code / "main.py").write_text("count = 0\ndef handler(event, context):\n    global count\n    count += 1\n    return count\n")
    order = {"do": "load", "function": "f", "version": "1", "account": "a", "code": str(guest.code), "paths": [str(guest.code)], "awaits": True}
    call = guest.next_id()
    (first,) = wire.call_packets(0, call, -60.0, b"", b"{}")
    for packet in (wire.packet(wire.Kind.LOAD, json.dumps(order).encode()), first, wire.packet(wire.Kind.CANCEL, call)):
        guest.channel.send(packet)
    assert guest.channel.recv(wire.MAX_PACKET)[:1] == b"R"
    assert guest.receive(call).status == Status.CANCELLED
    assert guest.call({}).json == 1


def test_what_the_import_printed_is_not_the_first_calls(guest: Guest) -> None:
    """A call that came with the order begins when the host has read the import's output, and has its own only."""
    (guest.code / "main.py").write_text("print('importing')\ndef handler(event, context):\n    print('calling')\n")
    order = {"do": "load", "function": "f", "version": "1", "account": "a", "code": str(guest.code), "paths": [str(guest.code)], "awaits": True}
    call = guest.next_id()
    (first,) = wire.call_packets(0, call, -60.0, b"", b"{}")
    guest.channel.send(wire.packet(wire.Kind.LOAD, json.dumps(order).encode()))
    guest.channel.send(first)
    loaded = guest.channel.recv(wire.MAX_PACKET)
    assert json.loads(loaded[1:])["printed"] is True
    assert guest.rest_of(guest.out_read) == "importing\n"
    assert guest.receive(call).out == "calling\n"
