"""What runs inside a Ray actor's process. Ray imports it there, so servekit must be installed on every node."""

from __future__ import annotations

import importlib
import os
import sys
import traceback

from servekit.processes import identify

NODE_ID, PID, START_TICKS = "node_id", "pid", "start_ticks"


class WorkerHost:
    """The actor that hosts one worker. Its calls run one at a time, on the process's main thread."""

    def __init__(self, label: str) -> None:
        self._label = label

    def __repr__(self) -> str:
        # Ray puts it before every line that the process prints.
        return self._label

    def where(self) -> dict[str, str | int]:
        """Which process this is. Called first it says that the actor has a place; called behind `run` it gets no
        answer, but an error as soon as the process has ended."""
        import ray

        node_id = ray.get_runtime_context().get_node_id()
        identity = identify(os.getpid())
        assert identity is not None
        return {NODE_ID: node_id, PID: identity.pid, START_TICKS: identity.start_ticks}

    def run(self, worker_module: str, bootstrap: bytes) -> None:
        """Be the worker, and end the process with it: this call never returns a value."""
        import ray

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
