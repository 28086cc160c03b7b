"""Asynchronous work, dead letters included."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pyfaas.cli import console
from pyfaas.cli.invoke import read_event, seconds
from pyfaas.cli.options import Output
from pyfaas.cli.session import act, chosen
from pyfaas.client import tagged
from pyfaas.client.aio import AsyncClient
from pyfaas.client.calls import job_result

app = typer.Typer(rich_markup_mode=None)
jobs = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Asynchronous work, dead letters included.")
app.add_typer(jobs, name="jobs")
_ID = Annotated[str, typer.Argument(metavar="ID", help="what `invoke --async` printed")]
STATES = ("queued", "running", "succeeded", "failed", "timed_out", "oom", "cancelled", "expired", "dead")
_COLUMNS = ("id", "function", "version", "state", "outcome", "created", "finished")


@app.callback()
def _group() -> None:
    """Keep the one verb a verb of a group."""


@jobs.command(epilog="Example: pyfaas jobs ls --dead")
def ls(
    ctx: typer.Context,
    dead: Annotated[bool, typer.Option("--dead", help="only dead letters")] = False,  # noqa: FBT002
    state: Annotated[
        str | None, typer.Option("--state", metavar="STATE", help="only those in this state", show_default=False)
    ] = None,
) -> None:
    """List asynchronous invocations."""
    if state not in (None, *STATES):
        raise typer.BadParameter(f"--state is one of {', '.join(STATES)}, not {state!r}")
    rows = act(ctx, lambda client: client.jobs(state="dead" if dead else state))
    nothing = "no dead letters" if dead else "no asynchronous invocations; pyfaas invoke NAME --async makes one"
    console.show_list(chosen(ctx), rows, _COLUMNS, f"none is {state}" if state else nothing)


@jobs.command(epilog="Example: pyfaas jobs get ID -o yaml")
def get(ctx: typer.Context, job_id: _ID) -> None:
    """Show an asynchronous invocation."""
    console.show(chosen(ctx), act(ctx, lambda client: client.job(job_id)))


@jobs.command(epilog="Example: pyfaas jobs wait ID --timeout 1m")
def wait(
    ctx: typer.Context,
    job_id: _ID,
    timeout: Annotated[
        str | None, typer.Option("--timeout", metavar="TIME", help="give up waiting after, e.g. 1m", show_default=False)
    ] = None,
) -> None:
    """Wait until an invocation ended; prints the result and exits as invoke does."""
    limit = seconds(timeout, "--timeout")
    with console.progress(chosen(ctx), f"waiting for {job_id}"):
        shown = act(ctx, lambda client: client.wait(job_id, timeout=limit))
    result = job_result(shown)
    body = result if isinstance(result, bytes) else tagged.dumps(result)
    console.raw(body)
    console.end_of_result(body)


@jobs.command(epilog="Example: pyfaas jobs cancel ID")
def cancel(ctx: typer.Context, job_id: _ID) -> None:
    """Cancel an invocation; one that ended stays as it is."""
    shown = act(ctx, lambda client: client.cancel(job_id))
    console.show(chosen(ctx), shown, ("id", "state"))


@jobs.command(epilog="Example: pyfaas jobs replay --dead")
def replay(
    ctx: typer.Context,
    job_id: Annotated[
        str | None, typer.Argument(metavar="ID", help="what `invoke --async` printed", show_default=False)
    ] = None,
    dead: Annotated[bool, typer.Option("--dead", help="every dead letter")] = False,  # noqa: FBT002
    data: Annotated[
        str | None,
        typer.Option("-d", "--data", metavar="DATA", help="another event: JSON, @FILE or -", show_default=False),
    ] = None,
) -> None:
    """Run an invocation again, with the same or another event; prints the new {id, state, replay_of}."""
    if (job_id is None) == (not dead):
        raise typer.BadParameter("name one ID, or say --dead")
    event = read_event(data, None)[0] if data is not None else None

    async def work(client: AsyncClient) -> list[dict[str, Any]]:
        wanted = [job_id] if job_id else [str(row["id"]) for row in await client.jobs(state="dead")]
        return [await client.replay(each, event) for each in wanted]

    made = act(ctx, work)
    if job_id is None or chosen(ctx).output is Output.TABLE:
        console.show_list(chosen(ctx), made, ("id", "state", "replay_of"), "no dead letters")
    else:
        console.show(chosen(ctx), made[0])
