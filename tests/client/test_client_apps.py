"""Apps, decided without a server: names, configuration, what a function needs, what a failure leaves."""

from __future__ import annotations

import asyncio
import inspect
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cloudpickle
import pytest
from fake import Fake

import pyfaas
from pyfaas.client import pickling, sources
from pyfaas.client.function import Function
from pyfaas.client.sync import Client
from pyfaas.runtime import sdk


def one() -> int:
    """Return 1."""
    return 1


def test_a_decorated_function_looks_like_itself() -> None:
    """Name, docstring, signature and module are the function's; a name may be given; it can be decorated again."""
    app = pyfaas.App("looks")
    made = app.function(name="other")(one)
    assert (made.name, made.__name__, made.__doc__, made.__module__) == ("other", "one", "Return 1.", __name__)
    again = app.function(made)
    assert (again.local, again.name, list(app.functions)) == (one, "one", ["other", "one"])
    assert repr(app) == "<pyfaas app looks: other, one>"
    assert repr(made) == "<pyfaas function looks-other>"


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"memroy": "1G"}, "did you mean memory"),
        ({"timeout": "soon"}, "timeout"),
        ({"requirements": "pandas"}, "a list of strings"),
        ({"shape": "event"}, "shape is not for"),
        ({"handler": "a:b"}, "handler is not for"),
        ({"name": "has space"}, "has space"),
        ({"name": "x" * 60}, "x" * 60),
    ],
)
def test_a_wrong_configuration_is_refused_where_it_stands(config: dict[str, Any], sentence: str) -> None:
    """The decorator refuses, not the deployment: the traceback shows the line that is wrong."""
    app = pyfaas.App("wrong")
    with pytest.raises(pyfaas.InvalidRequest, match=sentence):
        app.function(**config)(one)
    assert app.functions == {}


@pytest.mark.parametrize("name", ["", "a b", "x" * 70, "a/b"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    """An app's name is part of its functions' names."""
    with pytest.raises(pyfaas.InvalidRequest):
        pyfaas.App(name)


@pytest.mark.parametrize("thing", [3, Function, "text"])
def test_only_functions_are_decorated(thing: Any) -> None:
    """A class or a value is refused by what it is."""
    with pytest.raises(pyfaas.InvalidRequest, match="is not a function"):
        pyfaas.App("things").function(thing)


def test_a_run_that_cannot_begin_leaves_the_app_as_it_was() -> None:
    """Where no server answers, the failure is told, and the app can run again."""
    app = pyfaas.App("nowhere", client=Client("http://127.0.0.1:1", "pf_good"))
    app.function(name="one")(lambda: 1)
    for _ in range(2):
        with pytest.raises(pyfaas.ServerError, match="cannot reach"), app.run():
            pass
    assert app.published("one") == "nowhere-one"
    app.client.close()


def test_what_could_not_be_removed_does_not_hide_the_failure() -> None:
    """When the block failed and its functions cannot be removed, the block's failure is raised, and a note tells the rest."""
    app = pyfaas.App("gone", client=Client("http://127.0.0.1:1", "pf_good"))
    app.function(one)
    run = app.run()
    app.begin()
    app._live = dict(app.functions)
    failure = LookupError("the block's own")
    run.__exit__(LookupError, failure, None)
    assert "functions of gone were not removed" in failure.__notes__[0]
    app.begin()
    app._live = dict(app.functions)
    with pytest.raises(pyfaas.ServerError):
        run.__exit__(None, None, None)
    app.client.close()


def test_neighbours_travel_as_what_they_are_in_a_container() -> None:
    """A function that names a decorated one and its app takes both along, without client, connections or token."""
    app = pyfaas.App("carries")
    neighbour = app.function(lambda: 5)
    text = pickling.pickled(lambda: (neighbour(), app.name))
    assert b"pyfaas" in text.content
    assert b"pyfaas.client" not in text.content
    inside = pickle.loads(text.content.partition(b"\n")[2])
    assert inside() == (5, "carries")


def test_the_stand_in_has_every_public_name() -> None:
    """Whatever a module takes from pyfaas at home is there in a container; the errors are exceptions of one root."""
    inside = sdk.stand_in()
    assert set(pyfaas.__all__) - {"__version__"} == set(inside.__all__)
    assert issubclass(inside.NotFound, inside.Error)
    assert inside.Context is pyfaas.Context
    with pytest.raises(RuntimeError, match="not there inside a container"):
        inside.Client("url").functions()
    with pytest.raises(RuntimeError, match=r"FunctionCall\.from_id"):
        inside.FunctionCall.from_id("id")
    decorated = inside.App("a").function(memory="64M")(one)
    try:
        assert (decorated is one, one.local()) == (True, 1)  # type: ignore[attr-defined]
        with pytest.raises(RuntimeError, match=r"one\.map\.aio"):
            one.map.aio([1])  # type: ignore[attr-defined]
    finally:
        vars(one).clear()


def test_pickles_are_read_for_the_owner_alone() -> None:
    """A function that trusts pickles opens them for its own account only: a borrower's would run as the owner's code."""
    wrapped = pickling.trusting(lambda n: n + 1)
    payload = cloudpickle.dumps(((1,), {}))
    own = SimpleNamespace(account="owner", caller="owner")
    assert pickle.loads(wrapped(payload, own)) == 2
    with pytest.raises(PermissionError):
        wrapped(payload, SimpleNamespace(account="owner", caller="borrower"))


def test_what_a_source_imports() -> None:
    """Every import statement counts, wherever it stands; relative ones stay in their package; what cannot be read has none."""
    source = b"import a.b, c as d\nfrom e.f import g\nfrom . import h\nfrom .i import j\ndef k():\n    try:\n        import l\n    except ImportError: pass\n"
    assert sources.imported(source) == {"a", "c", "e", "l"}
    assert sources.imported(b"not python") == sources.imported(b"\xff\xfe") == set()


def test_what_is_not_the_authors_stays(tmp_path: Path) -> None:
    """The standard library, distributions, pyfaas itself and names that nothing has are not shipped."""
    assert sources.gather({"json", "sys", "pytest", "pyfaas", "sandbox", "cloudpickle", "no_such_module", "__main__"}) == {}
    assert sources.is_own(tmp_path / "mine.py")
    assert not sources.is_own(tmp_path / "lib" / "site-packages" / "theirs.py")


def test_an_executable_file_of_a_package_stays_executable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program beside a package's modules can be run in the container."""
    (tmp_path / "withtool").mkdir()
    (tmp_path / "withtool" / "__init__.py").write_text("")
    (tmp_path / "withtool" / "tool.sh").write_text("#!/bin/sh\n")
    (tmp_path / "withtool" / "tool.sh").chmod(0o755)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert sources.gather({"withtool.deeper"}) == {
        "withtool/__init__.py": (b"", False),
        "withtool/tool.sh": (b"#!/bin/sh\n", True),
    }


async def test_asynchronous_inputs_come_from_their_own_loop() -> None:
    """What `map.aio` is given may be an asynchronous iterator of the caller's loop; leaving it early leaves nothing waiting."""
    app = pyfaas.App("inputs", client=Client("http://127.0.0.1:1", "pf_good"))
    function = app.function(one)
    seen = []

    async def call(row: Any) -> Any:
        seen.append(row)
        return row

    function._invoke = lambda args, _: call(args)  # type: ignore[method-assign, assignment, return-value]

    async def inputs() -> Any:
        for n in range(3):
            await asyncio.sleep(0)
            yield n

    assert [row async for row in function.map.aio(inputs())] == [(0,), (1,), (2,)]
    assert [row async for row in function.starmap.aio(each async for each in rows())] == [(1, 2)]
    app.client.close()


async def rows() -> Any:
    """Yield one row."""
    yield (1, 2)


def test_both_clients_have_the_same_methods_and_signatures() -> None:
    """What an editor shows of the blocking client is what the asynchronous one takes, with its docstring."""
    asynchronous = {name for name in vars(pyfaas.AsyncClient) if not name.startswith("_")} - {"close", "open"}
    for name in asynchronous:
        blocking, awaited = getattr(Client, name), getattr(pyfaas.AsyncClient, name)
        assert inspect.signature(blocking) == inspect.signature(awaited)
        assert blocking.__doc__ == awaited.__doc__
        assert not inspect.iscoroutinefunction(blocking)


def test_a_decorated_function_may_name_where_it_connects_to(client: Client, fake: Fake) -> None:
    """`network` of the decorator reaches the configuration; what is no destination is refused when the decorator runs."""
    app = pyfaas.App("reaching", client=client)

    @app.function(network=["api.example.com:443", "*.example.org:443"])
    def reach() -> int:
        return 1

    app.deploy()
    config = fake.seen()["functions"]["reaching-reach"][-1]["config"]
    assert config["network"] == ["api.example.com:443", "*.example.org:443"]
    with pytest.raises(pyfaas.InvalidRequest, match="network"):
        app.function(network=["no destination"])(reach.local)
