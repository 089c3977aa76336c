"""A value that each process makes for itself: what a fork has copied stays the parent's."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class PerProcess(Generic[T]):
    """Made by ``make`` when a process first asks for it. Safe to use from several threads."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: dict[int, T] = {}
        """By pid. Those of other processes are kept: let go of, they would be closed here."""
        self._locks: dict[int, threading.Lock] = {}
        """By pid as well: a thread of the parent may have held a lock at the fork, and is not here to release it."""

    def get(self) -> T:
        """This process's own."""
        pid = os.getpid()
        if pid not in self._made:
            with self._locks.setdefault(pid, threading.Lock()):
                if pid not in self._made:
                    self._made[pid] = self._make()
        return self._made[pid]

    def made(self) -> T | None:
        """This process's own, if it has been made."""
        return self._made.get(os.getpid())
