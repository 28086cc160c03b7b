"""The SDK in modules: functions that can be imported travel as source, with what they import of the author's own."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.e2e.house import House
from tests.e2e.programs import run, write

PROJECT = {
    "reports/__init__.py": "",
    "reports/jobs.py": """
        from __future__ import annotations
        from pathlib import Path
        from pyfaas import App, AsyncClient, Client, Context, FunctionCall, FunctionError, NotFound
        from . import tables
        from .words import join
        import shared

        app = App("reports", client=Client())
        client = Client()
        SEEN = []

        class Summary(dict):
            pass

        @app.function(memory="64M", requirements=[])
        def summarise(words: list[str], *, by: str = ",") -> dict:
            SEEN.append(1)
            return Summary(text=join(words, by), title=(Path(__file__).parent / "data" / "title.txt").read_text(), n=len(SEEN))

        @app.function()
        def about(context: Context, n: int = 0) -> list:
            import lazily.deep.inside as inside
            return [context.function_name.startswith("reports-about"), inside.WORD, shared.WORD, tables.TABLE, n]

        @app.function()
        def calls_out(how: str):
            try:
                if how == "remote":
                    return summarise.remote(["a"])
                if how == "client":
                    return client.invoke("anything")
                if how == "spawn":
                    return summarise.spawn.aio(["a"])
                return Client().whoami()
            except (NotFound, FunctionError):
                return "caught"

        @app.function()
        def plain(words: list[str]) -> dict:
            return {**summarise(words), **summarise.local(words)}
        """,
    "reports/tables.py": "from reports.words import SEPARATOR\nTABLE = [SEPARATOR]\n",
    "reports/words.py": "SEPARATOR = ';'\ndef join(words, by): return by.join(words)\n",
    "reports/data/title.txt": "Title",
    "reports/main.py": """
        from reports.jobs import about, app, calls_out, plain, summarise
        import pyfaas

        with app.run():
            print(summarise.remote(["a", "b"], by="+"))
            print(about.remote(), about.remote(n=3))
            print(plain.remote(["x", "y"])["text"])
            for how in ("remote", "client", "spawn", "new"):
                try:
                    print(calls_out.remote(how))
                except pyfaas.FunctionError as error:
                    print(error.error_type, error.message)
        """,
    "shared.py": "WORD = 'shared'\n",
    "lazily/deep/inside.py": "WORD = 'lazy'\n",  # a namespace package, imported when the function runs
    "unrelated.py": "raise SystemExit('not asked for')\n",
}


def test_a_package_travels_whole(house: House, tmp_path: Path) -> None:
    """`python -m package.main`: relative imports, data files, modules beside the package, imports inside functions."""
    write(tmp_path, PROJECT)
    ran = run(house, tmp_path, "-m", "reports.main")
    assert (ran.status, ran.errors) == (0, ""), ran.errors
    out = "is not there inside a container, which reaches no server; call the function itself, or .local"
    assert ran.out == [
        "{'text': 'a+b', 'title': 'Title', 'n': 1}",
        "[True, 'lazy', 'shared', [';'], 0] [True, 'lazy', 'shared', [';'], 3]",
        "x,y",
        f"RuntimeError summarise.remote {out}",
        f"RuntimeError pyfaas.Client.invoke {out}",
        f"RuntimeError summarise.spawn.aio {out}",
        f"RuntimeError pyfaas.Client.whoami {out}",
    ]


def test_only_what_is_imported_travels(house: House, tmp_path: Path) -> None:
    """The bundle has the package, what it imports of the author's own, and nothing installed, standard or unrelated."""
    program = """
        import io, json, zipfile
        from pyfaas.client.shipping import package
        from reports.jobs import summarise
        import reports, single

        for function in (summarise, single.alone, single.Tools.inside):
            made = package(function.local if function is not single.Tools.inside else function, "name", {})
            names = zipfile.ZipFile(io.BytesIO(made.bundle)).namelist()
            print(json.dumps([made.config["handler"], names]))
        """
    single = """
        import json, email, pytest, rich
        import shared, pyfaas
        try:
            import not_there_at_all
        except ImportError:
            pass
        app = pyfaas.App("single")
        @app.function
        def alone(): return shared.WORD
        class Tools:
            @staticmethod
            def inside(): return 1
        """
    write(tmp_path, {**PROJECT, "show.py": program, "single.py": single})
    ran = run(house, tmp_path, "-W", "ignore", "show.py")
    assert ran.errors == ""
    package, alone, inside = (json.loads(line) for line in ran.out)
    assert package == [
        "reports.jobs:summarise",
        [
            *("lazily/deep/inside.py", "reports/__init__.py", "reports/data/title.txt", "reports/jobs.py"),
            *("reports/main.py", "reports/tables.py", "reports/words.py", "shared.py"),
        ],
    ]
    assert alone == ["single:alone", ["shared.py", "single.py"]]
    assert inside[0] == "single:Tools.inside"


def test_modules_from_elsewhere_on_the_path_travel_too(house: House, tmp_path: Path) -> None:
    """What PYTHONPATH or sys.path finds is as much the author's own as what lies beside the script."""
    script = f"""
        import sys
        sys.path.append({str(tmp_path / "library")!r})
        import toolbox, pyfaas
        app = pyfaas.App("paths")

        @app.function()
        def measure(n: int) -> int:
            return toolbox.deeper.twice(n) + toolbox.ONE

        if __name__ == "__main__":
            with app.run():
                print(measure.remote(3))
        """
    write(
        tmp_path,
        {
            "scripts/script.py": script,
            "scripts/module.py": "from script import app, measure\nwith app.run():\n    print(measure.remote(4))\n",
            "library/toolbox/__init__.py": "from . import deeper\nONE = 1\n",
            "library/toolbox/deeper.py": "def twice(n): return 2 * n\n",
        },
    )
    for name, wanted in (("scripts/script.py", "7"), ("scripts/module.py", "9")):
        ran = run(house, tmp_path, name)
        assert (ran.out, ran.errors) == ([wanted], "")


def test_a_run_at_a_modules_top_says_so(house: House, tmp_path: Path) -> None:
    """A module that runs its app when it is imported is refused by its container with a sentence, not a hang."""
    module = """
        import pyfaas
        app = pyfaas.App("top")

        @app.function()
        def one(): return 1

        def go():
            with app.run():
                print(one.remote())

        if __name__ != "__main__":
            go()
        """
    write(tmp_path, {"top.py": module, "script.py": "import top\n"})
    ran = run(house, tmp_path, "script.py")
    assert ran.status == 1
    assert "App.run is not there inside a container" in ran.errors


def test_a_module_that_needs_a_distribution_says_which(house: House, tmp_path: Path) -> None:
    """An import that fails while the container loads the module ends the deployment, with its line and what to do."""
    module = "import rich\nimport pyfaas\napp = pyfaas.App('needs')\n\n@app.function()\ndef one(): return 1\n"
    write(tmp_path, {"needs.py": module, "script.py": "import needs\nwith needs.app.run(): pass\n"})
    ran = run(house, tmp_path, "-W", "ignore", "script.py")
    assert ran.status == 1
    assert "No module named 'rich'" in ran.errors
    assert "hint: name its distribution: @app.function(requirements=[…])" in ran.errors


def test_one_app_over_two_modules(house: House, tmp_path: Path) -> None:
    """Functions of several modules are one app; each travels with its own module."""
    write(
        tmp_path,
        {
            "base_app.py": "import pyfaas\napp = pyfaas.App('two')\n",
            "first.py": "from base_app import app\n@app.function()\ndef one(): return [__name__]\n",
            "second.py": "from base_app import app\nimport first\n@app.function()\ndef two(): return first.one() + [__name__]\n",
            "script.py": "import first, second\nfrom base_app import app\nwith app.run():\n    print(first.one.remote(), second.two.remote())\n",
        },
    )
    ran = run(house, tmp_path, "script.py")
    assert (ran.out, ran.errors) == (["['first'] ['first', 'second']"], "")


def test_a_symbolic_link_in_a_package_is_named(house: House, tmp_path: Path) -> None:
    """A package that holds a link, whose target may lie outside, is refused by the link's name."""
    write(tmp_path, {"linked/__init__.py": "import pyfaas\napp = pyfaas.App('linked')\n@app.function()\ndef one(): return 1\n"})
    os.symlink("/etc/passwd", tmp_path / "linked" / "secrets.txt")
    write(tmp_path, {"script.py": "import linked\nlinked.app.deploy()\n"})
    ran = run(house, tmp_path, "script.py")
    assert ran.status == 1
    assert "secrets.txt is a symbolic link" in ran.errors
