"""Tells a process that the kernel killed for want of memory from one that was killed by somebody.

The kernel counts such kills by memory cgroup: ``oom_kill`` in ``memory.events`` (cgroup v2) and ``memory.oom_control``
(v1); and for the whole machine in ``/proc/vmstat``. See the kernel's admin-guide, cgroup-v2 and cgroup-v1/memory.
"""

from __future__ import annotations

import signal
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

from servekit.interfaces import Exit

_LOOK_S = 1.0
"""Between two readings of the count."""
_READINGS = 8
"""So many are kept, and the first is compared: a process that is killed is counted at once, and takes seconds to end
where it has many gigabytes, or the machine is busy."""
_MACHINE = Path("/proc/vmstat")


class OomKills:
    """The count of the group that one process is in. `look` while the process is there, `named` when it has ended."""

    def __init__(self) -> None:
        self._file = _MACHINE
        self._counts: deque[int | None] = deque(maxlen=_READINGS)
        self._next_look = 0.0

    def look(self, pid: int) -> None:
        """To be called about once a second. More often costs nothing."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_S
        file = counter_of(pid)
        if file != self._file:
            self._file = file
            self._counts.clear()
        self._counts.append(kills(file))

    def named(self, ended: Exit) -> Exit:
        """``ended``, in other words where the process was killed and the count has risen meanwhile."""
        now, before = kills(self._file), self._counts[0] if self._counts else None
        if ended.code not in (None, -signal.SIGKILL) or None in (now, before) or now == before:
            return ended
        where = "its machine" if self._file == _MACHINE else f"its memory cgroup ({self._file.parent})"
        return Exit(f"killed by the kernel's OOM killer: {where} had no memory left; {ended.reason}", ended.code)


def counter_of(pid: int, proc: Path = Path("/proc")) -> Path:
    """The file that has the count of the process's memory cgroup; where there is none to be seen, of the machine."""
    with suppress(OSError):
        groups = [line.split(":", 2) for line in (proc / str(pid) / "cgroup").read_text().splitlines()]
        for mount in (proc / "self/mountinfo").read_text().splitlines():
            head, _, tail = mount.partition(" - ")
            (_, _, _, root, point, *_), (kind, _, options) = head.split(), tail.split(maxsplit=2)
            for _, controllers, path in groups:
                is_v2 = kind == "cgroup2" and not controllers
                is_v1 = kind == "cgroup" and "memory" in controllers.split(",") and "memory" in options.split(",")
                inside = path.removeprefix(root.rstrip("/"))
                file = Path(f"{point}/{inside}", "memory.events" if is_v2 else "memory.oom_control")
                if (is_v1 or is_v2) and kills(file) is not None:
                    return file
    return _MACHINE


def kills(file: Path) -> int | None:
    """The count in the file; None where it has none, or is gone."""
    with suppress(OSError):
        for line in file.read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return None
