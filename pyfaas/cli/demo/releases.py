"""Steps that publish while calls go on, go back, and let a canary fail."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from pyfaas.cli.demo.stage import Stage, check
from pyfaas.client.errors import Error, FunctionError

_CALLERS = 4
_RUNS = 300  # of an alias: enough for half of them to be judged
_GREETING, _LATER_GREETING = "hello, ", "good day, "


async def redeploy(stage: Stage) -> str:
    """Publish a new version while calls go on: none fails, and after the deploy only the new one answers."""
    answers: list[str] = []
    errors: list[Error] = []
    is_over = asyncio.Event()

    async def keep_calling() -> None:
        while not is_over.is_set():
            try:
                answers.append((await stage.north.invoke("hello"))["greeting"])
            except Error as error:
                errors.append(error)

    callers = [asyncio.create_task(keep_calling()) for _ in range(_CALLERS)]
    try:
        await asyncio.sleep(0.2)  # so that the old version is in use
        version = await stage.north.deploy(_later_hello(stage))
        check(version["state"] == "ready", version.get("reason"))
        after = (await stage.north.invoke("hello"))["greeting"]
        await asyncio.sleep(0.2)
    finally:
        is_over.set()
        await asyncio.gather(*callers)
    check(not errors, f"{len(errors)} errors, such as {errors[:1]}")
    check(after.startswith(_LATER_GREETING), f"after the deploy: {after}")
    new = sum(answer.startswith(_LATER_GREETING) for answer in answers)
    return f"{len(answers)} calls, 0 errors: {len(answers) - new} by version 1, {new} by version {version['version']}"


def _later_hello(stage: Stage) -> Path:
    path = stage.place / "later" / "hello"
    shutil.copytree(stage.examples / "hello", path, ignore=shutil.ignore_patterns("__pycache__"))
    main = path / "main.py"
    main.write_text(main.read_text().replace(_GREETING, _LATER_GREETING))
    return path


async def roll_back(stage: Stage) -> str:
    """Go back to the version before."""
    await stage.north.rollback("hello")
    answer = await stage.north.invoke("hello")
    check(answer["greeting"].startswith(_GREETING), answer)
    return "version 1 answers again"


async def canary(stage: Stage) -> str:
    """Give a version that fails a tenth of an alias's runs: it is taken back by itself."""
    await stage.north.set_alias("hello", "live", 1)
    path = stage.place / "broken" / "hello"
    shutil.copytree(stage.examples / "hello", path, ignore=shutil.ignore_patterns("__pycache__"))
    main = path / "main.py"
    main.write_text(main.read_text().replace("    return ", "    1 / 0\n    return ", 1))
    broken = await stage.north.deploy(path, alias="live", canary="50%", promote_after="5m", error_budget="5%")
    failed = 0
    for _ in range(_RUNS):
        try:
            await stage.north.invoke("hello", qualifier="live")
        except FunctionError:
            failed += 1
    shown = (await stage.north.aliases("hello"))["live"]
    check(shown["canary"]["state"] == "back" and not shown["weights"] and 0 < failed < _RUNS, shown)
    check(bool((await stage.north.invoke("hello", qualifier="live"))["greeting"]), "the alias does not answer")
    return f"version {broken['version']} failed {failed} of {_RUNS} calls, then live was version 1 again: {shown['canary']['reason']}"
