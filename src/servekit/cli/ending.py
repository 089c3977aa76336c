"""What is said while an instance ends, where that takes a moment."""

from __future__ import annotations

import threading

import click

SOON_S = 0.5
"""An end that takes no longer needs no words."""


def say_soon(text: str, after_s: float = SOON_S) -> threading.Timer:
    """Say ``text`` in a moment, unless the timer is cancelled before, or this process has ended."""
    timer = threading.Timer(after_s, click.echo, (f"servekit: {text}",), {"err": True})
    timer.daemon = True
    timer.start()
    return timer
