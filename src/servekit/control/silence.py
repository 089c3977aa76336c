"""What it means that a worker has said nothing for a while, and which machines are not to be used: no I/O, no clock.

A worker of this machine reports once a second. That it does not may mean that it is slow: C code computes and holds the
GIL, or the machine is busy. So silence alone counts for nothing: the process must be stopped as well, or its CPU time
stand still while it sleeps.
"""

from __future__ import annotations

from servekit.processes import Activity

LOOK_EVERY_S = 1.0
QUIET_LOOKS = 3
"""So many looks in a row without a word from the worker make a silence."""
STILL_LOOKS = 3
"""So many further looks, with the same CPU time, make a process that does nothing."""
AVOIDED_S = 75.0
"""How long a lost machine is avoided: a little longer than Ray takes to find out by itself (62 to 65 s were seen)."""


class Silence:
    """That of one worker.

    It is counted in looks, of which there are none while the controller itself is stopped, and not in seconds, of which
    a controller that goes on after 20 s would find 20.
    """

    def __init__(self) -> None:
        self._quiet = self._still = 0
        self._cpu_ticks = -1

    def heard(self) -> None:
        """The worker has said something."""
        self._quiet = self._still = 0
        self._cpu_ticks = -1

    def looked(self) -> bool:
        """Count a look, at least `LOOK_EVERY_S` after the last; returns whether the silence is to be explained."""
        self._quiet += 1
        return self._quiet >= QUIET_LOOKS

    def meaning(self, process: Activity | None, *, serves: bool) -> str:
        """Why the worker will say nothing more, given what its process does; empty: it is, or may be, merely slow.

        ``serves``: the worker has begun. Before, it may sleep for long in C code: a library is loaded from a network
        file system, say.
        """
        if process is None:
            return ""
        if process.state == "T":
            return f"its process is stopped, and has said nothing for {self._quiet * LOOK_EVERY_S:g} s"
        # R: it waits for a CPU; D: for a disk; t: for its debugger.
        rests = serves and process.state == "S" and process.cpu_ticks == self._cpu_ticks
        self._still = self._still + 1 if rests else 0
        self._cpu_ticks = process.cpu_ticks
        if self._still < STILL_LOOKS:
            return ""
        return f"its process has used no CPU time, and said nothing, for {self._still * LOOK_EVERY_S:g} s"


class LostNodes:
    """The machines that were lost a while ago, by the names that their runtime has for them."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def add(self, node: str, now: float) -> None:
        """The machine does not answer; an empty name is that of none."""
        if node:
            self._until[node] = now + AVOIDED_S

    def back(self, node: str) -> None:
        """A worker on the machine has answered."""
        self._until.pop(node, None)

    def names(self, now: float) -> tuple[str, ...]:
        """The machines to be avoided now."""
        self._until = {node: until for node, until in self._until.items() if until > now}
        return tuple(self._until)
