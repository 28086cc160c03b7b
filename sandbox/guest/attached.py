"""The last thing that the launcher tells a container: that its code is attached.

Theory of operation. Attaching takes the launcher as long as a container needs to read its order and to set up its
process, so a host may send the order first and have both done at once. The container then stops before it looks at the
code, until the launcher says a byte on the socket on which the blank reported itself. Either way the descriptor is closed before any
code runs. A launcher that cannot attach says nothing: the host hears why, and ends the container.
"""

from __future__ import annotations

import os

_CLOSED = -1
_line = _CLOSED


def keep(descriptor: int) -> None:
    """Keep the descriptor on which the launcher will say so."""
    global _line  # noqa: PLW0603 - one a process, like the descriptor
    _line = descriptor


def wait() -> None:
    """Wait until the code is attached, then close the descriptor; raises EOFError when the launcher ended instead."""
    has_come = _line == _CLOSED or os.read(_line, 1)
    let_go()
    if not has_come:
        raise EOFError("the launcher ended before it attached the code")


def let_go() -> None:
    """Close the descriptor without waiting; once it is closed nothing happens."""
    global _line  # noqa: PLW0603 - likewise
    if _line != _CLOSED:
        os.close(_line)
        _line = _CLOSED
