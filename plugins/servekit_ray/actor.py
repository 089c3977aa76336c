"""The actor that hosts a worker. Ray imports this module in the actor's process, so that servekit must be installed on
every node.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
import time
import traceback

from servekit.processes import identify
from servekit_ray.asks import machine

TOLD_TIMEOUT_S = 60.0
"""The time after which an actor ends that was not told to run a worker: the process that made it has ended."""

ANSWER_LEAVES_S = 0.1
"""The time that the answer of `begin` has to leave: it would be lost with a process that ends at once."""


class WorkerHost:
    """The actor that hosts one worker. Calls of it run one at a time, on the main thread of the process."""

    def __init__(self, label: str) -> None:
        self._label = label
        # A detached actor would stay, known to nobody.
        self._untold = threading.Timer(TOLD_TIMEOUT_S, os._exit, (1,))
        self._untold.daemon = True
        self._untold.start()

    def __repr__(self) -> str:
        # Ray puts this text before every line that the process prints.
        return self._label

    def begin(self, worker_module: str, bootstrap: bytes) -> dict[str, str | int]:
        """Have the worker run next, and return the actor's place, once the actor has one.

        The actor calls itself: a worker whose place is known runs, whatever becomes of the process that was told.
        """
        import ray

        ray.get_runtime_context().current_actor.run.remote(worker_module, bootstrap)
        self._untold.cancel()
        return self.where()

    def where(self) -> dict[str, str | int]:
        """The machine, the node and the process of this actor: `asks.Place`.

        A call behind `run` gets no answer, but an error as soon as the process has ended.
        """
        import ray

        node_id = ray.get_runtime_context().get_node_id()
        identity = identify(os.getpid())
        assert identity is not None
        return {"machine": machine(), "node_id": node_id, **identity._asdict()}

    def run(self, worker_module: str, bootstrap: bytes) -> None:
        """Run the worker, and end the process when the worker ends: this call never returns a value."""
        import ray

        time.sleep(ANSWER_LEAVES_S)
        # Ray's own function: a process to which Ray has given a title takes none from another library.
        if rename := getattr(ray._raylet, "setproctitle", None):
            worker_id = ray.get_runtime_context().get_actor_name().rpartition(":")[2]
            rename(f"servekit: replica {self._label} {worker_id}")
        try:
            importlib.import_module(worker_module).run(bootstrap)
        except SystemExit as exit:
            # 143: told to end before it served. Ray ends the process with any other code, and says so at length.
            if exit.code not in (None, 0, 143):
                raise
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            sys.exit(1)
        ray.actor.exit_actor()
