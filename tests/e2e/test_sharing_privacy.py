"""Neither side of a lent function learns the other's: canaries on both, and every attempt has a control that finds them.

An attempt that finds nothing proves something only when it could: what the caller asks, the owner asks too and is shown; what the owner's
code keeps, it finds again inside of the call in which it kept it, and in a container that the owner lets be used again.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.house import House, packed, started
from tests.e2e.lending import accept, accounts, grant

# Everything that could tell of the owner's code carries a canary of its own, and the code fails in every way that an event can ask for.
GUARDED = '''
import os, sys, warnings, logging
import {package}
SOURCE = "{source}"  # {comment}

class Named{kind}(Exception):
    """An exception of the owner's."""

def {inner}(event):
    local = "{local}"
    how = event.get("how") if isinstance(event, dict) else None
    print("{printed}", os.environ["WHERE"])
    logging.error("{logged}")
    warnings.warn("{warned}")
    if how == "exit":
        sys.exit("{exited}")
    if how == "abort":
        sys.stderr.write("{aborted}")
        sys.stderr.flush()
        os.abort()
    if how == "os_exit":
        os._exit(3)
    if how == "recurse":
        return {inner}(event)
    if how == "object":
        return object()
    if how == "nan":
        return float("nan")
    if how == "named":
        raise Named{kind}(local)
    if how == "chain":
        try:
            raise KeyError("{cause}")
        except KeyError as error:
            raise RuntimeError("{message}") from error
    if how == "group":
        raise ExceptionGroup("{message}", [ValueError(local)])
    if how == "syntax":
        compile("{source} = = 1", "{file}.py", "exec")
    if how == "import":
        import missing_{package}
    if how == "memory":
        return [bytearray(1 << 20) for _ in range(100_000)]
    if how == "sleep":
        import time
        time.sleep(60)
    if how == "stream":
        return stream()
    if how == "fork":
        os.fork()
        raise SystemExit
    if how == "thread":
        import threading
        threading.Thread(target=lambda: 1 / 0, name="{local}").start()
    if how == "big":
        return "x" * (7 << 20)
    return {{"seen": len(event)}}

def stream():
    yield 1
    raise Named{kind}("{message}")

def handler(event, context):
    return {inner}(event)
'''
EVENTS: tuple[Any, ...] = (
    *({"how": how} for how in ("exit", "abort", "os_exit", "recurse", "object", "nan", "named", "chain", "group", "syntax", "import")),
    *({"how": how} for how in ("memory", "sleep", "stream", "fork", "thread", "big")),
    {}, [], 1, "text", None, {"how": {}}, {"a" * 1000: 1}, {"how": "named", "__class__": 1},
)  # fmt: skip
BODIES = (b"{", b"\xff\xfe", b"[" * 5000, b"NaN", b'"\\ud800"', b"\x00", b"{}" + b" " * 100_000)
PATHS = (
    "/v1/functions/{n}", "/v1/functions/{n}/versions", "/v1/functions/{n}/versions/1", "/v1/functions/{n}/logs", "/v1/functions/{n}/logs?build=1",
    "/v1/functions/{n}/events", "/v1/functions/{n}/aliases", "/v1/functions/{n}/secrets", "/v1/functions/{n}/grants", "/v1/aliases/{n}", "/v1/aliases",
    "/v1/grants", "/v1/functions", "/v1/usage", "/v1/usage?by=alias", "/v1/audit", "/v1/fleets", "/v1/invocations", "/metrics", "/openapi.json",
    "/f/caller/{n}/", "/f/caller/{n}/openapi.json", "/f/owner/{f}/", "/v1/limits", "/readyz", "/v1/accounts",
)  # fmt: skip
PLACES = (
    *("package", "source", "comment", "kind", "inner", "local", "printed", "logged", "warned", "exited"),
    *("aborted", "cause", "message", "file", "variable"),
)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A server with an owner, a caller and a third account."""
    with started(tmp_path_factory.mktemp("privacy") / "data") as made:
        accounts(made, "owner", "caller", "third")
        yield made


class Guarded:
    """A function full of canaries, lent."""

    def __init__(self, house: House) -> None:
        """Deploy, lend and accept it."""
        self.canaries = {place: "c" + secrets.token_hex(8) for place in PLACES}
        self.house, self.name = house, "guarded"
        files = {
            "main.py": GUARDED.format(**self.canaries),
            f"{self.canaries['package']}/__init__.py": "",
            f"{self.canaries['file']}.txt": "data",
        }
        shown = house.deploy(self.name, files, token="owner", env={"WHERE": self.canaries["variable"]}, timeout="2s", memory="128M", idempotent=True)
        assert shown.json["state"] == "ready", shown.body
        self.hashes = {"bundle": shown.json["bundle"], "code": shown.json.get("code_id", shown.json["bundle"])}

    def found(self, text: bytes) -> set[str]:
        """Return whose canaries are in a text: places, hashes and paths of the code."""
        marks = {**self.canaries, **self.hashes, "path": "/app/code", "trace": "Traceback", "frame": "main.py"}
        return {place for place, mark in marks.items() if mark.encode() in text}


@pytest.fixture(scope="module")
def guarded(house: House) -> Guarded:
    """A function full of canaries."""
    return Guarded(house)


def _attempts(house: House, name: str, function: str, token: str) -> dict[str, bytes]:
    """Try everything that is there to be tried with a name; returns heads and bodies by what was tried."""
    tried: dict[str, bytes] = {}

    def call(what: str, method: str, path: str, body: bytes | None = None, **headers: str) -> Any:
        answer = house.call(method, path, body, token=token, timeout=60, **headers)
        tried[what] = repr(sorted(answer.headers.items())).encode() + answer.body
        return answer

    for event in EVENTS:
        text = json.dumps(event).encode()
        call(f"call {event!r:.60}", "POST", f"/v1/functions/{name}/invoke", text, content_type="application/json")
    for body in BODIES:
        call(f"body {body[:20]!r}", "POST", f"/v1/functions/{name}/invoke", body, content_type="application/json")
    call("bytes", "POST", f"/v1/functions/{name}/invoke", b"\x00\x01", content_type="application/octet-stream")
    call("sse", "POST", f"/v1/functions/{name}/invoke", b'{"how": "stream"}', accept="text/event-stream")
    call("map", "POST", f"/v1/functions/{name}/map", b'{"how": "named"}\n{"how": "chain"}\n', content_type="application/x-ndjson")
    for how in ("named", "abort"):
        body = json.dumps({"how": how}).encode()
        job = call(f"queued {how}", "POST", f"/v1/functions/{name}/invoke", body, prefer="respond-async").json["id"]
        call(f"job {how}", "GET", f"/v1/invocations/{job}?wait=1")
        call(f"job logs {how}", "GET", f"/v1/invocations/{job}/logs")
        call(f"cancelled {how}", "DELETE", f"/v1/invocations/{job}")
    for path in PATHS:
        call(path, "GET", path.format(n=name, f=function))
    return tried


def test_a_caller_learns_nothing_of_the_code(house: House, guarded: Guarded) -> None:
    """More than fifty attempts by errors, odd bodies, jobs, streams and every thing that can be read: no canary, on warm and fresh containers."""
    for reuse in (True, False):
        grant(house, "guarded", "caller", status=None, reuse=reuse, logs=False)
        accept(house, "peek", "owner/guarded", status=None)
        tried = _attempts(house, "peek", "guarded", "caller")
        assert len(tried) > 50
        del tried["/openapi.json"]  # the server's own document, the same for everybody; it has examples
        leaks = {what: found for what, text in tried.items() if (found := guarded.found(text))}
        assert leaks == {}


def test_the_owner_is_shown_what_the_caller_is_not(house: House, guarded: Guarded) -> None:
    """The control: the same attempts by the owner find canaries of most places, the hash, the path and the stack."""
    tried = _attempts(house, "guarded", "guarded", "owner")
    found = set().union(*(guarded.found(text) for text in tried.values()))
    assert found >= {"inner", "local", "printed", "logged", "warned", "message", "kind", "bundle", "frame"}


def test_a_lent_error_is_data_of_one_shape(house: House, guarded: Guarded) -> None:
    """`errorType` is FunctionError and there is the invocation's id, in an answer, a job and a stream."""
    grant(house, "guarded", "caller", status=None)
    accept(house, "shaped", "owner/guarded", status=None)
    answer = house.invoke("shaped", {"how": "named"}, token="caller")
    assert (answer.status, answer.json) == (500, {"errorType": "FunctionError", "invocationId": answer.headers["pyfaas-invocation-id"]})
    word = "c" + secrets.token_hex(8)
    house.deploy("flow", f"def handler(event, context):\n    yield 1\n    raise ValueError({word!r})\n", token="owner")
    grant(house, "flow", "caller")
    accept(house, "flowing", "owner/flow")
    told, own = (house.invoke(name, {}, token=token).body for name, token in (("flowing", "caller"), ("flow", "owner")))
    assert b"$error" in told
    assert (word.encode() in own, word.encode() in told, b"main.py" in told) == (True, False, False)
    assert house.invoke("guarded", {"how": "named"}, token="owner").json["errorType"].startswith("Named")


# ---- what the owner's code keeps

KEEPER = '''
import builtins, ctypes, gc, mmap, os, socket, sys, tempfile, threading, time, multiprocessing.shared_memory as shm

STASH, AT = [], "/tmp/stash"

def keep(word):
    """Keep a caller's word wherever code can."""
    done = []
    def attempt(what):
        def run(function):
            try:
                function()
                done.append(what)
            except BaseException:
                pass
        return run
    @attempt("global")
    def _(): STASH.append(word)
    @attempt("builtins")
    def _(): builtins.stash = word
    @attempt("modules")
    def _(): sys.modules["stash_" + word] = sys
    @attempt("environment")
    def _(): os.environ["STASH"] = word
    @attempt("tmp")
    def _(): open(AT, "w").write(word)
    @attempt("shm file")
    def _(): open("/dev/shm/stash", "w").write(word)
    @attempt("code")
    def _(): open("/app/code/stash", "w").write(word)
    @attempt("home")
    def _(): open(os.path.expanduser("~/stash"), "w").write(word)
    @attempt("thread")
    def _(): threading.Thread(target=time.sleep, args=(300,), name=word, daemon=True).start()
    @attempt("daemon")
    def _():
        if os.fork() == 0:
            os.setsid()
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind("\\0stash")
            listener.listen()
            listener.settimeout(300)
            while True:
                peer, _ = listener.accept()
                peer.sendall(word.encode())
                peer.close()
    @attempt("socket file")
    def _():
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        listener.bind("/tmp/" + word)
        STASH.append(listener)
    @attempt("memfd")
    def _(): os.write(os.memfd_create(word), word.encode())
    @attempt("mmap")
    def _():
        area = mmap.mmap(-1, 4096)
        area.write(word.encode())
        STASH.append(area)
    @attempt("process name")
    def _(): ctypes.CDLL(None).prctl(15, word.encode()[:15])
    @attempt("arguments")
    def _(): sys.argv.append(word)
    @attempt("shared memory")
    def _():
        area = shm.SharedMemory("stash", create=True, size=64)
        area.buf[:len(word)] = word.encode()
    @attempt("pipe")
    def _():
        _, end = os.pipe()
        os.write(end, word.encode())
    @attempt("cwd")
    def _():
        os.makedirs("/tmp/" + word + "d", exist_ok=True)
        os.chdir("/tmp/" + word + "d")
    @attempt("exception hook")
    def _(): sys.excepthook = lambda *_: word
    @attempt("log")
    def _(): print(word, file=sys.stderr)
    @attempt("printed")
    def _(): os.write(1, word.encode())
    return done

def look(marks):
    """Look for words wherever they could have been kept."""
    found = []
    def see(what, text):
        text = text if isinstance(text, bytes) else str(text).encode(errors="replace")
        found.extend(what for mark in marks if mark.encode() in text)
    see("global", [bytes(a[:64]) if isinstance(a, mmap.mmap) else a for a in STASH])
    see("builtins", getattr(builtins, "stash", ""))
    see("modules", list(sys.modules))
    see("environment", dict(os.environ))
    for path in (AT, "/dev/shm/stash", "/app/code/stash", os.path.expanduser("~/stash"), "/dev/shm/psm_stash"):
        try:
            see(path, open(path, "rb").read())
        except OSError:
            pass
    for folder in ("/tmp", "/dev/shm", "/app"):
        for base, names, files in os.walk(folder):
            see("names in " + folder, [base, *names, *files])
    see("threads", [t.name for t in threading.enumerate()])
    try:
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        peer.settimeout(1)
        peer.connect("\\0stash")
        see("daemon", peer.recv(100))
    except OSError:
        pass
    for fd in range(3, 64):
        try:
            see("descriptors", os.readlink(f"/proc/self/fd/{fd}"))
            see("descriptors", os.pread(fd, 100, 0))
        except OSError:
            pass
    see("arguments", sys.argv)
    see("cwd", os.getcwd())
    see("name", open("/proc/self/comm").read())
    for pid in [p for p in os.listdir("/proc") if p.isdigit()]:
        for file in ("comm", "cmdline", "environ", "maps"):
            try:
                see("processes", open(f"/proc/{pid}/{file}", "rb").read())
            except OSError:
                pass
    see("hook", repr(getattr(sys.excepthook, "__closure__", "")) + str(sys.excepthook(None, None, None) if sys.excepthook is not sys.__excepthook__ else ""))
    see("objects", [o for o in gc.get_objects() if isinstance(o, (dict, list, tuple)) and len(o) < 50 and o is not marks][:20000])
    return sorted(set(found))

def handler(event, context):
    if "keep" in event:
        done = keep(event["keep"])
        return {"kept": done, "found": look([event["keep"], context.secrets.get("S", event["keep"])])}
    import binascii
    return {"found": look([binascii.unhexlify(mark[::-1]).decode() for mark in event["look"]])}
'''


def _hidden(marks: list[str]) -> dict[str, list[str]]:
    """Return an event that asks for words without containing them."""
    return {"look": [mark.encode().hex()[::-1] for mark in marks]}


def test_the_owners_code_keeps_nothing_of_a_caller(house: House) -> None:
    """Twenty places where code may keep a caller's word: later calls by the owner, by another caller and by the same alias find it nowhere."""
    house.deploy("keeper", KEEPER, token="owner", memory="256M")
    grant(house, "keeper", "caller")
    grant(house, "keeper", "third")
    own = "n" + secrets.token_hex(8)  # the caller's name for it
    word, secret, parameter = ("w" + secrets.token_hex(8) for _ in range(3))
    accept(house, own, "owner/keeper", secrets={"S": secret}, params={"p": parameter})
    accept(house, "other", "owner/keeper", caller="third")
    kept = house.invoke(own, {"keep": word}, token="caller")
    assert kept.status == 200, kept.body
    assert len(kept.json["kept"]) >= 18, kept.json  # the control: it is kept, and found in the call itself
    assert {"global", "builtins", "environment", "/tmp/stash", "/dev/shm/stash", "threads", "descriptors", "objects"} <= set(kept.json["found"])
    for name, token in (("keeper", "owner"), ("other", "third"), (own, "caller"), (own, "caller")):
        looked = house.invoke(name, _hidden([word, *((secret, parameter) if name != own else ())]), token=token)
        assert (looked.status, looked.json["found"]) == (200, []), (name, looked.body)
    owners = "".join(
        house.call("GET", path, token="owner").body.decode()
        for path in ("/v1/functions/keeper/logs", "/v1/functions/keeper/events", "/v1/usage", "/v1/audit", "/v1/grants", "/v1/fleets", "/v1/invocations", "/metrics")
    )
    assert [mark for mark in (word, secret, parameter) if mark in owners] == []
    assert own not in owners


def test_a_container_that_may_be_used_again_shows_what_the_attempts_can_find(house: House) -> None:
    """The control: with `reuse` the same alias finds what its own earlier call left, and another alias of the pair still nothing."""
    house.deploy("kept_on", KEEPER, token="owner", memory="256M")
    grant(house, "kept_on", "caller", reuse=True)
    word = "w" + secrets.token_hex(8)
    accept(house, "again", "owner/kept_on")
    accept(house, "beside", "owner/kept_on")
    assert house.invoke("again", {"keep": word}, token="caller").status == 200
    again = house.invoke("again", _hidden([word]), token="caller").json["found"]
    assert {"global", "builtins", "environment", "/tmp/stash"} <= set(again)
    assert house.invoke("beside", _hidden([word]), token="caller").json["found"] == []


def test_a_caller_cannot_publish_in_the_owners_name(house: House) -> None:
    """The name of an account alias is no function: it is not republished, described or removed as one, and its target is not changed."""
    house.deploy("solid", "def handler(event, context):\n    return 'owner'\n", token="owner")
    house.deploy("hidden", "def handler(event, context):\n    return 'hidden'\n", token="owner")
    grant(house, "solid", "caller")
    accept(house, "held", "owner/solid")
    bundle = packed({"main.py": "def handler(event, context):\n    return 'caller'\n"})
    assert house.put("held", bundle, token="caller").status == 409
    for method, path in (("GET", "/v1/functions/held"), ("DELETE", "/v1/functions/held"), ("POST", "/v1/functions/held/rollback")):
        assert house.call(method, path, token="caller").status == 404, path
    assert accept(house, "held", "owner/hidden", status=None).status in (404, 409)
    assert house.invoke("held", {}, token="caller").json == "owner"
