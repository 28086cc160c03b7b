"""Code is brought into a VM's own files as a server does it: a blank copies it from the near store, and others load it from there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox.host.container import Container
from sandbox.host.vm import Vm
from sandbox.spec import Ending, Fate, Limits
from sandbox.wire import Kind, packet
from tests.sandbox.rig import Rig

MIB = 1 << 20
_SLOTS = ("code", "environment")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A launcher whose containers run the server's runtime, and a version in its stores."""
    rig = Rig(tmp_path_factory.mktemp("served"), entry="pyfaas.runtime.container:serve", awaits_code=True)
    for store, files in (
        ("code", {"main.py": "import library\n\ndef handler(event, context):\n    return [library.VALUE, library.__file__]\n"}),
        ("kept", {"library.py": "VALUE = 'from the environment'\n", "big.bin": "x" * (12 * MIB)}),
    ):
        for name, text in files.items():
            path = rig.directory / store / "v" / name
            path.parent.mkdir(exist_ok=True, mode=0o755)
            path.write_text(text)
            path.chmod(0o444)
    yield rig
    rig.close()


def told(rig: Rig, box: Container, order: dict[str, Any], *more: bytes) -> bytes | Ending:
    """Give a container an order and packets after it; return the first packet that comes, or its end."""

    async def ask() -> bytes | Ending:
        answer: asyncio.Future[bytes | Ending] = asyncio.get_running_loop().create_future()
        box.on_packet = box.on_end = lambda what: answer.set_result(what) if not answer.done() else None
        for sent in (packet(Kind.LOAD, json.dumps(order).encode()), *more):
            box.send(sent)
        return await answer

    return rig.run(ask())


def fetch(rig: Rig, vm: Vm, staged: str, most: int = 32 * MIB, **limits: Any) -> tuple[Container, bytes | Ending]:
    """Have a blank copy the version to a staged directory."""
    rig.run(vm.stage(staged, inside=True))
    box = rig.run(vm.fork())
    box.limit(Limits(pids=4, **limits))
    rig.attach(box, ("code", "code", "v", False), ("environment", "kept", "v", False), ("out", "vm", staged, True))
    order = {"do": "copy", "from": {slot: f"/app/{slot}" for slot in _SLOTS}, "out": "/app/build/out", "bytes": most}
    return box, told(rig, box, order)


def test_a_version_is_fetched_kept_and_loaded(served: Rig) -> None:
    """The copy says what it is, and a container of the VM loads it, both trees attached at once, with nothing of the near store."""
    vm = served.vm(files_bytes=32 * MIB)
    _, answer = fetch(served, vm, "s")
    assert isinstance(answer, bytes)
    assert answer[:1] == bytes((Kind.LOADED,)), answer
    fields = json.loads(answer[1:])
    assert fields["files"] == 3
    assert 12 * MIB < fields["bytes"] < 13 * MIB
    served.run(vm.keep("s", "e"))
    box = served.run(vm.fork())
    served.attach(box, *((slot, "vm", f"e/{slot}", False) for slot in _SLOTS))
    load = {"do": "load", "function": "f", "version": "1", "account": "a", "handler": None, "memory_mib": 128, "env": {}}
    answer = told(served, box, {**load, "code": "/app/code", "paths": ["/app/code", "/app/environment"]})
    assert isinstance(answer, bytes)
    assert answer[:1] == bytes((Kind.LOADED,)), answer
    mounts = [line for line in Path(f"/proc/{box.pid}/mountinfo").read_text().splitlines() if " /app/" in line]
    assert [line.split()[4] for line in mounts] == ["/app/code", "/app/environment"]
    assert all(" - tmpfs " in line for line in mounts)


@pytest.mark.parametrize("case", ["storage_full", "too_large", "oom"])
def test_too_much_is_said_and_the_vm_goes_on(served: Rig, case: str) -> None:
    """Too little room in the VM, more than the order allows, more than the fetcher's memory: a code or an end, and no entry."""
    vm = served.vm(files_bytes=2 * MIB if case == "storage_full" else 32 * MIB)
    most = MIB if case == "too_large" else 32 * MIB
    box, answer = fetch(served, vm, "s", most, **({"memory_bytes": 8 * MIB} if case == "oom" else {}))
    if case == "oom":
        assert isinstance(answer, Ending)
        assert answer.fate == Fate.OOM
    else:
        assert isinstance(answer, bytes)
        assert (answer[:1], json.loads(answer[1:])["code"]) == (bytes((Kind.FAILED,)), case)
        assert box.ending is None
    served.run(vm.forget("s"))
    box, answer = fetch(served, served.vm(files_bytes=32 * MIB) if case == "storage_full" else vm, "again")
    assert isinstance(answer, bytes)
    assert answer[:1] == bytes((Kind.LOADED,))
