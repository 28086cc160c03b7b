"""What can go wrong in the sandbox, split by whose mistake it is.

The guest's failures are data (`sandbox.spec.Ending`); only the platform's own
failures, and misuse by the caller, are exceptions.
"""

from __future__ import annotations

import os


class SandboxError(Exception):
    """Root of everything that this package raises."""


class SetupError(SandboxError):
    """A step of building a VM or a container failed; no guest code ran.

    `step` names the step as in `sandbox.launcher.confine.STEPS`, `errno` is the
    kernel's answer (0 when the step failed for another reason, told in `reason`).
    """

    def __init__(self, step: str, errno: int = 0, reason: str = "") -> None:
        """Name the failed step and the kernel's reason."""
        self.step, self.errno, self.reason = step, errno, reason or (os.strerror(errno) if errno else "failed")
        super().__init__(f"{step}: {self.reason}")


class LayerMissing(SandboxError):
    """This machine cannot provide a layer of the isolation; `mend` says what would help."""

    def __init__(self, layer: str, reason: str, mend: str) -> None:
        """Name the layer, why it cannot be had, and what mends it."""
        self.layer, self.reason, self.mend = layer, reason, mend
        super().__init__(f"{layer}: {reason}; {mend}")


class LocalWireError(SandboxError):
    """We tried to send what the protocol does not allow now: a defect of ours."""


class RemoteWireError(SandboxError):
    """The other side sent what the protocol does not allow: never trusted again."""


class LauncherGone(SandboxError):
    """The launcher ended; every VM it made has ended with it."""


class VmGone(SandboxError):
    """The VM or container has ended; `ending` tells how, when it is known."""

    def __init__(self, what: str, ending: object = None) -> None:
        """Name the VM or container, and its ending when known."""
        self.ending = ending
        super().__init__(f"{what} has ended" + (f": {ending}" if ending else ""))
