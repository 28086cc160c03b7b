"""Tools that ask the system: psutil, uvloop, anyio, gevent, cffi; and some that colour and count."""

import asyncio
import io
import logging
import os
import subprocess
import sys

import anyio
import attrs
import cffi
import click
import cloudpickle
import psutil
import rich.console
import tenacity
import tqdm
import uvloop
from click.testing import CliRunner
from loguru import logger


def processes():
    """Look at oneself; what belongs to the whole machine is not there, which psutil says in its own way."""
    me = psutil.Process()
    try:
        load = psutil.virtual_memory().total > 0
    except (OSError, psutil.Error) as error:
        load = type(error).__name__
    return [me.pid == os.getpid(), me.memory_info().rss > 0, me.num_threads() >= 1, me.name() != "", len(psutil.pids()) <= 3, load]


def loops():
    """Run uvloop: timers, a child, a Unix server."""

    async def work():
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", "print(7)", stdout=subprocess.PIPE)
        out, _ = await child.communicate()
        server = await asyncio.start_unix_server(lambda reader, writer: (writer.write(b"hi"), writer.close()), "/tmp/uv.sock")
        reader, writer = await asyncio.open_unix_connection("/tmp/uv.sock")
        said = await reader.read()
        writer.close()
        server.close()
        return [out.decode().strip(), said.decode()]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work())


def tasks():
    async def work():
        seen = []
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 0)
            seen.append(await anyio.to_thread.run_sync(lambda: 7))
        ran = await anyio.run_process(["echo", "x"])
        return [*seen, ran.stdout.decode().strip()]

    return anyio.run(work)


def greenlets():
    """gevent's loop, in a process of its own."""
    code = "import gevent; print(sum(job.value for job in gevent.joinall([gevent.spawn(pow, n, 2) for n in range(5)])))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": ":".join(sys.path)})
    return ran.stdout.strip() or ran.stderr[-500:]


def foreign():
    ffi = cffi.FFI()
    ffi.cdef("size_t strlen(const char *); int qsort(void *, size_t, size_t, int (*)(const void *, const void *));")
    libc = ffi.dlopen(None)
    numbers = ffi.new("int[]", [3, 1, 2])
    less = ffi.callback("int(const void *, const void *)", lambda a, b: ffi.cast("int *", a)[0] - ffi.cast("int *", b)[0])
    libc.qsort(numbers, 3, 4, less)
    return [libc.strlen(b"hello"), list(numbers)]


def scripts():
    """A package's own program is found by its name, and a module is run by the interpreter."""
    by_name = subprocess.run(["tqdm", "--version"], capture_output=True, text=True)
    by_module = subprocess.run([sys.executable, "-m", "tqdm", "--version"], capture_output=True, text=True, cwd="/tmp")
    return [by_name.stdout.strip() == tqdm.__version__ or by_name.stderr, by_module.stdout.strip() == tqdm.__version__ or by_module.stderr]


def texts():
    out = io.StringIO()
    rich.console.Console(file=out, width=40).print("[bold]hi[/bold]")
    bars = io.StringIO()
    counted = sum(tqdm.tqdm(range(10), file=bars))
    logger.remove()
    lines = []
    logger.add(lines.append, format="{level} {message}")
    logger.info("kept")
    logging.getLogger("x").warning("to the log")

    @click.command()
    @click.argument("name")
    def greet(name):
        click.echo(f"hello {name}")

    return [out.getvalue().strip(), counted, "100%" in bars.getvalue(), lines[0].strip(), CliRunner().invoke(greet, ["Ada"]).output]


def objects():
    tries = []

    @tenacity.retry(stop=tenacity.stop_after_attempt(3), reraise=True)
    def third():
        tries.append(1)
        if len(tries) < 3:
            raise ValueError("again")
        return len(tries)

    point = attrs.make_class("Point", ["x", "y"])
    return [third(), attrs.asdict(point(1, 2)), cloudpickle.loads(cloudpickle.dumps(lambda n: n + 1))(1)]


def handler(event, context):
    return globals()[event["case"]]()
