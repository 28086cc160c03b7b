"""Processes and threads of the standard library: started, talked to, waited for, ended."""

import concurrent.futures
import ctypes
import multiprocessing
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import shared_memory

START = ("fork", "spawn", "forkserver")
NEWS = []


def square(number):
    """Run in a worker."""
    return number * number


def put_square(number, out):
    """Run in a process of its own."""
    out.put((os.getppid(), number * number))


def count(value, lock, times):
    """Add under a lock."""
    for _ in range(times):
        with lock:
            value.value += 1


def reverse(name, size):
    """Turn the shared bytes round."""
    block = shared_memory.SharedMemory(name=name)
    block.buf[:size] = bytes(block.buf[:size])[::-1]
    block.close()


def answer(connection):
    """Talk over a pipe."""
    connection.send({"got": connection.recv()})
    connection.close()


def process(start):
    """Start one, with a queue."""
    context = multiprocessing.get_context(start)
    out = context.Queue()
    worker = context.Process(target=put_square, args=(12, out))
    worker.start()
    parent, result = out.get(timeout=30)
    worker.join(30)
    return [result, worker.exitcode, start == "forkserver" or parent == os.getpid()]


def pool(start):
    """Map over a pool."""
    with multiprocessing.get_context(start).Pool(2) as workers:
        return sum(workers.imap_unordered(square, range(100), chunksize=7))


def locks(start):
    """Count under a lock from several processes."""
    context = multiprocessing.get_context(start)
    value, lock = context.Value(ctypes.c_int, 0), context.Lock()
    workers = [context.Process(target=count, args=(value, lock, 200)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    return value.value


def shared(start):
    """Share memory."""
    block = shared_memory.SharedMemory(create=True, size=4096)
    try:
        block.buf[:5] = b"hello"
        worker = multiprocessing.get_context(start).Process(target=reverse, args=(block.name, 5))
        worker.start()
        worker.join(30)
        return bytes(block.buf[:5]).decode()
    finally:
        block.close()
        block.unlink()


def piped(start):
    """Talk over a pipe."""
    context = multiprocessing.get_context(start)
    ours, theirs = context.Pipe()
    worker = context.Process(target=answer, args=(theirs,))
    worker.start()
    ours.send([1, 2])
    got = ours.recv()
    worker.join(30)
    return got["got"]


def manager(start):
    """Keep a dictionary in a process that serves it."""
    with multiprocessing.get_context(start).Manager() as kept:
        shelf = kept.dict(a=1)
        shelf["b"] = 2
        return dict(shelf)


def executor(start):
    """Run a process pool, and one whose worker dies."""
    context = multiprocessing.get_context(start)
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as workers:
        total = sum(workers.map(square, range(10)))
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as workers:
        try:
            workers.submit(os._exit, 3).result(30)
        except concurrent.futures.process.BrokenProcessPool as error:
            return [total, type(error).__name__]
    return [total, "none"]


def threads():
    """Run threads with each of the usual ways to wait."""
    done, barrier, items = [], threading.Barrier(3, timeout=30), queue.Queue()
    condition, event, local = threading.Condition(), threading.Event(), threading.local()

    def work(number):
        local.number = number
        barrier.wait()
        event.wait(30)
        with condition:
            done.append(local.number)
            condition.notify_all()
        items.put(number)

    workers = [threading.Thread(target=work, args=(number,), name=f"w{number}") for number in range(3)]
    for worker in workers:
        worker.start()
    event.set()
    with condition:
        condition.wait_for(lambda: len(done) == 3, 30)
    for worker in workers:
        worker.join(30)
    timer = threading.Timer(0.001, items.put, ["timer"])
    timer.start()
    timer.join(30)
    with concurrent.futures.ThreadPoolExecutor(4) as workers:
        return [sorted(done), items.qsize(), sum(workers.map(square, range(10)))]


def many_threads():
    """Have fifty at once, as pools do; how many there may be is a limit of its own."""
    gate = threading.Event()
    workers = [threading.Thread(target=gate.wait) for _ in range(50)]
    for worker in workers:
        worker.start()
    alive = threading.active_count()
    gate.set()
    for worker in workers:
        worker.join()
    return alive >= 50


def shell():
    """Run a shell, with pipes between programs, input and an environment."""
    ran = subprocess.run("echo $WHO | tr a-z A-Z; cat; exit 3", shell=True, input="in\n", capture_output=True, text=True, env={"WHO": "ada", "PATH": "/usr/bin:/bin"})
    return [ran.stdout, ran.returncode]


def python_child():
    """Run the same interpreter."""
    code = "import sys, json; print(json.dumps([sys.version_info[:2] == tuple(json.loads(sys.argv[1])), sum(json.load(sys.stdin))]))"
    version = f"[{sys.version_info[0]}, {sys.version_info[1]}]"
    ran = subprocess.run([sys.executable, "-c", code, version], input="[1, 2, 3]", capture_output=True, text=True, check=True)
    return ran.stdout


def ended():
    """Time out on a child, kill it, and see how it ended."""
    with subprocess.Popen(["sleep", "1000"]) as child:
        try:
            child.wait(0.01)
        except subprocess.TimeoutExpired:
            child.terminate()
        killed = child.wait(30)
    try:
        subprocess.run(["false"], check=True)
    except subprocess.CalledProcessError as error:
        failed = error.returncode
    try:
        subprocess.run(["no-such-program"], check=True)
    except FileNotFoundError as error:
        missing = type(error).__name__
    return [killed, failed, missing]


def options():
    """Start a child with the options that people use."""
    read, write = os.pipe()
    code = f"import os; os.write({write}, b'x'); print(os.getcwd(), os.getsid(0) == os.getpid(), os.umask(0) == 0o077)"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd="/tmp", start_new_session=True, pass_fds=[write], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
    )
    return [ran.stdout, os.read(read, 1).decode()]


def forked():
    """Fork, talk over a pipe, wait."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, b"child")
        os._exit(7)
    os.close(write)
    said = os.read(read, 100).decode()
    os.close(read)
    return [said, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])]


def spawned():
    """Start by posix_spawn and by os.system."""
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 5"], {})
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), os.waitstatus_to_exitcode(os.system("exit 6")), os.popen("echo hi").read()]


def signals():
    """Handle signals in the main thread: by hand, from an alarm, in a wait."""
    before = signal.signal(signal.SIGUSR1, lambda number, frame: NEWS.append(signal.Signals(number).name))
    alarm = signal.signal(signal.SIGALRM, lambda number, frame: NEWS.append("SIGALRM"))
    NEWS.clear()
    os.kill(os.getpid(), signal.SIGUSR1)
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    until = time.monotonic() + 30
    while len(NEWS) < 2 and time.monotonic() < until:
        time.sleep(0.001)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    os.kill(os.getpid(), signal.SIGUSR2)
    taken = signal.sigtimedwait([signal.SIGUSR2], 30)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])
    signal.signal(signal.SIGUSR1, before)
    signal.signal(signal.SIGALRM, alarm)
    return [NEWS, signal.Signals(taken.si_signo).name]


def alarm():
    """Interrupt what takes too long, as many a timeout decorator does."""

    def ring(number, frame):
        raise TimeoutError("rang")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(600)
    kept = signal.alarm(0) > 0
    try:
        signal.alarm(1)
        time.sleep(20)
    except TimeoutError as error:
        return [kept, str(error)]
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return [kept, "did not ring"]


def niceness():
    """Be nicer, oneself and in a child; nobody gets ahead of others."""
    read, write = os.pipe()
    at_first = os.getpriority(os.PRIO_PROCESS, 0)  # whatever the server was started with
    pid = os.fork()
    if pid == 0:
        os.write(write, bytes((os.nice(3) - at_first,)))
        os.setpriority(os.PRIO_PROCESS, 0, 7)
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        try:
            os.nice(-9)
        except OSError:
            os.write(write, bytes((os.nice(0),)))
        os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    nicer = subprocess.run(["nice", "-n", "5", "nice"], capture_output=True, text=True).stdout
    return [list(os.read(read, 10)), int(nicer) - at_first]


def programs():
    """Use the programs that every system has."""
    script = """
set -e
cd "$(mktemp -d)"
printf 'b\na\nc\n' > list
cp -p list copy; mv copy moved; install -m 600 list installed; ln -s list link
sort list | head -n 2 | tr '\n' ' '
tar czf all.tgz list moved && mkdir out && tar xzf all.tgz -C out && cmp list out/moved
find . -name 'li*' -newermt 2000-01-01 | sort | xargs -n 1 basename | tr '\n' ' '
sed 's/a/x/' list | grep -c x
diff <(cat list) <(cat moved) && touch -d 2020-01-01 list && date -u -r list +%Y
dd if=/dev/zero of=zero bs=1k count=4 2>/dev/null; truncate -s 100 zero; stat -c %s zero
(flock -x 9; echo locked) 9> lock
timeout 20 sleep 0; env -i sh -c 'echo ${HOME:-none}'; md5sum < /dev/null | cut -c1-4
split -l 1 list part && cat part* | wc -l; mkfifo pipe; (echo through > pipe &) ; cat pipe
"""
    ran = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    return [ran.stdout.split(), ran.stderr, ran.returncode]


def affinity():
    """Read and set on which processors to run, as thread pools do."""
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(mine)})
    narrowed = len(os.sched_getaffinity(0))
    os.sched_setaffinity(0, mine)
    return [narrowed, os.cpu_count() >= 1, os.sched_getaffinity(0) == mine]


def handler(event, context):
    name, _, start = event["case"].partition("_by_")
    work = globals()[name]
    return work(start) if start in START else work()
