"""Folders and files for this user alone: other users may not enter or read them, nor make them first."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from servekit.errors import InstanceStartError
from servekit.processes import tellable


def temporary_folder() -> tuple[str, str]:
    """The folder in which servekit makes its own, and the name of the variable that says so.

    A folder that a variable names is taken, even where it is of no use: `tempfile.gettempdir` would silently take
    another one. Raises `InstanceStartError` where there is none.
    """
    for name in ("TMPDIR", "TEMP", "TMP"):
        named = os.environ.get(name)
        if named:
            return tellable(os.path.abspath(named)), name
    try:
        return tempfile.gettempdir(), "the folder for temporary files"
    except OSError as error:
        raise InstanceStartError(f"there is no folder for temporary files ({error}); set TMPDIR to one") from error


def base_in(folder: str) -> str:
    """The path of this user's base in ``folder``, which `make_base` makes."""
    return os.path.join(folder, f"servekit-{os.getuid()}")


def make_base(folder: str) -> str:
    """Make this user's base in ``folder``, where it is not there; returns its path.

    Raises `InstanceStartError` where others can enter it, and ``OSError``.
    """
    base = base_in(folder)
    make_private(base)
    found = os.lstat(base)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise InstanceStartError(
            f"{base} is not a directory that only this user can enter; remove it, or set TMPDIR to another place"
        )
    return base


def make_private(path: str) -> None:
    """Make a folder of mode 0700, whatever the umask; where it is there already, do nothing."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return
    os.chmod(path, 0o700)


def write_private(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file of mode 0600, in the place of one that is there. Whoever reads it finds either of them whole.

    ``durable``: this holds even where the machine crashes at any moment; it costs a wait for the disk.
    """
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    part.replace(path)
