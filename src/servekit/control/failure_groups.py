"""What handlers have raised, by backend and by where it was raised, in a bounded number. No I/O, no clock."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import msgspec

from servekit.control.event_ring import clock
from servekit.wire.control_frames import FailureGroup

MOST_GROUPS = 200
"""Of more, the one goes that was not seen for longest."""


class FailureGroups:
    """The groups of all backends, the one that was seen last at the end."""

    def __init__(self, most: int = MOST_GROUPS) -> None:
        self._most = most
        self._groups: OrderedDict[tuple[object, ...], tuple[str, str, FailureGroup]] = OrderedDict()
        """Each with its backend, and the replica that was the last."""

    def add(self, backend: str, replica: str, groups: Iterable[FailureGroup]) -> None:
        """Take in what a replica tells."""
        for group in groups:
            key = (backend, group.what, group.type, group.file, group.line, group.function)
            if key in self._groups:
                earlier = self._groups.pop(key)[2]
                count = earlier.count + group.count
                group = msgspec.structs.replace(group, count=count, first_at=earlier.first_at)
            self._groups[key] = (backend, replica, group)
            if len(self._groups) > self._most:
                self._groups.popitem(last=False)

    def told(self, backend: str | None = None) -> list[dict[str, Any]]:
        """All of them, or those of one backend, for people and programs."""
        return [
            {
                "backend": own,
                "replica": replica,
                **msgspec.structs.asdict(group),
                "first_time": clock(group.first_at),
                "last_time": clock(group.last_at),
            }
            for own, replica, group in self._groups.values()
            if backend in (None, own)
        ]
