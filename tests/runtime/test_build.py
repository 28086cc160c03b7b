"""Builds: bundles unpacked and compiled, requirements locked and installed from wheels on this disk."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyfaas.runtime import install
from sandbox import wire

from .conftest import Guest
from .test_bundle import packed

_SHOW = "import sys; sys.path.insert(0, sys.argv[1]); import outer_thing; print(outer_thing.VERSION)"
UV = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")


def build(guest: Guest, out: Path, lock: str = "", step: str = "compile", **order: Any) -> tuple[str, dict[str, Any]]:
    """Run one build into a new directory; what it says on the way is under "told", a lock under "lock"."""
    out.mkdir()
    body = lock.encode()
    asked = {"do": "build", "step": step, "out": str(out), "tool": {}, "lock_bytes": len(body), **order}
    for packet in (wire.packet(wire.Kind.LOAD, json.dumps(asked).encode()), *wire.parts(body, 0)):
        guest.channel.send(packet)
    told: list[dict[str, Any]] = []
    while (packet := guest.channel.recv(wire.MAX_PACKET))[:1] == b"I":
        told.append(json.loads(packet[1:]))
    kind, answer = chr(packet[0]), json.loads(packet[1:])
    text = b""
    while len(text) < answer.get("lock_bytes", 0):
        text += guest.channel.recv(wire.MAX_PACKET)[1:]
    return kind, {**answer, "told": told, "lock": text.decode()}


def wheel(directory: Path, name: str, version: str, requires: str = "") -> None:
    """Write a wheel with one module and one native-looking executable."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + (
        f"Requires-Dist: {requires}\n" if requires else ""
    )
    files = {
        f"{name}/__init__.py": f"VERSION = {version!r}\n",
        f"{name}/tool": "#!/bin/sh\necho tool\n",
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    with zipfile.ZipFile(directory / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in files.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            record += f"{path},sha256={digest},{len(text)}\n"
            entry = zipfile.ZipInfo(path)
            entry.external_attr = (stat.S_IFREG | (0o755 if path.endswith("tool") else 0o644)) << 16
            archive.writestr(entry, text)
        archive.writestr(f"{info}/RECORD", record + f"{info}/RECORD,,\n")


def test_unpack_and_compile(guest: Guest, tmp_path: Path) -> None:
    """Files get forced modes and compiled companions that never look at the source; bad syntax is told, not fatal."""
    bundle = tmp_path / "bundle.zip"
    bundle.write_bytes(
        packed(("main.py", b"def handler(event, context): return 1\n"), ("bad.py", b"def ("), ("p/d.txt", b"x"))
    )
    out = tmp_path / "out"
    kind, built = build(guest, out, bundle=str(bundle))
    assert kind == "R", built
    assert [problem["path"] for problem in built["syntax_errors"]] == ["bad.py"]
    assert stat.S_IMODE((out / "main.py").stat().st_mode) == 0o444
    compiled = list((out / "__pycache__").glob("main.*.pyc"))
    assert compiled[0].read_bytes()[4:8] == b"\1\0\0\0"  # PEP 552: hash-based, unchecked
    assert built["files"] == 4
    assert [told["step"] for told in built["told"]] == ["compile"]


def test_built_code_runs_from_another_place(start: Callable[[], Guest], tmp_path: Path) -> None:
    """What a build made is loaded from wherever it is mounted, with the right file in its stack traces."""
    bundle = tmp_path / "bundle.zip"
    bundle.write_bytes(packed(("main.py", b"def handler(event, context): return 1 / 0\n")))
    build(start(), tmp_path / "out", bundle=str(bundle))
    moved = (tmp_path / "out").rename(tmp_path / "moved")
    runner = start()
    runner.load(code=str(moved), paths=[str(moved)])
    assert str(moved / "main.py") in runner.call().json["stackTrace"][0]


def test_executables_stay_executable(guest: Guest, tmp_path: Path) -> None:
    """An executable entry becomes 0555 whatever else its mode says."""
    bundle = tmp_path / "bundle.zip"
    bundle.write_bytes(packed(("run", b"#!/bin/sh\n"), mode=stat.S_IFREG | 0o4777))
    build(guest, tmp_path / "out", bundle=str(bundle))
    assert stat.S_IMODE((tmp_path / "out" / "run").stat().st_mode) == 0o555


@pytest.mark.parametrize(
    ("body", "limits", "code"),
    [
        (packed(("../x", b"")), {}, "invalid_bundle"),
        (b"no zip", {}, "invalid_bundle"),
        (packed(("x", b"12345")), {"bytes": 4}, "too_large"),
        (packed(("x", b""), ("y", b"")), {"files": 1}, "too_large"),
    ],
)
def test_bad_bundles_fail(guest: Guest, tmp_path: Path, body: bytes, limits: dict[str, int], code: str) -> None:
    """A bundle that breaks a rule is FAILED with its code, and nothing is written outside."""
    bundle = tmp_path / "bundle.zip"
    bundle.write_bytes(body)
    kind, failed = build(guest, tmp_path / "out", bundle=str(bundle), limits=limits)
    assert (kind, failed["code"]) == ("F", code)
    assert not (tmp_path / "x").exists()


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """A directory of wheels: `outer` needs `inner`."""
    directory = tmp_path / "wheels"
    directory.mkdir()
    wheel(directory, "inner_thing", "1.5")
    wheel(directory, "outer_thing", "2.0", "inner-thing>=1")
    return directory


def tools(index: Path) -> dict[str, dict[str, Any]]:
    """Return the tools that are here, each looking at the wheels and no index."""
    pip = importlib.util.find_spec("pip")
    made: dict[str, dict[str, Any]] = {}
    if UV is not None:
        settings = index.parent / "uv.toml"
        settings.write_text(f"no-index = true\nfind-links = [{str(index)!r}]\n")
        made["uv"] = {"uv": UV, "env": {"UV_CONFIG_FILE": str(settings)}}
    if pip is not None and pip.origin is not None:
        made["pip"] = {"pip": str(Path(pip.origin).parent), "env": {"PIP_FIND_LINKS": str(index), "PIP_NO_INDEX": "1"}}
    return made


@pytest.fixture(params=["uv", "pip"])
def tool(request: pytest.FixtureRequest, index: Path) -> dict[str, Any]:
    """Return an order's tool, one after the other."""
    found = tools(index).get(request.param)
    if found is None:
        pytest.skip(f"{request.param} is not installed beside this Python")
    return found


def test_requirements_are_locked_and_installed(start: Callable[[], Guest], tmp_path: Path, tool: dict[str, Any]) -> None:
    """Requirements and what they need are pinned by one container, and installed, compiled and importable by another."""
    kind, locked = build(start(), tmp_path / "none", step="lock", requirements=["outer_thing  # a comment"], tool=tool)
    assert kind == "R", locked
    assert sorted(pin.lower().replace("_", "-") for pin in install.pins(locked["lock"])) == ["inner-thing==1.5", "outer-thing==2.0"]
    if "uv" in tool:  # pip tells no hash of a local file before 23.1
        assert locked["lock"].count("sha256:") == 2
    assert list((tmp_path / "none").iterdir()) == []
    out = tmp_path / "out"
    kind, built = build(start(), out, locked["lock"], step="install", tool=tool)
    assert kind == "R", built
    shown = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _SHOW, str(out)], check=True, capture_output=True, text=True
    )  # fmt: skip
    assert shown.stdout == "2.0\n"
    assert (out / "outer_thing" / "__pycache__").is_dir()
    assert stat.S_IMODE((out / "outer_thing" / "__init__.py").stat().st_mode) == 0o444
    assert (built["told"][0]["step"], built["told"][0]["total"]) == ("install", 2)
    assert built["told"][-1]["step"] == "compile"


def test_the_same_set_has_the_same_lock(start: Callable[[], Guest], tmp_path: Path, tool: dict[str, Any]) -> None:
    """Requirements of other words that resolve to the same packages give the same text."""
    one = build(start(), tmp_path / "a", step="lock", requirements=["outer_thing"], tool=tool)[1]["lock"]
    two = build(start(), tmp_path / "b", step="lock", requirements=["inner-thing<9", "Outer-Thing>=1"], tool=tool)[1]["lock"]
    assert one == two != ""


def test_a_lock_of_many_packets(guest: Guest, tmp_path: Path, index: Path) -> None:
    """A lock that is larger than a packet arrives whole, and its hashes are checked all the same."""
    made = tools(index)
    if not made:
        pytest.skip("neither uv nor pip is installed beside this Python")
    digest = hashlib.sha256((index / "inner_thing-1.5-py3-none-any.whl").read_bytes()).hexdigest()
    hashes = [f"--hash=sha256:{number:064x}" for number in range(3000)] + [f"--hash=sha256:{digest}"]
    lock = " \\\n    ".join(["inner-thing==1.5", *hashes]) + "\n"
    assert len(lock) > 3 * wire.MAX_PACKET
    kind, built = build(guest, tmp_path / "out", lock, step="install", tool=next(iter(made.values())))
    assert kind == "R", built
    assert (tmp_path / "out" / "inner_thing" / "__init__.py").exists()


def test_a_wheel_whose_hash_lies(guest: Guest, tmp_path: Path, tool: dict[str, Any]) -> None:
    """A file that is another than the one that was locked is not installed."""
    kind, failed = build(guest, tmp_path / "out", "inner-thing==1.5 --hash=sha256:" + "0" * 64, step="install", tool=tool)
    assert (kind, failed["code"]) == ("F", "requirements_failed")
    assert "hash" in failed["errorMessage"].lower()
    assert not (tmp_path / "out" / "inner_thing").exists()


def test_missing_requirement_fails(guest: Guest, tmp_path: Path, tool: dict[str, Any]) -> None:
    """A requirement that is nowhere fails with the tool's reason, which is in the log too."""
    kind, failed = build(guest, tmp_path / "out", step="lock", requirements=["nowhere-thing"], tool=tool)
    assert (kind, failed["code"]) == ("F", "requirements_failed")
    assert "nowhere-thing" in failed["errorMessage"]
    assert "nowhere-thing" in guest.rest_of(guest.out_read)


def test_environment_above_its_limit(guest: Guest, tmp_path: Path, index: Path) -> None:
    """Requirements that are larger than allowed fail with the limit and the option that raises it."""
    made = tools(index)
    if not made:
        pytest.skip("neither uv nor pip is installed beside this Python")
    tool = next(iter(made.values()))
    kind, failed = build(guest, tmp_path / "out", "inner-thing==1.5", step="install", tool=tool, limits={"bytes": 10})
    assert (kind, failed["code"]) == ("F", "too_large")
    assert "more than 10 bytes" in failed["errorMessage"]
    assert "environment_size" in failed["errorMessage"]


@pytest.mark.parametrize(
    ("said", "code", "words"),
    [
        ("error: Request failed after 3 retries\n  cause: Failed to fetch: http://u:p@i.example/six/\n  cause: dns error",
         "index_unreachable", "the package index cannot be reached: http://i.example/six/"),
        ("error: Failed to fetch `http://i.example/x.whl`\n  cause: HTTP status server error (503 Service Unavailable)",
         "index_unreachable", "cannot be reached: http://i.example/x.whl"),
        ("WARNING: Retrying after connection broken by 'NewConnectionError('", "index_unreachable", "cannot be reached"),
        ("error: Failed to fetch `http://i.example/x.whl`\n  cause: HTTP status client error (404 Not Found)",
         "requirements_failed", "404"),
        ("error: No solution found when resolving dependencies\n  cause: Because there is no version of connection==1.504",
         "requirements_failed", "Because there is no version of connection==1.504"),
        ("error: No space left on device (os error 28)", "storage_full", "the disk is full"),
    ],
    ids=["dns", "503", "pip", "404", "version", "disk"],
)  # fmt: skip
def test_what_a_tools_words_mean(said: str, code: str, words: str) -> None:
    """What may pass by itself is told from what will not, without the index's password."""
    failure = install.failure_of(1, said.encode())
    assert failure.code == code
    assert words in failure.message
    assert "u:p" not in failure.message + failure.log_tail


@pytest.mark.parametrize(
    "line",
    ["-r other.txt", "--index-url http://x", "-e .", "./local", "../x.whl", "x @ http://192.0.2.1/", "http://x/y.whl",
     "git+https://x/y", "x @ file:///etc/passwd", "a\n--extra-index-url http://x"],
)  # fmt: skip
def test_requirements_that_are_refused(line: str) -> None:
    """Options, paths and URLs are not requirements: where packages come from is the operator's choice."""
    with pytest.raises(install.InstallFailed, match="no requirement"):
        install.checked([line])


def test_requirements_that_are_taken() -> None:
    """Names with versions, extras, markers and hashes are, in one line or continued."""
    lines = [
        "requests[socks]>=2,<3",
        "numpy==1.* ; python_version < '3.13'",
        "a~=1.0",
        "b==1 \\",
        "    --hash=sha256:00ff",
        "# c",
        "",
    ]
    assert install.checked(lines) == [
        "requests[socks]>=2,<3",
        "numpy==1.* ; python_version < '3.13'",
        "a~=1.0",
        "b==1      --hash=sha256:00ff",
    ]


def test_pins_of_a_lock() -> None:
    """A lock's pins are its lines without hashes and comments."""
    lock = "# made\na==1 \\\n    --hash=sha256:00 \\\n    --hash=sha256:01\nb==2 --hash=sha256:ff\n"
    assert install.pins(lock) == ["a==1", "b==2"]


def test_bundle_in_a_mounted_directory(guest: Guest, tmp_path: Path) -> None:
    """A bundle slot that is a directory holds the one file."""
    (tmp_path / "slot").mkdir()
    (tmp_path / "slot" / "whatever").write_bytes(packed(("main.py", b"x = 1\n")))
    kind, built = build(guest, tmp_path / "out", bundle=str(tmp_path / "slot"))
    assert (kind, built["files"]) == ("R", 2)
