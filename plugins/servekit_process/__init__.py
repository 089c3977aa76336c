"""The runtime ``process``: each worker is a child process of the controller, on one machine, without Ray.

All that such a runtime does with a process is in `servekit.processes.WorkerProcess`, for other plugins too.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any, ClassVar

from servekit.hookspecs import hookimpl
from servekit.interfaces import Exit, Placement, ReplicaRuntime, ReplicaRuntimeFactory, WorkerHandle, WorkerSpec
from servekit.processes import WorkerProcess
from servekit_process.placement import ProcessPlacement

__all__ = ["ProcessPlacement", "ProcessRuntime"]


class ProcessRuntime(ReplicaRuntime):
    """Starts workers as child processes, each in a session of its own.

    The output of a worker goes where the controller's goes. A Ctrl-C in the terminal does not reach the workers: the
    controller stops them. A worker that outlived its controller is found again by its pid and the moment it started.
    The processes that a worker has started end with the worker, unless they have left its process group.

    What one backend's replicas are given beside that, its placement options say: see `ProcessPlacement`.

    Args:
        env: variables that are set for the workers of all backends, beside those of the controller.
        python: the interpreter; default, the controller's own. It must have servekit installed.
    """

    worker_module: ClassVar[str] = "servekit.worker"
    """The module that a worker runs; it reads the bootstrap from standard input until the end of file."""

    def __init__(self, *, env: Mapping[str, str] | None = None, python: str | None = None) -> None:
        self._env = dict(env or {})
        self._python = python or sys.executable

    def check_worker_options(self, options: Mapping[str, Any]) -> Placement:
        placement = ProcessPlacement.of(options)
        return Placement(placement.most_replicas, placement.cwd)

    def start(self, spec: WorkerSpec) -> WorkerHandle:
        placement = ProcessPlacement.of(spec.options)  # Checked anew: a folder may be gone by now.
        return WorkerProcess.start(
            spec,
            module=self.worker_module,
            python=placement.python or self._python,
            env=placement.environ({**os.environ, **self._env}, spec.rank),
            first=placement.program,
        )

    def poll(self, handle: WorkerHandle) -> Exit | None:
        return WorkerProcess.of(handle).poll()

    def stop(self, handle: WorkerHandle, grace_s: float) -> None:
        WorkerProcess.of(handle).stop(grace_s)

    def attach(self, state: bytes) -> WorkerHandle:
        return WorkerProcess.attach(state)


@hookimpl
def servekit_register_replica_runtimes() -> Mapping[str, ReplicaRuntimeFactory]:
    return {"process": ProcessRuntime}
