"""A service that runs nothing: the facade that the web needs, with functions that behave as their names say.

`echo` gives its event back (`{"sleep": s}` first waits), `ends-OUTCOME` ends with that outcome, `refused-CODE` is refused
at once, `rejected-CODE` later, `counted` streams, `defect` fails as only a mistake of ours can. What is asked of the
facade's other methods is kept in `asked`, and answered with a value of the right shape.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from types import SimpleNamespace
from typing import Any

from pyfaas.calls import Request, Result, Sink
from pyfaas.config import Config
from pyfaas.decisions.access import require
from pyfaas.errors import Code, PyfaasError, not_found
from pyfaas.model import Account, AccountId, Caller, CanaryOrder, InvocationId, Outcome, Scope, Token

TOKENS = {
    "pf_all": frozenset({Scope.INVOKE, Scope.DEPLOY, Scope.READ}),
    "pf_invoke": frozenset({Scope.INVOKE}),
    "pf_read": frozenset({Scope.READ}),
    "pf_deploy": frozenset({Scope.DEPLOY}),
    "pf_admin": frozenset(Scope),
    "pf_none": frozenset[Scope](),
}
ACCOUNT = Account(id=AccountId("000000000001"), name="default", created=1.0)


def caller(scopes: frozenset[Scope]) -> Caller:
    """Return a caller with these scopes."""
    return Caller(account=ACCOUNT, token=Token(id="t", account=ACCOUNT.id, digest=b"", scopes=scopes, created=1.0))


class FakeRunning:
    """A call that was accepted: what the web said to it is kept."""

    def __init__(self, service: FakeService, request: Request, sink: Sink, number: int) -> None:
        """Begin to run."""
        self.service, self.request, self.sink = service, request, sink
        self.id = InvocationId(f"0190a000-0000-7000-8000-{number:012x}")
        self.requested, self.executed = 3, 3
        self.said: list[str] = []
        self.is_done = False
        self.going = asyncio.Event()
        self.going.set()
        self.task: asyncio.Task[None] | None = None

    def left(self) -> None:
        """Take note that the client has gone; a stream ends, and so does what asked to."""
        self.said.append("left")
        if self.request.cancel_on_disconnect or self.task is not None:
            self.cancel()

    def cancel(self) -> None:
        """End as cancelled."""
        if self.task is not None:
            self.task.cancel()
        self.end(outcome=Outcome.CANCELLED, message="the call was cancelled")

    def pause(self) -> None:
        """Make no more items."""
        self.said.append("pause")
        self.going.clear()

    def resume(self) -> None:
        """Make items again."""
        self.said.append("resume")
        self.going.set()

    def end(self, **ended: Any) -> None:
        """End once."""
        if not self.is_done:
            self.is_done = True
            result = {"outcome": Outcome.OK, "queue_s": 0.0001, "exec_s": 0.0002, **ended}
            self.sink.done(Result(id=self.id, requested=3, executed=3, **result))

    async def stream(self, event: dict[str, Any]) -> None:
        """Hand items to the sink, as fast as it lets."""
        self.sink.head(self, event.get("head") or {"kind": "bytes" if "bytes" in event else "json"})
        for number in range(event.get("n", 3)):
            await self.going.wait()
            await asyncio.sleep(event.get("gap", 0))
            self.sink.item(event["bytes"].encode() if "bytes" in event else b'{"n":%d,"pad":"%s"}' % (number, b"x" * event.get("pad", 0)))
        ended = event.get("end")
        error = {"errorType": "ValueError", "errorMessage": "no", "stackTrace": []}
        if ended == "error":
            self.end(outcome=Outcome.ERROR, kind="error", body=json.dumps(error).encode())
        else:
            self.end(outcome=Outcome(ended or "ok"), kind="stream", message="it ended" if ended else "")


class FakeBackup:
    """A backup of two pieces."""

    async def read(self, _caller: Caller) -> AsyncGenerator[bytes, None]:
        """Yield them."""
        yield b"first"
        yield b"last"


class FakeService:
    """The facade of service.py, without what is behind it."""

    def __init__(self, **config: Any) -> None:
        """Begin without calls."""
        self.config = Config(**config)
        self.calls: list[FakeRunning] = []
        self.asked: list[tuple[str, tuple[Any, ...]]] = []
        self.is_ready = True
        self.backup = FakeBackup()
        self.lines: list[tuple[int, dict[str, Any]]] = []
        self.public: set[str] = {"open"}
        self.told: list[dict[str, Any]] = []
        self.more = asyncio.Event()
        self.is_told = True
        self.waiting = 0

    # ---- the hot path

    def authenticate(self, header: bytes) -> Caller:
        """Know the tokens of the table."""
        scopes = TOKENS.get(header.removeprefix(b"Bearer ").decode("latin-1")) if header.startswith(b"Bearer ") else None
        if scopes is None:
            raise PyfaasError(Code.UNAUTHENTICATED, "the token is missing or unknown", hint="run pyfaas login")
        return caller(scopes)

    def is_plain(self, who: Caller, name: str, qualifier: str | None) -> bool:
        """Tell what the front may take itself."""
        return who.may(Scope.INVOKE) and qualifier != "99" and not name.startswith(("counted", "unknown"))

    def check_url(self, who: Caller | None, owner: str, name: str) -> None:
        """Let the owner pass, and everybody to what is public."""
        if name in self.public:
            return
        if who is None:
            raise PyfaasError(Code.UNAUTHENTICATED, "a token is needed")
        if owner != "default":
            raise not_found("function", name)
        require(who, Scope.INVOKE)

    def submit(self, request: Request, sink: Sink) -> FakeRunning:
        """Accept a call and let it do what its function's name says."""
        name = request.name
        if name.startswith("refused-"):
            code = Code(name.removeprefix("refused-"))
            raise PyfaasError(code, "refused at once", hint="do not", evidence={"limit": "x", "value": 1}, retry_after=2.0)
        if name == "defect":
            raise ZeroDivisionError("a defect of ours")
        if name == "unknown" or request.qualifier == "99":
            raise not_found("function", name)
        running = FakeRunning(self, request, sink, len(self.calls))
        self.calls.append(running)
        self._act(running, name, request)
        return running

    def _act(self, running: FakeRunning, name: str, request: Request) -> None:
        soon = asyncio.get_running_loop().call_soon
        error = json.dumps({"errorType": "ValueError", "errorMessage": "no", "stackTrace": [], "invocationId": running.id}).encode()
        if name.startswith("ends-"):
            outcome = Outcome(name.removeprefix("ends-"))
            is_data = outcome in (Outcome.ERROR, Outcome.INIT_ERROR)
            ended: dict[str, Any] = {"kind": "error", "body": error} if is_data else {"message": "it ended", "evidence": {"signal": 9}}
            soon(lambda: running.end(outcome=outcome, **ended))
        elif name.startswith("rejected-"):
            code = Code(name.removeprefix("rejected-"))
            soon(lambda: running.end(outcome=Outcome.REJECTED, code=code, message="later", hint="wait", retry_after=3.0))
        elif name.startswith("counted"):
            running.task = asyncio.get_running_loop().create_task(running.stream(json.loads(request.body)))
        elif request.http is not None:
            shown = {**request.http, "body": request.body.decode("latin-1")}
            head = {"status": 201, "headers": [["content-type", "text/x-own"], ["connection", "close"], ["pyfaas-outcome", "forged"], ["x-own", "yes"]]}
            soon(lambda: running.end(kind="http", http=head, body=json.dumps(shown).encode()))
        elif name == "at-once":
            running.end(kind="json", body=request.body)
        else:
            self._echo(running, request)

    def _echo(self, running: FakeRunning, request: Request) -> None:
        event = None
        if not request.is_bytes:
            try:
                event = json.loads(request.body)
            except ValueError:
                running.end(outcome=Outcome.REJECTED, code=Code.INVALID_EVENT, message="the body is no JSON")
                return
        wait = event.get("sleep", 0) if isinstance(event, dict) else 0
        more = event.get("big", 0) if isinstance(event, dict) else 0
        body = request.body if not more else b'{"n":%d,"pad":"%s"}' % (event["n"], b"x" * more)
        later: Callable[..., Any] = asyncio.get_running_loop().call_later
        ended = {"kind": "bytes" if request.is_bytes else "json", "body": body}
        if wait:
            later(wait, lambda: running.end(**ended))
        else:
            asyncio.get_running_loop().call_soon(lambda: running.end(**ended))

    # ---- everything else: kept, and answered in shape

    def ready(self) -> dict[str, Any]:
        """Tell whether calls are taken."""
        return {"ready": self.is_ready, "isolation": "full", "layers": []}

    async def metrics(self, *, by_function: bool) -> list[Any]:
        """Have no figures."""
        self.asked.append(("metrics", (by_function,)))
        return []

    def get_aliases(self, _who: Caller, name: str) -> dict[str, Any]:
        """Know one release alias."""
        self.asked.append(("get_aliases", (name,)))
        return {"live": {"version": 3, "weights": {}}}

    async def logs(self, _who: Caller, name: str, *rest: Any) -> list[tuple[int, dict[str, Any]]]:
        """Give the lines after a cursor."""
        self.asked.append(("logs", (name, *rest)))
        after, limit = rest[4], rest[5]
        return [line for line in self.lines if line[0] > after][:limit]

    async def publish(
        self, _who: Caller, name: str, config: dict[str, Any], packed: bytes, order: CanaryOrder | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Take a publication."""
        self.asked.append(("publish", (name, config, packed, *([order] if order else []))))
        return 201, {"function": name, "version": 1, "state": "preparing", "changed": ["bundle"]}

    async def events(
        self, _who: Caller, name: str, *, after: int = 0, version: int | None = None, wait_s: float = 0.0, limit: int = 100
    ) -> tuple[list[dict[str, Any]], int]:
        """Tell what happened after a cursor; wait for more until there is some, or the server stops."""
        self.asked.append(("events", (name, after, version, wait_s, limit)))
        if name == "unknown":
            raise not_found("function", name)
        while not (found := [each for each in self.told if each["cursor"] > after]) and self.is_told and wait_s:
            self.more.clear()
            self.waiting += 1
            try:
                async with asyncio.timeout(wait_s):
                    await self.more.wait()
            except TimeoutError:
                break
            finally:
                self.waiting -= 1
        return found[:limit], found[:limit][-1]["cursor"] if found else after

    def is_own(self, _who: Caller, _name: str) -> bool:
        """Have every function oneself."""
        return True

    def pin(self, request: Request) -> tuple[int, int]:
        """Know one version."""
        if request.name == "unknown" or request.qualifier == "99":
            raise not_found("function", request.name)
        return 3, 3

    async def enqueue(self, request: Request) -> dict[str, Any]:
        """Take an asynchronous call."""
        self.asked.append(("enqueue", (request,)))
        return {"id": "0190a000-0000-7000-8000-00000000aaaa", "state": "queued"}

    async def replay_job(self, _who: Caller, job_id: str, body: bytes | None = None) -> dict[str, Any]:
        """Run a job again."""
        self.asked.append(("replay_job", (job_id, body)))
        return {"id": "0190a000-0000-7000-8000-00000000bbbb", "state": "queued", "replay_of": job_id}

    async def job(self, _who: Caller, job_id: str, wait_s: float = 0) -> dict[str, Any]:
        """Show a job."""
        self.asked.append(("job", (job_id, wait_s)))
        return {"id": job_id, "function": "echo", "state": "succeeded"}

    def __getattr__(self, method: str) -> Any:
        """Answer any other method of the facade, and of its parts."""
        if method in PARTS:
            return FakePart(self, method)
        if method == "operations":
            return FakeOperations()
        if method not in SYNC and method not in ASYNC:
            raise AttributeError(method)

        def answer(_who: Caller, *given: Any, **named: Any) -> Any:
            self.asked.append((method, (*given, *named.values())))
            return SYNC.get(method)

        async def answer_later(_who: Caller, *given: Any, **named: Any) -> Any:
            self.asked.append((method, (*given, *named.values())))
            return ASYNC.get(method)

        return answer if method in SYNC else answer_later


class FakePart:
    """A part of the facade: what is asked of it is kept in the facade's `asked`, as PART.METHOD."""

    def __init__(self, service: FakeService, part: str) -> None:
        """Be one of `PARTS`."""
        self._service, self._part = service, part

    def __getattr__(self, method: str) -> Any:
        """Answer a method with the value that is told of it: what waits for it gets it then."""
        value = PARTS[self._part][method]

        def answer(_who: Caller, *given: Any, **named: Any) -> Any:
            self._service.asked.append((f"{self._part}.{method}", (*given, *named.values())))
            return value

        async def answer_later(_who: Caller, *given: Any, **named: Any) -> Any:
            return answer(_who, *given, **named)

        return answer_later if method in LATER else answer


class FakeOperations:
    """Operations of one version that take any event."""

    def version_of(self, _who: Caller, _name: str) -> str:
        """Return the one version."""
        return "1"

    def checked(self, _who: Caller, name: str, body: bytes, *, is_json: bool = True) -> Any:  # noqa: ARG002 - the shape of the real one
        """Take an event as it is."""
        return SimpleNamespace(name=name, version="1", body=body, headers={})

    def event_of(self, _who: Caller, _name: str, _version: str | None, body: bytes) -> bytes:
        """Take an event as it is."""
        return body


_VERSION = {"function": "echo", "version": 1, "state": "ready"}
_PAGE: dict[str, Any] = {"items": [], "next": None}
SYNC: dict[str, Any] = {
    "whoami": {"account": "default", "id": "000000000001", "scopes": [], "expires": None},
    "list_accounts": [{"account": "default", "created": 1.0}],
    "list_tokens": [{"id": "t", "created": 1.0}],
    "list_functions": _PAGE,
    "describe": {"name": "echo"},
    "list_versions": {"items": [_VERSION], "next": None},
    "version": _VERSION,
    "fleets": {"warming": {}, "vms": [], "functions": []},
    "limits": {"sync_payload": {"value": 1, "unit": "bytes", "key": "sync_payload"}},
}
ASYNC: dict[str, Any] = {
    "set_account": {"account": "new"},
    "create_account": {"account": "new", "id": "000000000002", "token": "pf_new"},
    "remove_account": None,
    "create_token": {"id": "t2", "token": "pf_t2"},
    "revoke_token": None,
    "rotate_admin": {"id": "t3", "token": "pf_t3"},
    "wait_version": _VERSION,
    "remove_function": None,
    "remove_version": None,
    "rollback": {"function": "echo", "version": 1},
    "set_alias": {"version": 3, "weights": {}},
    "remove_alias": None,
    "list_jobs": _PAGE,
    "cancel_job": {"id": "x", "state": "cancelled"},
    "usage": [],
}
_ALIAS = {"name": "mine", "url": "/f/default/mine/", "invoke": "/v1/functions/mine/invoke"}
_SUBSCRIPTION = {"name": "mine", "url": "/v1/apis/ada/text/1"}
PARTS: dict[str, dict[str, Any]] = {
    "sharing": {
        "grants": {"given": [], "received": []},
        "grants_of": {"given": [], "received": []},
        "grant": (201, {"id": "g"}),
        "revoke": None,
        "aliases": [_ALIAS],
        "alias": _ALIAS,
        "accept": (201, _ALIAS),
        "remove_alias": None,
        "audit": _PAGE,
    },
    "secrets": {"put": {"key": "K"}, "listed": [{"key": "K"}], "take_away": None, "rotate": {"key": "k2", "sealed": 0}},
    "apis": {
        "directory": [],
        "describe": {"name": "text"},
        "publish": (201, {"name": "text"}),
        "remove": None,
        "set_state": {"version": "1"},
        "document": {"openapi": "3.1.0"},
    },
    "subscriptions": {
        "approvals": [],
        "decide": {"state": "active"},
        "revoke": None,
        "listed": [_SUBSCRIPTION],
        "get": _SUBSCRIPTION,
        "put": (201, _SUBSCRIPTION),
        "remove": None,
    },
}
LATER = frozenset({"grant", "revoke", "accept", "remove_alias", "audit", "put", "take_away", "rotate", "publish", "remove", "set_state", "decide"})
