"""A function's configuration: every key, its limits, its errors; the code id."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyfaas.errors import Code, PyfaasError
from pyfaas.manifest import (
    Bounds,
    canonical,
    check_requirement,
    code_id,
    parse,
    read_toml,
    requires_python,
)
from pyfaas.model import Retries, Revision, Settings, Shape

BUNDLE = "sha256-" + "b" * 64
GIB = 1 << 30


def refused(config: Any, **more: Any) -> PyfaasError:
    """Return the error with which a configuration is refused."""
    with pytest.raises(PyfaasError) as caught:
        parse(config, **more)
    return caught.value


def test_nothing_said_is_all_defaults() -> None:
    """An empty configuration is the model's defaults, and has no name."""
    parsed = parse({})
    assert (parsed.revision, parsed.settings, parsed.name) == (Revision(), Settings(), None)


def test_every_key_reaches_its_field() -> None:
    """Each documented key is read and lands in the revision or in the settings, with its unit."""
    config = {
        "name": "thumbnail",
        "handler": "pkg.main:App.handler",
        "shape": "event",
        "memory": "1G",
        "timeout": "1m",
        "init_timeout": 90,
        "requirements": ["pillow==11.*", "numpy>=2; python_version > '3.10'"],
        "env": {"QUALITY": "85", "A": "é"},
        "network": [],
        "concurrency": 5,
        "stale": "forbid",
        "max_stale_time": "5m",
        "max_stale_requests": 3,
        "stale_percent": 50,
        "min_version": 2,
        "max_wait": "500ms",
        "public": True,
        "idempotent": True,
        "retries": {"max": 0, "initial": "2s", "factor": 3, "max_delay": "1h"},
    }
    parsed = parse(config, pickled=True)
    assert parsed.name == "thumbnail"
    assert parsed.revision == Revision(
        handler="pkg.main:App.handler",
        shape=Shape.EVENT,
        memory_bytes=GIB,
        timeout_ms=60_000,
        init_timeout_ms=90_000,
        requirements=("pillow==11.*", "numpy>=2; python_version > '3.10'"),
        env=(("A", "é"), ("QUALITY", "85")),
        pickled=True,
    )
    assert parsed.settings == Settings(
        concurrency=5,
        public=True,
        idempotent=True,
        stale="forbid",
        max_stale_time_ms=300_000,
        max_stale_requests=3,
        stale_percent=50,
        min_version=2,
        max_wait_ms=500,
        retries=Retries(max=0, initial_ms=2000, factor=3.0, max_delay_ms=3_600_000),
    )


@pytest.mark.parametrize(
    ("config", "key", "near"),
    [
        ({"memroy": "1G"}, "memroy", "memory"),
        ({"retries": {"intial": "1s"}}, "retries.intial", "retries.initial"),
        ({"pickled": True}, "pickled", "known keys"),
    ],
)
def test_unknown_keys_are_named_with_a_suggestion(config: dict[str, Any], key: str, near: str) -> None:
    """A key that is not there is unknown_key, said with its place and what was probably meant."""
    error = refused(config)
    assert error.code is Code.UNKNOWN_KEY
    assert key in error.message
    assert near in error.hint


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"handler": "main"}, "handler"),
        ({"handler": "main.py:handler.1"}, "handler"),
        ({"handler": 3}, "handler"),
        ({"shape": "wsgi"}, "shape"),
        ({"memory": "1.5G"}, "memory"),
        ({"memory": True}, "memory"),
        ({"memory": "9" * 5000}, "memory"),
        ({"timeout": "soon"}, "timeout"),
        ({"timeout": "9" * 400}, "timeout"),
        ({"timeout": None}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"requirements": "pillow"}, "requirements"),
        ({"requirements": [1]}, "requirements[0]"),
        ({"env": ["A=1"]}, "env"),
        ({"env": {"A": 1}}, "env.A"),
        ({"env": {"A": "x\0y"}}, "env.A"),
        ({"env": {"A": "\ud800"}}, "env.A"),
        ({"env": {"A=B": "1"}}, "env"),
        ({"env": {"": "1"}}, "env"),
        ({"env": {"PYFAAS_VERSION": "1"}}, "env"),
        ({"network": "example.com:443"}, "network"),
        ({"network": ["a:1", "example.com"]}, "network[1]"),
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": True}, "concurrency"),
        ({"concurrency": 1.0}, "concurrency"),
        ({"public": "yes"}, "public"),
        ({"stale": "maybe"}, "stale"),
        ({"stale_percent": 101}, "stale_percent"),
        ({"min_version": 0}, "min_version"),
        ({"retries": 3}, "retries"),
        ({"retries": {"factor": float("inf")}}, "retries.factor"),
        ({"name": 5}, "name"),
    ],
)
def test_wrong_values_name_their_key(config: dict[str, Any], key: str) -> None:
    """A value of another type or out of its range is invalid_request and names the key."""
    error = refused(config)
    assert error.code is Code.INVALID_REQUEST
    assert error.message.startswith(key + ":")
    assert len(error.message) < 250


def test_a_bad_name_is_invalid_name() -> None:
    """The name has the grammar of names."""
    assert refused({"name": "a b"}).code is Code.INVALID_NAME


@pytest.mark.parametrize(
    ("key", "low", "below", "high", "above"),
    [
        ("timeout", "1s", "999ms", "900s", "901s"),
        ("init_timeout", 1, 0, "15m", "16m"),
        ("memory", "64M", "63M", "2G", "2049M"),
    ],
)
def test_limits_are_inclusive(key: str, low: Any, below: Any, high: Any, above: Any) -> None:
    """Both ends of a range are allowed and the next value beyond is refused, naming the range."""
    bounds = Bounds(memory_bytes=2 * GIB)
    for value in (low, high):
        parse({key: value}, bounds=bounds)
    for value in (below, above):
        assert "outside" in refused({key: value}, bounds=bounds).message


def test_the_environment_has_a_size() -> None:
    """Variables up to the limit are allowed, one byte more is refused with the limit and how to raise it."""
    parse({"env": {"A": "x" * 8}}, bounds=Bounds(env_bytes=10))
    error = refused({"env": {"A": "x" * 9}}, bounds=Bounds(env_bytes=10))
    assert error.evidence == {"limit": "env_bytes", "value": 11, "max": 10, "unit": "bytes"}
    assert "env_bytes" in error.hint


@pytest.mark.parametrize(
    "text",
    [
        "idna",
        "pillow==11.*",
        "uvicorn[standard]>=0.3,<1",
        "a@https://x.org/a-1-py3-none-any.whl",
        "x; sys_platform=='linux'",
    ],
)
def test_requirements_of_an_index(text: str) -> None:
    """Requirements of PEP 508 are taken as written."""
    assert check_requirement(text, "k") == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-r x.txt",
        "--index-url=https://x",
        "-e .",
        "./pkg",
        "/etc/passwd",
        "~/x",
        "https://x.org/a.whl",
        "a @ file:///etc/x",
        "a @ git+ssh://x/y",
        "a b",
        "a==",
        "a\n-r b",
        "a --hash=sha256:00",
    ],
)
def test_options_and_paths_are_no_requirements(text: str) -> None:
    """Options, paths, bare URLs and other schemes are refused, naming the entry."""
    with pytest.raises(PyfaasError) as caught:
        check_requirement(text, "requirements[0]")
    assert caught.value.message.startswith("requirements[0]:")


def test_requirements_without_packaging(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where `packaging` is not installed a simpler check takes and refuses the usual ones alike."""
    monkeypatch.setattr("pyfaas.manifest.Requirement", None)
    for text in ("idna", "pillow==11.*", "uvicorn[standard]>=0.3,<1", "x; sys_platform=='linux'", "a (>=1)"):
        assert check_requirement(text, "k") == text
    for text in ("-r x", "./a", "a b", "a @ file:///x", ""):
        with pytest.raises(PyfaasError):
            check_requirement(text, "k")


def test_the_network_list_is_kept_in_its_canonical_form() -> None:
    """Two ways to write one list are one revision."""
    assert parse({"network": []}).revision.network == ()
    written = parse({"network": ["B.example.com:443", "a.example.com:443", "a.example.com.:443"]})
    assert written.revision.network == ("a.example.com:443", "b.example.com:443")


VALID = st.fixed_dictionaries(
    {},
    optional={
        "handler": st.sampled_from(["main:handler", "a.b:c.d"]),
        "shape": st.sampled_from(["event", "typed", "asgi"]),
        "memory": st.integers(64, 4096).map(lambda n: f"{n}M"),
        "timeout": st.integers(1, 900).map(lambda n: f"{n}s"),
        "requirements": st.lists(st.sampled_from(["idna", "pillow==11.*", "numpy>=2"]), max_size=3),
        "env": st.dictionaries(
            st.from_regex(r"[A-Z_][A-Z0-9_]{0,8}", fullmatch=True),
            st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20),
            max_size=5,
        ),
        "concurrency": st.integers(1, 100),
        "public": st.booleans(),
    },
)


@given(VALID, st.randoms())
def test_the_canonical_form_does_not_know_the_order_of_keys(config: dict[str, Any], chance: random.Random) -> None:
    """A configuration with its keys in another order, variables too, has the same canonical form and code id."""

    def shuffled(table: dict[str, Any]) -> dict[str, Any]:
        items = list(table.items())
        chance.shuffle(items)
        return dict(items)

    other = shuffled({k: shuffled(v) if isinstance(v, dict) else v for k, v in config.items()})
    first, second = parse(config), parse(other)
    assert first == second
    assert canonical(first.revision) == canonical(second.revision)
    assert code_id(BUNDLE, first.revision) == code_id(BUNDLE, second.revision)


@given(VALID)
def test_the_canonical_form_holds_the_whole_revision(config: dict[str, Any]) -> None:
    """A revision can be read back from its canonical form."""
    revision = parse(config).revision
    fields = json.loads(canonical(revision))
    fields |= {"env": tuple(sorted(fields["env"].items()))}
    fields |= {key: tuple(fields[key]) for key in ("requirements", "network")}
    assert Revision(**fields) == revision


@given(VALID, VALID)
def test_code_ids_differ_exactly_when_revisions_do(one: dict[str, Any], two: dict[str, Any]) -> None:
    """Two configurations have the same code id if and only if their revisions are the same; settings do not count."""
    first, second = parse(one).revision, parse(two).revision
    assert (code_id(BUNDLE, first) == code_id(BUNDLE, second)) == (first == second)
    assert code_id(BUNDLE, first) != code_id("sha256-" + "c" * 64, first)


def test_spelling_makes_no_version() -> None:
    """The same quantity written in another way is the same revision; the code id is stable over releases."""
    one, two = parse({"timeout": 60, "memory": 1024}).revision, parse({"timeout": "1m", "memory": "1G"}).revision
    assert code_id(BUNDLE, one) == code_id(BUNDLE, two)
    assert code_id(BUNDLE, Revision()) == "sha256-1229529d0375d551c063176bc0e0e1cc81e3bbaf96e79587f57e7dd8c0d77493"


@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    ),
    st.data(),
)
def test_no_value_escapes_the_error_type(value: Any, data: st.DataObject) -> None:
    """Whatever JSON is given for whatever key, it is read or refused with a code, never another exception."""
    key = data.draw(
        st.sampled_from(
            [
                "name",
                "handler",
                "shape",
                "memory",
                "timeout",
                "requirements",
                "env",
                "network",
                "concurrency",
                "public",
                "retries",
                "max_wait",
            ]
        )
    )
    try:
        parse({key: value})
    except PyfaasError as error:
        assert error.code in (Code.INVALID_REQUEST, Code.INVALID_NAME, Code.UNKNOWN_KEY)


def test_pyfaas_toml_is_its_keys() -> None:
    """A pyfaas.toml is the table itself."""
    assert read_toml('memory = "1G"\n[env]\nA = "1"') == {"memory": "1G", "env": {"A": "1"}}


def test_pyproject_is_its_tool_table() -> None:
    """Of a pyproject.toml only [tool.pyfaas] counts, and it may have none."""
    text = '[project]\nname = "x"\nrequires-python = ">=3.12"\n[tool.pyfaas]\ntimeout = "5s"'
    assert read_toml(text, "pyproject.toml") == {"timeout": "5s"}
    assert read_toml('[project]\nname = "x"', "pyproject.toml") == {}
    assert requires_python(text, "pyproject.toml") == ">=3.12"


SCRIPT = """#!/usr/bin/env python
# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "idna",
# ]
#
# [tool.pyfaas]
# memory = "512M"
# ///
def handler(event): ...
"""


def test_a_script_has_a_block() -> None:
    """Of a Python file the PEP 723 block counts: dependencies are requirements unless the table has its own."""
    assert read_toml(SCRIPT, "f.py") == {"requirements": ["idna"], "memory": "512M"}
    own = SCRIPT.replace('# memory = "512M"', "# requirements = []")
    assert read_toml(own, "f.py") == {"requirements": []}
    assert read_toml(SCRIPT.replace("\n", "\r\n"), "f.py") == read_toml(SCRIPT, "f.py")
    assert read_toml("def handler(event): ...", "f.py") == {}
    assert requires_python(SCRIPT, "f.py") == ">=3.11"
    assert requires_python("x = 1", "f.py") is None


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        ("memory =", "pyfaas.toml", "pyfaas.toml"),
        ("tool = 3", "pyproject.toml", "a table"),
        (SCRIPT + "\n" + SCRIPT, "f.py", "more than one"),
        ("# /// script\n# a = 1\nx = 1\n# ///\n", "f.py", "no end"),
        ("# /// script\n# a =\n# ///\n", "f.py", "f.py"),
    ],
)
def test_what_cannot_be_read_names_its_place(text: str, place: str, says: str) -> None:
    """Bad TOML, a bad table, a block twice or without an end are refused with the file's name."""
    with pytest.raises(PyfaasError) as caught:
        read_toml(text, place)
    assert says in caught.value.message
    assert place in caught.value.message


@pytest.mark.parametrize(
    ("written", "hint"),
    [("main.lambda_handler", "write main:lambda_handler"), ("pkg/app.run", "write pkg.app:run"), ("main", ""), ("main.py:handler.1", "")],
)
def test_lambda_spelling_is_named(written: str, hint: str) -> None:
    """Who writes a handler as AWS Lambda does is told how it is written here."""
    assert refused({"handler": written}).hint == hint
