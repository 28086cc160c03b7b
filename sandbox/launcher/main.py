"""The launcher: forks VMs and containers for one host process, and holds nothing of any tenant.

Theory of operation. It is executed (never forked) with `python -I -S`, runs one thread, and waits in one poll over its
control socket, its life pipe, the report sockets of children that are being made, and the pidfds of those that live.
A command is one packet of space-separated words, `REQUEST VERB …`, each word of a fixed form; the answer is
`REQUEST ok …` or `REQUEST error STEP ERRNO TEXT`. Making something answers when the child has reported, so that the
child's slow writes never hold the loop. `0 exit …` and `0 gone …` are events. Code and calls never pass through here.

What it has imported all containers have; it imports what a first call needs, runs `warm` once, collects and freezes,
and only then forks, so that a container's pages stay shared.
"""

from __future__ import annotations

import array
import contextlib
import errno
import gc
import importlib
import os
import re
import resource
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable

from sandbox import kernel
from sandbox.launcher import cgroups, house, processes, vms
from sandbox.launcher.code import Code
from sandbox.launcher.options import LauncherOptions
from sandbox.spec import Doors, Limits, Network, Usage, VmSpec

_WORD = re.compile(r"[A-Za-z0-9._:/-]{1,160}")
_PRELOADED = ("json", "traceback", "importlib", "re", "linecache", "tokenize", "datetime", "typing", "collections", "functools", "contextlib")
_MAX_COMMAND = 4096
_EMPTYING_S = 5.0  # a process that was killed leaves its group in its own time


class Launcher:
    """The loop and what it keeps."""

    def __init__(
        self,
        options: LauncherOptions,
        entry: Callable[[socket.socket, int, int], None],
        rehearse: Callable[[], None] | None,
    ) -> None:
        """Enter the launcher's own namespaces and build the trees; raises OSError."""
        self.options = options
        self.control = socket.socket(fileno=options.control)
        self.is_root = os.getuid() == 0
        self.groups = None if "cgroups" in options.without else cgroups.detect()
        if self.groups is not None and not self.groups.usable:
            raise OSError(1, self.groups.reason, "cgroups")
        if self.groups is not None:
            self.groups.prepare()
        self.house = house.build(options, entry, rehearse)
        self.own_mnt = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        self.code = Code(self)
        self.vms: dict[str, vms.VmRecord] = {}
        self.tag = options.tag or os.urandom(3).hex()
        self.made = 0
        self.poll = select.poll()
        self.watched: dict[int, Callable[[], None]] = {}
        self.dying: list[cgroups.Leaf] = []
        self.successions: list[vms.Succession] = []
        self.is_leaving = False
        self.left = self._find_left()

    # ---- the loop

    def run(self) -> None:
        """Serve until the control socket or the life pipe reads end-of-file."""
        self._watch(self.control.fileno(), self._command)
        if self.options.life >= 0:
            self._watch(self.options.life, self._leave)
        try:
            self.control.send(f"0 ready {self.tag} {'root' if self.is_root else 'user'}".encode())
        except BrokenPipeError:
            self._leave()  # whoever wanted it is gone already
        self._remove_left()
        while True:
            pause = 2 if self.successions else (50 if self.dying or self.left else None)
            ready = [(fd, self.watched[fd]) for fd, _ in self.poll.poll(pause)]
            for descriptor, work in ready:
                if self.watched.get(descriptor) is work:  # not closed, nor its number taken anew, by what came before
                    work()
            self.successions = [one for one in self.successions if not self._succeed(one)]
            if self.dying:
                self.dying = [leaf for leaf in self.dying if not leaf.remove()]
            if self.left and self.groups is not None:
                self.left = [prefix for prefix in self.left if self.groups.sweep(prefix)]

    def _find_left(self) -> list[str]:
        """Return the names of the groups that earlier launchers of this instance left; those that live keep theirs."""
        if self.groups is None:
            return []
        prefix = f"pyfaas-{self.options.instance}-"
        return sorted(self.groups.found(prefix, [f"{prefix}{tag}-" for tag in (self.tag, *self.options.beside)]))

    def _remove_left(self) -> None:
        """Remove what a crash left, and say in one line what it was. What is staged belongs to nobody when nobody is beside."""
        staged = [] if self.options.beside else self.code.found()
        pids: set[str] = set()
        for name, paths in self.groups.found(f"pyfaas-{self.options.instance}-").items() if self.groups is not None else ():
            if name in self.left:
                pids = pids.union(*map(cgroups.processes_in, paths))
        if self.left or staged:
            found = f"{len(pids)} processes, {len(self.left)} cgroups, {len(staged)} staged directories"
            with contextlib.suppress(OSError):  # a full disk or a closed pipe in the way of it
                print(f"pyfaas serve: removed what an earlier run left: {found}", file=sys.stderr, flush=True)
        if staged:
            self.apart("0", "staged", lambda: self.code.remove(staged))
        if self.groups is not None:
            self.left = [name for name in self.left if self.groups.sweep(name) and self.groups.found(name)]

    def _watch(self, descriptor: int, work: Callable[[], None]) -> None:
        self.watched[descriptor] = work
        self.poll.register(descriptor, select.POLLIN)

    def _unwatch(self, descriptor: int) -> None:
        self.poll.unregister(descriptor)
        del self.watched[descriptor]

    def _leave(self) -> None:
        """End everything and go."""
        self.is_leaving = True
        for vm in self.vms.values():
            self._destroy(vm)
        for vm in list(self.vms.values()):
            self._vm_ended(vm)
        for _ in range(50):
            self.dying = [leaf for leaf in self.dying if not leaf.remove()]
            if not self.dying:
                break
        if self.groups is not None:
            self.groups.sweep(f"pyfaas-{self.options.instance}-{self.tag}-")
        self.code.remove(sorted(self.code.staged))
        os._exit(0)

    def _command(self) -> None:
        try:
            text = self.control.recv(_MAX_COMMAND)
        except ConnectionResetError:  # the host left without reading all that it was told
            text = b""
        if not text:
            self._leave()
        request, *words = text.decode("ascii", "replace").split(" ")
        try:
            if not words or not all(_WORD.fullmatch(word) for word in (request, *words)):
                raise ValueError("malformed command")
            verb = _VERBS[words[0]]
            answer = verb(self, request, *words[1:])
            if answer is not None:
                self.say(f"{request} ok {answer}")
        except OSError as error:
            self._refuse(request, error)
        except (KeyError, ValueError, TypeError) as error:
            self.say(f"{request} error command 22 {type(error).__name__}: {error}")

    def say(self, text: str, descriptors: list[int] | None = None) -> None:
        """Send the host an answer or an event, with descriptors."""
        if self.is_leaving:
            return
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        try:
            self.control.sendmsg([text.encode()], rights)
        except (BrokenPipeError, ConnectionResetError):
            self._leave()

    # ---- making

    def vm(self, request: str, network: str, use: str, *words: str) -> None:
        """Make a VM with one blank; answers when the blank has reported.

        `words` are numbers (memory, processes, thousandths of a processor, scratch, files of its own) and then its doors.
        """
        spec = _spec(network, use, *words)
        if spec.kind not in self.house.trees:
            raise OSError(errno.EINVAL, f"this launcher makes no VMs with network={network}", "network")
        self.made += 1
        vm_id = f"{self.tag}-{self.made}"
        uid = self._free_uid() if self.is_root else 0
        name = f"pyfaas-{self.options.instance}-{vm_id}"
        group = self.groups.create(name) if self.groups else None
        init = self.groups.create(name + "/init", Limits(memory_bytes=64 << 20, pids=4)) if self.groups else None
        try:
            vm = vms.fork_vm(self.house, vm_id, request, uid, spec=spec, group=group, init=init)
        except OSError:
            for leaf in (init, group):
                if leaf is not None:
                    leaf.remove()
            raise
        vm.files.most_bytes = spec.files_bytes
        self.vms[vm_id] = vm
        self._watch(vm.report.fileno(), lambda: self._vm_reports(vm))
        self._watch(vm.pidfd, lambda: self._vm_ended(vm))

    def _free_uid(self) -> int:
        """Return the next uid that no living VM has."""
        taken = {vm.uid for vm in self.vms.values()}
        for offset in range(self.options.uid_count):
            uid = self.options.uid_base + (self.made + offset) % self.options.uid_count
            if uid not in taken:
                return uid
        raise OSError(errno.EAGAIN, "every uid of the range has a living VM", "uid")

    def _vm_reports(self, vm: vms.VmRecord) -> None:
        tag, handles = processes.receive(vm.report)
        if tag == b"n":
            vm.join = dict(zip(vms.JOINED, handles, strict=True))
        elif tag == b"o":
            vm.doors = handles
        elif tag == b"d" and not vm.is_dying:
            self._unwatch(vm.report.fileno())
            request, vm.request = vm.request, ""
            try:
                self._fork_into(request, vm)
            except OSError as error:
                self._refuse(request, error)
                self._destroy(vm)
        else:
            self._fail(vm, tag)
            self._destroy(vm)

    def fork(self, request: str, vm_id: str, hurry: str = "") -> None:
        """Fork another blank into a VM; `now` when somebody waits for it."""
        self._fork_into(request, self.living(vm_id), is_hurried=hurry == "now")

    def _fork_into(self, request: str, vm: vms.VmRecord, *, is_hurried: bool = False) -> None:
        vm.made += 1
        leaf = None
        if self.groups is not None:
            leaf = self.groups.create(f"pyfaas-{self.options.instance}-{vm.id}/{vm.made}", vm.spec.limits)
            if vm.spec.network is not Network.NONE:
                leaf.bound_sockets()
        self._fork_as(request, vm, f"{vm.id}.{vm.made}", leaf, is_hurried=is_hurried)

    def _fork_as(self, request: str, vm: vms.VmRecord, container_id: str, leaf: cgroups.Leaf | None, *, is_hurried: bool) -> vms.ContainerRecord:
        try:
            box = vms.fork_container(self.house, vm, container_id, request, leaf, is_hurried=is_hurried)
        except OSError:
            if leaf is not None:
                leaf.remove()  # or the VM's group could never be removed
            raise
        vm.containers[box.id] = box
        self._watch(box.report.fileno(), lambda: self._container_reports(vm, box))
        self._watch(box.pidfd, lambda: self.container_ended(vm, box))
        return box

    def replace(self, request: str, vm_id: str, name: str) -> None:
        """Kill all that is in a container's leaf and fork a blank into that leaf, under the same name."""
        vm = self.living(vm_id)
        box = next((box for box in vm.containers.values() if box.name == name and not box.request and not box.is_succeeded), None)
        if box is None:
            raise OSError(errno.ESRCH, f"the container {name} has ended", "container")
        box.is_succeeded = True
        self.kill(request, vm.id, box.id)
        self.successions.append(vms.Succession(request=request, vm=vm, box=box, until=time.monotonic() + _EMPTYING_S))

    def _succeed(self, one: vms.Succession) -> bool:
        """Fork the successor once nothing lives of whom it follows; False when that is not so yet."""
        vm, box, leaf = one.vm, one.box, one.box.leaf
        is_over = vm.is_dying or time.monotonic() > one.until
        if not is_over and (box.id in vm.containers or (leaf is not None and not leaf.is_empty())):
            return False
        try:
            if is_over:
                raise OSError(errno.ESRCH, f"what was in {box.name} did not end, or its VM did", "container")
            if leaf is not None:
                leaf.reset(vm.spec.limits)
            vm.made += 1  # one key a process, whatever its container's name: nothing meant for one reaches the other
            base = leaf.usage() if leaf is not None else Usage()
            self._fork_as(one.request, vm, f"{box.name}:{vm.made}", leaf, is_hurried=True).base = base
        except OSError as error:
            self._refuse(one.request, error)
            box.is_succeeded = False
            if box.id not in vm.containers and leaf is not None and not leaf.remove():
                self.dying.append(leaf)
        return True

    def _container_reports(self, vm: vms.VmRecord, box: vms.ContainerRecord) -> None:
        tag, handles = processes.receive(box.report)
        if tag == b"n":
            box.mnt = handles[0]
            return
        self._unwatch(box.report.fileno())
        if tag != b"d":
            self._fail(box, tag)
            if not vm.is_held:  # nobody has heard of this VM, so nobody would end it
                self._destroy(vm)
            return  # its end is seen through the pidfd
        opened = box.leaf.descriptors() if box.leaf else []
        labels = ",".join(label for label, _ in opened) or "-"
        if not self.house.awaits_code:
            box.report.close()
        request, box.request = box.request, ""
        base = f"{box.base.cpu_us},{box.base.oom_kills},{box.base.pids_refused}"
        handed = [*box.host_ends, *(fd for _, fd in opened), *vm.doors]
        self.say(f"{request} ok {vm.id} {box.id} {box.pid} {labels} {base}", handed)
        for descriptor in handed:
            os.close(descriptor)
        box.host_ends, vm.doors = [], []
        vm.is_held = True

    def _refuse(self, request: str, error: OSError) -> None:
        self.say(f"{request} error {_word(error.filename)} {error.errno or 0} {error.strerror}")

    def _fail(self, child: vms.VmRecord | vms.ContainerRecord, tag: bytes = b"") -> None:
        """Answer whoever waits for a child that did not come to be; its end may be seen before what it said last."""
        request, child.request = child.request, ""
        while request and not tag.startswith(b"e "):
            tag, handles = processes.receive(child.report)
            for handle in handles:
                os.close(handle)
            if not tag:
                break
        if request:
            step, number, text = processes.failure(tag, child.pid)
            self.say(f"{request} error {_word(step)} {number} {text}")

    # ---- ending

    def container_ended(self, vm: vms.VmRecord, box: vms.ContainerRecord) -> None:
        """Reap a container that has ended or was killed, and all that it left; waits for its end."""
        status = processes.reap(box.pid)
        if box.leaf is not None:
            box.leaf.kill()  # what it left running goes with it
        elif not vm.is_dying:
            processes.end_orphans(vm.pid)
        self._say_exit(box, status)
        self._forget(vm, box)

    def _say_exit(self, box: vms.ContainerRecord, status: int) -> None:
        """Tell how a container ended, with the counters that go when its leaf is removed."""
        if box.host_ends:
            return  # the host never had it
        usage = box.leaf.usage().since(box.base) if box.leaf is not None else Usage()
        counts = f"{usage.oom_kills} {usage.memory_peak_bytes} {usage.pids_refused} {usage.cpu_us}"
        self.say(f"0 exit {box.vm} {box.id} {status} {counts}")

    def _forget(self, vm: vms.VmRecord, box: vms.ContainerRecord) -> None:
        vm.containers.pop(box.id, None)
        self._unwatch(box.pidfd)
        os.close(box.pidfd)
        if box.report.fileno() in self.watched:
            self._unwatch(box.report.fileno())
        self._fail(box)
        box.report.close()
        for descriptor in (box.mnt, *box.host_ends):
            if descriptor >= 0:
                os.close(descriptor)
        if box.leaf is not None and not box.is_succeeded and not box.leaf.remove():
            self.dying.append(box.leaf)

    def _destroy(self, vm: vms.VmRecord) -> None:
        """Kill a VM. Its containers are reaped as they end, then its init does: nobody waits here, so the loop goes on."""
        if not vm.is_dying:
            vm.is_dying = True
            for box in vm.containers.values():
                if box.leaf is not None:
                    box.leaf.kill()
            processes.kill(vm.pid)

    def _vm_ended(self, vm: vms.VmRecord) -> None:
        """Let go of a VM whose init has ended; containers go before it (reaped in the other order they would deadlock)."""
        self._destroy(vm)
        for box in list(vm.containers.values()):
            self.container_ended(vm, box)
        processes.reap(vm.pid)
        self._fail(vm)
        if not self.is_leaving:
            self.code.vm_ended(vm)
        del self.vms[vm.id]
        self._unwatch(vm.pidfd)
        os.close(vm.pidfd)
        if vm.report.fileno() in self.watched:
            self._unwatch(vm.report.fileno())
        vm.report.close()
        for descriptor in (*vm.join.values(), *vm.doors):
            os.close(descriptor)
        self.dying += [leaf for leaf in (vm.init, vm.group) if leaf is not None and not leaf.remove()]
        self.say(f"0 gone {vm.id}")
        for request in vm.mourners:
            self.say(f"{request} ok {vm.id}")

    def destroy(self, request: str, vm_id: str) -> str | None:
        """End a VM; answers when nothing of it is left. Ending one that is gone already is no error."""
        vm = self.vms.get(vm_id)
        if vm is None:
            return vm_id
        vm.mourners.append(request)
        self._destroy(vm)
        return None

    def living(self, vm_id: str) -> vms.VmRecord:
        """Return a VM; raises KeyError, or OSError (ESRCH) when it is ending."""
        vm = self.vms[vm_id]
        if vm.is_dying:
            raise OSError(errno.ESRCH, f"the VM {vm_id} is ending", "vm")
        return vm

    def kill(self, _request: str, vm_id: str, container_id: str) -> str:
        """End a container and all that it started."""
        vm = self.vms.get(vm_id)
        box = vm.containers.get(container_id) if vm else None
        if box is not None:
            if box.leaf is not None:
                box.leaf.kill()
            processes.kill(box.pid)
        return container_id

    def weigh(self, _request: str, vm_id: str, weight: str) -> str:
        """Put a VM in the background, or back among the others."""
        vm = self.living(vm_id)
        if vm.group is not None:
            vm.group.weigh(is_background=weight == "background")
        return vm_id

    # ---- apart

    def apart(self, request: str, name: str, work: Callable[[], None], then: Callable[[], None] | None = None) -> None:
        """Do something in a child: syncing takes milliseconds, an environment has thousands of files, and the
        loop waits for nothing. `then` goes on from there, and answers, or raises OSError.
        """
        pid = processes.fork_for(work)
        pidfd = kernel.pidfd_open(pid)
        self._watch(pidfd, lambda: self._done_apart(request, name, pid, pidfd, then))

    def _done_apart(self, request: str, name: str, pid: int, pidfd: int, then: Callable[[], None] | None) -> None:
        self._unwatch(pidfd)
        os.close(pidfd)
        number = os.waitstatus_to_exitcode(processes.reap(pid))
        try:
            if number:
                raise OSError(number, os.strerror(number) if number > 0 else "killed", "stores")
            if then is not None:
                then()
            else:
                self.say(f"{request} ok {name}")
        except OSError as error:
            self._refuse(request, error)


_VERBS: dict[str, Callable[..., str | None]] = {
    "vm": Launcher.vm,
    "fork": Launcher.fork,
    "attach": lambda launcher, *words: launcher.code.attach(*words),
    "kill": Launcher.kill,
    "destroy": Launcher.destroy,
    "weigh": Launcher.weigh,
    "stage": lambda launcher, *words: launcher.code.stage(*words),
    "commit": lambda launcher, *words: launcher.code.commit(*words),
    "discard": lambda launcher, *words: launcher.code.discard(*words),
    "keep": lambda launcher, *words: launcher.code.keep(*words),
    "forget": lambda launcher, *words: launcher.code.forget(*words),
    "replace": Launcher.replace,
}


def _spec(network: str, use: str, *words: str) -> VmSpec:
    memory, pids, cpu_milli, tmp, own = map(int, words[:5])
    return VmSpec(
        network=Network(network),
        doors=Doors.of_words(words[5:]) if network == Network.DOORS else None,
        is_build=use == "build",
        limits=Limits(memory_bytes=memory, pids=pids, cpu=cpu_milli / 1000, tmp_bytes=tmp),
        files_bytes=own,
    )


def _word(text: object) -> str:
    return re.sub(r"[^A-Za-z0-9._:-]", "_", str(text or "launcher"))


def _resolve(name: str) -> Callable[..., None]:
    module, _, attribute = name.partition(":")
    found: Callable[..., None] = getattr(importlib.import_module(module), attribute)
    return found


def main(descriptor: int, path: str) -> None:
    """Be a launcher; `descriptor` holds the options, `path` is where this project's packages are found, and was inserted
    into sys.path for the imports here only.
    """
    gc.disable()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a VM with one container needs ten
    options = LauncherOptions.from_descriptor(descriptor)
    for name in _PRELOADED:
        importlib.import_module(name)
    entry = _resolve(options.entry)
    warm = _resolve(options.warm) if options.warm else None
    rehearse = _resolve(options.rehearse) if options.rehearse else None
    sys.path.remove(path)
    sys.path_importer_cache.clear()
    sys.executable = os.path.realpath(sys.executable)
    sys.prefix, sys.exec_prefix = sys.base_prefix, sys.base_exec_prefix
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    kernel.set_parent_death_signal(signal.SIGKILL)
    kernel.line_buffer_stdout()
    try:
        launcher = Launcher(options, entry, rehearse)
    except OSError as error:
        socket.socket(fileno=options.control).send(f"0 failed {_word(error.filename)} {error.errno or 0} {error.strerror}".encode())
        os._exit(78)
    if warm is not None:
        warm()
    gc.collect()
    gc.freeze()
    try:
        launcher.run()
    except BaseException:  # noqa: BLE001 - a defect of ours: say so, and let everything go down with us
        traceback.print_exc()
        os._exit(70)
