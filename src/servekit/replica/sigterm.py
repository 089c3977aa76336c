"""SIGTERM in a replica's process, whatever event loops of the user's have run on its main thread since.

A loop that handles signals, such as that of a server which a handler runs for a while, sets a wake-up descriptor of its
own (`signal.set_wakeup_fd`), and leaves none behind: a signal would not wake the data loop then. A look after each call
would cost every call a microsecond. So the signal handler is a plain one, which Python itself keeps; the wake-up
descriptor makes the signal handler run at once; and both are put back once a second.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

from servekit.forks import forks

PERIOD_S = 1.0
"""How long SIGTERM may take to be seen after something has taken the descriptor."""


class Sigterm:
    """Calls ``end`` on the running loop, a uvloop on the process's main thread, until it is closed."""

    def __init__(self, end: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = end
        self._descriptor = signal.set_wakeup_fd(-1)  # The loop's descriptor; there is no other way to read it.
        self._handler = lambda *_: self._loop.call_soon_threadsafe(self._end)
        forks.handle_signal(signal.SIGTERM, self._handler)
        self._keep()

    def close(self) -> None:
        """From now on SIGTERM ends the process at once."""
        self._timer.cancel()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _keep(self) -> None:
        signal.set_wakeup_fd(self._descriptor, warn_on_full_buffer=False)
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, self._handler)
        signal.siginterrupt(signal.SIGTERM, False)  # No system call of the user's is to break off.
        self._timer = self._loop.call_later(PERIOD_S, self._keep)
