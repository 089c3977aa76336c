"""How a hosted process ended, by Ray's account."""

from __future__ import annotations

import re

from servekit.interfaces import Exit


def exit_of(message: str) -> Exit:
    """How a process ended, from what Ray says of its dead actor."""
    if found := re.search(r"exit code (\d+)", message):
        code = int(found[1])
        return Exit(f"exit code {code}", code)
    if "killed by `ray.kill`" in message:
        return Exit("killed by ray.kill")
    if "connection error code 2" in message:
        return Exit("killed or crashed: its connection to Ray broke off")
    detail = re.search(r"(?:exit detail: |actor is dead because )(.*)", message)
    return Exit(detail[1] if detail else message)
