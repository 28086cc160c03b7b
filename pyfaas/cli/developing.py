"""Publish on every save: what `pyfaas dev` does, as one loop.

Theory of operation. Two tasks beside the loop: one says that something was saved, one follows the log. The loop packs what is on the
disk, compares it with what was published last, compiles it here, and publishes it; so it does not matter what was saved,
how often, or by whom: the newest wins, there is never a second publication at once, and what is equal is not published. A save
while a version is being prepared lets it finish for a second and then leaves it behind, since it may be installing for minutes.

The last good version goes on answering in any case. What cannot be compiled is not published. While a version is prepared the one
before answers, by the server's rules; and when it fails, `latest` is moved back, so that they hold for who forbids old answers, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from pyfaas.cli import console, sentences
from pyfaas.cli.following import tell_steps
from pyfaas.cli.options import Globals, Output
from pyfaas.cli.saves import saves
from pyfaas.cli.syntax import Checker
from pyfaas.client.aio import AsyncClient
from pyfaas.client.calls import call_headers
from pyfaas.client.errors import Error, FunctionError, InvalidRequest, NotAllowed, NotFound, ServerError
from pyfaas.client.packing import Package
from pyfaas.errors import Code

Calls = Callable[[], tuple[bytes, str]]  # gives an event and its media type
_FINISH_S = 1.0  # that a version may still be prepared when something newer is there
_ANSWER_S = 0.2  # likewise for an answer
_AWAY_S = 0.3  # between two looks whether the server is back
_EMPTY_S = 0.1  # that a file which was emptied has to be written
_RECENT_S = 10.0  # a file's time tells when it was saved, unless it is older than this
_NAMED = 3  # files that a line names
_TAIL = 12
_AWAY = ("unreachable", Code.NOT_READY.value)


class Screen:
    """Where everything is written, in order: lines with the time for people, a document a line with -o json."""

    def __init__(self, options: Globals) -> None:
        """Write as the options say."""
        self.options = options

    def say(self, text: str, more: str = "", **document: Any) -> None:
        """Write a line, and indented lines beneath it."""
        if self.options.output is Output.TABLE:
            lines = [f"  {line}".rstrip() for line in more.splitlines()]
            console.out("\n".join([f"{sentences.clock()} {text}", *lines]))
        else:
            self._document({"at": time.time(), "said": text, **({"more": more} if more else {}), **document})

    def log(self, line: dict[str, Any]) -> None:
        """Write a line of the function's log."""
        if self.options.output is Output.TABLE:
            console.out(f"{sentences.clock(line['ts'])} {line.get('invocation') or '-'} {line['stream']:<4} {line['line']}")
        else:
            self._document(line)

    def _document(self, document: dict[str, Any]) -> None:
        if self.options.output is Output.YAML:
            console.out("---\n" + console.render(document, Output.YAML))
        else:
            console.out(json.dumps(document, ensure_ascii=False))


class Developing:
    """One path under development; `name` is the function's, once it is published."""

    def __init__(
        self, screen: Screen, path: Path, packed: Callable[[], Package], *, calls: Calls | None, more: Sequence[Path]
    ) -> None:
        """Do nothing yet; `packed` reads what is on the disk."""
        self._screen, self._path, self._packed, self._calls, self._more = screen, path, packed, calls, more
        self.name: str | None = None
        self.last: Package | None = None  # what was published last
        self._good: int | None = None  # the version that answers
        self._is_bad = False  # what is on the disk is not what answers
        self._said = ""  # the last complaint, which is not said twice
        self._checker = Checker()
        self._saved = asyncio.Event()
        self._changed: set[Path] = set()
        self._log: asyncio.Task[None] | None = None

    async def run(self, client: AsyncClient, url: str) -> None:
        """Publish, and again on every save, until the caller leaves; raises NotAllowed, and Unreachable at the beginning."""
        package = await asyncio.to_thread(self._packed)
        account = (await client.whoami())["account"]
        shown = f"{self._path}{'/' if self._path.is_dir() else ''}"
        self._screen.say(f"watching {shown} → {url}/f/{account}/{package.name}", function=package.name)
        watching = asyncio.create_task(self._watch())
        self._saved.set()
        try:
            while True:
                await _first(watching, self._saved.wait())
                self._saved.clear()
                changed, self._changed = self._changed, set()
                await self._look(client, changed)
        finally:
            tasks = [task for task in (watching, self._log) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self) -> None:
        async for changed in saves(self._path, self._more):
            self._changed |= changed
            self._saved.set()

    async def _look(self, client: AsyncClient, changed: set[Path]) -> None:
        """Publish what is on the disk, unless it is what was published, or broken."""
        was_bad = bool(self._said)
        if any(_is_emptied(path) for path in changed):
            await asyncio.sleep(_EMPTY_S)
        package = await self._read()
        if package is None:
            return
        if package == self.last and not (self._is_bad and changed):
            if was_bad:
                self._screen.say(f"{package.name} is again what was published last{self._answers()}", state="whole")
            return
        try:
            await self._publish(client, package, changed)
        except NotAllowed:
            raise
        except Error as error:
            if error.code in _AWAY:
                await self._away(client, error)
            else:
                self._complain(f"{str(error).partition(chr(10))[0]}{self._answers()}", error.hint)

    async def _read(self) -> Package | None:
        """Return what is on the disk; None when that cannot be published, having said why."""
        try:
            package = await asyncio.to_thread(self._packed)
        except InvalidRequest as error:
            self._complain(f"{error}{self._answers()}", error.hint)
            return None
        broken = await asyncio.to_thread(self._checker.broken, package.bundle)
        if broken:
            self._complain(f"{broken[0].path}:{broken[0].line} cannot be compiled{self._answers()}", broken[0].text)
            return None
        self._said = ""
        return package

    def _complain(self, text: str, more: str) -> None:
        if (said := f"{text}\n{more}") != self._said:
            self._screen.say(text, more, state="broken")
        self._said = said

    def _answers(self) -> str:
        return f"; version {self._good} goes on answering" if self._good is not None else ""

    async def _publish(self, client: AsyncClient, package: Package, changed: set[Path]) -> None:
        began = _saved_at(changed)
        wanted = package.config.get("requirements") or []
        before = self.last.config.get("requirements") or [] if self.last is not None else []
        published = await client.publish(package)
        self.name, self.last, version = package.name, package, int(published["version"])
        if self._log is None:
            self._log = asyncio.create_task(self._follow(client, package.name, began))
        is_installing = wanted and wanted != before and published["state"] != "ready"
        if is_installing:
            self._screen.say(f"version {version} installs {', '.join(map(str, wanted))}", version=version)
        shown = await self._prepared(client, package.name, version, is_told=bool(is_installing))
        if shown is None:
            self._screen.say(f"version {version} is left behind: there is something newer", version=version)
        elif shown["state"] == "failed":
            await self._failed(client, package.name, shown)
        else:
            self._good, self._is_bad = version, False
            self._checker.let_pass(package.bundle)
            took = round((time.time() - began) * 1000)
            state = "ready" if shown["state"] == "ready" else "published, and prepared by its first call,"
            said = f"version {version} {state} in {took} ms{self._files(changed)}"
            self._screen.say(said, version=version, state=shown["state"], ms=took)
            await self._call(client, package.name)

    async def _prepared(self, client: AsyncClient, name: str, version: int, *, is_told: bool) -> dict[str, Any] | None:
        """Return a version once it is ready or failed, telling its steps meanwhile; None when something newer did not want to wait."""
        waiting = asyncio.create_task(client.wait_version(name, version))

        def tell(said: str) -> None:
            self._screen.say(f"version {version}: {said}", version=version)

        telling = asyncio.create_task(tell_steps(client, name, version, tell)) if is_told else None
        try:
            return waiting.result() if await self._has_ended(waiting, _FINISH_S) else None
        finally:
            if telling is not None:
                telling.cancel()
                await asyncio.gather(telling, return_exceptions=True)

    async def _has_ended(self, task: asyncio.Task[Any], patience: float) -> bool:
        """Wait for a task, but when something newer was saved not longer than `patience`; tells whether it ended."""
        try:
            while True:
                await _first(task, self._saved.wait())
                if not task.done():
                    await asyncio.wait([task], timeout=patience)
                if task.done():
                    return True
                self._saved.clear()
                package = await self._read()
                if package is not None and package != self.last:
                    self._saved.set()
                    return False
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _failed(self, client: AsyncClient, name: str, shown: dict[str, Any]) -> None:
        reason = shown.get("reason") or {}
        self._is_bad = True
        if "latest" in shown.get("pointers", ["latest"]):
            try:
                self._good = (await client.rollback(name))["version"]
            except (InvalidRequest, NotFound):  # there is nothing to go back to
                self._good = None
        message = str(reason.get("message") or reason.get("code") or "no reason was given").removeprefix("error: ")
        tail = "\n".join(str(reason.get("log") or "").splitlines()[-_TAIL:])
        text = f"version {shown['version']} failed: {message.partition(chr(10))[0]}{self._answers()}"
        self._screen.say(text, tail, version=shown["version"], state="failed")

    async def _call(self, client: AsyncClient, name: str) -> None:
        if self._calls is None:
            return
        event, kind = self._calls()
        try:
            calling = asyncio.create_task(_answer(client, name, event, kind))
            if not await self._has_ended(calling, _ANSWER_S):
                self._screen.say("its answer is not waited for: there is something newer")
                return
            first, _, rest = calling.result().partition("\n")
            self._screen.say(f"→ {first}", rest, result=calling.result())
        except FunctionError as error:
            stack = [line for entry in error.stack_trace for line in str(entry).rstrip("\n").splitlines()]
            self._screen.say(f"error: {str(error).partition(chr(10))[0]}", "\n".join(stack), outcome=error.outcome)
        except InvalidRequest as error:
            self._screen.say(f"error: {error}", error.hint, code=error.code)

    def _files(self, changed: set[Path]) -> str:
        root = self._path.absolute()
        there = {each for each in changed if each.exists()} or changed  # an editor's own files come and go
        names = sorted(str(each.relative_to(root)) if each.is_relative_to(root) else each.name for each in there if each != root)
        names = names or ([root.name] if root in changed and root.is_file() else [])
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        return f" ({', '.join(names[:_NAMED])}{more})" if names else ""

    async def _away(self, client: AsyncClient, error: Error) -> None:
        """Wait until the server is back, saying so once; everything is looked at then."""
        self._screen.say(f"{str(error).partition(chr(10))[0]}; waiting for it", state="away")
        while True:
            await asyncio.sleep(_AWAY_S)
            with contextlib.suppress(ServerError):
                await client.whoami()
                break
        self._screen.say("the server is back", state="back")
        self.last = None
        self._saved.set()

    async def _follow(self, client: AsyncClient, name: str, since: float) -> None:
        """Write the log as it comes; a server that went away is asked again for what came after the last line."""
        seen: set[tuple[float, str, str]] = set()
        while True:
            with contextlib.suppress(ServerError, NotFound):
                async for line in client.logs(name, since=since, follow=True):
                    key = (line["ts"], str(line.get("invocation")), line["line"])
                    if key in seen:
                        continue
                    seen = {each for each in seen if each[0] >= line["ts"]} | {key}
                    since = max(since, line["ts"])
                    self._screen.log(line)
            await asyncio.sleep(_AWAY_S)


async def _answer(client: AsyncClient, name: str, event: bytes, kind: str) -> str:
    async with client.open(name, event, headers=call_headers(headers={"Content-Type": kind})) as reply:
        return (await reply.read()).decode("utf-8", "backslashreplace")


async def _first(task: asyncio.Task[Any], other: Coroutine[Any, Any, Any]) -> None:
    """Wait for a task that was begun, or for something else; raises what the task raised."""
    waiting = asyncio.ensure_future(other)
    try:
        done, _ = await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
        if task in done:
            task.result()
    finally:
        waiting.cancel()


def _is_emptied(path: Path) -> bool:
    """Tell whether a file has nothing in it, which is how writing one in place begins."""
    try:
        return path.is_file() and not path.stat().st_size
    except OSError:
        return False


def _saved_at(changed: set[Path]) -> float:
    """Return when the newest of some files was saved, by its own time; now for what is gone, or was saved long ago."""
    now, newest = time.time(), 0.0
    for path in changed:
        with contextlib.suppress(OSError):
            newest = max(newest, os.stat(path).st_mtime)  # noqa: PTH116 - one call
    return newest if 0 <= now - newest < _RECENT_S else now
