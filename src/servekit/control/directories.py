"""The directories of instances: where they are, and whether they can hold what comes into them."""

from __future__ import annotations

import os
import stat
import tempfile

from servekit.errors import InstanceStartError, InvalidInputError
from servekit.processes import tellable
from servekit.wire.network import UNIX_PATH_BYTES

_LONGEST_SOCKET = "r9999999999-ffffff.sock"
"""Of an instance's sockets a replica's has the longest name, and its number grows."""


def scratch_directory() -> str:
    """A new directory for an in-process instance, which has no sockets. Raises `InstanceStartError`."""
    folder, name = _named_folder()
    try:
        return tempfile.mkdtemp(prefix="servekit-", dir=folder)
    except OSError as error:
        raise _unusable(folder, name, error) from error


def make_directory(instance_id: str) -> str:
    """A new directory of mode 0700 for an owned instance's sockets and state.

    Raises `InstanceStartError` where it cannot be made, and `InvalidInputError` where its path is too long for the
    sockets that may come into it.
    """
    return _private(instance_id)


def standing_directory(name: str) -> str:
    """The directory of the standing instance ``name``; made, of mode 0700, where it is not there.

    Raises as `make_directory` does.
    """
    return _private(f"standing-{name}")


def _private(directory: str) -> str:
    folder, name = _named_folder()
    base = os.path.join(folder, f"servekit-{os.getuid()}")
    path = os.path.join(base, directory)
    too_long = len(os.fsencode(os.path.join(path, _LONGEST_SOCKET))) - UNIX_PATH_BYTES
    if too_long > 0:
        raise InvalidInputError(
            f"this instance's sockets would be in {path!r}, {too_long} bytes too long for that: a socket's path has at "
            f"most {UNIX_PATH_BYTES}. Set TMPDIR to a shorter path than {folder!r}, or choose a shorter name"
        )
    try:
        _make(base)
        found = os.lstat(base)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise InstanceStartError(
                f"{base} is not a directory that only this user can enter; remove it, or set TMPDIR to another place"
            )
        _make(path)
    except OSError as error:
        raise _unusable(folder, name, error) from error
    return path


def _make(path: str) -> None:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return
    os.chmod(path, 0o700)  # Whatever the umask has taken away.


def _named_folder() -> tuple[str, str]:
    """Where instances have their directories, and what says so.

    A folder that is named and is of no use stays named: `tempfile.gettempdir` would take another one, and say nothing.
    """
    for name in ("TMPDIR", "TEMP", "TMP"):
        named = os.environ.get(name)
        if named:
            return tellable(os.path.abspath(named)), name
    try:
        return tempfile.gettempdir(), "the folder for temporary files"
    except OSError as error:
        raise InstanceStartError(f"there is no folder for temporary files ({error}); set TMPDIR to one") from error


def _unusable(folder: str, name: str, error: OSError) -> InstanceStartError:
    return InstanceStartError(
        f"{name} is {folder!r}, in which servekit can make no directory ({error.strerror or error}); "
        "set TMPDIR to a folder that is there and can be written to"
    )
