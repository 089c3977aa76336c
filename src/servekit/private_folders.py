"""Folders and files of this user's alone: others may not enter or read them, nor make them first."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from servekit.errors import InstanceStartError
from servekit.processes import tellable


def temporary_folder() -> tuple[str, str]:
    """Where servekit makes its folders, and what says so.

    A folder that is named and is of no use stays named: `tempfile.gettempdir` would take another one, and say nothing.
    Raises `InstanceStartError` where there is none.
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
    """Make it, where it is not there. Raises `InstanceStartError` where others can enter it, and ``OSError``."""
    base = base_in(folder)
    make_private(base)
    found = os.lstat(base)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise InstanceStartError(
            f"{base} is not a directory that only this user can enter; remove it, or set TMPDIR to another place"
        )
    return base


def make_private(path: str) -> None:
    """A folder of mode 0700, whatever the umask; where it is there already: nothing."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return
    os.chmod(path, 0o700)


def write_private(path: Path, data: bytes) -> None:
    """Write a file of mode 0600, in the place of one that is there. Who reads it finds either of them whole."""
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
    part.replace(path)
