"""Load, changes and faults at random, for minutes: ``python -m benchmarks.soak --minutes 5``.

What is done follows from the seed, which is printed. Every answer is checked. In the end all is to be as it was at
first: processes, descriptors, threads, memory, files. The exit code is 1 where something is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.command_line import prepare_process, say
from benchmarks.processes import kill_tree, wait_until
from benchmarks.soak.report import text
from benchmarks.soak.run import Soak


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="default 1, without start and end")
    parser.add_argument("--runtime", choices=("process", "ray"), default="process", help="default process")
    parser.add_argument("--seed", type=int, help="default: another one each time")
    parser.add_argument("--log", type=Path, metavar="FILE", help="keep what the instance's processes write")
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(10_000) if given.seed is None else given.seed
    prepare_process()
    say(f"seed {seed}")
    with contextlib.ExitStack() as undo:
        undo.callback(wait_until, kill_tree, 10.0)
        # A short path: it has sockets.
        folder = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="soak-", dir="/tmp")))
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
        log = undo.enter_context((given.log or folder / "log").open("w+"))
        soak = Soak(given.runtime, seed, 60 * given.minutes, folder, log)
        began_s = time.monotonic()
        soak.run()
        print(text(soak, seed, time.monotonic() - began_s))
    return 1 if soak.reasons else 0


if __name__ == "__main__":
    sys.exit(main())
