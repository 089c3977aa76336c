"""The handler of `benchmarks.faults` in every framework: it echoes an id, and does what it is asked to."""

import os
import signal
import time

PAUSE_S = 0.002
TIMEOUT_S = 2.0
"""Of each request, and of a handler's call, where the framework has such a thing."""


def echo(options):
    """``options``: of the query or of the JSON body, as texts or numbers. Answers with the id and this process."""
    what = options.get("do")
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "hang":
        time.sleep(3600)
    time.sleep(float(options.get("for_s", PAUSE_S)))
    return {"id": options.get("id", ""), "pid": os.getpid()}
