"""A server that follows interface.md and runs nothing: what a function answers is chosen by its name.

Started as a process (`python fake_server.py FILE`), it writes its URL to FILE and says `ready`. The token `pf_good` may everything,
`pf_read` only reads, anything else is unknown. What it was asked is kept under /fake/requests.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import sys
import time
import zipfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web
from fake_lending import Lending

PROBLEM = "application/problem+json"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
OUTCOMES = {
    "boom": (500, "error"),
    "badinit": (502, "init_error"),
    "oom": (502, "oom"),
    "slow": (504, "timeout"),
    "gone": (409, "cancelled"),
    "lost": (503, "lost"),
}
REFUSALS = {
    "badevent": (400, "invalid_event"),
    "busy": (429, "throttled"),
    "full": (503, "no_capacity"),
    "broken": (500, "internal"),
}


class Fake:
    """What the server remembers."""

    def __init__(self) -> None:
        """Start with nothing."""
        self.functions: dict[str, list[dict[str, Any]]] = {}
        self.aliases: dict[str, dict[str, Any]] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.requests: list[dict[str, Any]] = []
        self.cancelled = 0
        self.events: dict[str, list[dict[str, Any]]] = {}
        self.policies: dict[str, Any] = {}
        self.publishing = self.most_at_once = 0
        self.calls: dict[str, int] = {}
        self.lending = Lending(refusal)

    def tell(self, name: str, number: int, kind: str, **detail: Any) -> None:
        """Keep an event, with a cursor that grows over all functions."""
        cursor = 1 + sum(map(len, self.events.values()))
        event = {"cursor": cursor, "at": time.time(), "kind": kind, "function": name, "version": number}
        self.events.setdefault(name, []).append(event | detail)

    def versions(self, name: str) -> list[dict[str, Any]]:
        """Return a function's versions, or refuse."""
        if name not in self.functions:
            raise refusal(404, "not_found", f"no function {name!r}")
        return self.functions[name]


def refusal(status: int, code: str, detail: str, hint: str = "", **headers: str) -> web.HTTPException:
    """Return a problem document as what aiohttp raises."""
    body = {
        "type": "about:blank",
        "status": status,
        "code": code,
        "fault": "caller",
        "detail": detail,
        "hint": hint,
        "evidence": {},
    }
    error = web.HTTPException(
        text=json.dumps(body), content_type=PROBLEM, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )
    error.set_status(status)
    return error


@web.middleware
async def watch(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Keep what was asked, and check the token."""
    fake: Fake = request.app["fake"]
    if request.path.startswith("/fake/"):
        return await handler(request)
    fake.requests.append({"method": request.method, "path": request.raw_path, "headers": dict(request.headers)})
    token = request.headers.get("Authorization", "").removeprefix("Bearer ")
    if token not in ("pf_good", "pf_read"):
        raise refusal(401, "unauthenticated", "the token is missing or unknown", "run: pyfaas login")
    if token == "pf_read" and request.method != "GET":
        raise refusal(403, "not_allowed", "the token lacks the scope deploy")
    return await handler(request)


async def publish(request: web.Request) -> web.Response:
    """Keep a bundle; that of `slowly` takes a while."""
    fake: Fake = request.app["fake"]
    fake.publishing += 1
    fake.most_at_once = max(fake.most_at_once, fake.publishing)
    if request.match_info["name"] == "slowly":
        await asyncio.sleep(0.1)
    try:
        return await keep(request)
    finally:
        fake.publishing -= 1


async def keep(request: web.Request) -> web.Response:
    """Keep a bundle and prepare it at once."""
    name, parts = request.match_info["name"], {}
    async for part in await request.multipart():
        parts[part.name] = await part.read(decode=False)
    config = json.loads(parts["config"])
    with zipfile.ZipFile(io.BytesIO(parts["code"])) as archive:
        names = sorted(archive.namelist())
    versions = request.app["fake"].functions.setdefault(name, [])
    state = "failed" if name == "fails" else "ready"
    reason = (
        {"code": "import_failed", "message": "ModuleNotFoundError: no module named 'nothing'"}
        if state == "failed"
        else None
    )
    version = {
        "function": name,
        "version": len(versions) + 1,
        "state": state,
        "reason": reason,
        "created": time.time(),
        "bundle": "0" * 64,
        "size": len(parts["code"]),
        "environment": None,
        "containers": 0,
        "withdrawn": False,
        "pointers": ["latest"],
        "shares": {"latest": 100},
        "running": [
            {"vm": "3", "container": "a", "state": "idle", "calls": 2, "idle_ms": 5},
            {"vm": "3", "container": "b", "state": "idle", "calls": 1, "idle_ms": 5},
            {"vm": "3", "container": "c", "state": "busy", "calls": 1, "idle_ms": 5},
        ],
        "code_in": {"near_store": True, "vms": [{"vm": "3", "target": "instance-cache", "bytes": 10}]},
        "config": config,
        "files": names,
        "code": hashlib.sha256(parts["code"]).hexdigest(),
    }
    versions.append(version)
    fake: Fake = request.app["fake"]
    fake.tell(name, version["version"], "stored")
    for step in ("fetch", "lock", "install", "compile", "probe"):
        fake.tell(name, version["version"], "preparing", step=step, done=0, total=0)
    if state == "failed":
        fake.tell(name, version["version"], "failed", **(reason or {}))
    else:
        fake.tell(name, version["version"], "prepared")
    if state == "ready" and "alias" in request.query:
        release(fake, name, version["version"], dict(request.query))
    return web.json_response(
        {"function": name, "version": version["version"], "state": "stored", "changed": True}, status=201
    )


def release(fake: Fake, name: str, number: int, query: dict[str, str]) -> None:
    """Move an alias as a canary's first step does it, or at once; one named `stuck` is moved back by somebody."""
    alias, aliases = query["alias"], fake.aliases.setdefault(name, {})
    base = aliases.get(alias, {}).get("version")
    if alias == "stuck":
        aliases[alias] = {"version": base or 0, "weights": {}, "canary": None}
    elif "canary" not in query or base is None:
        aliases[alias] = {"version": number, "weights": {}, "canary": None}
    else:
        share, steps = int(query["canary"]), [10, 20, 40, 80, 100]
        canary = {"version": number, "base": base, "percent": share, "step": 0, "steps": steps, "weight": share, "runs": 0, "faults": 0}
        canary |= {"since": 100.0, "next_at": 175.0, "error_budget": float(query.get("error_budget", 1)), "state": "running", "reason": ""}
        aliases[alias] = {"version": base, "weights": {str(number): share}, "canary": canary}
    fake.tell(name, number, "moved", pointer=alias, weights=aliases[alias]["weights"])


async def events(request: web.Request) -> web.Response:
    """Tell what happened, a few at a time, holding the answer back a little when that is nothing; of `noevents` nobody knows."""
    fake, name = request.app["fake"], request.match_info["name"]
    fake.versions(name)
    if name == "noevents":
        raise refusal(404, "not_found", "no such route")
    after, number = int(request.query.get("after", 0)), request.query.get("version")
    limit = int(request.query.get("limit", 2))
    rest = [event for event in fake.events.get(name, ()) if event["cursor"] > after]
    if not rest and "wait" in request.query:
        await asyncio.sleep(0.05)
        rest = [event for event in fake.events.get(name, ()) if event["cursor"] > after]
    shown = rest[:limit]
    items = [event for event in shown if number in (None, str(event["version"]))]
    return web.json_response({"items": items, "next": shown[-1]["cursor"] if shown else after})


async def functions(request: web.Request) -> web.Response:
    """List one function a page, so that pages must be joined."""
    fake: Fake = request.app["fake"]
    rest = sorted(n for n in fake.functions if n > request.query.get("after", ""))
    items = [{"name": n, "latest": len(fake.functions[n]), "state": "ready", "created": 0.0} for n in rest[:1]]
    return web.json_response({"items": items, "next": rest[0] if len(rest) > 1 else None})


async def function(request: web.Request) -> web.Response:
    """Show a function."""
    fake: Fake = request.app["fake"]
    name = request.match_info["name"]
    return web.json_response({"name": name, "latest": len(fake.versions(name)), "aliases": fake.aliases.get(name, {})})


async def versions(request: web.Request) -> web.Response:
    """List versions."""
    return web.json_response({"items": request.app["fake"].versions(request.match_info["name"])[::-1], "next": None})


async def version(request: web.Request) -> web.Response:
    """Show a version; the one of `forever` is never prepared, that of `neverover` never cut over, that of `unloaded` left to its first call."""
    name, found = request.match_info["name"], request.app["fake"].versions(request.match_info["name"])
    if name == "neverover":
        await asyncio.sleep(float(request.query.get("wait", "0")))
    if name == "forever":
        await asyncio.sleep(float(request.query.get("wait", "0")))
        return web.json_response({**found[-1], "state": "preparing"})
    shown = found[int(request.match_info["n"]) - 1]
    return web.json_response({**shown, "state": "stored"} if name == "unloaded" else shown)


async def remove(request: web.Request) -> web.Response:
    """Remove a function."""
    name = request.match_info["name"]
    request.app["fake"].versions(name)
    del request.app["fake"].functions[name]
    return web.Response(status=204)


async def rollback(request: web.Request) -> web.Response:
    """Go back one version."""
    found = request.app["fake"].versions(request.match_info["name"])
    if len(found) < 2:
        raise refusal(409, "conflict", "no earlier ready version")
    pointer = (await request.json()).get("pointer", "latest") if request.can_read_body else "latest"
    name, back, left = request.match_info["name"], len(found) - 1, len(found)
    request.app["fake"].tell(name, back, "rolled_back", pointer=pointer, reason="rolled back by hand")
    return web.json_response({"function": name, "pointer": pointer, "version": back, "withdrawn": left})


async def set_alias(request: web.Request) -> web.Response:
    """Keep a release alias."""
    name, alias = request.match_info["name"], request.match_info["alias"]
    request.app["fake"].versions(name)
    said = await request.json()
    aliases = request.app["fake"].aliases.setdefault(name, {})
    kept = {key: value for key, value in (aliases.get(alias, {}) | said).items() if value is not None}
    aliases[alias] = kept | {"canary": None}
    return web.json_response(aliases[alias])


async def alias(request: web.Request) -> web.Response:
    """Show a release alias."""
    found = request.app["fake"].aliases.get(request.match_info["name"], {})
    if request.match_info["alias"] not in found:
        raise refusal(404, "not_found", "no release alias of that name")
    return web.json_response(found[request.match_info["alias"]])


async def set_account(request: web.Request) -> web.Response:
    """Keep an account's policy."""
    policies, name = request.app["fake"].policies, request.match_info["name"]
    policies[name] = {key: value for key, value in (policies.get(name, {}) | await request.json()).items() if value is not None}
    return web.json_response({"account": name, "id": "000000000001", "network": True, "created": 0.0, **policies[name]})


async def invoke(request: web.Request) -> web.StreamResponse:
    """Answer as the function's name says; any other name echoes its event."""
    fake: Fake = request.app["fake"]
    name = request.match_info["name"]
    event = await request.read()
    fake.versions(name)
    if request.headers.get("Prefer") == "respond-async":
        job = {"id": f"job-{len(fake.jobs) + 1}", "state": "queued"}
        fake.jobs[job["id"]] = {"name": name, "event": event}
        return web.json_response(job, status=202, headers={"Location": f"/v1/invocations/{job['id']}"})
    headers = {"Pyfaas-Invocation-Id": "inv-1", "Pyfaas-Requested-Version": "2", "Pyfaas-Executed-Version": "2"}
    if name in OUTCOMES:
        status, outcome = OUTCOMES[name]
        return failed(status, outcome, headers)
    fake.calls[name] = fake.calls.get(name, 0) + 1
    if name == "busyonce" and fake.calls[name] % 2:
        raise refusal(429, "throttled", "refused: throttled", Pyfaas_Outcome="rejected", Retry_After="0.1")
    if name in REFUSALS:
        status, code = REFUSALS[name]
        raise refusal(status, code, f"refused: {code}", Pyfaas_Outcome="rejected", Retry_After="7")
    if name in ("ticks", "breaks", "endless"):
        return await stream(request, name, headers)
    if name == "hangs":
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            fake.cancelled += 1
            raise
    if name == "old":
        headers["Pyfaas-Executed-Version"] = "1"
    kind = request.content_type
    if name == "picture":
        return web.Response(body=b"\x89PNG\x00", content_type="application/octet-stream", headers=headers)
    return web.Response(body=event, content_type=kind, headers={**headers, "Pyfaas-Outcome": "ok"})


async def operate(request: web.Request) -> web.StreamResponse:
    """Answer an operation of a subscription: `boom` fails as lent code does, `over` is gone, any other echoes."""
    request.app["fake"].lending.subscription(request.match_info["subscription"])
    headers = {"Pyfaas-Invocation-Id": "inv-9"}
    if request.match_info["operation"] == "boom":
        body = {"errorType": "FunctionError", "invocationId": "inv-9"}
        return web.json_response(body, status=500, headers={**headers, "Pyfaas-Outcome": "error"})
    if request.match_info["operation"] == "over":
        raise refusal(410, "gone", "version 1 of this API is retired")
    return web.Response(body=await request.read(), content_type=request.content_type, headers=headers)


def failed(status: int, outcome: str, headers: dict[str, str]) -> web.Response:
    """Answer as a run that failed."""
    headers = {**headers, "Pyfaas-Outcome": outcome}
    if outcome in ("error", "init_error"):
        body: dict[str, Any] = {
            "errorType": "ValueError",
            "errorMessage": "boom",
            "stackTrace": ["main.py:3 handler"],
            "invocationId": "inv-1",
        }
        return web.json_response(body, status=status, headers=headers)
    body = {
        "status": status,
        "code": outcome,
        "fault": "function",
        "detail": f"the run ended as {outcome}",
        "hint": "",
        "evidence": {},
    }
    return web.Response(text=json.dumps(body), status=status, content_type=PROBLEM, headers=headers)


async def stream(request: web.Request, name: str, headers: dict[str, str]) -> web.StreamResponse:
    """Answer as a generator."""
    response = web.StreamResponse(headers={**headers, "Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    count = 0
    try:
        while count < 3 or name == "endless":
            await response.write(json.dumps({"n": count}).encode() + b"\n")
            count += 1
            await asyncio.sleep(0)
    except (ConnectionError, asyncio.CancelledError):
        request.app["fake"].cancelled += 1
        raise
    if name == "breaks":
        await response.write(b'{"$error": {"code": "error", "errorType": "KeyError", "errorMessage": "late"}}\n')
    await response.write_eof()
    return response


async def job(request: web.Request) -> web.Response:
    """Show a job as ended, in the state that its function's name says."""
    fake: Fake = request.app["fake"]
    kept = fake.jobs.get(request.match_info["id"])
    if kept is None:
        raise refusal(404, "not_found", "no invocation of that id")
    name = kept["name"]
    shown: dict[str, Any] = {
        "id": request.match_info["id"],
        "function": name,
        "version": 1,
        "state": "succeeded",
        "outcome": "ok",
    }
    shown |= {"attempts": [], "created": 0.0, "finished": 1.0}
    if name == "boom":
        shown |= {"state": "dead", "outcome": "error", "error": {"errorType": "ValueError", "errorMessage": "boom"}}
    elif name == "late":
        shown |= {"state": "expired", "outcome": "timeout", "error": {"detail": "its deadline passed"}}
    elif name == "hangs":
        await asyncio.sleep(float(request.query.get("wait", "0")))
        shown |= {"state": "running", "outcome": None, "finished": None}
    else:
        shown["result"] = json.loads(kept["event"])
    return web.json_response(shown)


async def jobs(request: web.Request) -> web.Response:
    """List jobs."""
    wanted = request.query.get("state")
    rows = [
        {"id": i, "function": j["name"], "state": "dead" if j["name"] == "boom" else "succeeded"}
        for i, j in request.app["fake"].jobs.items()
    ]
    return web.json_response({"items": [r for r in rows if wanted in (None, r["state"])], "next": None})


async def replay(request: web.Request) -> web.Response:
    """Queue a job again."""
    fake: Fake = request.app["fake"]
    again = f"job-{len(fake.jobs) + 1}"
    body = await request.read()
    kept = fake.jobs[request.match_info["id"]]
    fake.jobs[again] = {**kept, "event": body or kept["event"]}
    return web.json_response({"id": again, "state": "queued", "replay_of": request.match_info["id"]}, status=202)


async def logs(request: web.Request) -> web.Response:
    """Show two lines."""
    rows = [
        {"ts": 1.0, "stream": "out", "line": "hello \x1b[31m", "invocation": "inv-1", "version": 1},
        {"ts": 2.0, "stream": "err", "line": "world", "invocation": "inv-1", "version": 1},
    ]
    return web.Response(text="".join(json.dumps(row) + "\n" for row in rows), content_type="application/x-ndjson")


async def fixed(request: web.Request) -> web.Response:
    """Answer what needs no state."""
    answers: dict[str, Any] = {
        "/v1/whoami": {
            "account": "default",
            "id": "000000000001",
            "scopes": ["deploy", "invoke", "read"],
            "expires": None,
        },
        "/v1/limits": {"sync_payload": {"value": 6291456, "unit": "bytes", "key": "sync_payload"}},
        "/v1/accounts": {"items": [{"account": "default", "id": "000000000001"}], "next": None},
        "/v1/tokens": {"items": [{"id": "tok-1", "scopes": ["read"]}], "next": None},
        "/v1/usage": {
            "items": [{"kind": "call", "function": "echo", "calls": 3, "outcomes": {"ok": 3}, "wall_ms": 9}],
            "next": None,
        },
        "/v1/fleets": {"warming": {"ready": 4, "target": 4, "hits": 1, "misses": 0}, "vms": [], "functions": []},
    }
    return web.json_response(answers[request.path])


async def create(request: web.Request) -> web.Response:
    """Answer a created account or token."""
    asked = await request.json() if request.can_read_body else {}
    if request.path == "/v1/accounts":
        return web.json_response({"account": asked["name"], "id": "000000000002", "token": "pf_new"}, status=201)
    return web.json_response({"id": "tok-2", "token": "pf_new", **asked}, status=201)


async def gone(_request: web.Request) -> web.Response:
    """Answer that something was removed."""
    return web.Response(status=204)


async def requests(request: web.Request) -> web.Response:
    """Show what was asked."""
    fake: Fake = request.app["fake"]
    return web.json_response({"requests": fake.requests, "cancelled": fake.cancelled, "functions": fake.functions, "most_at_once": fake.most_at_once, "sent": fake.lending.sent})


def build() -> web.Application:
    """Return the application."""
    app = web.Application(middlewares=[watch], client_max_size=64 << 20)
    app["fake"] = Fake()
    add = app.router.add_route
    add("PUT", "/v1/functions/{name}", publish)
    add("GET", "/v1/functions", functions)
    add("GET", "/v1/functions/{name}", function)
    add("DELETE", "/v1/functions/{name}", remove)
    add("GET", "/v1/functions/{name}/versions", versions)
    add("GET", "/v1/functions/{name}/versions/{n}", version)
    add("POST", "/v1/functions/{name}/rollback", rollback)
    add("PUT", "/v1/functions/{name}/aliases/{alias}", set_alias)
    add("GET", "/v1/functions/{name}/aliases/{alias}", alias)
    add("DELETE", "/v1/functions/{name}/aliases/{alias}", gone)
    add("GET", "/v1/functions/{name}/events", events)
    add("POST", "/v1/functions/{name}/invoke", invoke)
    add("POST", "/v1/functions/{subscription}/{operation}/invoke", operate)
    add("GET", "/v1/functions/{name}/logs", logs)
    add("GET", "/v1/invocations", jobs)
    add("GET", "/v1/invocations/{id}", job)
    add("DELETE", "/v1/invocations/{id}", job)
    add("POST", "/v1/invocations/{id}/replay", replay)
    for path in ("whoami", "limits", "accounts", "tokens", "usage", "fleets"):
        add("GET", f"/v1/{path}", fixed)
    add("POST", "/v1/accounts", create)
    add("POST", "/v1/tokens", create)
    add("POST", "/v1/tokens/rotate-admin", create)
    add("PUT", "/v1/accounts/{name}", set_account)
    add("DELETE", "/v1/accounts/{name}", gone)
    add("DELETE", "/v1/tokens/{id}", gone)
    app["fake"].lending.add_to(app.router)
    add("GET", "/fake/requests", requests)
    return app


async def serve(place: Path) -> None:
    """Listen on a free port, and tell which."""
    runner = web.AppRunner(build(), handler_cancellation=True, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    place.write_text(f"http://127.0.0.1:{port}")
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
