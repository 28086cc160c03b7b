"""Who may ask what: every route, asked by everybody, from one table; a route without a row fails.

The objects are the owner's: a function with a release alias, a secret, a log, an API. `granted` holds an account alias and a subscription of
them, `revoked` held both, `other` holds nothing, `admin` is the operator. Names are an account's own, so that what is the owner's is for others
what does not exist. Rows that remove something come last, and of the askers the owner does.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from pyfaas.web.routes import ROUTES
from tests.e2e.house import Answer, House, multipart, packed, started
from tests.e2e.lending import JSON, accept, accounts, grant, revoke

ROLES = ("anonymous", "other", "granted", "revoked", "admin", "owner")


@dataclass(frozen=True)
class Row:
    """A route, what is sent, and the status that each role is answered, in the order of ROLES. `{…}` in path and body are the objects."""

    route: str
    path: str
    expected: str
    body: str = ""
    kind: str = JSON


def _row(route: str, expected: str, path: str = "", body: str = "", kind: str = JSON) -> Row:
    return Row(route, path or route.split()[1], expected, body, kind)


OWN = "401 404 404 404 404"  # the owner's thing, by its name, asked by everybody else
MINE = "401 200 200 200 200 200"  # everybody is shown what is their own
READ = (
    _row("GET /", "200 200 200 200 200 200"),
    _row("GET /openapi.json", "200 200 200 200 200 200"),
    _row("GET /healthz", "200 200 200 200 200 200"),
    _row("GET /readyz", "200 200 200 200 200 200"),
    _row("GET /metrics", "200 200 200 200 200 200"),
    _row("GET /v1/whoami", MINE),
    _row("GET /v1/limits", MINE),
    _row("GET /v1/fleets", MINE),
    _row("GET /v1/usage", MINE),
    _row("GET /v1/accounts", MINE),
    _row("GET /v1/tokens", MINE),
    _row("GET /v1/invocations", MINE),
    _row("GET /v1/functions", MINE),
    _row("GET /v1/grants", MINE),
    _row("GET /v1/aliases", MINE),
    _row("GET /v1/audit", MINE),
    _row("GET /v1/subscriptions", MINE),
    _row("GET /v1/apis", MINE),
    _row("GET /v1/backup", "401 403 403 403 200 403"),
    _row("GET /v1/functions/{name}", f"{OWN} 200", "/v1/functions/{f}"),
    _row("GET /v1/functions/{name}/logs", f"{OWN} 200", "/v1/functions/{f}/logs"),
    _row("GET /v1/functions/{name}/events", f"{OWN} 200", "/v1/functions/{f}/events"),
    _row("GET /v1/functions/{name}/versions", f"{OWN} 200", "/v1/functions/{f}/versions"),
    _row("GET /v1/functions/{name}/versions/{number}", f"{OWN} 200", "/v1/functions/{f}/versions/1"),
    _row("GET /v1/functions/{name}/aliases", f"{OWN} 200", "/v1/functions/{f}/aliases"),
    _row("GET /v1/functions/{name}/aliases/{alias}", f"{OWN} 200", "/v1/functions/{f}/aliases/live"),
    _row("GET /v1/functions/{name}/secrets", f"{OWN} 200", "/v1/functions/{f}/secrets"),
    _row("GET /v1/functions/{name}/grants", f"{OWN} 200", "/v1/functions/{f}/grants"),
    _row("GET /v1/invocations/{id}", "401 404 404 404 200 200", "/v1/invocations/{job}"),
    _row("GET /v1/invocations/{id}/logs", "401 404 404 404 404 200", "/v1/invocations/{job}/logs"),
    _row("GET /v1/aliases/{name}", "401 404 200 200 404 404", "/v1/aliases/{lent}"),
    _row("GET /v1/subscriptions/{name}", "401 404 200 404 404 404", "/v1/subscriptions/{sub}"),
    _row("GET /v1/apis/{api}", f"{OWN} 200", "/v1/apis/{api}"),
    _row("GET /v1/apis/{api}/approvals", f"{OWN} 200", "/v1/apis/{api}/approvals"),
    _row("GET /v1/apis/{owner}/{api}", "401 404 200 404 404 200", "/v1/apis/owner/{api}"),
    _row("GET /v1/apis/{owner}/{api}/{version}/openapi.json", "401 404 200 404 404 200", "/v1/apis/owner/{api}/1/openapi.json"),
)
CALLS = (
    _row("POST /v1/functions/{name}/invoke", f"{OWN} 200", "/v1/functions/{f}/invoke", "{{}}"),
    _row("POST /v1/functions/{name}/invoke", "401 404 200 410 404 404", "/v1/functions/{lent}/invoke", "{{}}"),
    _row("POST /v1/functions/{name}/{operation}/invoke", "401 404 200 404 404 404", "/v1/functions/{sub}/run/invoke", "{{}}"),
    _row("POST /v1/functions/{name}/{operation}/map", "401 404 200 404 404 404", "/v1/functions/{sub}/run/map", "{{}}\n", "application/x-ndjson"),
    _row("POST /v1/functions/{name}/map", f"{OWN} 200", "/v1/functions/{f}/map", "{{}}\n", "application/x-ndjson"),
    _row("POST /v1/functions/{name}/map", "401 404 200 410 404 404", "/v1/functions/{lent}/map", "{{}}\n", "application/x-ndjson"),
    _row("* /f/{account}/{target}/{rest:.*}", f"{OWN} 200", "/f/owner/{f}/"),
    _row("* /f/{account}/{target}/{rest:.*}", "401 404 200 404 404 404", "/f/granted/{lent}/"),
    _row("* /v1/apis/{owner}/{api}/{version}/{path:.*}", "401 404 200 404 404 403", "/v1/apis/owner/{api}/1/run", "{{}}"),
)
ADMIN = "401 403 403 403"
CHANGES = (
    _row("PUT /v1/functions/{name}", "401 201 201 201 201 201", "/v1/functions/made", "{bundle}", "multipart"),
    _row("PUT /v1/functions/{name}/aliases/{alias}", f"{OWN} 200", "/v1/functions/{f}/aliases/live", '{{"version": 1}}'),
    _row("PUT /v1/functions/{name}/secrets/{key}", f"{OWN} 200", "/v1/functions/{f}/secrets/OTHER", '{{"value": "x"}}'),
    _row("PUT /v1/functions/{name}/grants/{grantee}", f"{OWN} 201", "/v1/functions/{f}/grants/granted2", "{{}}"),
    _row("POST /v1/functions/{name}/rollback", f"{OWN} 409", "/v1/functions/{f}/rollback"),
    _row("PUT /v1/aliases/{name}", "401 404 201 410 404 201", "/v1/aliases/another", '{{"target": "owner/{lendable}"}}'),
    _row("PUT /v1/apis/{api}", "401 404 404 404 404 200", "/v1/apis/{api}", "{definition}"),
    _row("PUT /v1/subscriptions/{name}", "401 404 200 404 404 201", "/v1/subscriptions/{sub}", '{{"api": "owner/{api}"}}'),
    _row("POST /v1/apis/{api}/approvals/{account}", f"{OWN} 404", "/v1/apis/{api}/approvals/other", '{{"approve": true}}'),
    _row("PUT /v1/accounts/{account}", "401 404 404 404 200 200", "/v1/accounts/owner", "{{}}"),
    _row("POST /v1/accounts", f"{ADMIN} 201 403", "", '{{"name": "made-{n}"}}'),
    _row("POST /v1/tokens", "401 201 201 201 201 201", "", '{{"scopes": ["read"]}}'),
    _row("POST /v1/tokens", f"{ADMIN} 201 403", "", '{{"scopes": ["read"], "account": "granted2"}}'),
    _row("POST /v1/secrets/rotate", f"{ADMIN} 200 403"),
    _row("POST /v1/invocations/{id}/replay", "401 404 404 404 404 202", "/v1/invocations/{job}/replay"),
)
ENDS = (
    _row("DELETE /v1/functions/{name}/secrets/{key}", f"{OWN} 204", "/v1/functions/{f}/secrets/OTHER"),
    _row("DELETE /v1/functions/{name}/aliases/{alias}", f"{OWN} 204", "/v1/functions/{f}/aliases/live"),
    _row("DELETE /v1/functions/{name}/versions/{number}", f"{OWN} 409", "/v1/functions/{f}/versions/1"),
    _row("DELETE /v1/functions/{name}/grants/{grantee}", f"{OWN} 204", "/v1/functions/{f}/grants/granted2"),
    _row("DELETE /v1/invocations/{id}", "401 404 404 404 200 200", "/v1/invocations/{job}"),
    _row("DELETE /v1/aliases/{name}", "401 404 204 204 404 404", "/v1/aliases/{lent}"),
    _row("DELETE /v1/subscriptions/{name}", "401 404 204 404 404 204", "/v1/subscriptions/{sub}"),
    _row("DELETE /v1/apis/{api}/approvals/{account}", f"{OWN} 404", "/v1/apis/{api}/approvals/other"),
    _row("POST /v1/apis/{api}/versions/{version}/deprecate", f"{OWN} 200", "/v1/apis/{api}/versions/1/deprecate"),
    _row("POST /v1/apis/{api}/versions/{version}/retire", f"{OWN} 200", "/v1/apis/{api}/versions/1/retire"),
    _row("DELETE /v1/apis/{api}", f"{OWN} 204", "/v1/apis/{api}"),
    _row("DELETE /v1/functions/{name}", f"{OWN} 204", "/v1/functions/{f}"),
    _row("DELETE /v1/tokens/{id}", "401 404 404 404 204 404", "/v1/tokens/{token}"),
    _row("DELETE /v1/tokens/{id}", "401 404 404 404 404 204", "/v1/tokens/{mine}"),
    _row("DELETE /v1/accounts/{account}", f"{ADMIN} 204 401", "/v1/accounts/owner"),
    _row("POST /v1/tokens/rotate-admin", "401 403 403 403 200 401"),
)
TABLE = (*READ, *CALLS, *CHANGES, *ENDS)


class Objects:
    """What the rows are about, with a canary in everything that only its own side may see."""

    def __init__(self, house: House) -> None:
        """Make everything."""
        self.house = house
        self.owners = {what: "x" + secrets.token_hex(8) for what in ("handler", "key", "value", "printed", "parameter", "hidden")}
        self.callers = {what: "y" + secrets.token_hex(8) for what in ("parameter", "secret", "value", "sealed")}
        self.names = {"f": "fn" + secrets.token_hex(4), "lendable": "fn" + secrets.token_hex(4), "api": "ap" + secrets.token_hex(4)}
        self.names |= {"lent": "al" + secrets.token_hex(4), "sub": "su" + secrets.token_hex(4)}
        accounts(house, "owner", "other", "granted", "revoked", "granted2")
        f, api = self.names["f"], self.names["api"]
        code = f"def {self.owners['handler']}(event, context):\n    print({self.owners['printed']!r})\n    return 1\n"
        for name in (f, self.names["lendable"], self.owners["hidden"]):
            house.deploy(name, code, token="owner", handler=f"main:{self.owners['handler']}")
        self._put(f"/v1/functions/{f}/aliases/live", {"version": 1})
        self._put(f"/v1/functions/{f}/secrets/{self.owners['key']}", {"value": self.owners["value"]})
        definition = {"version": "1", "access": "listed", "accounts": ["granted"], "directory": False}
        self.definition = {**definition, "operations": [{"name": "run", "method": "POST", "path": "/run", "function": f}]}
        self._put(f"/v1/apis/{api}", {**self.definition, "accounts": ["granted", "revoked"], "version": "0"})
        self._put(f"/v1/subscriptions/{self.names['sub']}", {"api": f"owner/{api}"}, "revoked")
        house.call("DELETE", f"/v1/apis/{api}/approvals/revoked", token="owner")
        self._put(f"/v1/apis/{api}", self.definition)
        for caller in ("granted", "revoked"):
            for name in (f, self.names["lendable"]):
                grant(house, name, caller, lock={"l": self.owners["parameter"]}, allow=["p"])
            order = {"params": {"p": self.callers["parameter"]}, "secrets": {self.callers["secret"]: self.callers["value"]}}
            accept(house, self.names["lent"], f"owner/{f}", caller=caller, **order)
        for name in (f, self.names["lendable"]):
            revoke(house, name, "revoked")
        self._put(f"/v1/subscriptions/{self.names['sub']}", {"api": f"owner/{api}", "params": {"s": self.callers["sealed"]}}, "granted")
        job = house.call("POST", f"/v1/functions/{f}/invoke", b"{}", token="owner", prefer="respond-async").json["id"]
        house.call("GET", f"/v1/invocations/{job}?wait=20", token="owner")
        self.names |= {"job": job, "token": self._token(), "mine": "00000000-0000-0000-0000-000000000000"}
        self.bundle = house.call("GET", f"/v1/functions/{f}/versions/1", token="owner").json["bundle"]

    def _token(self) -> str:
        made = self.house.call("POST", "/v1/tokens", json.dumps({"scopes": ["read"]}), token="owner", content_type=JSON)
        return str(made.json["id"])

    def _put(self, path: str, body: object, token: str = "owner") -> None:  # noqa: S107 - a name
        answer = self.house.call("PUT", path, json.dumps(body), token=token, content_type=JSON)
        assert answer.status in (200, 201), (path, answer.body)

    def ask(self, row: Row, role: str, n: int) -> Answer:
        """Ask what a row says, as a role."""
        if role == "owner" and "{mine}" in row.path:
            self.names["mine"] = self._token()
        method, kind = row.route.split()[0], row.kind
        body: bytes | None = None
        if kind == "multipart":
            body, kind = multipart({"config": b"{}", "code": packed({"main.py": "def handler(event, context):\n    return 1\n"})})
        elif row.body == "{definition}":
            body = json.dumps(self.definition).encode()
        elif row.body:
            body = row.body.format(**self.names, n=n).encode()
        path = row.path.format(**self.names)
        return self.house.call(
            "POST" if method == "*" else method, path, body, token=None if role == "anonymous" else role, content_type=kind, timeout=60
        )

    def secrets_from(self, role: str) -> list[str]:
        """Return what a role must not see: the other sides' canaries."""
        owners, callers = [*self.owners.values(), self.bundle], list(self.callers.values())
        return {"owner": callers, "granted": owners, "revoked": owners}.get(role, [*owners, *callers])


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Objects]:
    """A server with everything in it."""
    with started(tmp_path_factory.mktemp("authorisation") / "data") as house:
        yield Objects(house)


def test_every_route_has_a_row() -> None:
    """A new route without a row in the table fails here."""
    known = {f"{route.method} {route.path}" for route in ROUTES}
    assert {row.route for row in TABLE} == known


def test_everybody_is_answered_as_the_table_says(objects: Objects) -> None:
    """Each route by each role: the status of the table, no 500, and nothing that is another's."""
    wrong, n = [], 0
    for row in TABLE:
        for role, expected in zip(ROLES, row.expected.split(), strict=True):
            n += 1
            answer = objects.ask(row, role, n)
            seen = [mark for mark in objects.secrets_from(role) if mark.encode() in answer.body and role != "admin"]
            if str(answer.status) != expected or seen:
                wrong.append((row.route, row.path, role, expected, answer.status, seen, answer.body[:160]))
    assert wrong == [], "\n".join(map(str, wrong))
