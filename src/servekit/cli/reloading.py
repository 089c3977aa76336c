"""Starting a command again whenever a Python file has changed: ``servekit run --reload``.

The parent watches and holds no port; a child serves.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
from collections.abc import Sequence

import click

from servekit.errors import MissingDependencyError, NotFoundError
from servekit.private_folders import base_in, temporary_folder
from servekit.processes import module_command

LOOK_MS = 200
"""Between two looks at whether the child has ended."""
END_TIMEOUT_S = 60.0
"""How long a child has to answer what is in flight, before it is killed."""


def reload(folder: str, arguments: Sequence[str]) -> int:
    """Run the command with these arguments in a child, and again after each change of a Python file below ``folder``,
    until Ctrl-C or SIGTERM; returns the exit code.

    A child that ends by itself is not started before the next change.
    """
    try:
        from watchfiles import PythonFilter, watch
    except ImportError as error:
        raise MissingDependencyError("--reload needs the package watchfiles: pip install 'servekit[reload]'") from error
    if not os.path.isdir(folder):
        raise NotFoundError(f"--reload: there is no folder {folder!r}")
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    command = module_command("servekit.cli.main", *arguments)
    child: subprocess.Popen[bytes] | None = subprocess.Popen(command)
    frozen_code = base_in(temporary_folder()[0])  # What is served is unpacked there, maybe below ``folder``.
    only = PythonFilter(ignore_paths=[frozen_code])
    changes = watch(folder, watch_filter=only, stop_event=ending, rust_timeout=LOOK_MS, yield_on_timeout=True)
    known: dict[str, tuple[int, int]] = {}
    for changed in changes:
        if child is not None and child.poll() is not None and not ending.is_set():
            click.echo(f"servekit: it ended with exit code {child.returncode}; waiting for a change", err=True)
            child = None
        found = {path: _stamp(path) for _, path in changed}
        new = sorted(os.path.relpath(path, folder) for path in found if found[path] != known.get(path))
        if new:  # One change may be told of more than once.
            known |= found
            names = ", ".join(new)
            click.echo(f"servekit: {names} changed; starting again", err=True)
            _end(child)
            child = subprocess.Popen(command)
    _end(child)
    return 0


def _stamp(path: str) -> tuple[int, int]:
    """By what a change of a file is told; (0, 0) where the file is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_ino


def _end(child: subprocess.Popen[bytes] | None) -> None:
    if child is None:
        return
    child.terminate()
    try:
        child.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def end_with(parent: int) -> None:
    """End this process as SIGTERM does when the process ``parent``, its parent, has ended."""
    watched = os.pidfd_open(parent)

    def watch_parent() -> None:
        select.select([watched], [], [])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch_parent, name="servekit-reload", daemon=True).start()
