"""The SDK's asynchronous client: one method for each thing that the server can be asked for."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, Unpack
from urllib.parse import quote

from pyfaas.client import tagged
from pyfaas.client.asking import PAGE, PAUSE_S
from pyfaas.client.batch import AT_ONCE, ordered
from pyfaas.client.calls import (
    NDJSON,
    POLL_S,
    call_headers,
    function_path,
    invocation,
    items,
    job_result,
    segment,
    waited,
    whole_seconds,
)
from pyfaas.client.errors import NotFound, ServerError
from pyfaas.client.http import Call, HttpTransport, Reply, Transport, json_call
from pyfaas.client.lending import Lending
from pyfaas.client.packing import Package, pack
from pyfaas.client.profile import locate
from pyfaas.client.releasing import Policy, Quota, Release, has_begun, policy_document, release_query
from pyfaas.contract import BACKUP_TAIL, is_backup_end
from pyfaas.errors import Code
from pyfaas.model import JobState

if TYPE_CHECKING:
    from pyfaas.client.app import App

_CUT_OVER_WAITS = 2
_SETTLED = ("ready", "stored")  # when the server does not hold it back: cut over, or prepared by its first call
_MOVE_S = 60.0  # that a release alias may take after its version is ready


class AsyncClient(Lending):
    """Talks to one server as one account. Every method raises `pyfaas.Error`; waiting too long is TimeoutError.

    Belongs to the event loop that first uses it; a call after `close` raises RuntimeError.

    >>> async with pyfaas.AsyncClient() as client:
    ...     await client.invoke("thumbnail", {"width": 64})
    """

    def __init__(self, url: str | None = None, token: str | None = None, *, transport: Transport | None = None) -> None:
        """Find server and token as the CLI does, unless they are given."""
        if transport is None:
            endpoint = locate(url, token)
            transport = HttpTransport(endpoint.url, endpoint.token)
        self._transport = transport

    async def __aenter__(self) -> Self:
        """Return the client."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled."""
        raise TypeError("a pyfaas client holds a token and connections, and cannot be pickled: make one where it is used")

    # ---- publishing

    async def deploy(
        self,
        /,
        path: str | Path | App,
        *,
        name: str | None = None,
        requirements: str | Path | None = None,
        wait: bool = True,
        timeout: float | None = None,
        alias: str | None = None,
        canary: str | float | None = None,
        promote_after: str | float | None = None,
        error_budget: str | float | None = None,
        **config: Any,
    ) -> dict[str, Any]:
        """Publish a directory, a Python file, a zip or an App, and wait until its version is ready or failed.

        `config` has pyfaas.toml's keys (its `timeout` is given in a file: here it bounds the wait, in seconds). With an
        `alias`, waits until that names the version too, or sends it the canary's first percents; see `publish`. Returns
        the version; a failed one is returned, not raised. Raises InvalidRequest, or TimeoutError when the wait is over.
        An App takes `alias` and the canary's options only, and returns its versions by function; one that failed is raised.
        """
        released: Release = {"alias": alias, "canary": canary, "promote_after": promote_after, "error_budget": error_budget}
        if not isinstance(path, str | Path):
            return await path.publish(self, **released)  # noqa: ASYNC240 - an App, no path
        found = await asyncio.to_thread(
            pack, Path(path), name=name, overrides=config, requirements=Path(requirements) if requirements else None
        )
        published = await self.publish(found, **released)
        if not wait:
            return published
        return await self.wait_version(found.name, published["version"], alias=alias, timeout=timeout)

    async def publish(self, package: Package, **release: Unpack[Release]) -> dict[str, Any]:
        """Send a package; returns {function, version, state, changed} as soon as it is kept.

        The release alias `alias` moves to the version once that is ready, whatever becomes of this program. With `canary` it
        sends that many percent of its runs there first (`10` or `"10%"`), then more, and all after `promote_after` (seconds,
        or `"5m"`); when more than `error_budget` percent of the version's runs fail it goes back, and the version is
        withdrawn. Raises InvalidRequest.
        """
        query = release_query(**release)
        config = json.dumps(dict(package.config)).encode()
        form = {"config": ("application/json", config), "code": ("application/zip", package.bundle)}
        return await self._json(Call(method="PUT", path=function_path(package.name), query=query, form=form))

    async def wait_version(
        self,
        name: str,
        version: int,
        *,
        alias: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the SDK's word
    ) -> dict[str, Any]:
        """Wait until a version is failed, or ready and cut over; raises TimeoutError after `timeout` seconds.

        A server that prepares nothing by itself answers at once with one that is `stored`: its first call prepares it.
        With an `alias` that the version was published for: also until that moved there, or its canary began or ended.

        The server holds its answer back until then; one that comes only when the time is over says that it is not so
        yet. A version that is ready but not cut over is not waited for longer than a minute.
        """
        clock = asyncio.get_running_loop().time
        until = clock() + timeout if timeout is not None else None
        shown = await self._settled(name, version, until)
        if alias is None or shown["state"] == "failed":
            return shown
        cursor, at_last = 0, clock() + _MOVE_S if until is None else until
        while not has_begun(await self._alias(name, alias), version):
            if clock() >= at_last:
                raise waited(f"{name}:{alias} has not moved to version {version} yet", "it goes on; see: pyfaas alias ls")
            cursor = await self._sign(name, version, cursor)
        return await self._settled(name, version, until)

    async def _settled(self, name: str, version: int, until: float | None) -> dict[str, Any]:
        clock = asyncio.get_running_loop().time
        held_back = 0
        while True:
            asked, wait = clock(), whole_seconds(until, clock())
            shown = await self._held(f"{function_path(name)}/versions/{version}", wait)
            if shown["state"] == "failed" or (shown["state"] in _SETTLED and clock() - asked < wait):
                return shown
            held_back += shown["state"] == "ready"
            if held_back == _CUT_OVER_WAITS or (until is not None and clock() >= until):
                still = (
                    "ready, but older containers still answer"
                    if shown["state"] == "ready"
                    else f"still {shown['state']}"
                )
                raise waited(f"{name}:{version} is {still}", "it goes on; see: pyfaas fleet")

    async def _alias(self, name: str, alias: str) -> dict[str, Any]:
        """Show a release alias; nothing when it names nothing yet."""
        try:
            return await self._get(f"{function_path(name)}/aliases/{segment(alias)}")
        except NotFound:
            return {}

    async def _sign(self, name: str, version: int, cursor: int) -> int:
        """Wait for an event of a version behind a cursor, for a second at most; returns the cursor of the last one."""
        try:
            page = await self._get(f"{function_path(name)}/events", after=cursor, wait=1, version=version)
        except (NotFound, ServerError):  # events only make it quicker
            await asyncio.sleep(PAUSE_S)
            return cursor
        return int(page["next"])

    # ---- running

    async def invoke(
        self,
        name: str,
        event: Any = None,
        *,
        qualifier: str | int | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the server's, sent with the call
        stale: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Run a function and return its result; a generator's items come as a list.

        `timeout` is in seconds and only shortens the function's own. Raises FunctionError when the run failed, Throttled,
        NotFound, NotAllowed, InvalidRequest, ServerError.
        """
        sent = call_headers(timeout=timeout, stale=stale, headers=headers)
        async with self.open(name, event, qualifier=qualifier, headers=sent) as reply:
            if reply.kind == NDJSON:
                return [item async for item in items(reply)]
            body = await reply.read()
            return tagged.loads(body) if reply.kind.endswith("json") else body

    async def stream(
        self,
        name: str,
        event: Any = None,
        *,
        qualifier: str | int | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the server's, sent with the call
        stale: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Any]:
        """Run a generator and yield its items as they come; leaving the loop closes the generator."""
        sent = call_headers(timeout=timeout, stale=stale, headers=headers)
        async with self.open(name, event, qualifier=qualifier, headers=sent) as reply:
            async for item in items(reply):
                yield item

    def map(
        self,
        name: str,
        events: Iterable[Any] | AsyncIterable[Any],
        *,
        qualifier: str | int | None = None,
        concurrency: int = AT_ONCE,
        return_exceptions: bool = False,
    ) -> AsyncIterator[Any]:
        """Run a function once for each event, `concurrency` at once; yields results in the order of the events.

        No more events are read than run, so there may be no end of them; here they may come asynchronously, too.
        A failed run ends it, or is yielded as the exception with `return_exceptions`; a throttled one is tried again.
        """

        async def call(event: Any) -> Any:
            return await self.invoke(name, event, qualifier=qualifier)

        return ordered(events, call, at_once=concurrency, return_exceptions=return_exceptions)

    def open(
        self,
        name: str,
        event: Any = None,
        *,
        qualifier: str | int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> contextlib.AbstractAsyncContextManager[Reply]:
        """Run a function and enter the answer with its headers; bytes travel as they are, anything else as JSON."""
        return self._transport.exchange(invocation(name, event, qualifier=qualifier, headers=headers))

    async def spawn(
        self,
        name: str,
        event: Any = None,
        *,
        qualifier: str | int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Queue a run, durable when this returns; returns {id, state}."""
        return await self._json(
            invocation(name, event, qualifier=qualifier, headers={"Prefer": "respond-async", **(headers or {})})
        )

    async def fetch(
        self,
        account: str,
        name: str,
        path: str = "/",
        *,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """Request a path under a function's own URL, `/f/{account}/{name}{path}`, and return the body."""
        call = Call(
            method=method,
            path=f"/f/{quote(account, safe='')}/{quote(name, safe=':')}{path}",
            headers=headers or {},
            body=body,
        )
        async with self._transport.exchange(call) as reply:
            return await reply.read()

    # ---- asynchronous work

    async def job(self, job_id: str, *, wait: int = 0) -> dict[str, Any]:
        """Show an asynchronous invocation, once it ended or after `wait` seconds."""
        return await self._get(f"/v1/invocations/{segment(job_id)}", wait=wait or None)

    async def wait(self, job_id: str, *, timeout: float | None = None) -> dict[str, Any]:  # noqa: ASYNC109 - the SDK's word
        """Return an asynchronous invocation once it ended; raises TimeoutError after `timeout` seconds."""
        clock = asyncio.get_running_loop().time
        until = clock() + timeout if timeout is not None else None
        while True:
            shown = await self._held(f"/v1/invocations/{segment(job_id)}", whole_seconds(until, clock()))
            if JobState(shown["state"]).is_terminal:
                return shown
            if until is not None and clock() >= until:
                raise waited(f"{job_id} is still {shown['state']}", "it goes on")

    async def get(self, job_id: str, *, timeout: float | None = None) -> Any:  # noqa: ASYNC109 - the SDK's word
        """Return an asynchronous invocation's result; raises FunctionError when it failed, TimeoutError after `timeout`."""
        return job_result(await self.wait(job_id, timeout=timeout))

    async def jobs(self, *, state: str | None = None) -> list[dict[str, Any]]:
        """List asynchronous invocations, newest page first as the server orders them."""
        return await self._pages("/v1/invocations", state=state)

    async def cancel(self, job_id: str) -> dict[str, Any]:
        """Cancel an asynchronous invocation; one that ended is shown unchanged."""
        return await self._json(json_call("DELETE", f"/v1/invocations/{segment(job_id)}"))

    async def replay(self, job_id: str, event: bytes | None = None) -> dict[str, Any]:
        """Run an asynchronous invocation again, with the same or another body; returns {id, state, replay_of}."""
        headers = {"Content-Type": "application/json"} if event is not None else {}
        path = f"/v1/invocations/{segment(job_id)}/replay"
        return await self._json(Call(method="POST", path=path, body=event, headers=headers))

    async def logs(
        self,
        name: str,
        *,
        version: str | int | None = None,
        invocation: str | None = None,
        since: float | None = None,
        build: bool = False,
        follow: bool = False,
    ) -> AsyncIterator[dict[str, Any]]:
        """Yield log lines in order; with `follow` until the caller leaves. `since` is in seconds since the epoch."""
        query = {
            "version": version,
            "id": invocation,
            "since": since,
            "build": "true" if build else None,
            "follow": "true" if follow else None,
        }
        call = json_call("GET", f"{function_path(name)}/logs", query=query)
        async with self._transport.exchange(call) as reply:
            async for line in reply.lines():
                yield json.loads(line)

    # ---- looking and changing

    async def functions(self) -> list[dict[str, Any]]:
        """List the account's functions."""
        return await self._pages("/v1/functions")

    async def function(self, name: str) -> dict[str, Any]:
        """Show a function."""
        return await self._get(function_path(name))

    async def versions(self, name: str) -> list[dict[str, Any]]:
        """List a function's versions, newest first: states, what names each, and what runs where."""
        return await self._pages(f"{function_path(name)}/versions")

    async def version(self, name: str, version: int) -> dict[str, Any]:
        """Show a version."""
        return await self._get(f"{function_path(name)}/versions/{version}")

    async def remove(self, name: str, version: int | None = None) -> None:
        """Remove a function, or one of its versions."""
        await self._done(json_call("DELETE", function_path(name) + (f"/versions/{version}" if version is not None else "")))

    async def rollback(self, name: str, pointer: str | None = None) -> dict[str, Any]:
        """Move `latest` or a release alias back to its previous ready version; returns what it is now, and what is withdrawn.

        An alias with weights, or in the middle of a canary, goes back to its main version. Raises InvalidRequest when there
        is nothing to go back to.
        """
        document = {"pointer": pointer} if pointer else {}
        return await self._json(json_call("POST", f"{function_path(name)}/rollback", document))

    async def aliases(self, name: str) -> dict[str, Any]:
        """Show a function's release aliases by name."""
        shown: dict[str, Any] = (await self.function(name)).get("aliases") or {}
        return shown

    async def set_alias(
        self,
        name: str,
        alias: str,
        version: int,
        weights: Mapping[str, int] | Mapping[int, int] | None = None,
        **policy: Unpack[Policy],
    ) -> dict[str, Any]:
        """Point a release alias at a version, with whole percents for one other; ends a canary that runs.

        `policy` says how long older versions may answer for it; a key that is left out stays as it was, None removes it.
        """
        shares = {str(key): value for key, value in (weights or {}).items()}
        document = {"version": version, "weights": shares, **policy_document(policy)}
        return await self._json(json_call("PUT", f"{function_path(name)}/aliases/{segment(alias)}", document))

    async def remove_alias(self, name: str, alias: str) -> None:
        """Remove a release alias."""
        await self._done(json_call("DELETE", f"{function_path(name)}/aliases/{segment(alias)}"))

    async def events(
        self, name: str, *, after: int | None = None, version: int | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        """Yield what happens to a function's versions, as {cursor, at, kind, function, version, …}, until the caller leaves.

        Begins behind the cursor `after`: 0 is all that is kept, None what happens from now on. Goes on behind the last
        cursor when the connection broke or the server was replaced; raises ServerError when nobody answers for 15 seconds.
        """
        cursor = await self.last_event(name) if after is None else after
        is_known = after is None
        while True:
            page = await self._held(
                f"{function_path(name)}/events", POLL_S, is_known=is_known, after=cursor, version=version
            )
            is_known = True
            for event in page["items"]:
                yield event
            cursor = int(page["next"])

    async def last_event(self, name: str) -> int:
        """Return the cursor of the last event of a function that is kept; 0 when there is none."""
        cursor = 0
        while page := (await self._get(f"{function_path(name)}/events", after=cursor, limit=PAGE))["items"]:
            cursor = int(page[-1]["cursor"])
        return cursor

    # ---- accounts

    async def whoami(self) -> dict[str, Any]:
        """Show {account, id, scopes, expires} of the token."""
        return await self._get("/v1/whoami")

    async def accounts(self) -> list[dict[str, Any]]:
        """List the accounts that the token may see."""
        return await self._pages("/v1/accounts")

    async def create_account(self, name: str, *, network: bool = True) -> dict[str, Any]:
        """Create an account; returns {account, id, token}, the token this once."""
        return await self._json(json_call("POST", "/v1/accounts", {"name": name, "network": network}))

    async def set_account(
        self, name: str, *, quota: Quota | None = None, network: bool | None = None, **policy: Unpack[Policy]
    ) -> dict[str, Any]:
        """Say how long older versions may answer in all of an account's functions; as in `set_alias`, without min_version.

        An admin may also change its `quota`, and whether its functions may use the network; what is left out stays.
        """
        more = {"quota": dict(quota) if quota else None, "network": network}
        document = policy_document(policy) | {key: value for key, value in more.items() if value is not None}
        return await self._json(json_call("PUT", f"/v1/accounts/{segment(name)}", document))

    async def remove_account(self, name: str) -> None:
        """Remove an account with all that is its own."""
        await self._done(json_call("DELETE", f"/v1/accounts/{segment(name)}"))

    async def tokens(self) -> list[dict[str, Any]]:
        """List the account's tokens, without their text."""
        return await self._pages("/v1/tokens")

    async def create_token(
        self,
        *,
        scopes: list[str] | None = None,
        expires: float | None = None,
        label: str = "",
        account: str | None = None,
    ) -> dict[str, Any]:
        """Create a token; its text is shown this once. `expires` is in seconds since the epoch."""
        wanted = {"scopes": scopes, "expires": expires, "label": label or None, "account": account}
        document = {key: value for key, value in wanted.items() if value is not None}
        return await self._json(json_call("POST", "/v1/tokens", document))

    async def revoke_token(self, token_id: str) -> None:
        """Revoke a token at once."""
        await self._done(json_call("DELETE", f"/v1/tokens/{segment(token_id)}"))

    async def rotate_admin(self) -> dict[str, Any]:
        """Replace the admin's token, also in the server's data directory."""
        return await self._json(json_call("POST", "/v1/tokens/rotate-admin"))

    # ---- operating

    async def fleet(self) -> dict[str, Any]:
        """Show VMs, containers and fleets."""
        return await self._get("/v1/fleets")

    async def usage(self, *, since: float | None = None, until: float | None = None, by: str | None = None) -> list[dict[str, Any]]:
        """List usage rows, by day, or by function, alias, api or caller; times are seconds since the epoch."""
        return await self._pages("/v1/usage", **{"from": since, "to": until, "by": by})

    async def limits(self) -> dict[str, Any]:
        """Show every limit as {name: {value, unit, key}}."""
        return await self._get("/v1/limits")

    async def backup(self) -> AsyncGenerator[bytes, None]:
        """Yield a backup of everything that the server keeps (admin); raises ServerError when it breaks off or has no end."""
        last = b""
        async with self._transport.exchange(json_call("GET", "/v1/backup")) as reply:
            async for piece in reply.pieces():
                last = (last + piece)[-BACKUP_TAIL:]
                yield piece
        if not is_backup_end(last):
            message = "the backup broke off: its end is missing"
            raise ServerError(message, problem={"code": Code.INTERNAL.value, "fault": "platform", "detail": message})
