"""Lending functions to other accounts, and using what others lend."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from pyfaas.cli import assignments, console, lending
from pyfaas.cli.functions import confirm
from pyfaas.cli.options import Globals, Output
from pyfaas.cli.session import act, chosen
from pyfaas.client.aio import AsyncClient
from pyfaas.client.errors import NotFound
from pyfaas.client.lending import RUNNING
from pyfaas.names import check_name

app = typer.Typer(rich_markup_mode=None)
share = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Lend functions to other accounts, and use what others lend.")
app.add_typer(share, name="share")
_AGAIN_S = 1.0


@app.callback()
def _group() -> None:
    """Keep the one verb a verb of a group."""


@share.command(epilog="Example: pyfaas share grant summarise --to south --lock tone=plain --allow length --max-concurrency 5")
def grant(  # noqa: PLR0913 - options of a command
    ctx: typer.Context,
    name: lending.Own,
    to: Annotated[str, typer.Option("--to", metavar="ACCOUNT|public", help="who may call it; public is everybody")],
    version: lending.Version = None,
    lock: lending.Lock = None,
    require: lending.Require = None,
    allow: lending.Allow = None,
    max_concurrency: lending.MaxConcurrency = None,
    rate: lending.Rate = None,
    per_day: lending.PerDay = None,
    relend: Annotated[bool, typer.Option("--relend", help="the account may lend it on")] = False,  # noqa: FBT002
    network: lending.Network = None,
    secret: lending.Travelling = None,
    logs: Annotated[bool, typer.Option("--logs", help="the account sees what its runs print")] = False,  # noqa: FBT002
    reuse: Annotated[bool, typer.Option("--reuse", help="a container may answer more than one call")] = False,  # noqa: FBT002
    placement: lending.Placement = None,
    payer: lending.Payer = None,
) -> None:
    """Lend a function to an account. The same again replaces what was said; what came with --relend can be lent on."""
    lending.one_of(placement, lending.PLACEMENTS, "--placement")
    lending.one_of(payer, lending.PAYERS, "--payer")
    terms = lending.said(
        version=version,
        lock=assignments.values(lock or [], "--lock"),
        require=require,
        allow=allow,
        max_concurrency=max_concurrency,
        rate=rate,
        per_day=per_day,
        relend=relend,
        network=network,
        secrets=secret,
        logs=logs,
        reuse=reuse,
        placement=placement,
        payer=payer,
    )

    async def work(client: AsyncClient) -> tuple[dict[str, Any], str]:
        granted = await client.grant(name, to, **terms)
        return granted, str((await client.whoami())["account"]) if is_table else ""

    is_table = chosen(ctx).output is Output.TABLE
    shown, owner = act(ctx, work)
    console.show(chosen(ctx), shown, ["function", *(key for key in lending.filled(shown) if key not in ("id", "locked", "secrets_missing", "function"))])
    if is_table:
        if missing := shown.get("secrets_missing"):
            console.note(chosen(ctx), f"not set yet: {', '.join(missing)}; pyfaas secret set {name} K=@FILE")
        console.note(chosen(ctx), f"{lending.whom(to)} begins with: pyfaas share accept {owner}/{name} --as NAME")


@share.command(epilog="Example: pyfaas share revoke summarise --from south --running finish")
def revoke(
    ctx: typer.Context,
    name: lending.Own,
    of: Annotated[str, typer.Option("--from", metavar="ACCOUNT|public", help="whose right ends")],
    running: lending.Running = "stop",
) -> None:
    """Take a grant back. From now on no run begins through it; what runs is stopped, or finishes."""
    lending.one_of(running, RUNNING, "--running")
    act(ctx, lambda client: client.revoke(name, of, running=running))
    console.note(chosen(ctx), f"took {name} back from {lending.whom(of)}")


@share.command(epilog="Example: pyfaas share ls -o json")
def ls(ctx: typer.Context) -> None:
    """List what is lent, by you and to you."""
    options = chosen(ctx)

    async def work(client: AsyncClient) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        shown = await client.grants()
        is_table = options.output is Output.TABLE and not options.quiet
        return shown, await client.account_aliases() if is_table and shown.get("received") else []

    shown, aliases = act(ctx, work)
    if options.output is not Output.TABLE:
        console.document_out(options, shown)
        return
    given, received = shown.get("given") or [], shown.get("received") or []
    if not given and not received:
        begin = "lend one of yours: pyfaas share grant NAME --to ACCOUNT"
        console.note(options, f"nothing is lent, by you or to you; {begin}")
    _list(options, "given", given, ("name", "to"))
    _list(options, "received", [{**each, "as": lending.names_of(each, aliases)} for each in received], ("target", "as"))
    if any(not lending.names_of(each, aliases) for each in received):
        console.note(options, "to use what is lent to you: pyfaas share accept OWNER/NAME --as NAME")


def _list(options: Globals, title: str, grants: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    if not grants:
        return
    rows = [lending.grant_row(each) for each in grants]
    keys = [key for key in (*names, "version", "parameters", "caps", "network", "may", "created") if any(row.get(key) for row in rows)]
    if options.quiet:
        for row in rows:
            console.out(str(row.get(names[0])))
        return
    console.out(f"{title}:")
    console.table(keys, [[console.cell(row.get(key), key) for key in keys] for row in rows])


@share.command(epilog="Example: pyfaas share accept north/summarise --as brief --param length:=20 --secret api_key=@key.txt")
def accept(  # noqa: PLR0913 - options of a command
    ctx: typer.Context,
    target: Annotated[str, typer.Argument(metavar="OWNER/NAME[:VERSION]", help="what is lent; its version, release alias, or newest")],
    name: Annotated[str, typer.Option("--as", metavar="NAME", help="what you call it")],
    param: lending.Param = None,
    secret: lending.Secret = None,
    memory: Annotated[str | None, typer.Option("--memory", metavar="SIZE", help="of a container, at most the function's", show_default=False)] = None,
    timeout: Annotated[str | None, typer.Option("--timeout", metavar="TIME", help="of a run, at most the function's", show_default=False)] = None,
    network: lending.Network = None,
    placement: lending.Placement = None,
) -> None:
    """Make an account alias. It is your own name for what is lent to you, with your parameters and secrets in it."""
    check_name(name, "account alias")
    lending.one_of(placement, lending.PLACEMENTS, "--placement")
    params = assignments.values(param or [], "--param")
    secrets = assignments.secrets(secret or [], "--secret", chosen(ctx))
    shown = act(
        ctx,
        lambda client: client.accept(
            target,
            name,
            params=params or None,
            secrets=secrets or None,
            memory=memory,
            timeout=timeout,
            network=network or None,
            placement=placement,
        ),
    )
    console.show(chosen(ctx), shown, lending.filled(shown))
    if chosen(ctx).output is Output.TABLE:
        console.note(chosen(ctx), f"call it: pyfaas invoke {name} -d JSON")


@share.command(epilog="Example: pyfaas share rm brief -y")
def rm(
    ctx: typer.Context,
    name: lending.Alias,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="do not ask")] = False,  # noqa: FBT002
) -> None:
    """Remove an account alias. Its parameters and secrets go with it."""
    confirm(ctx, f"remove the account alias {name}?", yes=yes)
    act(ctx, lambda client: client.remove_account_alias(name))
    console.note(chosen(ctx), f"removed {name}")


@share.command(epilog="Example: pyfaas share describe brief")
def describe(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="an account alias, or a function of your own that is lent")],
) -> None:
    """Show an account alias. Of a function of your own: to whom it is lent, and how far."""

    async def work(client: AsyncClient) -> tuple[Mapping[str, Any], bool]:
        try:
            return await client.account_alias(name), True
        except NotFound as error:
            try:
                return await client.grants(name), False
            except NotFound:
                raise error from None

    shown, is_alias = act(ctx, work)
    if is_alias:
        console.show(chosen(ctx), shown, lending.filled(shown))
        return
    grants = list(shown.get("items") or shown.get("given") or ())
    if chosen(ctx).output is not Output.TABLE:
        console.document_out(chosen(ctx), shown)
    elif grants:
        _list(chosen(ctx), "given", grants, ("to", "name"))
    else:
        console.note(chosen(ctx), f"{name} is lent to nobody; lend it: pyfaas share grant {name} --to ACCOUNT")


@share.command(epilog="Example: pyfaas share audit -f")
def audit(
    ctx: typer.Context,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="go on as things happen")] = False,  # noqa: FBT002
) -> None:
    """Show who lent, accepted, called, revoked. It is your own side of it, oldest first, with what was refused."""
    if follow:
        act(ctx, lambda client: _follow(client, chosen(ctx)))
        return
    rows = act(ctx, lambda client: client.audit())
    if chosen(ctx).output is Output.TABLE:
        rows = [{**row, "detail": lending.told(row.get("detail") or {})} for row in rows]
    nothing = "nothing was lent or borrowed yet: pyfaas share grant NAME --to ACCOUNT"
    console.show_list(chosen(ctx), rows, ("at", "kind", "name", "other", "detail"), nothing)


async def _follow(client: AsyncClient, options: Globals) -> None:
    after = 0
    while True:
        for line in await client.audit(after=after):
            after = max(after, int(line["cursor"]))
            if options.output is Output.TABLE:
                cells = [console.cell(line.get(key), key) for key in ("at", "kind", "name", "other")]
                console.out("  ".join([*cells, lending.told(line.get("detail") or {})]).rstrip())
            else:
                console.out(console.render(line, options.output))
        await asyncio.sleep(_AGAIN_S)
