"""Found by the workers of `benchmarks.road`, by their PYTHONPATH: each begins to trace itself, or runs in valgrind."""

from __future__ import annotations

import os
import sys

if any("servekit.worker" in argument for argument in sys.orig_argv):
    if os.environ.pop("SERVEKIT_ROAD_VALGRIND", ""):
        output = f"--callgrind-out-file={os.environ['SERVEKIT_ROAD']}/callgrind.{os.getpid()}"
        valgrind = ["valgrind", "--quiet", "--tool=callgrind", "--instr-atstart=no", output]
        # The same process goes on, with the same standard input, in another program.
        os.execvp("valgrind", [*valgrind, sys.executable, *sys.orig_argv[1:]])
    elif "VALGRIND" not in os.environ.get("LD_PRELOAD", "").upper():
        from benchmarks.road.trace import Trace

        Trace(os.environ["SERVEKIT_ROAD"]).start()
