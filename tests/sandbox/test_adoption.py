"""The host's side of a launcher that dies at a bad moment: what it made is never taken for alive."""

from __future__ import annotations

import array
import asyncio
import json
import os
import socket

import pytest

from sandbox.errors import SandboxError
from sandbox.host.launcher import EXPECTED, Launcher
from sandbox.spec import VmSpec
from sandbox.wire import Kind, packet

_BORN = packet(Kind.BORN, json.dumps({**EXPECTED, "Pid": "1"}).encode())


def _answer(control: socket.socket, text: str) -> socket.socket:
    """Answer a question with a container's three descriptors; returns the container's end of its socket."""
    inside, outside = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pipes = [os.pipe(), os.pipe()]
    rights = array.array("i", [outside.fileno(), *(pipe[0] for pipe in pipes)])
    control.sendmsg([text.encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    outside.close()
    for descriptor in (d for pipe in pipes for d in pipe):
        os.close(descriptor)
    return inside


@pytest.mark.parametrize("last_words", [[], ["0 exit v v.1 9 0 0 0 0", "0 gone v"], None])
def test_what_ended_before_it_was_taken(last_words: list[str] | None) -> None:
    """A container whose launcher or VM ended in the moment in which it was born is refused; one of a living launcher is taken."""

    async def made() -> object:
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.send(b"0 ready tag root")
        launcher = await Launcher.adopt(control)
        asked = asyncio.ensure_future(launcher.create_vm(VmSpec()))
        await asyncio.sleep(0)  # it has sent its question
        number = theirs.recv(100).split()[0].decode()
        with _answer(theirs, f"{number} ok v v.1 7 - 0,0,0") as container:
            container.send(_BORN)
            for word in last_words or []:
                theirs.send(word.encode())
            if last_words == []:
                theirs.close()
            try:
                return (await asked).first.ending
            except SandboxError as error:
                return error
            finally:
                await launcher.close()
                theirs.close()

    ended = asyncio.run(asyncio.wait_for(made(), 60))
    assert (ended is None) == (last_words is None)
