"""The SDK in a script, `python script.py`: its functions are `__main__`'s, and travel by value with what they need."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.e2e.house import House
from tests.e2e.programs import environment, run, write

BESIDE = {
    "prices.py": "import rounding\nVAT = 3\ndef gross(net): return rounding.whole(net * VAT)\n",
    "rounding.py": "def whole(number): return int(number)\n",
    "late.py": "WORD = 'late'\n",
    "unused.py": "raise SystemExit('nobody asked for this module')\n",
    "shop/__init__.py": "from shop.shelf import Shelf\n",
    "shop/shelf.py": """
        from pathlib import Path
        class Shelf:
            def label(self): return (Path(__file__).parent / "label.txt").read_text().strip()
        """,
    "shop/label.txt": "apples\n",
}
WAYS = """
    import asyncio, dataclasses, enum
    import prices, shop
    import pyfaas

    app = pyfaas.App("script")
    BASE = 100
    double = lambda number: number * 2

    @dataclasses.dataclass
    class Point:
        x: int
        tags: list[str] = dataclasses.field(default_factory=list)

    class Colour(enum.Enum):
        RED = "red"

    @app.function(memory="64M", timeout="20s", concurrency=4)
    def add(a: int, b: int = 1) -> int:
        print("adding", a)
        return BASE + double(a) + prices.gross(b)

    @app.function
    def count(n: int):
        for i in range(n):
            yield {"i": i}

    @app.function()
    async def later(text: str) -> str:
        import late
        return text + late.WORD + shop.Shelf().label()

    @app.function(name="typed")
    def draw(point: Point, colour: Colour) -> tuple:
        return type(point).__name__, point.x, point.tags, colour is Colour.RED

    @app.function()
    def neighbours(n: int) -> list:
        return [add(n), add.local(n), list(count(n)), add.__name__, app.name]

    @app.function()
    def factorial(n: int) -> int:
        return 1 if n < 2 else n * factorial(n - 1)

    def closed(factor):
        @app.function(name="closed")
        def inside(n):
            return n * factor
        return inside

    inside = closed(7)

    async def twins():
        call = await add.spawn.aio(2)
        return [await add.remote.aio(1), [i async for i in count.remote.aio(2)], [n async for n in add.map.aio([1, 2])],
                [n async for n in add.starmap.aio([(1, 2)])], await call.get.aio(timeout=30),
                [line["line"] async for line in call.logs.aio()]]

    if __name__ == "__main__":
        print("local", add(1), add.local(1, b=0), asyncio.run(later.local("so ")))
        with app.run() as running:
            assert running is app
            names = [app.published(name) for name in app.functions]
            print("remote", add.remote(1), add.remote(1, b=2), later.remote("too "))
            print("typed", draw.remote({"x": 1}, "red"), draw.remote(Point(2, ["a"]), Colour.RED))
            print("count", list(count.remote(2)), count.spawn(1).get(timeout=30), list(count.map([0, 1])))
            print("map", list(add.map(range(6))), list(add.map([1, 2], [3, 4])), list(add.starmap([(1, 0), (2, 0)])))
            print("neighbours", neighbours.remote(2))
            print("inside", inside.remote(6), factorial.remote(5))
            call = add.spawn(5)
            print("spawn", call.get(timeout=30), pyfaas.FunctionCall.from_id(call.id).get(timeout=30), [l["line"] for l in call.logs()])
            print("aio", asyncio.run(twins()))
            print("failed", [type(each).__name__ for each in factorial.map([1, "x"], return_exceptions=True)])
        left = {function["name"] for function in app.client.functions()}
        print("left", left & set(names))
        try:
            add.remote(1)
        except pyfaas.NotFound as error:
            print("outside", error.status)
    """


def test_every_way_of_calling(house: House, tmp_path: Path) -> None:
    """Remote, local, generators, spawn, map, starmap, their awaitable twins, neighbours, closures, siblings and data files."""
    write(tmp_path, {**BESIDE, "script.py": WAYS})
    ran = run(house, tmp_path, "script.py")
    assert (ran.status, ran.errors) == (0, ""), ran.errors
    assert ran.out == [
        *("adding 1", "adding 1"),
        "local 105 102 so lateapples",
        "remote 105 108 too lateapples",
        "typed ['Point', 1, [], True] ['Point', 2, ['a'], True]",
        "count [{'i': 0}, {'i': 1}] [{'i': 0}] [[], [{'i': 0}]]",
        "map [103, 105, 107, 109, 111, 113] [111, 116] [102, 104]",
        "neighbours [107, 107, [{'i': 0}, {'i': 1}], 'add', 'script']",
        "inside 42 120",
        "spawn 113 113 ['adding 5']",
        "aio [105, [{'i': 0}, {'i': 1}], [105, 107], [108], 107, ['adding 2']]",
        "failed ['int', 'InvalidRequest']",
        "left set()",
        "outside 404",
    ]


DEPLOYED = """
    import sys
    import pyfaas

    app = pyfaas.App("stays")

    @app.function(env={"WORD": "deployed"})
    def word() -> str:
        import os
        return os.environ["WORD"]

    if sys.argv[1] == "deploy":
        versions = app.deploy()
        print(versions["word"]["state"], versions["word"]["version"])
    else:
        print(word.remote())
    """


def test_what_is_deployed_is_called_from_another_process(house: House, tmp_path: Path) -> None:
    """After `deploy`, `.remote` needs no `run`, here and elsewhere; the same code again is the same version."""
    write(tmp_path, {"stays.py": DEPLOYED})
    assert run(house, tmp_path, "stays.py", "deploy").out == ["ready 1"]
    assert run(house, tmp_path, "stays.py", "deploy").out == ["ready 1"]
    assert run(house, tmp_path, "stays.py", "call").out == ["deployed"]


INTERRUPTED = """
    import signal, sys
    import pyfaas

    signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the tests' own parent ignores

    app = pyfaas.App("ended")

    @app.function()
    def sleep(seconds: int):
        import time
        time.sleep(seconds)

    with app.run():
        print(app.published("sleep"), flush=True)
        if sys.argv[1] == "raise":
            raise LookupError("of the script's own")
        sleep.remote(60)
    """


def test_an_exception_removes_what_ran(house: House, tmp_path: Path) -> None:
    """The functions of a block are gone after an exception, and the exception is the script's."""
    write(tmp_path, {"ended.py": INTERRUPTED})
    ran = run(house, tmp_path, "ended.py", "raise")
    assert (ran.status, len(ran.out)) == (1, 1)
    assert "LookupError: of the script's own" in ran.errors
    assert house.call("GET", f"/v1/functions/{ran.out[0]}").status == 404


def test_ctrl_c_removes_what_ran_and_ends_the_call(house: House, tmp_path: Path) -> None:
    """Ctrl-C in the middle of a call is a KeyboardInterrupt; the run is cancelled, and the functions are gone."""
    write(tmp_path, {"ended.py": INTERRUPTED})
    command = [sys.executable, "ended.py", "stay"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment(house), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        until(lambda: busy(house, name))
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    assert house.call("GET", f"/v1/functions/{name}").status == 404
    until(lambda: not busy(house, name))


ANYWHERE = """
    import asyncio, os, signal, threading, time
    import pyfaas

    signal.signal(signal.SIGINT, signal.default_int_handler)
    app = pyfaas.App("anywhere")

    @app.function()
    def sleep(seconds):
        time.sleep(seconds)

    @app.function()
    def ticks():
        while True:
            yield 1
            time.sleep(0.02)

    async def cancelled(make):
        async def use():
            async for _ in make():
                pass
        task = asyncio.create_task(use())
        await asyncio.sleep(0.2)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return "cancelled"

    with app.run():
        call = sleep.spawn(60)
        for what in (
            lambda: sleep.remote(60),
            lambda: list(sleep.map([60] * 5)),
            lambda: [0 for _ in ticks.remote()],
            lambda: call.get(),
        ):
            threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
            try:
                what()
            except KeyboardInterrupt:
                print("interrupted")
        call.cancel()
        print(asyncio.run(cancelled(ticks.remote.aio)), asyncio.run(cancelled(lambda: sleep.map.aio([60] * 5))))
        print(next(ticks.remote()))
    """


def test_every_wait_can_be_interrupted(house: House, tmp_path: Path) -> None:
    """Ctrl-C in a call, a map, a stream or a wait, and a task's cancellation, end it cleanly; the client goes on."""
    write(tmp_path, {"anywhere.py": ANYWHERE})
    ran = run(house, tmp_path, "anywhere.py")
    assert (ran.status, ran.errors) == (0, ""), ran.errors
    assert ran.out == ["interrupted"] * 4 + ["cancelled cancelled", "1"]


def busy(house: House, name: str) -> bool:
    """Tell whether a container of a function runs a call."""
    vms = house.call("GET", "/v1/fleets").json["vms"]
    return any(c["state"] == "busy" and c.get("function", name) == name for vm in vms for c in vm["containers"])


def until(fact: object) -> None:
    """Wait for a fact, and fail when it does not come true."""
    end = time.monotonic() + 30
    while not fact():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.02)


CANNOT = """
    import socket, threading
    import pyfaas

    app = pyfaas.App("cannot")

    class Holder: pass

    holder = Holder()
    holder.state = {"deep": [1, threading.Lock()]}
    listening, opened, client = socket.socket(), open("log", "w"), pyfaas.Client()
    table = bytes(200_000)

    def use():
        return holder

    def refused(make):
        try:
            app.functions.clear()
            make()
            app.deploy()
        except pyfaas.InvalidRequest as error:
            print(str(error).replace("\\n", " "), "|", error.hint)

    refused(lambda: app.function(name="lock")(lambda: holder))
    refused(lambda: app.function(name="socket")(lambda: listening))
    refused(lambda: app.function(name="file")(lambda: opened.write("")))
    refused(lambda: app.function(name="client")(lambda: client.whoami()))
    refused(lambda: app.function(name="through")(lambda: use()))
    refused(lambda: app.function(memroy="64M")(use))
    refused(lambda: app.function(memory=[])(use))
    refused(lambda: app.function(handler="a:b")(use))
    refused(lambda: app.function(name="no such name")(use))
    refused(lambda: app.function(Holder))
    from pyfaas.client import pickling
    pickling.LARGEST_BYTES = 100_000
    refused(lambda: app.function(name="large")(lambda: len(table)))
    pickling.LARGEST_BYTES = 1_000_000
    pickling.python = lambda: "3.99"
    refused(lambda: app.function(name="other")(lambda: 1))
    listening.close(); opened.close(); client.close()
    """


def test_what_cannot_travel_is_named(house: House, tmp_path: Path) -> None:
    """The variable that cannot be pickled, or is too large, is named with its place; so are a wrong key and another Python."""
    write(tmp_path, {"cannot.py": CANNOT})
    ran = run(house, tmp_path, "cannot.py")
    assert (ran.status, ran.errors) == (0, ""), ran.errors
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    wanted = [
        ("`holder.state['deep'][1]` holds a _thread.lock", "inside the function"),
        ("`listening` holds a socket.socket", "inside the function"),
        ("`opened` holds a _io.TextIOWrapper", ""),
        ("`client` holds a pyfaas.Client", ""),
        ("`use → holder.state['deep'][1]` holds a _thread.lock", ""),
        ("unknown key 'memroy'", "memory"),
        ("memory: expected", ""),
        ("handler is not for the SDK's functions", ""),
        ("no such name", ""),
        ("is not a function", ""),
        ("0.2 MiB of it its variable `table`", "pass it as an argument"),
        (f"pickled by Python 3.99, and this container runs Python {here}", "the server's Python"),
    ]
    assert len(ran.out) == len(wanted), ran.out
    for line, (what, hint) in zip(ran.out, wanted, strict=True):
        told, _, hinted = line.partition(" | ")
        assert what in told
        assert hint in hinted


MISSING = """
    import pyfaas

    app = pyfaas.App("missing")

    @app.function()
    def inside():
        import no_such_distribution

    with app.run():
        inside.remote()
    """


def test_a_missing_requirement_is_told_with_what_to_do(house: House, tmp_path: Path) -> None:
    """A module that the container lacks ends in a traceback that shows the function's own line and names `requirements=`."""
    write(tmp_path, {"missing.py": MISSING})
    ran = run(house, tmp_path, "missing.py")
    assert ran.status == 1
    assert "pyfaas.FunctionError: ModuleNotFoundError: No module named 'no_such_distribution'" in ran.errors
    assert "line 8, in inside" in ran.errors
    assert "requirements=[" in ran.errors


TRUSTED = """
    import pyfaas

    app = pyfaas.App("trusted")

    class Box:
        def __init__(self, inner): self.inner = inner

    @app.function(trust_results=True)
    def wrap(box: Box, *, times: int = 1):
        return {(1, 2): Box([box.inner] * times), "nan": float("nan"), "tuple": (1, 2)}

    @app.function(trust_results=True)
    def boxes(n: int):
        for i in range(n):
            yield Box(i)

    @app.function(trust_results=True)
    async def later(box):
        return box

    @app.function(trust_results=True)
    async def boxes_later(n):
        for i in range(n):
            yield (i,)

    @app.function(trust_results=True)
    def fails(error):
        raise error

    with app.run():
        done = wrap.remote(Box(1j), times=2)
        print(done[1, 2].inner, done["nan"], done["tuple"], type(done[1, 2]) is Box)
        print([box.inner for box in boxes.remote(3)], later.remote({1: {2}}), list(boxes_later.remote(2)))
        print(wrap.spawn(Box(5)).get(timeout=30)[1, 2].inner, [each["tuple"] for each in wrap.map([Box(1), Box(2)])])
        print([[box.inner for box in each] for each in boxes.map([1, 2])])
        try:
            fails.remote(KeyError("k"))
        except pyfaas.FunctionError as error:
            print(type(error).__name__, error.error_type)
        try:
            later.remote(open("trusted.py", "rb"))
        except pyfaas.InvalidRequest as error:
            print(error)
    """


def test_pickles_travel_when_they_are_trusted(house: House, tmp_path: Path) -> None:
    """With `trust_results` anything that can be pickled goes in and comes out, from every kind of function; errors stay data."""
    write(tmp_path, {"trusted.py": TRUSTED})
    ran = run(house, tmp_path, "-W", "ignore::ResourceWarning", "trusted.py")
    assert (ran.status, ran.errors) == (0, ""), ran.errors
    assert ran.out[-1].startswith("the arguments of later cannot be pickled: cannot pickle ")
    assert ran.out[:-1] == [
        "[1j, 1j] nan (1, 2) True",
        "[0, 1, 2] {1: {2}} [(0,), (1,)]",
        "[5] [(1, 2), (1, 2)]",
        "[[0], [0, 1]]",
        "FunctionError KeyError",
    ]


ENDLESS = """
    import itertools, sys, tracemalloc
    import pyfaas

    app = pyfaas.App("endless")

    @app.function(concurrency=4)
    def echo(n: int) -> int:
        return n

    asked = []

    def inputs():
        for n in itertools.count():
            asked.append(n)
            yield n

    with app.run():
        ahead = 0
        for n in echo.map(inputs()):
            ahead = max(ahead, len(asked) - n)
            if n == 50:
                break
        print(n, ahead <= 4 + 1, len(asked) < 60)
        print(list(echo.map(range(3))))
    """


def test_a_map_reads_no_further_than_it_runs(house: House, tmp_path: Path) -> None:
    """An endless input is mapped as it comes, at most `concurrency` ahead; leaving the loop ends it; no terminal, no bar."""
    write(tmp_path, {"endless.py": ENDLESS})
    ran = run(house, tmp_path, "endless.py")
    assert (ran.status, ran.errors, ran.out) == (0, "", ["50 True True", "[0, 1, 2]"])


def test_a_terminal_sees_how_far_a_map_is(house: House, tmp_path: Path) -> None:
    """On a terminal, and there only, a bar on stderr counts the results."""
    write(tmp_path, {"endless.py": ENDLESS})
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "endless.py"], cwd=tmp_path, env={**environment(house), "TERM": "xterm"}, stdout=subprocess.PIPE, stderr=theirs
    ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                ready, _, _ = select.select([ours], [], [], 60)
                piece = os.read(ours, 65536) if ready else b""
            except OSError:  # EIO: the other end is closed
                break
            if not piece:
                break
            shown += piece
        assert process.stdout is not None
        assert process.stdout.read().decode().splitlines() == ["50 True True", "[0, 1, 2]"]
    os.close(ours)
    assert b"echo" in shown
    assert b"3/3" in shown


def test_a_generator_that_is_left_is_closed_in_its_container(house: House, tmp_path: Path) -> None:
    """Breaking out of `remote`'s loop, or closing it, raises GeneratorExit at the generator's yield."""
    source = """
        import pyfaas
        app = pyfaas.App("closes")

        @app.function()
        def ticks():
            try:
                n = 0
                while True:
                    yield n
                    n += 1
            finally:
                print("closed")
        """
    use = """
        import time
        if __name__ == "__main__":
            with app.run():
                for n in ticks.remote():
                    if n == 2:
                        break
                items = ticks.remote()
                next(items)
                items.close()
                end = time.monotonic() + 30
                name = app.published("ticks")
                while [l["line"] for l in app.client.logs(name)].count("closed") < 2 and time.monotonic() < end:
                    time.sleep(0.05)
                print([l["line"] for l in app.client.logs(name)])
        """
    write(tmp_path, {"script.py": source + use})
    ran = run(house, tmp_path, "script.py")
    assert (ran.out, ran.errors) == (["['closed', 'closed']"], "")
