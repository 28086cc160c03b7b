"""asyncio in the container: tasks, threads, processes and streams."""

import asyncio
import os
import socket
import sys
import threading

ENDED = []


async def group():
    """Run tasks together; one that fails ends the others."""
    async with asyncio.TaskGroup() as tasks:
        made = [tasks.create_task(asyncio.sleep(0.001 * number, number)) for number in range(5)]
    try:
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(asyncio.sleep(1000))
            tasks.create_task(fail())
    except* ValueError as errors:
        told = str(errors.exceptions[0])
    return [[task.result() for task in made], told, waiting.cancelled()]


async def fail():
    raise ValueError("asked to")


async def threaded():
    """Work in threads beside the loop."""
    names = await asyncio.gather(*(asyncio.to_thread(lambda: threading.current_thread() is threading.main_thread()) for _ in range(4)))
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    threading.Thread(target=lambda: loop.call_soon_threadsafe(event.set)).start()
    await asyncio.wait_for(event.wait(), 30)
    return [names, event.is_set()]


async def subprocesses():
    """Run a program and a shell, talk to them, end one."""
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", "print(input()[::-1])", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    out, _ = await child.communicate(b"abc\n")
    shell = await asyncio.create_subprocess_shell("exit 4")
    sleeper = await asyncio.create_subprocess_exec("sleep", "1000")
    sleeper.kill()
    return [out.decode(), await shell.wait(), await sleeper.wait()]


async def unix_streams():
    """Serve on a Unix socket in /tmp, and be the client."""

    async def serve(reader, writer):
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(serve, "/tmp/echo.sock")
    async with server:
        answers = await asyncio.gather(*(talk(f"hello {number}\n") for number in range(5)))
    return answers


async def talk(text):
    reader, writer = await asyncio.open_unix_connection("/tmp/echo.sock")
    writer.write(text.encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer.decode()


async def pairs():
    """Talk over a socket pair and over pipes."""
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)
    theirs.send(b"over there\n")
    heard = await reader.readline()
    writer.close()
    theirs.close()
    read, write = os.pipe()
    stream = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(read, "rb"))
    os.write(write, b"through\n")
    piped = await stream.readline()
    os.close(write)
    transport.close()
    return [heard.decode(), piped.decode()]


async def timing():
    """Time out, cancel, shield, queue."""
    try:
        async with asyncio.timeout(0.001):
            await asyncio.sleep(1000)
    except TimeoutError:
        ended = "timeout"
    queue, seen = asyncio.Queue(1), []

    async def consume():
        while (item := await queue.get()) is not None:
            seen.append(item)

    consumer = asyncio.create_task(consume())
    for item in (1, 2, 3, None):
        await queue.put(item)
    await consumer
    lock = asyncio.Semaphore(2)
    async with lock, lock:
        full = lock.locked()
    return [ended, seen, full]


async def handler(event, context):
    return await globals()[event["case"]]()
