"""The directories of instances: where they are, and whether they can hold what comes into them."""

from __future__ import annotations

import os
import tempfile

from servekit.errors import InstanceStartError, InvalidInputError
from servekit.private_folders import base_in, make_base, make_private, temporary_folder
from servekit.wire.network import UNIX_PATH_BYTES

_LONGEST_SOCKET = "r9999999999-ffffff.sock"
"""Of an instance's sockets a replica's has the longest name, and its number grows."""


def scratch_directory() -> str:
    """A new directory for an in-process instance, which has no sockets. Raises `InstanceStartError`."""
    folder, name = temporary_folder()
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


def check_spool_directory(folder: str) -> None:
    """Raise `InvalidInputError` where ``folder`` is not empty, and no ingress worker could spool in it."""
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


def _private(directory: str) -> str:
    folder, name = temporary_folder()
    path = os.path.join(base_in(folder), directory)
    too_long = len(os.fsencode(os.path.join(path, _LONGEST_SOCKET))) - UNIX_PATH_BYTES
    if too_long > 0:
        raise InvalidInputError(
            f"this instance's sockets would be in {path!r}, {too_long} bytes too long for that: a socket's path has at "
            f"most {UNIX_PATH_BYTES}. Set TMPDIR to a shorter path than {folder!r}, or choose a shorter name"
        )
    try:
        make_base(folder)
        make_private(path)
    except OSError as error:
        raise _unusable(folder, name, error) from error
    return path


def _unusable(folder: str, name: str, error: OSError) -> InstanceStartError:
    return InstanceStartError(
        f"{name} is {folder!r}, in which servekit can make no directory ({error.strerror or error}); "
        "set TMPDIR to a folder that is there and can be written to"
    )
