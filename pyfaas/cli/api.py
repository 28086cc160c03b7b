"""APIs: publishing one's own, and subscribing to those of others."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pyfaas.apifile import load
from pyfaas.cli import assignments, console, lending
from pyfaas.cli.functions import confirm
from pyfaas.cli.options import Output
from pyfaas.cli.session import act, chosen
from pyfaas.client.lending import RUNNING
from pyfaas.names import check_name, parse_duration

app = typer.Typer(rich_markup_mode=None)
api = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="APIs made of functions: your own, and those of others.")
app.add_typer(api, name="api")
_API = Annotated[str, typer.Argument(metavar="API", help="an API of your own")]
_Any = Annotated[str, typer.Argument(metavar="OWNER/NAME", help="an API; the name alone for one of your own")]
_Account = Annotated[str, typer.Argument(metavar="ACCOUNT", help="the account that asked, or uses it")]
_Version = Annotated[str, typer.Argument(metavar="VERSION", help="its version, as the definition says it")]
_Yes = Annotated[bool, typer.Option("-y", "--yes", help="do not ask")]


@app.callback()
def _group() -> None:
    """Keep the one verb a verb of a group."""


@api.command(epilog="Example: pyfaas api publish -f api.toml")
def publish(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="its name, when not the file's", show_default=False)] = None,
    file: Annotated[Path, typer.Option("-f", "--file", metavar="FILE", help="the definition; schemas lie beside it")] = Path("api.toml"),
) -> None:
    """Publish a version of an API. One that is published never changes."""
    definition = load(file)
    if name is not None:
        definition["name"] = check_name(name, "API")
    shown = act(ctx, lambda client: client.publish_api(definition))
    console.show(chosen(ctx), shown, _told(shown))
    if _is_told(ctx):
        _operations(shown)


@api.command(epilog="Example: pyfaas api approve text south")
def approve(
    ctx: typer.Context,
    name: _API,
    account: _Account,
    refuse: Annotated[bool, typer.Option("--refuse", help="say no")] = False,  # noqa: FBT002
) -> None:
    """Let an account that asked use an API, or refuse it."""
    shown = act(ctx, lambda client: client.refuse(name, account) if refuse else client.approve(name, account))
    console.show(chosen(ctx), shown)


@api.command(epilog="Example: pyfaas api approvals text")
def approvals(ctx: typer.Context, name: _API) -> None:
    """List who asked for an API, and who uses it."""
    rows = act(ctx, lambda client: client.approvals(name))
    console.show_list(chosen(ctx), rows, ("account", "state", "created"), "nobody asked for it")


@api.command(epilog="Example: pyfaas api revoke text south")
def revoke(ctx: typer.Context, name: _API, account: _Account, running: lending.Running = "stop") -> None:
    """End an account's subscription of an API. What runs is stopped, or finishes."""
    lending.one_of(running, RUNNING, "--running")
    act(ctx, lambda client: client.end_subscription(name, account, running=running))
    console.note(chosen(ctx), f"{account} is no subscriber of {name} any more")


@api.command(epilog="Example: pyfaas api deprecate text 1 --sunset 720h")
def deprecate(
    ctx: typer.Context,
    name: _API,
    version: _Version,
    sunset: Annotated[str | None, typer.Option("--sunset", metavar="TIME", help="callers are told that it ends after, e.g. 720h", show_default=False)] = None,
) -> None:
    """Warn callers of a version. It should not be used any more, and goes on answering."""
    until = round(time.time() + parse_duration(sunset, "--sunset") / 1000) if sunset else None
    shown = act(ctx, lambda client: client.deprecate_api(name, version, sunset=until))
    console.show(chosen(ctx), shown, _told(shown))


@api.command(epilog="Example: pyfaas api retire text 1 -y")
def retire(ctx: typer.Context, name: _API, version: _Version, yes: _Yes = False) -> None:  # noqa: FBT002
    """End a version: from now on it is gone for everybody."""
    confirm(ctx, f"retire version {version} of {name} for everybody who uses it?", yes=yes)
    shown = act(ctx, lambda client: client.retire_api(name, version))
    console.show(chosen(ctx), shown, _told(shown))


@api.command(epilog="Example: pyfaas api rm text -y")
def rm(ctx: typer.Context, name: _API, yes: _Yes = False) -> None:  # noqa: FBT002
    """Remove an API; all subscriptions of it end."""
    confirm(ctx, f"remove the API {name} with all its subscriptions?", yes=yes)
    act(ctx, lambda client: client.remove_api(name))
    console.note(chosen(ctx), f"removed {name}")


@api.command(epilog="Example: pyfaas api ls")
def ls(ctx: typer.Context) -> None:
    """List the APIs that you can see. They are your own, and those that you may subscribe to."""
    rows = act(ctx, lambda client: client.apis())
    if chosen(ctx).output is Output.TABLE:
        rows = [lending.api_row(row) for row in rows]
    columns = ("api", "versions", "operations", "access", "title", "subscribed")
    console.show_list(chosen(ctx), rows, columns, "no APIs yet; publish one: pyfaas api publish -f api.toml")


@api.command(epilog="Example: pyfaas api describe north/text")
def describe(ctx: typer.Context, name: _Any) -> None:
    """Show an API: its versions and their operations."""
    shown = act(ctx, lambda client: client.api(name))
    if chosen(ctx).output is not Output.TABLE:
        console.show(chosen(ctx), shown)
        return
    row = lending.api_row(shown)
    console.show(chosen(ctx), row, [key for key in lending.filled(row) if key != "operations"])
    for version in shown.get("versions") or ():
        console.out(f"\nversion {version.get('version')}, {version.get('state')}")
        _operations(version)


@api.command(epilog="Example: pyfaas api openapi north/text > text.json")
def openapi(
    ctx: typer.Context,
    name: _Any,
    version: Annotated[str | None, typer.Option("--version", metavar="VERSION", help="else the newest", show_default=False)] = None,
) -> None:
    """Print an API's OpenAPI document. It is JSON, or with -o yaml YAML."""
    shown = act(ctx, lambda client: client.api_openapi(name, version))
    options = chosen(ctx)
    if options.output is Output.TABLE:
        options.output = Output.JSON
    console.show(options, shown)


@api.command(epilog="Example: pyfaas api subscribe north/text --as text --secret api_key=@key.txt")
def subscribe(  # noqa: PLR0913 - options of a command
    ctx: typer.Context,
    target: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="an API of somebody's")],
    name: Annotated[str, typer.Option("--as", metavar="NAME", help="what you call it")],
    param: lending.Param = None,
    secret: lending.Secret = None,
    network: lending.Network = None,
) -> None:
    """Subscribe to an API. Your parameters and secrets are in every call."""
    check_name(name, "subscription")
    params = assignments.values(param or [], "--param")
    secrets = assignments.secrets(secret or [], "--secret", chosen(ctx))
    shown = act(
        ctx, lambda client: client.subscribe(target, name, params=params or None, secrets=secrets or None, network=network or None)
    )
    console.show(chosen(ctx), shown, _told(shown))
    if _is_told(ctx):
        _operations(shown, name)
        waits = f"{target.partition('/')[0]} has to approve it; see: pyfaas ls"
        console.note(chosen(ctx), waits if shown.get("state") == "pending" else f"call it: pyfaas invoke {name}/OPERATION -d JSON")


@api.command(epilog="Example: pyfaas api unsubscribe text -y")
def unsubscribe(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="a subscription")],
    yes: _Yes = False,  # noqa: FBT002
) -> None:
    """End a subscription of yours."""
    confirm(ctx, f"end the subscription {name}?", yes=yes)
    act(ctx, lambda client: client.unsubscribe(name))
    console.note(chosen(ctx), f"ended {name}")


def _is_told(ctx: typer.Context) -> bool:
    return chosen(ctx).output is Output.TABLE and not chosen(ctx).quiet


def _told(shown: Mapping[str, Any]) -> list[str]:
    """Return the keys that are told beside the operations, which have a table of their own."""
    first = "api" if "owner" in shown else "name"
    return [first, *(key for key in lending.filled(shown) if key not in (first, "operations", "digest", "terms"))]


def _operations(shown: Mapping[str, Any], subscription: str = "") -> None:
    found = shown.get("operations")
    if isinstance(found, list) and found and all(isinstance(each, dict) for each in found):
        console.table(("operation", "method", "path"), lending.operation_rows(found, subscription))
