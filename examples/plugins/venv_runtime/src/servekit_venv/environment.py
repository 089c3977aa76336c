"""Virtual environments: one for each set of packages, used by every worker that names these packages."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

import servekit
from servekit.errors import BackendStartError

WORDS_LINES = 20
"""The number of last lines of pip's output that an error repeats."""


class Environment:
    """A virtual environment in ``folder``; its name is a hash of its packages and options.

    A ``.pth`` file in the environment adds this interpreter's own packages, *behind* the packages of the environment
    itself. So a worker has servekit and its requirements in the controller's versions, without a second installation,
    and every package that was asked for comes before the host's. ``--system-site-packages`` would not do: in an
    environment that is made from a virtual environment, it shows the packages of the base interpreter, which need not
    have servekit.
    """

    def __init__(self, folder: Path, packages: Sequence[str], pip_options: Sequence[str], timeout_s: float) -> None:
        self._packages = list(packages)
        self._pip_options = list(pip_options)
        self._timeout_s = timeout_s
        self._host = _host_folders()
        self._constraints = _constraints()
        what = [self._packages, self._pip_options, self._host, self._constraints, sys.version, sys.prefix]
        self.path = folder / hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]
        self._lock = threading.Lock()
        self._closed = False
        self._running: subprocess.Popen[bytes] | None = None

    @property
    def python(self) -> str:
        return str(self.path / "bin" / "python")

    def make(self) -> None:
        """Make the environment, unless it exists. Raises `BackendStartError`, with pip's output, where that fails."""
        with self._lock:
            complete = self.path / "complete"
            if complete.exists():
                return
            with _locked(self.path.with_suffix(".lock")):  # Another instance may be making it.
                if complete.exists():
                    return
                shutil.rmtree(self.path, ignore_errors=True)
                self._create()
                if self._packages:
                    self._install()
                # Only now: pip must not take the host's packages for installed ones.
                (self._site_packages() / "servekit_host.pth").write_text("\n".join(self._host) + "\n")
                complete.touch()

    def close(self) -> None:
        """Make nothing from now on; a `make` that is under way fails."""
        self._closed = True
        running = self._running
        if running is not None:
            with suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)

    def _create(self) -> None:
        # With the host's pip it takes a tenth of a second; with a pip of its own, several seconds.
        without_pip = ["--without-pip"] if _host_has_pip() else []
        command = [sys.executable, "-m", "venv", *without_pip, str(self.path)]
        self._run(command, "a virtual environment could not be made")

    def _install(self) -> None:
        constraints = self.path / "constraints.txt"
        constraints.write_text("".join(f"{line}\n" for line in self._constraints))
        pip = [sys.executable, "-m", "pip", "--python", self.python] if _host_has_pip() else [self.python, "-m", "pip"]
        command = [*pip, "--disable-pip-version-check", "--no-input", "install", "--progress-bar", "off"]
        command += ["--constraint", str(constraints), *self._pip_options, *self._packages]
        self._run(command, f"pip could not install {', '.join(self._packages)}")

    def _run(self, command: Sequence[str], failing: str) -> None:
        """Run ``command`` to its end, in a process group of its own, so that `close` ends its children, too."""
        # Without PYTHONPATH: pip would take the packages there for installed in the environment.
        environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        with subprocess.Popen(
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as child:
            self._running = child
            try:
                if self._closed:
                    self.close()
                words, _ = child.communicate(timeout=self._timeout_s)
            except subprocess.TimeoutExpired:
                raise BackendStartError(
                    f"{failing}: it took longer than install_timeout_s, {self._timeout_s:g} s"
                ) from None
            finally:
                self._running = None
                if child.returncode is None:
                    os.killpg(child.pid, signal.SIGKILL)
        if child.returncode != 0:
            said = "\n".join(words.decode(errors="replace").strip().splitlines()[-WORDS_LINES:])
            raise BackendStartError(f"{failing} (exit code {child.returncode}):\n\n{said}")

    def _site_packages(self) -> Path:
        return next(self.path.glob("lib/python*/site-packages"))


def _host_has_pip() -> bool:
    return importlib.util.find_spec("pip") is not None


def _host_folders() -> list[str]:
    """The folders in which this process finds servekit, its requirements, and all other installed packages.

    A worker puts the client's folders before installed packages, except for folders that it has already. So the host's
    packages stay behind the environment's.
    """
    found = [entry for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")]
    found.append(str(Path(servekit.__file__).parents[1]))  # An editable installation has it elsewhere.
    return list(dict.fromkeys(found))


def _constraints() -> list[str]:
    """servekit's requirements, in the versions of this process: others would replace the host's for servekit, too."""
    names = []
    for text in metadata.requires("servekit") or ():
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            names.append(requirement.name)
    return [f"{name}=={metadata.version(name)}" for name in sorted(names)]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
