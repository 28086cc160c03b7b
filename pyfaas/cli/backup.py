"""Verbs that keep what a server has: `backup` from a running one, `restore` into an empty directory.

A backup is written beside its name, synced, checked for its end and only then given the name: a file that is there is whole.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from pyfaas.cli import console
from pyfaas.cli.options import Globals, Output
from pyfaas.cli.session import act, chosen
from pyfaas.client.aio import AsyncClient
from pyfaas.client.errors import invalid
from pyfaas.config import load

app = typer.Typer(rich_markup_mode=None)
_EVERY_S = 0.5
_MIB = 1 << 20


@app.command(epilog="Example: pyfaas backup pyfaas.backup")
def backup(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="where it is written; - is stdout")],
    force: Annotated[bool, typer.Option("-f", "--force", "-y", "--yes", help="replace a file that is there")] = False,  # noqa: FBT002
) -> None:
    """Write everything that the running server keeps, keys included, to a file that only you can read (admin)."""
    if file == "-":
        if sys.stdout.isatty():
            raise invalid("a backup is no text for a terminal", "name a file, or pipe it on")
        act(ctx, lambda client: _write(client, sys.stdout.buffer, chosen(ctx)), is_admin=True)
        sys.stdout.buffer.flush()
        return
    path = Path(file)
    if not chosen(ctx).curl:
        _check_place(path, force=force)
    with _beside(path) as out:
        size = act(ctx, lambda client: _write(client, out, chosen(ctx)), is_admin=True)
        if path.exists() and not force:
            raise _exists(path)
    if chosen(ctx).output is not Output.TABLE:
        console.show(chosen(ctx), {"file": str(path), "size": size})
        return
    console.note(chosen(ctx), f"wrote {path} ({size / _MIB:.1f} MiB); it holds keys: keep it where only you can read it")


@app.command(epilog="Example: pyfaas restore pyfaas.backup --data-dir /var/lib/pyfaas")
def restore(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="the backup; - is stdin")],
    data_dir: Annotated[str | None, typer.Option("--data-dir", metavar="DIR", help="a data directory that is missing or empty", show_default=False)] = None,
) -> None:
    """Make a server's data directory out of a backup; then `pyfaas serve` goes on from there."""
    config, _ = load({"data_dir": data_dir})
    with _opened(file) as source, console.progress(chosen(ctx), f"restoring {config.data_dir}"):
        made = importlib.import_module("pyfaas.restore").restore(source, Path(config.data_dir))
    shown = {
        "directory": str(made.directory),
        "made": made.head.made,
        "by": made.head.pyfaas,
        "accounts": made.accounts,
        "functions": made.functions,
        "versions": made.versions,
    }
    if chosen(ctx).output is not Output.TABLE:
        console.show(chosen(ctx), shown)
        return
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(made.head.made))
    console.note(
        chosen(ctx),
        f"restored {made.directory}: {made.accounts} accounts, {made.functions} functions, {made.versions} versions, as of {when}",
    )
    if made.installs:
        console.note(
            chosen(ctx),
            f"made with another Python ({made.head.platform}): the next start installs {made.installs} sets of requirements again",
        )


async def _write(client: AsyncClient, out: BinaryIO, options: Globals) -> int:
    size, told = 0, _teller(options)
    async with contextlib.aclosing(client.backup()) as pieces:
        async for piece in pieces:
            out.write(piece)
            size += len(piece)
            told(size)
    told(0)
    return size


def _teller(options: Globals) -> Callable[[int], None]:
    """Return what shows on a terminal how much has come; 0 ends it."""
    if options.quiet or options.output is not Output.TABLE or not sys.stderr.isatty():
        return lambda _size: None
    begun = shown = time.monotonic()

    def tell(size: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if not size:
            sys.stderr.write("\r\x1b[K")
        elif now - shown >= _EVERY_S:
            shown = now
            sys.stderr.write(f"\r\x1b[Kbackup: {size / _MIB:.0f} MiB, {size / _MIB / (now - begun):.0f} MiB/s")
        sys.stderr.flush()

    return tell


def _check_place(path: Path, *, force: bool) -> None:
    if path.is_dir():
        raise invalid(f"{path} is a directory", "name a file in it")
    if path.exists() and not force:
        raise _exists(path)
    if not path.absolute().parent.is_dir():
        raise invalid(f"there is no directory {path.absolute().parent}")


def _exists(path: Path) -> Exception:
    return invalid(f"{path} is there already", "name another file, or add --force to replace it")


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[BinaryIO]:
    """Open a new file that only its owner may read, and give it its name, durably, when nothing was raised."""
    parent = path.absolute().parent
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=parent)  # 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
        directory = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(directory)
        os.close(directory)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


@contextlib.contextmanager
def _opened(file: str) -> Iterator[Any]:
    if file == "-":
        if sys.stdin.isatty():
            raise invalid("a backup is expected on stdin", "name its file, or pipe it in")
        yield sys.stdin.buffer
        return
    with open(file, "rb") as source:
        yield source
