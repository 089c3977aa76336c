"""What a fork of this process does not inherit: servekit's signal handlers, its descriptors, and a turn on its loop.

A handler may fork: by `multiprocessing`, by `subprocess` with ``preexec_fn``, by `os.fork`. The child of a fork has
copies of everything. With those of the loop's wake-up descriptor, a SIGTERM for the child would end the replica; with
those of its sockets, peers of a replica that was killed would wait for the child to end.

A fork by C code runs no hook of Python. Of such children the runtime's word is what counts: see `Link.peer_ended`.
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
from typing import Any, NoReturn, Protocol

CAME_BACK = 70
"""Exit code of a child that came back to servekit's code: EX_SOFTWARE of sysexits.h."""


class Source(Protocol):
    """Who has sockets that come and go."""

    def sockets(self) -> Iterable[Any]: ...


class Told(Protocol):
    """Who is told in the child of a fork."""

    def in_child(self) -> None: ...


class Forks:
    """That of this process is `forks`."""

    def __init__(self) -> None:
        self._null = -1
        self._is_worker = False
        self._files: dict[int, tuple[int, int]] = {}
        """By descriptor, which file it was then: a number is used again."""
        self._handlers: dict[int, Any] = {}
        """What there was before servekit's signal handlers, as far as children get it."""
        self._sources: weakref.WeakSet[Source] = weakref.WeakSet()
        self._told: weakref.WeakSet[Told] = weakref.WeakSet()
        self._own: list[Any] = []
        self._forking = threading.local()

    def guard(self, *, worker: bool) -> None:
        """From now on, have children of forks left alone by what is servekit's. Again: nothing.

        Args:
            worker: the process is servekit's own, on its main thread, before it installs signal handlers. In a user's
                process only descriptors are servekit's: signals, loop and children are the user's.
        """
        if self._null >= 0:
            return
        self._is_worker = worker
        # Opened here, for the child of a fork may have no descriptor left to open it with.
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self._handlers = {number: _for_children(signal.getsignal(number)) for number in signal.valid_signals()}
        os.register_at_fork(before=self._before, after_in_parent=self._unblock, after_in_child=self._in_child)

    def handle_signal(self, number: signal.Signals, handler: Callable[[int, FrameType | None], object]) -> None:
        """As `signal.signal`, but for children of forks, which get the handler that was there before."""
        self._own.append(handler)
        signal.signal(number, handler)

    def hold(self, *sockets: Any) -> tuple[int, ...]:
        """Keep these from children, until `let_go` of what this returns, before they are closed.

        Descriptors or what has one; None is left out: connections in memory have no socket.
        """
        descriptors = tuple(_number(each) for each in sockets if each is not None)
        for descriptor in descriptors:
            self._files[descriptor] = _file(descriptor)
        return descriptors

    def hold_those_of(self, source: Source) -> None:
        """Keep from children what ``source`` has at the time of a fork: to note each connection as it comes and goes
        would be at the expense of requests."""
        self._sources.add(source)

    def tell_child(self, told: Told) -> None:
        """Call its `in_child` in each child, for as long as it is there."""
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
        """Objects of the child still have the numbers, and may close them when they are collected: so a number is not
        left free, for another file. The loop's own descriptors stay: nobody waits for their end, and the loop, whose
        epoll is the parent's too, can do no harm to files that are not there."""
        for source in self._sources:
            for each in source.sockets():
                with contextlib.suppress(OSError):  # The user's code may have closed it already.
                    self.hold(each)
        for descriptor, file in self._files.items():
            with contextlib.suppress(OSError):
                if _file(descriptor) == file:
                    os.dup2(self._null, descriptor, inheritable=False)
        self._files.clear()
        self._sources.clear()


forks = Forks()


def _number(descriptor: Any) -> int:
    number: int = descriptor if isinstance(descriptor, int) else descriptor.fileno()
    return number


def _for_children(handler: Any) -> Any:
    """A function is the host's, Ray's say, and made for its workers; and one that raises would do so in `_in_child`."""
    return handler if handler in (signal.SIG_IGN, signal.default_int_handler) else signal.SIG_DFL


def _file(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


def came_back(*_: Any, **__: Any) -> NoReturn:
    """The child of a fork returned from the user's code, or raised: it must not go on as a second worker."""
    print(
        f"servekit: process {os.getpid()} was forked from a worker and came back from the code that forked it; it ends "
        "here. End such a child by os._exit()",
        file=sys.stderr,
        flush=True,
    )
    os._exit(CAME_BACK)
