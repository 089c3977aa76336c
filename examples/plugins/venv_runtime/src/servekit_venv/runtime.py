"""The runtime itself: workers as child processes, with the interpreter of a virtual environment."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from servekit.errors import BackendStartError, DeadlineError, InvalidInputError
from servekit.interfaces import Exit, ReplicaRuntime, RuntimeContext, WorkerHandle, WorkerSpec
from servekit.processes import (
    ProcessIdentity,
    end_group,
    has_ended,
    identify,
    is_alive,
    memory_file,
    module_command,
    opened,
)
from servekit_venv.environment import Environment

KILL_WAIT_S = 10.0


class _State(msgspec.Struct):
    worker_id: str
    process: ProcessIdentity


@dataclass(frozen=True)
class _ChildHandle(WorkerHandle):
    """Of a worker that this process has started, and so must wait for."""

    child: subprocess.Popen[bytes]


class VenvRuntime(ReplicaRuntime):
    """Workers are child processes, as with ``process``, in a virtual environment that has ``packages``.

    It is made before the first worker is started, and kept for all that name the same packages and options.

    Args:
        packages: requirements, as pip takes them: ``["six==1.16.0"]``.
        pip_options: more arguments for ``pip install``: ``["--index-url", …]``.
        folder: where environments are kept, for later instances too. Default: the instance's own directory.
        install_timeout_s: how long pip may take.
    """

    def __init__(
        self,
        packages: Sequence[str] = (),
        *,
        pip_options: Sequence[str] = (),
        folder: str | None = None,
        install_timeout_s: float = 600.0,
    ) -> None:
        for name, value in (("packages", packages), ("pip_options", pip_options)):
            if isinstance(value, str) or not all(isinstance(part, str) for part in value):
                raise InvalidInputError(f"{name} is a list of strings, not {value!r}")
        if options := [package for package in packages if package.startswith("-")]:
            raise InvalidInputError(f"packages has {options[0]!r}, which is an option of pip: put it into pip_options")
        self._wanted = list(packages), list(pip_options)
        self._folder = folder
        self._install_timeout_s = install_timeout_s

    def open(self, context: RuntimeContext) -> None:
        folder = Path(self._folder or Path(context.directory, "venvs")).absolute()
        self._environment = Environment(folder, *self._wanted, self._install_timeout_s)

    def close(self) -> None:
        self._environment.close()

    def start(self, spec: WorkerSpec) -> WorkerHandle:
        self._environment.make()
        bootstrap = memory_file(spec.bootstrap)
        try:
            child = subprocess.Popen(
                module_command("servekit.worker", python=self._environment.python),
                stdin=bootstrap,
                start_new_session=True,
            )
        except OSError as error:
            raise BackendStartError(f"a worker of {spec.backend!r} could not be started: {error}") from error
        finally:
            os.close(bootstrap)
        process = identify(child.pid)
        assert process is not None  # A child is there until it is waited for.
        return _ChildHandle(spec.worker_id, msgspec.json.encode(_State(spec.worker_id, process)), child)

    def poll(self, handle: WorkerHandle) -> Exit | None:
        if not isinstance(handle, _ChildHandle):
            return None if is_alive(_process(handle)) else Exit("ended, under an earlier controller's eyes")
        if handle.child.returncode is None:
            if not has_ended(handle.child.pid):
                return None
            end_group(_process(handle))  # Before the child is waited for: its number may be another's after that.
        code = handle.child.wait()
        return Exit(f"killed by signal {-code}" if code < 0 else f"exit code {code}", code)

    def stop(self, handle: WorkerHandle, grace_s: float) -> None:
        with opened(_process(handle)) as process:
            if process is not None:
                process.send(signal.SIGTERM)
                if not process.wait(grace_s):
                    process.send(signal.SIGKILL)
                    if not process.wait(KILL_WAIT_S):
                        raise DeadlineError(f"worker {handle.worker_id} (pid {process.pid}) does not end by SIGKILL")
        self.poll(handle)  # Waits for a child.

    def attach(self, state: bytes) -> WorkerHandle:
        found = msgspec.json.decode(state, type=_State)
        if not is_alive(found.process):
            raise LookupError(f"worker {found.worker_id} (pid {found.process.pid}) is gone")
        return WorkerHandle(found.worker_id, state)


def _process(handle: WorkerHandle) -> ProcessIdentity:
    return msgspec.json.decode(handle.state, type=_State).process
