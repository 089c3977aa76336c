"""Keeps servekit's signal handlers, descriptors and event loops from the children of forks.

A handler may fork: by `multiprocessing`, by `subprocess` with ``preexec_fn``, by `os.fork`. The child of a fork has
copies of everything. With a copy of the loop's wake-up descriptor, a SIGTERM for the child would end the replica; with
copies of its sockets, peers of a replica that was killed would wait for the child to end.

A fork by C code runs no hook of Python. Where a replica has such children, only the runtime tells that the replica has
ended: see `Link.peer_ended`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any, Generic, NoReturn, Protocol, TypeVar

T = TypeVar("T")

CAME_BACK = 70
"""Exit code of a child that came back to servekit's code: EX_SOFTWARE of sysexits.h."""


class Source(Protocol):
    """An object whose sockets come and go."""

    def sockets(self) -> Iterable[Any]: ...


class Told(Protocol):
    """An object that has something to do in the child of a fork."""

    def in_child(self) -> None: ...


class Forks:
    """The hooks of one process; those of this process are `forks`."""

    def __init__(self) -> None:
        self._null = -1
        self._is_worker = False
        self._files: dict[int, tuple[int, int]] = {}
        """By descriptor, the file that it was of when it was held: a number is used again."""
        self._handlers: dict[int, Any] = {}
        """By signal, the handler that children get: the one from before servekit's, where it is not the host's own."""
        self._sources: weakref.WeakSet[Source] = weakref.WeakSet()
        self._told: weakref.WeakSet[Told] = weakref.WeakSet()
        self._own: list[Any] = []
        self._forking = threading.local()

    def guard(self, *, worker: bool) -> None:
        """Install the hooks of this process; a second call does nothing.

        Args:
            worker: the process is servekit's own, on its main thread, before it installs signal handlers. In a user's
                process only descriptors are servekit's: signals, loop and children are the user's.
        """
        if self._null >= 0:
            return
        self._is_worker = worker
        # The file is opened here, for the child of a fork may have no descriptor left to open it with.
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self._handlers = {number: _for_children(signal.getsignal(number)) for number in signal.valid_signals()}
        os.register_at_fork(before=self._before, after_in_parent=self._unblock, after_in_child=self._in_child)

    def handle_signal(self, number: signal.Signals, handler: Callable[[int, FrameType | None], object]) -> None:
        """As `signal.signal`, except that children of forks get the handler that was there before."""
        self._own.append(handler)
        signal.signal(number, handler)

    def hold(self, *sockets: Any) -> tuple[int, ...]:
        """Keep descriptors from children, until `let_go` of the result, which is to be called before they are closed.

        Args:
            sockets: descriptors, or objects that have one.
        """
        descriptors = tuple(_number(each) for each in sockets)
        for descriptor in descriptors:
            self._files[descriptor] = _file(descriptor)
        return descriptors

    def hold_those_of(self, source: Source) -> None:
        """Keep from children the sockets that ``source`` has at the time of a fork: to hold each connection as it comes
        would be at the expense of requests."""
        self._sources.add(source)

    def tell_child(self, told: Told) -> None:
        """Call `in_child` of ``told`` in each child, while ``told`` is alive."""
        self._told.add(told)

    def let_go(self, descriptors: tuple[int, ...]) -> None:
        for descriptor in descriptors:
            self._files.pop(descriptor, None)

    # -- around a fork -----------------------------------------------------------------------------------------------

    def _before(self) -> None:
        # A signal for the child that came before `_in_child` would be written to the parent's wake-up descriptor.
        self._forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        self._forking.loop = None
        if self._is_worker and threading.current_thread() is threading.main_thread():
            with contextlib.suppress(RuntimeError):
                self._forking.loop = asyncio.get_running_loop()

    def _unblock(self) -> None:
        self._forking.loop = None
        signal.pthread_sigmask(signal.SIG_SETMASK, self._forking.mask)

    def _in_child(self) -> None:
        try:
            if self._is_worker:
                self._restore_signals()
            self._replace_files()
            if isinstance(self._forking.loop, asyncio.AbstractEventLoop):
                self._forking.loop.call_soon(came_back)
            for told in self._told:
                with contextlib.suppress(RuntimeError):  # Its loop is closed: in process, a replica that has ended.
                    told.in_child()
        finally:
            self._unblock()

    def _restore_signals(self) -> None:
        for number, before in self._handlers.items():
            handler = signal.getsignal(number)
            of_a_loop = isinstance(getattr(handler, "__self__", None), asyncio.AbstractEventLoop)
            if of_a_loop or any(handler is own for own in self._own):
                signal.set_wakeup_fd(-1)
                signal.signal(number, before)

    def _replace_files(self) -> None:
        """Put /dev/null in the place of each descriptor: objects of the child still have its number, and may close it
        when they are collected, so that the number must not become another file's.

        The loop's own descriptors stay: no peer waits for their end, and the loop, whose epoll is the parent's too, can
        do no harm to files that are not there."""
        for source in self._sources:
            for each in source.sockets():
                with contextlib.suppress(OSError):  # The user's code may have closed the socket already.
                    self.hold(each)
        for descriptor, file in self._files.items():
            with contextlib.suppress(OSError):
                if _file(descriptor) == file:
                    os.dup2(self._null, descriptor, inheritable=False)
        self._files.clear()
        self._sources.clear()


forks = Forks()


class PerProcess(Generic[T]):
    """A value that each process makes for itself, by ``make``, when the value is first asked for there: the one that a
    fork has copied is the parent's. Safe to use from several threads."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: dict[int, T] = {}
        """By pid. Those of other processes are kept: a value that is let go of would be closed here."""
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


def _number(descriptor: Any) -> int:
    number: int = descriptor if isinstance(descriptor, int) else descriptor.fileno()
    return number


def _for_children(handler: Any) -> Any:
    """The handler that children get for ``handler``. A function is the host's, Ray's say, and made for its workers; and
    one that raises would do so in `_in_child`."""
    return handler if handler in (signal.SIG_IGN, signal.default_int_handler) else signal.SIG_DFL


def _file(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


def came_back(*_: Any, **__: Any) -> NoReturn:
    """End the child of a fork that has come back from the user's code: it must not go on as a second worker."""
    print(
        f"servekit: process {os.getpid()} was forked from a worker and came back from the code that forked it; it ends "
        "here. End such a child by os._exit()",
        file=sys.stderr,
        flush=True,
    )
    os._exit(CAME_BACK)
