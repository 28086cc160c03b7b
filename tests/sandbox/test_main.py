"""`python -m sandbox`: a script runs confined, and what it prints and how it ends comes out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox import doctor

PROJECT = Path(__file__).resolve().parents[2]


def sandbox(*words: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m sandbox` with these words."""
    return subprocess.run(
        [sys.executable, "-m", "sandbox", *words], cwd=PROJECT, capture_output=True, text=True, check=False, timeout=60
    )


def run(tmp_path: Path, source: str, *arguments: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run a script in the sandbox."""
    (tmp_path / "script.py").write_text(source)
    return sandbox("run", *options, str(tmp_path / "script.py"), *arguments)


def test_output_arguments_and_status_pass_through(tmp_path: Path) -> None:
    """Both streams, the arguments, threads, exit functions and the status are as with `python script.py`."""
    source = """
import atexit, sys, threading
atexit.register(lambda: print("last"))
threading.Thread(target=lambda: print("thread")).start()
print(__name__, sys.argv[1:])
print("aside", file=sys.stderr)
sys.exit(7)
"""
    done = run(tmp_path, source, "--flag", "x")
    assert done.returncode == 7
    assert sorted(done.stdout.split("\n")) == ["", "__main__ ['--flag', 'x']", "last", "thread"]
    assert done.stderr == "aside\n"


def test_long_scripts_and_long_output(tmp_path: Path) -> None:
    """A script of more than one packet arrives whole, and more output than a pipe holds comes out whole."""
    source = f"text = {'x' * 200_000!r}\nprint(len(text))\nprint(text * 5)"
    assert run(tmp_path, source).stdout == f"200000\n{'x' * 1_000_000}\n"


@pytest.mark.parametrize(
    ("source", "status", "says"),
    [
        ("raise SystemExit('no reason')", 1, "no reason\n"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero\n"),
        ("def f(:", 1, "SyntaxError: invalid syntax\n"),
        ("x = b'x' * (200 << 20)", 128 + signal.SIGKILL, "sandbox: the script used more than 64 MiB\n"),
        ("import os; os.kill(os.getpid(), 15)", 128 + signal.SIGTERM, "sandbox: the script was ended by signal 15\n"),
        ("while True: pass", 124, "sandbox: the script did not end within 2 s\n"),
    ],
    ids=["text", "error", "syntax", "memory", "signal", "time"],
)
def test_every_end_has_its_status_and_reason(tmp_path: Path, source: str, status: int, says: str) -> None:
    """A script that fails, is too big, is killed or takes too long says so on stderr and in the status."""
    done = run(tmp_path, source, options=("--memory", "64", "--timeout", "2"))
    assert (done.returncode, done.stderr[-len(says) :]) == (status, says)
    assert "sandbox/guest" not in done.stderr


def test_script_sees_nothing_of_the_host(tmp_path: Path) -> None:
    """A file of the host, its network and its processes are out of reach; the same script outside reaches them."""
    (tmp_path / "secret").write_text("x")
    source = f"""
import os, socket
def tried(work):
    try: work(); return "got"
    except OSError: return "refused"
print(tried(lambda: open({str(tmp_path / "secret")!r}).read()), tried(lambda: os.kill({os.getpid()}, 0)),
      tried(lambda: socket.socket(socket.AF_INET)), tried(lambda: open("/tmp/mine", "w").close()))
"""
    assert run(tmp_path, source).stdout == "refused refused refused got\n"
    outside = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    Path("/tmp/mine").unlink()
    assert outside.stdout == "got got got got\n"


def test_nothing_stays_behind(tmp_path: Path) -> None:
    """After a run the launcher's directory is gone and so is what the script left running; an unreadable script is one line."""
    (tmp_path / "tmp").mkdir()
    source = "import os\nif os.fork() == 0:\n    import time; time.sleep(600)\nprint('ready')\n"
    (tmp_path / "script.py").write_text(source)
    env = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    done = subprocess.run([sys.executable, "-m", "sandbox", "run", str(tmp_path / "script.py")], cwd=PROJECT, env=env, check=False, timeout=60, stdout=subprocess.PIPE)
    assert (done.returncode, done.stdout) == (0, b"ready\n")  # at its end-of-file, which the child's sleep would delay
    assert list((tmp_path / "tmp").iterdir()) == []
    missing = sandbox("run", str(tmp_path / "nowhere.py"))
    assert (missing.returncode, missing.stderr) == (3, f"sandbox: [Errno 2] No such file or directory: '{tmp_path / 'nowhere.py'}'\n")


def test_doctor_lists_every_layer() -> None:
    """`doctor` has one line for each layer, and status 0 where all are live."""
    done = sandbox("doctor")
    assert done.returncode == 0
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["live"] * len(doctor.LAYERS)


def test_layer_that_cannot_be_given_up(tmp_path: Path) -> None:
    """Allowing a layer to be missing that nothing runs without is refused before anything starts."""
    done = run(tmp_path, "print('ran')", options=("--allow-weaker-isolation", "user_namespace"))
    assert (done.returncode, done.stdout) == (3, "")
    assert "user_namespace cannot be given up" in done.stderr
