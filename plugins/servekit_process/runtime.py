"""The runtime ``process``: each worker is a process that runs `servekit.worker`, its bootstrap on stdin."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import msgspec

from servekit.errors import BackendStartError, DeadlineError
from servekit.interfaces import Exit, ReplicaRuntime, WorkerHandle, WorkerSpec
from servekit.processes import (
    ProcessIdentity,
    end_group,
    exit_reason,
    has_ended,
    identify,
    is_alive,
    opened,
    start_module,
)

KILL_WAIT_S = 10.0
"""How long a process may take to vanish after SIGKILL; only one stuck in the kernel takes longer."""


class _State(msgspec.Struct):
    worker_id: str
    pid: int
    start_ticks: int


@dataclass(frozen=True)
class _ChildHandle(WorkerHandle):
    """The handle of a worker that this very process started, and so must reap."""

    child: subprocess.Popen[bytes]
    reaping: threading.Lock = field(default_factory=threading.Lock, compare=False)
    """Held by who looks whether it has ended: once it is reaped, its number may be another's."""


class ProcessRuntime(ReplicaRuntime):
    """Starts workers as child processes, each in a session of its own.

    Their output goes where the controller's goes. A Ctrl-C in the terminal does not reach them: the controller stops
    them. A worker that outlived its controller is found again by its pid and the moment it started. What a worker has
    started ends with it, however that ends, unless it has left the worker's process group.

    Args:
        env: variables that are set for the workers, beside those of the controller.
        python: the interpreter; default, the controller's own. It must have servekit installed.
    """

    worker_module: ClassVar[str] = "servekit.worker"
    """What such a process runs; it reads its bootstrap from stdin until the end of file."""

    def __init__(self, *, env: Mapping[str, str] | None = None, python: str | None = None) -> None:
        self._env = dict(env or {})
        self._python = python or sys.executable

    def start(self, spec: WorkerSpec) -> WorkerHandle:
        env = {**os.environ, **self._env}
        try:
            child = start_module(self.worker_module, spec.bootstrap, python=self._python, env=env)
        except OSError as error:
            raise BackendStartError(
                f"a worker of {spec.backend!r} could not be started with {self._python!r}: {error}"
            ) from error
        identity = identify(child.pid)
        assert identity is not None  # a child stays in /proc until it is reaped, and nobody else reaps this one
        state = _State(spec.worker_id, identity.pid, identity.start_ticks)
        return _ChildHandle(spec.worker_id, msgspec.json.encode(state), child)

    def poll(self, handle: WorkerHandle) -> Exit | None:
        if isinstance(handle, _ChildHandle):
            with handle.reaping:
                if handle.child.returncode is None:
                    if not has_ended(handle.child.pid):
                        return None
                    end_group(_identity(handle))
                code = handle.child.wait()
            return Exit(exit_reason(code), code)
        if is_alive(_identity(handle)):
            return None
        end_group(_identity(handle))
        return Exit("ended; its exit code went to the earlier controller that had started it")

    def stop(self, handle: WorkerHandle, grace_s: float) -> None:
        with opened(_identity(handle)) as process:
            if process is not None:
                process.send(signal.SIGTERM)
                if not process.wait(grace_s):
                    process.send(signal.SIGKILL)
                    if not process.wait(KILL_WAIT_S):
                        raise DeadlineError(
                            f"worker {handle.worker_id} (pid {process.pid}) is still there {KILL_WAIT_S:g} s after "
                            "SIGKILL: it is stuck in the kernel, often on a device or a network file system"
                        )
        self.poll(handle)  # reaps a child

    def attach(self, state: bytes) -> WorkerHandle:
        found = msgspec.json.decode(state, type=_State)
        if not is_alive(ProcessIdentity(found.pid, found.start_ticks)):
            raise LookupError(f"worker {found.worker_id} (pid {found.pid}) is gone")
        return WorkerHandle(found.worker_id, state)


def _identity(handle: WorkerHandle) -> ProcessIdentity:
    state = msgspec.json.decode(handle.state, type=_State)
    return ProcessIdentity(state.pid, state.start_ticks)
