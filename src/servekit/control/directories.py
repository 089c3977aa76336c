"""The directories of instances: where they are, and whether sockets and spools can be made in them."""

from __future__ import annotations

import os
import tempfile

from servekit.errors import InstanceStartError, InvalidInputError
from servekit.private_folders import base_in, make_base, make_private, temporary_folder
from servekit.wire.network import UNIX_PATH_BYTES

_LONGEST_SOCKET = "r9999999999-ffffff.sock"
"""The longest name of a socket in an instance's directory: a replica's, whose number grows."""
STOPPED_BY = "stopped_by"
"""The file in an instance's directory that says who has told it to end, for people."""


def scratch_directory() -> str:
    """Return a new directory for an in-process instance, however long its path. Raises `InstanceStartError`."""
    folder, name = temporary_folder()
    try:
        return tempfile.mkdtemp(prefix="servekit-", dir=folder)
    except OSError as error:
        raise _unusable(folder, name, error) from error


def standing_directory(name: str, *, make: bool) -> str:
    """The directory of the standing instance ``name``, as `instance_directory` gives it."""
    return instance_directory(f"standing-{name}", make=make)


def stopped_by(directory: str) -> str:
    """Who has told the instance of this directory to end; empty: a signal, of which that is not known."""
    try:
        with open(os.path.join(directory, STOPPED_BY), encoding="utf-8", errors="replace") as file:
            return file.read(200)
    except OSError:
        return ""


def state_directory(name: str) -> str:
    """The directory in which the standing instance ``name`` keeps its state, also after its end; it is not made here.

    It is below ``XDG_STATE_HOME``, by default ``~/.local/state``:
    https://specifications.freedesktop.org/basedir-spec/latest/
    """
    named = os.environ.get("XDG_STATE_HOME", "")
    home = named if os.path.isabs(named) else os.path.expanduser("~/.local/state")
    return os.path.join(home, "servekit", name)


def make_state_directory(name: str) -> str:
    """Make `state_directory` where it is not there; returns its path. Raises `InstanceStartError`."""
    path = state_directory(name)
    try:
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        make_private(path)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise InstanceStartError(
            f"the state of this instance would be kept in {path!r}, in which no file can be made "
            f"({error.strerror or error}); set XDG_STATE_HOME to a folder that can be written to"
        ) from error
    return path


def instance_directory(name: str, *, make: bool = True) -> str:
    """The directory ``name`` for an instance's sockets and state; ``make``: of mode 0700, where it is not there.

    Raises `InstanceStartError` where it cannot be made, and `InvalidInputError` where its path is too long for the
    sockets that may come into it.
    """
    folder, named_by = temporary_folder()
    path = os.path.join(base_in(folder), name)
    too_long = len(os.fsencode(os.path.join(path, _LONGEST_SOCKET))) - UNIX_PATH_BYTES
    if too_long > 0:
        raise InvalidInputError(
            f"this instance's sockets would be in {path!r}, {too_long} bytes too long for that: a socket's path has at "
            f"most {UNIX_PATH_BYTES}. Set TMPDIR to a shorter path than {folder!r}, or choose a shorter name"
        )
    if not make:
        return path
    try:
        make_base(folder)
        make_private(path)
    except OSError as error:
        raise _unusable(folder, named_by, error) from error
    return path


def check_spool_directory(folder: str) -> None:
    """Raise `InvalidInputError` where a ``folder`` is named in which no ingress worker could spool."""
    if not folder:
        return
    if not os.path.isabs(folder):
        raise InvalidInputError(f"http_limits: spool_directory is an absolute path, not {folder!r}")
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InvalidInputError(
            f"http_limits: spool_directory is {folder!r}, in which no file can be made ({error.strerror or error})"
        ) from error


def _unusable(folder: str, name: str, error: OSError) -> InstanceStartError:
    return InstanceStartError(
        f"{name} is {folder!r}, in which servekit can make no directory ({error.strerror or error}); "
        "set TMPDIR to a folder that is there and can be written to"
    )
