"""Accounts, and their tokens."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from pyfaas.cli import console, policies, sentences
from pyfaas.cli.functions import confirm
from pyfaas.cli.options import Output
from pyfaas.cli.session import act, ask, chosen
from pyfaas.client.errors import invalid
from pyfaas.client.http import json_call
from pyfaas.client.profile import DEFAULT_PROFILE, locate, write_profile
from pyfaas.config import environment
from pyfaas.names import parse_duration

app = typer.Typer(rich_markup_mode=None)
account = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Accounts (admin; `set` for one's own).")
token = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Tokens of an account.")
app.add_typer(account, name="account")
app.add_typer(token, name="token")


@account.command("create", epilog="Example: pyfaas account create north -q > north.token")
def create_account(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="the account")],
    no_network: Annotated[bool, typer.Option("--no-network", help="its functions may not reach the network")] = False,  # noqa: FBT002
) -> None:
    """Create an account; its token is printed this once."""
    _show_made(ctx, act(ctx, lambda client: client.create_account(name, network=not no_network), is_admin=True))


@account.command("ls")
def list_accounts(ctx: typer.Context) -> None:
    """List accounts."""
    rows = act(ctx, lambda client: client.accounts(), is_admin=True)
    if chosen(ctx).output is Output.TABLE:
        rows = [{**row, "policy": sentences.policy(row), "quota": sentences.quota(row.get("quota") or {})} for row in rows]
    console.show_list(chosen(ctx), rows, ("account", "id", "network", "created", "quota", "policy"), "no accounts")


@account.command("set", epilog="Example: pyfaas account set north --concurrency 50 --per-day 100000 --stale forbid")
def set_account(  # noqa: PLR0913 - options of a command
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="the account")],
    stale: policies.Stale = None,
    max_stale_time: policies.MaxStaleTime = None,
    max_stale_requests: policies.MaxStaleRequests = None,
    stale_percent: policies.StalePercent = None,
    max_wait: policies.MaxWait = None,
    concurrency: policies.Concurrency = None,
    rate: policies.Rate = None,
    per_day: policies.PerDay = None,
    network: Annotated[
        bool | None, typer.Option("--network/--no-network", help="its functions may reach what they list (admin)", show_default=False)
    ] = None,
) -> None:
    """Change an account's rules and quota. An account may say how long older versions answer; its quota and network are an admin's."""
    policy = policies.said(
        stale=stale,
        max_stale_time=max_stale_time,
        max_stale_requests=max_stale_requests,
        stale_percent=stale_percent,
        max_wait=max_wait,
    )
    quota = policies.quota(concurrency=concurrency, rate=rate, per_day=per_day)
    is_admin = bool(quota) or network is not None
    if not policy and not is_admin:
        raise typer.BadParameter("nothing is said: name an option, such as --stale forbid")
    shown = act(ctx, lambda client: client.set_account(name, quota=quota or None, network=network, **policy), is_admin=is_admin)
    console.show(chosen(ctx), shown)


@account.command("rm", epilog="Example: pyfaas account rm north -y")
def remove_account(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="the account")],
    yes: Annotated[bool, typer.Option("-y", "--yes", help="do not ask")] = False,  # noqa: FBT002
) -> None:
    """Remove an account with everything that is its own."""
    confirm(ctx, f"remove the account {name} with all its functions?", yes=yes)
    act(ctx, lambda client: client.remove_account(name), is_admin=True)
    console.note(chosen(ctx), f"removed {name}")


@token.command("create", epilog="Example: pyfaas token create --scope invoke --expires 12h --label ci -q")
def create_token(
    ctx: typer.Context,
    scope: Annotated[
        list[str] | None, typer.Option("--scope", metavar="SCOPE", help="invoke, deploy or read; repeats", show_default=False)
    ] = None,
    expires: Annotated[
        str | None, typer.Option("--expires", metavar="TIME", help="it ends after, e.g. 12h", show_default=False)
    ] = None,
    label: Annotated[str, typer.Option("--label", metavar="WORD", help="a word to know it by", show_default=False)] = "",
    of: Annotated[
        str | None, typer.Option("--account", metavar="NAME", help="for another account (admin)", show_default=False)
    ] = None,
) -> None:
    """Create a token; its text is printed this once."""
    until = time.time() + parse_duration(expires, "--expires") / 1000 if expires else None
    made = act(
        ctx,
        lambda client: client.create_token(scopes=scope, expires=until, label=label, account=of),
        is_admin=of is not None,
    )
    _show_made(ctx, made)


@token.command("ls")
def list_tokens(ctx: typer.Context) -> None:
    """List the account's tokens, without their text."""
    rows = act(ctx, lambda client: client.tokens())
    console.show_list(chosen(ctx), rows, ("id", "scopes", "label", "created", "expires"), "no tokens")


@token.command(epilog="Example: pyfaas token revoke ID")
def revoke(
    ctx: typer.Context, token_id: Annotated[str, typer.Argument(metavar="ID", help="as `token ls` shows it")]
) -> None:
    """Revoke a token at once."""
    act(ctx, lambda client: client.revoke_token(token_id))
    console.note(chosen(ctx), f"revoked {token_id}")


@token.command("rotate-admin")
def rotate_admin(ctx: typer.Context) -> None:
    """Replace the admin's token, also in the server's data directory."""
    _show_made(ctx, act(ctx, lambda client: client.rotate_admin(), is_admin=True))


@app.command(epilog="Example: pyfaas login --url http://127.0.0.1:8787 < token")
def login(
    ctx: typer.Context,
    url: Annotated[str | None, typer.Option("--url", metavar="URL", help="the server", show_default=False)] = None,
    text: Annotated[
        str | None,
        typer.Option(
            "--token", metavar="TOKEN", help="the token; else asked for, or read from stdin", show_default=False
        ),
    ] = None,
    profile: Annotated[
        str | None, typer.Option("--profile", metavar="NAME", help="the profile to write", show_default=False)
    ] = None,
) -> None:
    """Keep a server's URL and a token in a profile that only you can read, after trying them."""
    wanted = url or environment("PYFAAS_URL") or _ask("server URL", hidden=False)
    if chosen(ctx).curl:  # which names the token and needs none
        ask(ctx, json_call("GET", "/v1/whoami"), endpoint=locate(wanted, "pf_"))
    secret = text or environment("PYFAAS_TOKEN") or _ask("token", hidden=True)
    endpoint = locate(wanted, secret)

    who = ask(ctx, json_call("GET", "/v1/whoami"), endpoint=endpoint)
    path = write_profile(profile or environment("PYFAAS_PROFILE") or DEFAULT_PROFILE, endpoint.url, endpoint.token)
    console.note(chosen(ctx), f"logged in to {endpoint.url} as {who['account']}; kept in {path}")


@app.command()
def whoami(ctx: typer.Context) -> None:
    """Show whom the token speaks for."""
    console.show(chosen(ctx), act(ctx, lambda client: client.whoami()))


def _show_made(ctx: typer.Context, made: Mapping[str, Any]) -> None:
    # Quiet leaves what a script wants, which is also what is never shown again.
    console.show(chosen(ctx), made, ("token",) if chosen(ctx).quiet else ())


def _ask(what: str, *, hidden: bool) -> str:
    if sys.stdin.isatty():
        return str(typer.prompt(what, hide_input=hidden, err=True)).strip()
    line = sys.stdin.readline().strip() if hidden else ""
    if not line:
        raise invalid(f"no {what} was given", "pass --url and --token, or the token on stdin")
    return line
