"""The SDK in a notebook: `__main__` without a file, cells that are run again, and an event loop that is running already."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent

from tests.e2e.house import House
from tests.e2e.programs import KERNEL, Ran, run, write


def kernel(house: House, directory: Path, *cells: str) -> Ran:
    """Run cells in a kernel of their own."""
    return run(house, directory, "-c", KERNEL, given=json.dumps([dedent(cell) for cell in cells]))


def test_cells_in_order(house: House, tmp_path: Path) -> None:
    """Functions, lambdas, closures and classes of cells travel; blocking calls work although the kernel's loop runs."""
    write(tmp_path, {"beside.py": "WORD = 'beside'\n"})
    ran = kernel(
        house,
        tmp_path,
        "import pyfaas, asyncio\napp = pyfaas.App('cells')",
        """
        import dataclasses
        FACTOR = 3

        @dataclasses.dataclass
        class Item:
            n: int
            def scaled(self): return self.n * FACTOR
        """,
        """
        @app.function()
        def scale(item: Item) -> dict:
            import beside
            return {"scaled": item.scaled(), "beside": beside.WORD}

        shout = app.function(name="shout")(lambda text: text.upper() + "!")

        def power(exponent):
            @app.function(name=f"power{exponent}")
            def inside(n): return n ** exponent
            return inside

        square, cube = power(2), power(3)

        @app.function()
        async def slowly(n):
            for i in range(n):
                await asyncio.sleep(0)
                yield i
        """,
        """
        with app.run():
            print(scale.remote(Item(2)), shout.remote("a"), square.remote(5), cube.remote(2))
            print(list(slowly.remote(3)), list(square.map(range(4))))
            print(await shout.remote.aio("b"), [n async for n in slowly.remote.aio(2)], await (await cube.spawn.aio(3)).get.aio())
        """,
        """
        async with app.run():
            async def numbers():
                for n in range(3):
                    await asyncio.sleep(0)
                    yield n
            print([n async for n in square.map.aio(numbers())])
            print(await asyncio.gather(*(square.remote.aio(n) for n in range(10))))
        """,
    )
    assert (ran.status, ran.errors) == (0, ""), ran.errors
    assert ran.out == [
        "{'scaled': 6, 'beside': 'beside'} A! 25 8",
        "[0, 1, 2] [0, 1, 4, 9]",
        "B! [0, 1] 27",
        "[0, 1, 4]",
        "[0, 1, 4, 9, 16, 25, 36, 49, 64, 81]",
    ]


def test_a_cell_that_is_run_again_replaces_its_function(house: House, tmp_path: Path) -> None:
    """After `deploy`, or inside a run, a function defined anew or added is published by its next call; old names stay valid."""
    ran = kernel(
        house,
        tmp_path,
        "import pyfaas\napp = pyfaas.App('again')",
        "@app.function()\ndef f(): return 'first'\nold = f",
        "versions = app.deploy()\nprint(f.remote(), versions['f']['version'])",
        "@app.function(memory='64M')\ndef f(): return 'second'",
        "print(f.remote(), old.remote(), old.local(), len(app.functions), app.client.function('again-f')['latest'])",
        "@app.function()\ndef g(): return f() + ' called'",
        "print(g.remote(), list(g.map([], [])))",
        "print(sorted(app.deploy()), f.remote())",
        """
        with app.run():
            @app.function()
            def h(): return 'within'
            print(h.remote(), h.spawn().get(30))
            names = [app.published(name) for name in app.functions]
        print({each["name"] for each in app.client.functions()} & set(names))
        """,
        "print(f.remote())\ntry: h.remote()\nexcept pyfaas.NotFound: print('not deployed')",
        "for name in ('f', 'g'): app.client.remove(app.published(name))",
    )
    assert (ran.status, ran.errors) == (0, ""), ran.errors
    assert ran.out == [
        "first 1",
        "second second first 1 2",
        "second called []",
        "['f', 'g'] second",
        "within within",
        "set()",
        "second",
        "not deployed",
    ]


def test_an_error_in_a_cell_shows_its_line(house: House, tmp_path: Path) -> None:
    """The stack has the line that failed in the container, and the client says what kind of failure it was."""
    ran = kernel(
        house,
        tmp_path,
        "import pyfaas\napp = pyfaas.App('broken')",
        "@app.function()\ndef fails(n):\n    return 1 / n",
        """
        with app.run():
            try:
                fails.remote(0)
            except pyfaas.FunctionError as error:
                print(error.error_type, error.message, error.outcome, bool(error.invocation_id))
                print(*error.stack_trace)
            try:
                fails.remote()
            except pyfaas.InvalidRequest as error:
                print(error.code, error)
        """,
    )
    assert (ran.status, ran.errors) == (0, ""), ran.errors
    assert ran.out[0] == "ZeroDivisionError division by zero error True"
    assert "line 3, in fails" in ran.out[1]
    assert ran.out[-1] == "invalid_event the event does not fit the function: missing 'n'"


def test_a_run_inside_a_run_is_refused(house: House, tmp_path: Path) -> None:
    """One app has one run at a time; the outer one goes on."""
    ran = kernel(
        house,
        tmp_path,
        "import pyfaas\napp = pyfaas.App('nested')\n@app.function()\ndef one(): return 1",
        """
        with app.run():
            try:
                with app.run(): pass
            except RuntimeError as error:
                print("running already" in str(error))
            print(one.remote())
        """,
    )
    assert (ran.out, ran.errors) == (["True", "1"], "")


def test_annotations_that_are_text_are_understood(house: House, tmp_path: Path) -> None:
    """With `from __future__ import annotations` a cell's own classes, nested ones and Context still decide what fits."""
    ran = kernel(
        house,
        tmp_path,
        "from __future__ import annotations\nimport dataclasses, datetime, typing\nimport pyfaas\napp = pyfaas.App('text')",
        """
        from __future__ import annotations

        @dataclasses.dataclass
        class Line:
            item: str
            at: datetime.date | None = None

        @dataclasses.dataclass
        class Order:
            lines: list[Line]
            parent: Order | None = None

        class Options(typing.TypedDict, total=False):
            deep: bool

        @app.function()
        def total(order: Order, context: pyfaas.Context, options: Options = {}) -> list:
            return [type(order).__name__, repr(order.lines[0].at), order.parent and len(order.parent.lines), context.account, options]
        """,
        """
        with app.run():
            lines = [{"item": "a", "at": "2026-01-02"}]
            print(total.remote({"lines": lines, "parent": {"lines": []}}, options={"deep": True}))
            for wrong in ({"lines": [{}]}, {"lines": lines, "parent": {"lines": 3}}, {"lines": lines, "more": 1}):
                try:
                    print(total.remote(wrong))
                except pyfaas.InvalidRequest as error:
                    print(str(error).partition(": ")[2])
            try:
                print(total.remote({"lines": lines}, options={"other": 1}))
            except pyfaas.InvalidRequest as error:
                print(str(error).partition(": ")[2])
        """,
    )
    assert (ran.status, ran.errors) == (0, ""), ran.errors
    assert ran.out == [
        "['Order', 'datetime.date(2026, 1, 2)', 0, 'default', {'deep': True}]",
        "'order.lines[0]' lacks 'item'",
        "'order.parent.lines' must be an array, not an integer or 'order.parent' must be null, not an object",
        "'order' has the unknown key 'more'",
        "'options' has the unknown key 'other'",
    ]


FULL = (
    """
    import abc, collections, contextlib, functools, logging, re, typing
    import pyfaas
    app = pyfaas.App("full")
    log = logging.getLogger(__name__)
    PATTERN = re.compile(r"(\\d+)")
    Pair = collections.namedtuple("Pair", "left right")
    T = typing.TypeVar("T")
    half = functools.partial(lambda by, n: n / by, 2)
    """,
    """
    @functools.lru_cache(maxsize=5)
    def fibonacci(n):
        return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

    @functools.cache
    def model():
        print("loading")
        return {"weights": [1, 2]}

    class Shape(abc.ABC):
        made = 0
        @abc.abstractmethod
        def area(self): ...
        @classmethod
        def make(cls, *sizes):
            Shape.made += 1
            return cls(*sizes)

    class Square(Shape):
        def __init__(self, side): self.side = side
        def area(self): return self.side ** 2
        @property
        def twice(self): return super().__class__.__name__ and self.area() * 2
        @staticmethod
        def name(): return "square"

    class Stack(typing.Generic[T]):
        def __init__(self): self.items: list[T] = []

    def loud(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            return [function(*args, **kwargs), "!"]
        return wrapper

    @contextlib.contextmanager
    def held(n):
        yield n
    """,
    """
    @app.function()
    @loud
    def everything(n: int, *, text: str = "a12") -> list:
        log.warning("seen %s", n)
        with held(n) as inside:
            return [fibonacci(20), model(), model()["weights"], Square.make(3).area(), Square(2).twice, Square.name(), Shape.made,
                    PATTERN.findall(text), Pair(1, 2).right, half(9), type(Stack[int]()).__name__, inside]

    @app.function()
    @functools.lru_cache
    def cached(n):
        print("computing", n)
        return n * 2

    with app.run():
        print(everything.remote(1), everything.remote(2, text="7")[0][7])
        print(list(cached.map([1, 1, 1], concurrency=1)), [l["line"] for l in app.client.logs(app.published("cached"))])
        print([l["line"] for l in app.client.logs(app.published("everything"))])
        try:
            everything.remote("1")
        except pyfaas.InvalidRequest as error:
            print(error)
    print(fibonacci(30), everything(1)[1])
    """,
)


def test_what_notebooks_are_full_of(house: House, tmp_path: Path) -> None:
    """Caches, loggers, patterns, partials, inheritance, named tuples, decorators of one's own: they travel, and work."""
    ran = kernel(house, tmp_path, *FULL)
    assert (ran.status, ran.errors) == (0, "seen 1\n"), ran.errors
    first = [6765, {"weights": [1, 2]}, [1, 2], 9, 8, "square", 1, ["12"], 2, 4.5, "Stack", 1]
    assert ran.out[0] == f"{[first, '!']} ['7']"
    assert ran.out[1] == "[2, 2, 2] ['computing 1']"
    assert "seen 1" in ran.out[2]
    assert "'n' must be an integer" in ran.out[3]
    assert ran.out[-1] == "832040 !"
