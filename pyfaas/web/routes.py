"""Every route of HTTP version 1, in one table that tests and the authorisation matrix walk.

A handler takes (service, request, caller) and returns a JSON value, or a response. `scope` None means that no token is
needed (a function's URL decides itself).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from pyfaas.model import Caller, Scope
from pyfaas.service.service import Service
from pyfaas.web import metrics, routes_backup
from pyfaas.web import routes_accounts as accounts
from pyfaas.web import routes_apis as apis
from pyfaas.web import routes_calls as calls
from pyfaas.web import routes_functions as functions
from pyfaas.web import routes_secrets as secrets
from pyfaas.web import routes_server as server
from pyfaas.web import routes_sharing as sharing
from pyfaas.web import routes_versions as versions

Handler = Callable[[Service, web.Request, Caller | None], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Route:
    """One row: a method and a path of the table, what answers it, the scope that it needs, and what limits its body."""

    method: str
    path: str
    handler: Handler
    scope: Scope | None
    limit: str | None = "sync_payload"  # the option that no body can be longer than; None: each line has a limit of its own

    @property
    def is_url(self) -> bool:
        """Whether the path and its query are a function's or an API's own, and not of our grammar."""
        return self.path.startswith("/f/") or self.path.endswith("/{path:.*}")


ROUTES = (
    Route("GET", "/", server.front_page, None),
    Route("GET", "/openapi.json", server.openapi, None),
    Route("GET", "/healthz", server.healthz, None),
    Route("GET", "/readyz", server.readyz, None),
    Route("GET", "/metrics", metrics.metrics, None),
    Route("GET", "/v1/whoami", accounts.whoami, Scope.INVOKE),
    Route("GET", "/v1/functions", functions.list_functions, Scope.READ),
    Route("PUT", "/v1/functions/{name}", functions.publish, Scope.DEPLOY, limit="bundle_packed"),
    Route("GET", "/v1/functions/{name}", functions.describe, Scope.READ),
    Route("DELETE", "/v1/functions/{name}", functions.remove_function, Scope.DEPLOY),
    Route("POST", "/v1/functions/{name}/invoke", calls.invoke, Scope.INVOKE),
    Route("POST", "/v1/functions/{name}/map", calls.map_, Scope.INVOKE, limit=None),
    Route("POST", "/v1/functions/{name}/rollback", versions.rollback, Scope.DEPLOY),
    Route("GET", "/v1/functions/{name}/logs", calls.logs, Scope.READ),
    Route("GET", "/v1/functions/{name}/events", versions.events, Scope.READ),
    Route("GET", "/v1/functions/{name}/versions", versions.list_versions, Scope.READ),
    Route("GET", "/v1/functions/{name}/versions/{number}", versions.version, Scope.READ),
    Route("DELETE", "/v1/functions/{name}/versions/{number}", versions.remove_version, Scope.DEPLOY),
    Route("GET", "/v1/functions/{name}/aliases", versions.list_aliases, Scope.READ),
    Route("GET", "/v1/functions/{name}/aliases/{alias}", versions.get_alias, Scope.READ),
    Route("PUT", "/v1/functions/{name}/aliases/{alias}", versions.set_alias, Scope.DEPLOY),
    Route("DELETE", "/v1/functions/{name}/aliases/{alias}", versions.remove_alias, Scope.DEPLOY),
    Route("GET", "/v1/functions/{name}/secrets", secrets.list_secrets, Scope.READ),
    Route("PUT", "/v1/functions/{name}/secrets/{key}", secrets.set_secret, Scope.DEPLOY),
    Route("DELETE", "/v1/functions/{name}/secrets/{key}", secrets.remove_secret, Scope.DEPLOY),
    Route("POST", "/v1/secrets/rotate", secrets.rotate, Scope.ADMIN),
    Route("GET", "/v1/functions/{name}/grants", sharing.function_grants, Scope.READ),
    Route("PUT", "/v1/functions/{name}/grants/{grantee}", sharing.grant, Scope.DEPLOY),
    Route("DELETE", "/v1/functions/{name}/grants/{grantee}", sharing.revoke, Scope.DEPLOY),
    Route("GET", "/v1/grants", sharing.list_grants, Scope.READ),
    Route("GET", "/v1/aliases", sharing.list_account_aliases, Scope.READ),
    Route("GET", "/v1/aliases/{name}", sharing.account_alias, Scope.READ),
    Route("PUT", "/v1/aliases/{name}", sharing.accept, Scope.DEPLOY),
    Route("DELETE", "/v1/aliases/{name}", sharing.remove_account_alias, Scope.DEPLOY),
    Route("GET", "/v1/audit", sharing.audit, Scope.READ),
    Route("GET", "/v1/invocations", calls.list_jobs, Scope.READ),
    Route("GET", "/v1/invocations/{id}", calls.job, Scope.INVOKE),
    Route("DELETE", "/v1/invocations/{id}", calls.cancel_job, Scope.INVOKE),
    Route("GET", "/v1/invocations/{id}/logs", calls.job_logs, Scope.READ),
    Route("POST", "/v1/invocations/{id}/replay", calls.replay_job, Scope.INVOKE),
    Route("GET", "/v1/accounts", accounts.list_accounts, Scope.READ),
    Route("POST", "/v1/accounts", accounts.create_account, Scope.ADMIN),
    Route("PUT", "/v1/accounts/{account}", accounts.set_account, Scope.DEPLOY),
    Route("DELETE", "/v1/accounts/{account}", accounts.remove_account, Scope.ADMIN),
    Route("GET", "/v1/tokens", accounts.list_tokens, Scope.READ),
    Route("POST", "/v1/tokens", accounts.create_token, Scope.INVOKE),
    Route("POST", "/v1/tokens/rotate-admin", accounts.rotate_admin, Scope.ADMIN),
    Route("DELETE", "/v1/tokens/{id}", accounts.revoke_token, Scope.INVOKE),
    Route("GET", "/v1/usage", server.usage, Scope.READ),
    Route("GET", "/v1/limits", server.limits, Scope.INVOKE),
    Route("GET", "/v1/fleets", server.fleets, Scope.READ),
    Route("GET", "/v1/backup", routes_backup.backup, Scope.ADMIN),
    Route("POST", "/v1/functions/{name}/{operation}/invoke", calls.invoke_operation, Scope.INVOKE),
    Route("POST", "/v1/functions/{name}/{operation}/map", calls.map_operation, Scope.INVOKE, limit=None),
    Route("GET", "/v1/apis", apis.list_apis, Scope.READ),
    Route("GET", "/v1/apis/{api}", apis.own_api, Scope.READ),
    Route("PUT", "/v1/apis/{api}", apis.publish_api, Scope.DEPLOY),
    Route("DELETE", "/v1/apis/{api}", apis.remove_api, Scope.DEPLOY),
    Route("POST", "/v1/apis/{api}/versions/{version}/deprecate", apis.deprecate_api, Scope.DEPLOY),
    Route("POST", "/v1/apis/{api}/versions/{version}/retire", apis.retire_api, Scope.DEPLOY),
    Route("GET", "/v1/apis/{api}/approvals", apis.list_approvals, Scope.READ),
    Route("POST", "/v1/apis/{api}/approvals/{account}", apis.approve, Scope.DEPLOY),
    Route("DELETE", "/v1/apis/{api}/approvals/{account}", apis.end_approval, Scope.DEPLOY),
    Route("GET", "/v1/subscriptions", apis.list_subscriptions, Scope.READ),
    Route("GET", "/v1/subscriptions/{name}", apis.subscription, Scope.READ),
    Route("PUT", "/v1/subscriptions/{name}", apis.subscribe, Scope.DEPLOY),
    Route("DELETE", "/v1/subscriptions/{name}", apis.unsubscribe, Scope.DEPLOY),
    Route("GET", "/v1/apis/{owner}/{api}", apis.describe_api, Scope.READ),
    Route("GET", "/v1/apis/{owner}/{api}/{version}/openapi.json", apis.api_document, Scope.INVOKE),
    Route("*", "/v1/apis/{owner}/{api}/{version}/{path:.*}", apis.call_api, Scope.INVOKE),
    Route("*", "/f/{account}/{target}/{rest:.*}", calls.function_url, None),
)
