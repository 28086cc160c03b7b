"""What a type checker knows of a decorated function: its signature, here and in a container."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pyfaas

ROOT = Path(pyfaas.__file__).resolve().parents[1]
PROGRAM = '''
from collections.abc import AsyncIterator, Iterator
import pyfaas

app = pyfaas.App("typed")

@app.function(memory="64M")
def add(a: int, b: int = 1) -> str:
    """Add."""
    return str(a + b)

@app.function
async def later(text: str) -> bytes:
    return text.encode()

@app.function()
def count(n: int) -> Iterator[float]:
    yield n

@app.function()
async def slowly() -> AsyncIterator[list[int]]:
    yield []

reveal_type(add(1))  # str
reveal_type(add.local(1))  # str
reveal_type(add.remote(1, b=2))  # str
reveal_type(add.remote.aio(1))  # typing.Awaitable[str]
reveal_type(add.spawn(1).get())  # str
reveal_type(add.map([1]))  # typing.Iterator[str]
reveal_type(add.starmap.aio([(1, 2)]))  # typing.AsyncIterator[str]
reveal_type(later.remote("a"))  # bytes
reveal_type(later.local)  # def (text: str) -> typing.Coroutine[Any, Any, bytes]
reveal_type(count.remote(1))  # typing.Iterator[float]
reveal_type(count.remote.aio(1))  # typing.AsyncIterator[float]
reveal_type(slowly.remote())  # typing.Iterator[list[int]]
reveal_type(pyfaas.Client().whoami())  # dict[str, Any]
add.remote("x")  # error: incompatible type "str"; expected "int"
add.local()  # error: Too few arguments
later.spawn(1)  # error: incompatible type "int"; expected "str"
pyfaas.Client().invoke()  # error: Too few arguments
'''


def test_a_decorated_function_keeps_its_signature(tmp_path: Path) -> None:
    """mypy knows what each way returns and takes, of plain, async and generator functions; a wrong call is an error."""
    (tmp_path / "use.py").write_text(PROGRAM)
    (tmp_path / "mypy.ini").write_text("[mypy]\nstrict = True\n[mypy-cloudpickle.*]\nignore_missing_imports = True\n")
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path / "cache"), "--no-error-summary", "use.py"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "MYPYPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    told = {int(line.split(":")[1]): line for line in done.stdout.splitlines() if line.startswith("use.py:")}
    wanted = {
        number: line.partition("  # ")[2].removeprefix("error: ")
        for number, line in enumerate(PROGRAM.splitlines(), 1)
        if "  # " in line
    }
    assert set(told) == set(wanted), done.stdout
    assert [line for number, line in told.items() if wanted[number] not in line.replace("builtins.", "")] == []


def test_type_checkers_see_every_public_name() -> None:
    """The stub, which is read instead of the module, has the module's names."""
    stub = ast.parse((ROOT / "pyfaas" / "__init__.pyi").read_text())
    names = {alias.name for node in ast.walk(stub) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert names | {"__version__"} == set(pyfaas.__all__)
    assert (ROOT / "pyfaas" / "py.typed").is_file()
