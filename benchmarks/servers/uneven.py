"""A handler that is slow in the replica that was built first, and fast in the others."""

from __future__ import annotations

import time
from pathlib import Path

FAST_S = 0.010
SLOW_S = 0.100


class Uneven:
    """``folder``: where replicas agree on who was first; a new one for each server."""

    def __init__(self, folder: str) -> None:
        try:
            (Path(folder) / "taken").touch(exist_ok=False)
        except FileExistsError:
            self.name, self.time_s = "fast", FAST_S
        else:
            self.name, self.time_s = "slow", SLOW_S

    def __call__(self, request: object) -> str:
        time.sleep(self.time_s)
        return self.name
