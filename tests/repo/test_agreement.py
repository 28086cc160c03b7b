"""What is written twice is the same: tables in code, lists in the documents, numbers in the settings."""

from __future__ import annotations

import ast
import importlib
import re
import sys
import tomllib
from dataclasses import fields

import pytest

import pyfaas
import sandbox
from pyfaas.config import Config
from pyfaas.contract import OUTCOME_FAULT, OUTCOME_STATUS, STATUS
from pyfaas.errors import Code, Fault
from pyfaas.model import Outcome
from pyfaas.web.routes import ROUTES
from sandbox.launcher.confine import CONTAINER_STEPS, VM_STEPS
from tests.repo.documents import blocks, option_table, route_table, step_table
from tests.repo.source import ROOT, imports, modules, tracked, tree

PUBLIC = {
    "pyfaas": [
        *("App", "AsyncClient", "Client", "Context", "Error", "FunctionCall", "FunctionError", "Gone", "InvalidRequest", "NotAllowed"),
        *("NotFound", "ServerError", "Throttled", "__version__"),
    ],
    "sandbox": [
        *("LimitExceeded", "Limits", "RemoteError", "SandboxError", "SandboxExecutor", "SetupError", "WorkerDied"),
    ],
}
# What a distribution is called, where its import name differs.
IMPORTED_AS = {"prometheus-client": "prometheus_client", "pyyaml": "yaml", "sqlite-utils": "sqlite_utils", "jsonschema-rs": "jsonschema_rs", "dnspython": "dns"}


def _settings() -> dict[str, object]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return dict(tomllib.load(file)["project"])


def test_every_code_has_a_status_and_every_status_a_code() -> None:
    """The contract's table is about the closed set of codes, all of them, and each is a failure's status."""
    assert set(STATUS) == set(Code)
    assert all(400 <= status < 600 for status in STATUS.values())


def test_every_outcome_has_a_status() -> None:
    """Each outcome has a status of its own, but `rejected`, whose code decides."""
    assert set(OUTCOME_STATUS) == set(Outcome) - {Outcome.REJECTED}


def test_every_failed_outcome_is_somebodys_fault() -> None:
    """Each outcome but `ok` says whose fault it is."""
    assert set(OUTCOME_FAULT) == set(Outcome) - {Outcome.OK}


def test_a_status_agrees_with_the_fault() -> None:
    """A 4xx code is the caller's fault, a 5xx the platform's."""
    assert {code for code, status in STATUS.items() if (status < 500) != (code.fault is Fault.CALLER)} == set()


@pytest.mark.parametrize("package", sorted(PUBLIC))
def test_public_names_are_the_list(package: str) -> None:
    """A package's public names are those that were promised."""
    assert sorted(importlib.import_module(package).__all__) == sorted(PUBLIC[package])


def test_public_names_can_be_had() -> None:
    """Each public name of pyfaas is found where the package says it is."""
    assert [name for name in pyfaas.__all__ if getattr(pyfaas, name, None) is None] == []


@pytest.mark.parametrize("name", PUBLIC["sandbox"])
def test_public_names_of_the_sandbox_can_be_had(name: str) -> None:
    """Each public name of sandbox is found where the package says it is."""
    assert getattr(sandbox, name) is not None


def test_the_usual_documents_are_there() -> None:
    """A reader finds the documents that every project has."""
    assert [path for path in ("README.md", "LICENSE", "SECURITY.md", "CHANGELOG.md") if path not in tracked()] == []


def test_the_version_is_one() -> None:
    """pyproject, the package and the changelog's newest heading say the same version."""
    headings = re.findall(r"^## \[([^\]]+)\](?: - (\S+))?$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    released = [version for version, _ in headings if version != "Unreleased"]
    assert released[0] == _settings()["version"] == pyfaas.__version__


def test_the_changelog_is_kept() -> None:
    """Each version has an ISO date, and its sections are those of Keep a Changelog."""
    text = (ROOT / "CHANGELOG.md").read_text()
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert [h for h in headings if h != "[Unreleased]" and not re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", h)] == []
    assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_steps_in_the_readme_are_the_steps() -> None:
    """sandbox/README.md lists the confinement's steps as they are run."""
    assert blocks("sandbox/README.md")["vm-steps"] == step_table(VM_STEPS)
    assert blocks("sandbox/README.md")["container-steps"] == step_table(CONTAINER_STEPS)


@pytest.mark.parametrize("package", ["sandbox", "pyfaas"])
def test_every_module_is_documented(package: str) -> None:
    """A package's README names each of its modules, or, in pyfaas, the folder."""
    text = (ROOT / package / "README.md").read_text()
    inside = [path.removeprefix(package + "/") for path in tracked() if path.startswith(package + "/") and path.endswith(".py")]
    unnamed = []
    for path in inside:
        folder, _, name = path.rpartition("/")
        known = name in text or (package == "pyfaas" and (f"{folder.split('/')[0]}/" in text if folder else f"`{name[:-3]}`" in text))
        if name != "__init__.py" and not known:
            unnamed.append(path)
    assert unnamed == []


def test_every_route_is_documented() -> None:
    """pyfaas/README.md lists the routes as they are served."""
    assert blocks("pyfaas/README.md")["routes"] == route_table(ROUTES)


def test_every_option_is_documented() -> None:
    """pyfaas/README.md lists the options of the server, with defaults and help."""
    assert blocks("pyfaas/README.md")["options"] == option_table(Config)
    assert all(field.metadata["help"] for field in fields(Config))


def test_every_outcome_is_documented() -> None:
    """README.md names each outcome."""
    text = (ROOT / "README.md").read_text()
    assert [outcome.value for outcome in Outcome if f"`{outcome.value}`" not in text] == []


def test_every_allowed_call_has_a_reason() -> None:
    """Each entry of the allow-list says why, and names a call."""
    with (ROOT / "sandbox/launcher/syscalls.toml").open("rb") as file:
        table = tomllib.load(file)
    entries = [entry for value in table.values() for entry in (value if isinstance(value, list) else [value])]
    assert entries != []
    assert [entry for entry in entries if not str(entry.get("why", "")).strip()] == []


def test_what_is_imported_is_declared() -> None:
    """Each third-party package that the code imports is among the dependencies, and each of those is used."""
    extras = _settings()["optional-dependencies"]
    assert isinstance(extras, dict)
    declared = {re.split(r"[<>=~!\[; ]", text)[0].lower() for text in [*_list("dependencies"), *extras["s3"]]}
    names = {IMPORTED_AS.get(name, name): name for name in declared}
    used = set()
    strings = set()
    for path in modules().values():
        used |= {name.split(".")[0] for name in imports(path)}
        strings |= {node.value for node in ast.walk(tree(path)) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    foreign = used - set(sys.stdlib_module_names) - {"pyfaas", "sandbox"}
    assert foreign - set(names) - {"numpy"} == set()  # where whoever uses arrays has it
    assert {name for name in names if name not in used | strings} == set()


def _list(key: str) -> list[str]:
    found = _settings()[key]
    assert isinstance(found, list)
    return found


def test_no_path_of_one_machine_is_in_the_repository() -> None:
    """No tracked file names a place of some developer's machine."""
    places = ("/" + "work/", "/" + "root/", "/" + "tmp/venv", "/home/" + "runner", "." + "pyenv")
    named = []
    for path in tracked():
        content = (ROOT / path).read_bytes()
        named += [f"{path}: {place}" for place in places if place.encode() in content]
    assert named == []


def test_links_between_documents_lead_somewhere() -> None:
    """Each relative link of a document names a file that is there."""
    dead = [
        f"{path}: {link}"
        for path in tracked()
        if path.endswith(".md")
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / path).read_text())
        if not ((ROOT / path).parent / link).exists()
    ]
    assert dead == []
