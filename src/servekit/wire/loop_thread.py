"""An event loop that runs in a thread of its own."""

from __future__ import annotations

import threading

import uvloop


class LoopThread:
    """Started by its making; `close` stops the loop, ends the thread and closes the loop."""

    def __init__(self, name: str) -> None:
        self.loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()
