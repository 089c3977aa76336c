"""The runtime: workers are child processes that run the interpreter of a virtual environment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from servekit.errors import InvalidInputError
from servekit.interfaces import Exit, ReplicaRuntime, RuntimeContext, WorkerHandle, WorkerSpec
from servekit.processes import WorkerProcess
from servekit_venv.environment import Environment


class VenvRuntime(ReplicaRuntime):
    """Workers are child processes, as those of ``process`` are, in a virtual environment that has ``packages``.

    The environment is made before the first worker is started, and used by all backends that name the same packages
    and options.

    Args:
        packages: requirements, as pip takes them: ``["six==1.16.0"]``.
        pip_options: more arguments for ``pip install``: ``["--index-url", …]``.
        folder: a folder in which environments are kept, for later instances too. Default: one of the instance.
        install_timeout_s: the number of seconds that pip may take.
    """

    def __init__(
        self,
        packages: Sequence[str] = (),
        *,
        pip_options: Sequence[str] = (),
        folder: str | None = None,
        install_timeout_s: float = 600.0,
    ) -> None:
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
        return WorkerProcess.start(spec, python=self._environment.python)

    def poll(self, handle: WorkerHandle) -> Exit | None:
        return WorkerProcess.of(handle).poll()

    def stop(self, handle: WorkerHandle, grace_s: float) -> None:
        WorkerProcess.of(handle).stop(grace_s)

    def attach(self, state: bytes) -> WorkerHandle:
        return WorkerProcess.attach(state)
