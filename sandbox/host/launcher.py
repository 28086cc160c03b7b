"""The launcher as its host holds it: asked over one socket, one packet a question, answers by request number.

`start` executes a launcher (tests, the executor); `adopt` takes the socket of one that a keeper executed. A container
is believed only after its read-back: what the kernel said of it once it was confined must be exactly what it should be.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import json
import os
import socket
import subprocess
from collections import deque
from collections.abc import Callable, Mapping

from sandbox.errors import LauncherGone, SetupError, VmGone
from sandbox.host.container import Container
from sandbox.host.spawn import spawn
from sandbox.host.vm import Vm
from sandbox.launcher.options import LauncherOptions
from sandbox.spec import MAX_LISTENERS, Ending, Limits, Usage, VmSpec
from sandbox.wire import Kind

_DESCRIPTORS = 3 + 16 + MAX_LISTENERS + 3  # a container's ends, its leaf's files, a VM's doors
_BORN_S = 10.0
_NOTHING = "0000000000000000"
EXPECTED: Mapping[str, str] = {
    "CapInh": _NOTHING,
    "CapPrm": _NOTHING,
    "CapEff": _NOTHING,
    "CapBnd": _NOTHING,
    "CapAmb": _NOTHING,
    "NoNewPrivs": "1",
    "Seccomp": "2",
    "Groups": "",
    "Landlock": "1",
    "Uid": "1000\t1000\t1000\t1000",
}
_LAYER_OF = {"NoNewPrivs": "no_new_privs", "Seccomp": "seccomp", "Landlock": "landlock"}


class Launcher:
    """One launcher. `on_gone` is called once, when it ended, after all its containers were told; `on_vm_gone` for each VM."""

    def __init__(self, control: socket.socket, without: tuple[str, ...] = ()) -> None:
        """Take over a control socket; `without` names layers that were given up and are not expected back."""
        self.on_gone: Callable[[], None] = lambda: None
        self.on_vm_gone: Callable[[str], None] = lambda _vm: None
        self.is_gone = False
        self._control, self._without = control, without
        self._control.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._asked: dict[str, asyncio.Future[tuple[list[str], list[int]]]] = {}
        self._abandoned: dict[str, str] = {}  # questions about new containers whose askers have left → their verbs
        self._outgoing: deque[bytes] = deque()
        self._is_root = False
        self._numbers = 0
        self._containers: dict[str, Container] = {}
        self._early: dict[str, tuple[int, Usage]] = {}  # containers that ended before their answer was taken
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._process: subprocess.Popen[bytes] | None = None
        self._loop.add_reader(self._control.fileno(), self._readable)

    @classmethod
    async def start(cls, options: LauncherOptions) -> Launcher:
        """Execute a launcher and wait until it is ready; raises SetupError."""
        ours, process = spawn(options)
        launcher = await cls.adopt(ours, options.without)
        launcher._process = process  # noqa: SLF001 - our own
        return launcher

    @classmethod
    async def adopt(cls, control: socket.socket, without: tuple[str, ...] = ()) -> Launcher:
        """Take a launcher by its control socket and wait until it is ready; raises SetupError or LauncherGone."""
        launcher = cls(control, without)
        await launcher._ready
        return launcher

    async def close(self) -> None:
        """Let the launcher end, and every VM with it."""
        self._lost()
        if self._process is not None and self._process.poll() is None:
            await self._wait_for(self._process)

    async def _wait_for(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for a child, without a thread: none can be made any more while the interpreter exits."""
        try:
            descriptor = os.pidfd_open(process.pid)
        except ProcessLookupError:  # somebody waited for all children of this process
            return
        ended = asyncio.Event()
        self._loop.add_reader(descriptor, ended.set)
        try:
            await ended.wait()
        finally:
            self._loop.remove_reader(descriptor)
            os.close(descriptor)
        process.wait()

    async def create_vm(self, spec: VmSpec) -> Vm:
        """Make a VM with one blank in it; raises SetupError naming the step that failed.

        What `Vm.doors` holds is the caller's to close, also when the VM or the launcher has ended.
        """
        limits = spec.limits
        numbers = (limits.memory_bytes, limits.pids, round(limits.cpu * 1000), limits.tmp_bytes, spec.files_bytes)
        words = (spec.network.value, "build" if spec.is_build else "usual", *map(str, numbers))
        told, descriptors = await self._ask("vm", *words, *(spec.doors.words() if spec.doors else ()))
        count = spec.doors.count if spec.doors else 0
        doors = descriptors[len(descriptors) - count :]
        with contextlib.ExitStack() as unowned:
            for door in doors:
                unowned.callback(os.close, door)
            first = await self._believe("vm", told, descriptors[: len(descriptors) - count], limits)
            unowned.pop_all()
        return Vm(self, first.vm, spec, first, doors)

    async def blank(self, verb: str, *words: str, limits: Limits) -> Container:
        """Ask for a container, and believe it only when the kernel says of it what it should."""
        return await self._believe(verb, *await self._ask(verb, *words), limits)

    async def _believe(self, verb: str, told: list[str], descriptors: list[int], limits: Limits) -> Container:
        box = self._receive(verb, told, descriptors, limits)
        vm, key = box.vm, box.key
        born: asyncio.Future[bytes] = self._loop.create_future()

        def reported(packet: bytes) -> None:
            if not born.done():
                born.set_result(packet)

        def ended(ending: Ending) -> None:
            if not born.done():
                born.set_exception(VmGone(key, ending))

        box.on_packet, box.on_end = reported, ended
        if key in self._early:
            self._exited(key, self._early.pop(key))
        if self.is_gone:
            box.ended(None, Usage())
        is_sound = False
        try:
            async with asyncio.timeout(_BORN_S):
                packet = await born
            self._check(box, packet)
            if box.ending is not None:  # after its word, and before it was our turn: nobody would be told any more
                raise VmGone(key, box.ending)
            is_sound = True
        except TimeoutError:
            raise SetupError("read_back", 0, f"{key} did not report in {_BORN_S} s") from None
        finally:
            if not is_sound:
                self._disown(verb, vm, key)
        box.on_packet, box.on_end = box._unasked, lambda _ending: None  # noqa: SLF001 - a blank again
        return box

    def _receive(self, verb: str, told: list[str], descriptors: list[int], limits: Limits) -> Container:
        """Take what a new container is held by; raises SetupError when not all of it arrived."""
        vm, key, pid, labels, base = told
        names = [] if labels == "-" else labels.split(",")
        if len(descriptors) != 3 + len(names):  # no room here for all of them: unix(7) drops the rest of a message
            self._drop(verb, told, descriptors)
            raise SetupError("descriptors", errno.EMFILE, f"{len(descriptors)} of {3 + len(names)} descriptors of {key} arrived")
        box = Container(self, vm, key, int(pid), descriptors, names, limits)
        cpu_us, oom_kills, pids_refused = map(int, base.split(","))
        box.count_from(Usage(cpu_us=cpu_us, oom_kills=oom_kills, pids_refused=pids_refused))
        self._containers[key] = box
        return box

    async def replace(self, vm: str, container_id: str, limits: Limits) -> Container:
        """Have a container's process followed by a blank in the same leaf; raises SetupError, VmGone or LauncherGone."""
        for box in list(self._containers.values()):
            if box.id == container_id:
                box.give_up()
        return await self.blank("replace", vm, container_id, limits=limits)

    def _disown(self, verb: str, vm: str, key: str) -> None:
        """End a container that nobody will use; a VM goes with its first one."""
        if verb == "vm":
            self.tell("destroy", vm)
        else:
            self.tell("kill", vm, key)

    def _check(self, box: Container, packet: bytes) -> None:
        """Raise SetupError unless the read-back is exactly what confinement makes."""
        try:
            told = json.loads(packet[1:]) if packet[:1] == bytes((Kind.BORN,)) else None
        except ValueError:
            told = None
        if not isinstance(told, dict):
            raise SetupError("read_back", 0, f"{box.id} did not report")
        if not self._is_root:  # an ordinary user cannot give groups up; none but his own has a name in there
            told["Groups"] = " ".join(set(str(told.get("Groups")).split()) - {"65534", "1000"})
        for name, value in EXPECTED.items():
            if told.get(name) != value and _LAYER_OF.get(name) not in self._without:
                raise SetupError("read_back", 0, f"{name} is {told.get(name)!r} instead of {value!r}")
        if told.get("Pid") == str(box.pid):
            raise SetupError("read_back", 0, "Pid is what it is outside: no pid namespace of its own")

    async def commit(self, staged: str, store: str, name: str) -> None:
        """Move a staged directory to its final name; raises SetupError."""
        await self.ask("commit", staged, store, name)

    async def discard(self, store: str, name: str) -> None:
        """Remove an entry of a store; raises SetupError."""
        await self.ask("discard", store, name)

    # ---- asking

    async def ask(self, verb: str, *words: str) -> list[str]:
        """Ask something that needs no descriptors back; raises SetupError or LauncherGone."""
        told, descriptors = await self._ask(verb, *words)
        for descriptor in descriptors:
            os.close(descriptor)
        return told

    def tell(self, verb: str, *words: str) -> None:
        """Ask something whose answer does not matter."""
        if not self.is_gone:
            self._numbers += 1
            self._post(" ".join((str(self._numbers), verb, *words)))

    def ask_nowait(self, done: Callable[[Exception | None], None], verb: str, *words: str) -> None:
        """Ask something that needs nothing back; `done` is called with what went wrong, or None, without a task."""

        def told(answer: asyncio.Future[tuple[list[str], list[int]]]) -> None:
            self._asked.pop(number, None)
            done(answer.exception() if not answer.cancelled() else LauncherGone("the launcher has ended"))  # type: ignore[arg-type]

        if self.is_gone:
            done(LauncherGone("the launcher has ended"))
            return
        number, answer = self._put(verb, words)
        answer.add_done_callback(told)

    def _put(self, verb: str, words: tuple[str, ...]) -> tuple[str, asyncio.Future[tuple[list[str], list[int]]]]:
        self._numbers += 1
        number = str(self._numbers)
        answer: asyncio.Future[tuple[list[str], list[int]]] = self._loop.create_future()
        self._asked[number] = answer
        self._post(" ".join((number, verb, *words)))
        return number, answer

    async def _ask(self, verb: str, *words: str) -> tuple[list[str], list[int]]:
        if self.is_gone:
            raise LauncherGone("the launcher has ended")
        number, answer = self._put(verb, words)
        try:
            return await answer
        except asyncio.CancelledError:
            self._abandon(number, verb, answer)
            raise
        finally:
            self._asked.pop(number, None)

    def _abandon(self, number: str, verb: str, answer: asyncio.Future[tuple[list[str], list[int]]]) -> None:
        """See that what was asked for does not stay, whether it has been made already or will be."""
        if answer.cancelled() or not answer.done():
            self._abandoned[number] = verb
        elif answer.exception() is None:
            self._drop(verb, *answer.result())

    def _drop(self, verb: str, words: list[str], descriptors: list[int]) -> None:
        for descriptor in descriptors:
            os.close(descriptor)
        if verb in ("vm", "fork", "replace"):
            self._disown(verb, words[0], words[1])

    def _post(self, text: str) -> None:
        """Send a question; what the socket does not take at once follows in order when it can."""
        self._outgoing.append(text.encode())
        if len(self._outgoing) == 1:
            self._flush()

    def _flush(self) -> None:
        while self._outgoing:
            try:
                self._control.send(self._outgoing[0])
            except BlockingIOError:
                self._loop.add_writer(self._control.fileno(), self._flush)
                return
            except OSError:
                self._loop.call_soon(self._lost)
                return
            self._outgoing.popleft()
        self._loop.remove_writer(self._control.fileno())

    def _readable(self) -> None:
        for _ in range(64):
            try:
                text, ancillary, _, _ = self._control.recvmsg(4096, socket.CMSG_SPACE(_DESCRIPTORS * 4), socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return
            except OSError:
                text, ancillary = b"", []
            if not text:
                self._lost()
                return
            self._take(text.decode("utf-8", "replace"), _descriptors(ancillary))

    def _take(self, text: str, descriptors: list[int]) -> None:
        number, verdict, *words = text.split(" ")
        if number == "0":
            self._event(verdict, words)
            return
        answer = self._asked.get(number)
        if answer is None or answer.done():
            verb = self._abandoned.pop(number, "")
            self._drop(verb if verdict == "ok" else "", words, descriptors)
        elif verdict == "ok":
            answer.set_result((words, descriptors))
        else:
            answer.set_exception(SetupError(words[0], int(words[1]), " ".join(words[2:])))

    def _event(self, verdict: str, words: list[str]) -> None:
        if verdict == "exit":
            status, oom_kills, peak, pids_refused, cpu_us = map(int, words[2:])
            usage = Usage(oom_kills=oom_kills, memory_peak_bytes=peak, pids_refused=pids_refused, cpu_us=cpu_us)
            self._exited(words[1], (status, usage))
        elif verdict == "gone":
            self.on_vm_gone(words[0])
        elif verdict == "ready" and not self._ready.done():
            self._is_root = words[1:2] == ["root"]
            self._ready.set_result(None)
        elif verdict == "failed" and not self._ready.done():
            self._ready.set_exception(SetupError(words[0], int(words[1]), " ".join(words[2:])))

    def _exited(self, key: str, told: tuple[int, Usage]) -> None:
        box = self._containers.pop(key, None)
        if box is None:
            self._early[key] = told
        else:
            box.ended(*told)

    def _lost(self) -> None:
        if self.is_gone:
            return
        self.is_gone = True
        self._loop.remove_reader(self._control.fileno())
        self._loop.remove_writer(self._control.fileno())
        with contextlib.suppress(OSError):  # it left first
            self._control.shutdown(socket.SHUT_RDWR)  # or a fork of this process would keep the launcher waiting for its end
        self._control.close()
        gone = LauncherGone("the launcher has ended")
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(gone)
        if not self._ready.done():
            self._ready.set_exception(gone)
        for box in list(self._containers.values()):
            box.ended(None, Usage())
        self._containers.clear()
        self.on_gone()


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, raw in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(raw[: len(raw) - len(raw) % found.itemsize])
    return list(found)
