"""The fake server's lending: it keeps what it is sent, checks nothing, and answers in the shapes of the real one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web

OPERATIONS = [
    {"name": "summarise", "method": "POST", "path": "/summaries/{id}"},
    {"name": "boom", "method": "POST", "path": "/boom"},
]


class Lending:
    """Grants, account aliases, secrets, APIs and subscriptions of the one account `default`; `north` lends everything."""

    def __init__(self, refusal: Callable[..., web.HTTPException]) -> None:
        """Start with nothing."""
        self._refusal = refusal
        self.grants: dict[tuple[str, str], dict[str, Any]] = {}
        self.aliases: dict[str, dict[str, Any]] = {}
        self.secrets: dict[tuple[str, str], float] = {}
        self.apis: dict[str, dict[str, Any]] = {}
        self.approvals: dict[str, str] = {"south": "pending"}
        self.subscriptions: dict[str, dict[str, Any]] = {}
        self.sent: list[dict[str, Any]] = []  # every document, in order

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        add = router.add_route
        add("PUT", "/v1/functions/{name}/grants/{account}", self.grant)
        add("DELETE", "/v1/functions/{name}/grants/{account}", self.revoke)
        add("GET", "/v1/functions/{name}/grants", self.granted)
        add("GET", "/v1/grants", self.both_sides)
        add("PUT", "/v1/aliases/{name}", self.accept)
        add("GET", "/v1/aliases", self.list_aliases)
        add("GET", "/v1/aliases/{name}", self.show_alias)
        add("DELETE", "/v1/aliases/{name}", self.remove_alias)
        add("GET", "/v1/audit", self.audit)
        add("PUT", "/v1/functions/{name}/secrets/{key}", self.set_secret)
        add("GET", "/v1/functions/{name}/secrets", self.list_secrets)
        add("DELETE", "/v1/functions/{name}/secrets/{key}", self.remove_secret)
        add("POST", "/v1/secrets/rotate", self.rotate)
        add("GET", "/v1/apis", self.list_apis)
        add("PUT", "/v1/apis/{api}", self.publish)
        add("GET", "/v1/apis/{api}", self.show_api)
        add("DELETE", "/v1/apis/{api}", self.remove_api)
        add("GET", "/v1/apis/{api}/approvals", self.list_approvals)
        add("POST", "/v1/apis/{api}/approvals/{account}", self.approve)
        add("DELETE", "/v1/apis/{api}/approvals/{account}", self.dismiss)
        add("POST", "/v1/apis/{api}/versions/{version}/{change:deprecate|retire}", self.change)
        add("GET", "/v1/apis/{owner}/{api}", self.show_api)
        add("GET", "/v1/apis/{owner}/{api}/{version}/openapi.json", self.openapi)
        add("PUT", "/v1/subscriptions/{name}", self.subscribe)
        add("GET", "/v1/subscriptions", self.list_subscriptions)
        add("GET", "/v1/subscriptions/{name}", self.show_subscription)
        add("DELETE", "/v1/subscriptions/{name}", self.unsubscribe)

    async def _document(self, request: web.Request) -> dict[str, Any]:
        document: dict[str, Any] = await request.json()
        self.sent.append({"method": request.method, "path": request.path, "document": document})
        return document

    def _known(self, found: dict[Any, Any], key: Any, what: str, name: str) -> Any:
        if key not in found:
            raise self._refusal(404, "not_found", f"no {what} {name!r}")
        return found[key]

    async def grant(self, request: web.Request) -> web.Response:
        """Keep a grant."""
        name, account = request.match_info["name"], request.match_info["account"]
        terms = await self._document(request)
        is_new = (name, account) not in self.grants
        missing = [key for key in terms.get("secrets", ()) if (name, key) not in self.secrets]
        view = {"id": "g1", "owner": "default", "function": name, "account": account, "created": 1.0, **terms}
        view |= {"locked": sorted(terms.get("lock", {})), "secrets_missing": missing}
        self.grants[name, account] = view
        return web.json_response(view, status=201 if is_new else 200)

    async def revoke(self, request: web.Request) -> web.Response:
        """Forget a grant."""
        key = (request.match_info["name"], request.match_info["account"])
        self._known(self.grants, key, "grant", f"{key[0]} to {key[1]}")
        del self.grants[key]
        return web.Response(status=204)

    async def granted(self, request: web.Request) -> web.Response:
        """List the grants of one function."""
        name = request.match_info["name"]
        request.app["fake"].versions(name)
        items = [grant for (each, _), grant in self.grants.items() if each == name]
        return web.json_response({"items": items, "next": None})

    async def both_sides(self, _request: web.Request) -> web.Response:
        """Show what is lent, and what was accepted as if it were all that is received."""
        targets = [alias["target"] for alias in self.aliases.values()]
        received = [{"owner": t.split("/")[0], "function": t.split("/")[1], "target": t, "account": "default", "logs": True} for t in targets]
        return web.json_response({"given": list(self.grants.values()), "received": received})

    async def accept(self, request: web.Request) -> web.Response:
        """Keep an account alias; `north/gone` was taken back, `north/nothing` never lent."""
        document, name = await self._document(request), request.match_info["name"]
        if document["target"] == "north/gone":
            raise self._refusal(410, "gone", "what was lent to you as 'north/gone' was taken back")
        if document["target"] == "north/nothing":
            raise self._refusal(404, "not_found", "no function 'north/nothing'")
        kept = {key: value for key, value in document.items() if key != "secrets"}
        more = {"url": f"http://127.0.0.1/f/default/{name}/", "invoke": f"http://127.0.0.1/v1/functions/{name}/invoke", "state": "active"}
        self.aliases[name] = {"name": name, **kept, "secrets": sorted(document.get("secrets", {})), **more}
        return web.json_response(self.aliases[name], status=201)

    async def list_aliases(self, _request: web.Request) -> web.Response:
        """List account aliases."""
        return web.json_response({"items": list(self.aliases.values()), "next": None})

    async def show_alias(self, request: web.Request) -> web.Response:
        """Show an account alias."""
        name = request.match_info["name"]
        return web.json_response(self._known(self.aliases, name, "account alias", name))

    async def remove_alias(self, request: web.Request) -> web.Response:
        """Forget an account alias."""
        name = request.match_info["name"]
        self._known(self.aliases, name, "account alias", name)
        del self.aliases[name]
        return web.Response(status=204)

    async def audit(self, request: web.Request) -> web.Response:
        """Tell two lines, one a page."""
        lines = [
            {"cursor": 1, "at": 1.0, "kind": "granted", "name": "echo", "other": "south", "detail": {}},
            {"cursor": 2, "at": 2.0, "kind": "called", "name": "echo", "other": "south", "detail": {"count": 3, "outcomes": {"ok": 3}}},
        ]
        after = int(request.query.get("after", 0))
        return web.json_response({"items": lines[after : after + 1], "next": after + 1 if after + 1 < len(lines) else None})

    async def set_secret(self, request: web.Request) -> web.Response:
        """Keep a secret's name."""
        await self._document(request)
        self.secrets[request.match_info["name"], request.match_info["key"]] = 1.0
        return web.Response(status=204)

    async def list_secrets(self, request: web.Request) -> web.Response:
        """List the names."""
        items = [{"key": key, "updated": at} for (name, key), at in self.secrets.items() if name == request.match_info["name"]]
        return web.json_response({"items": items, "next": None})

    async def remove_secret(self, request: web.Request) -> web.Response:
        """Forget a name."""
        key = (request.match_info["name"], request.match_info["key"])
        self._known(self.secrets, key, "secret", key[1])
        del self.secrets[key]
        return web.Response(status=204)

    async def rotate(self, _request: web.Request) -> web.Response:
        """Say that there is a new key."""
        return web.json_response({"key": "k2", "sealed": 3})

    async def list_apis(self, _request: web.Request) -> web.Response:
        """List the own ones, and one of north's."""
        north = {"owner": "north", "api": "text", "versions": [{"version": "1", "state": "deprecated", "operations": OPERATIONS}]}
        north["versions"] += [{"version": "2", "state": "published", "operations": OPERATIONS}]
        north |= {"access": "approval", "title": "Texts", "subscribed": None}
        return web.json_response({"items": [*self.apis.values(), north], "next": None})

    async def publish(self, request: web.Request) -> web.Response:
        """Keep a definition; `taken` was published with other content."""
        document, name = await self._document(request), request.match_info["api"]
        if document.get("title") == "taken":
            raise self._refusal(409, "conflict", f"version {document['version']} of {name!r} is published with other content")
        version = {"version": document["version"], "state": "published", "operations": document["operations"]}
        self.apis[name] = {"owner": "default", "api": name, "versions": [version], "access": document.get("access", "open")}
        shown = {"api": name, "version": document["version"], "state": "published", "operations": document["operations"]}
        return web.json_response(shown, status=201)

    async def show_api(self, request: web.Request) -> web.Response:
        """Show an API; every one of north's is there."""
        owner, name = request.match_info.get("owner", "default"), request.match_info["api"]
        if owner != "north":
            return web.json_response(self._known(self.apis, name, "API", name))
        versions = [{"version": "1", "state": "retired"}, {"version": "2", "state": "published", "operations": OPERATIONS}]
        return web.json_response({"owner": owner, "api": name, "versions": versions, "access": "open"})

    async def remove_api(self, request: web.Request) -> web.Response:
        """Forget an API."""
        name = request.match_info["api"]
        self._known(self.apis, name, "API", name)
        del self.apis[name]
        return web.Response(status=204)

    async def list_approvals(self, _request: web.Request) -> web.Response:
        """List who asked."""
        items = [{"account": account, "state": state, "created": 1.0} for account, state in self.approvals.items()]
        return web.json_response({"items": items, "next": None})

    async def approve(self, request: web.Request) -> web.Response:
        """Decide about an account."""
        state = "active" if (await self._document(request))["approve"] else "refused"
        self.approvals[request.match_info["account"]] = state
        return web.json_response({"account": request.match_info["account"], "state": state})

    async def dismiss(self, request: web.Request) -> web.Response:
        """End an account's subscription."""
        account = request.match_info["account"]
        self._known(self.approvals, account, "subscription of", account)
        self.approvals[account] = "ended"
        return web.Response(status=204)

    async def change(self, request: web.Request) -> web.Response:
        """Deprecate or retire a version."""
        name, change = request.match_info["api"], request.match_info["change"]
        self._known(self.apis, name, "API", name)
        return web.json_response({"api": name, "version": request.match_info["version"], "state": f"{change}d"})

    async def openapi(self, request: web.Request) -> web.Response:
        """Return what looks like an OpenAPI document."""
        info = {"title": request.match_info["api"], "version": request.match_info["version"]}
        return web.json_response({"openapi": "3.1.0", "info": info})

    async def subscribe(self, request: web.Request) -> web.Response:
        """Keep a subscription; `north/asked` has to be approved."""
        document, name = await self._document(request), request.match_info["name"]
        state = "pending" if document["api"] == "north/asked" else "active"
        url = f"http://127.0.0.1/v1/apis/{document['api']}/2"
        self.subscriptions[name] = {"name": name, "api": document["api"], "state": state, "url": url, "operations": OPERATIONS}
        return web.json_response(self.subscriptions[name], status=201)

    def subscription(self, name: str) -> dict[str, Any]:
        """Return a subscription, or refuse."""
        found: dict[str, Any] = self._known(self.subscriptions, name, "subscription", name)
        return found

    async def list_subscriptions(self, _request: web.Request) -> web.Response:
        """List subscriptions."""
        return web.json_response({"items": list(self.subscriptions.values()), "next": None})

    async def show_subscription(self, request: web.Request) -> web.Response:
        """Show a subscription."""
        return web.json_response(self.subscription(request.match_info["name"]))

    async def unsubscribe(self, request: web.Request) -> web.Response:
        """Forget a subscription."""
        self.subscription(request.match_info["name"])
        del self.subscriptions[request.match_info["name"]]
        return web.Response(status=204)
