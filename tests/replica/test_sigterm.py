"""SIGTERM on the data loop; in a process of its own, whose main thread that loop has."""

from __future__ import annotations

import subprocess
import sys

import pytest

LOOP = """
import asyncio, os, signal, threading, time, uvloop
from servekit.forks import forks
from servekit.replica.sigterm import Sigterm

async def main():
    ended = asyncio.Event()
    sigterm = Sigterm(ended.set)
    handler = signal.getsignal(signal.SIGTERM)
{taken}
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
    await asyncio.wait_for(ended.wait(), 60)
    sigterm.close()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

forks.guard(worker=True)
uvloop.run(main())
"""

WAYS = {
    "as it is": "",
    "while a call blocks": "asyncio.get_running_loop().call_later(0.05, time.sleep, 0.2)",
    "without the descriptor": "assert signal.set_wakeup_fd(-1) >= 0",
    "with another's handler": """
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, print)
    asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    while signal.getsignal(signal.SIGTERM) is not handler:
        await asyncio.sleep(0.01)
""",
}


@pytest.mark.parametrize("way", WAYS)
def test_it_is_seen(way: str) -> None:
    taken = WAYS[way] if WAYS[way].startswith("\n") else f"    {WAYS[way]}"
    script = LOOP.format(taken=taken)
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=90)
    assert (ran.returncode, ran.stderr) == (0, "")
