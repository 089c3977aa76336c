"""What a handler has raised since the controller was told last, by where it was raised."""

from __future__ import annotations

import sysconfig
import threading
import time
import traceback
from functools import cache
from types import FrameType

from servekit.logs import shortened
from servekit.processes import standard_library
from servekit.wire.control_frames import FailureGroup

MOST_GROUPS = 50
"""That are told of at a time. Of further ones, within the same second, the log tells alone."""
LONGEST_TRACE, LONGEST_NAME = 8192, 500
_LOCKED_S = 0.2
"""In a child that was forked while another thread held the lock, nobody gives it back."""


class FailureCollector:
    """Gathers the failures of one replica. May be used in any thread."""

    def __init__(self) -> None:
        self._groups: dict[tuple[object, ...], FailureGroup] = {}
        self._lock = threading.Lock()

    def add(
        self, what: str, error: BaseException, trace: str, *, endpoint: str = "", request_id: str = "", count: int = 1
    ) -> None:
        """``what`` was being done when the handler raised ``error``; ``trace`` is what the log has of it."""
        place, now = place_of(error), time.time()
        key = (what, name_of(type(error)), *place)
        if not self._lock.acquire(timeout=_LOCKED_S):
            return
        try:
            group = self._groups.get(key)
            if group is None:
                if len(self._groups) >= MOST_GROUPS:
                    return
                group = self._groups[key] = FailureGroup(what, key[1], *place, first_at=now)
            group.count += count
            group.last_at = now
            group.endpoint, group.request_id = endpoint, request_id
            group.traceback = trace
        finally:
            self._lock.release()

    def take(self) -> list[FailureGroup]:
        """What there is; from now on there is nothing."""
        if not self._groups:
            return []
        with self._lock:
            groups, self._groups = self._groups, {}
        for group in groups.values():
            group.traceback = shortened(group.traceback, LONGEST_TRACE)
        return [*groups.values()]


def place_of(error: BaseException) -> tuple[str, int, str]:
    """Where an error was raised: file, line and function of the innermost frame of the user's code; without one, of a
    library's, or else of servekit's. Nothing for an error that was never raised."""
    frames = [*traceback.walk_tb(error.__traceback__)]
    others = [each for each in frames if not is_servekits(each[0])]
    users = [each for each in others if not each[0].f_code.co_filename.startswith(_libraries())]
    for frame, line in (users or others or frames)[-1:]:
        code = frame.f_code
        function = getattr(code, "co_qualname", code.co_name)
        return shortened(code.co_filename, LONGEST_NAME), line, shortened(function, LONGEST_NAME)
    return "", 0, ""


def name_of(kind: type[BaseException]) -> str:
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return shortened(name, LONGEST_NAME)


def is_servekits(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).startswith(("servekit.", "servekit_"))


@cache
def _libraries() -> tuple[str, ...]:
    """How the names of files begin that are not the user's."""
    folders = standard_library() | {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    return ("<frozen ", *(f"{folder}/" for folder in folders))
