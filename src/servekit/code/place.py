"""The place of frozen code on a replica's machine: where it is unpacked, and how a replica comes to run it."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from servekit.code import bundle, finder
from servekit.code.modules import own_names
from servekit.errors import InternalError
from servekit.private_folders import make_base, make_private, temporary_folder

_log = logging.getLogger("servekit.replica")

FOLDER = "code"
"""In the instance's directory: a folder for each frozen code, named by the SHA-256 of its bytes."""
_RECEIVED = "code-received"
"""The same on other machines, where replicas make and remove the folders themselves."""
_MOST_TRIES = 100


def folders(directory: str, digest: str) -> tuple[str, str]:
    """The folders of the code with this digest: on the controller's machine, and on others, below the user's base."""
    return folder_of(directory, digest), str(Path(directory, _RECEIVED, digest))


def folder_of(directory: str, digest: str) -> str:
    """The folder of the code with this digest, on the controller's machine."""
    return str(Path(directory, FOLDER, digest))


def _tell_unfrozen(name: str, file: str) -> None:
    if name in own_names():  # In a checkout of servekit its own modules lie where the user's may.
        return
    _log.warning(
        "module %s is not frozen with this backend, and is imported from %s as that is now: no import statement that "
        "could be seen names it. create_backend(…, include=[%r]) freezes it",
        name,
        file,
        name,
    )


class CodePlace:
    """The frozen code that this process runs; made before anything of the user's is imported."""

    def __init__(self, directory: str, digest: str, data: bytes, local_folders: Sequence[str] = ()) -> None:
        """
        Args:
            directory: of the instance, on the controller's machine.
            digest: SHA-256 of the encoded code.
            data: the encoded code; empty where the code is unpacked in ``directory`` already.
            local_folders: the folders in which the client had its own modules.
        """
        self._lock: int | None = None
        folder = self._receive(Path(directory), digest, data) if data else Path(folder_of(directory, digest))
        serving = finder.install(str(folder))
        serving.local_folders, serving.tell_unfrozen = local_folders, _tell_unfrozen
        self._manifest: dict[str, Any] = serving.manifest
        if self._manifest["modules"]:
            # Children look here first: the folder's sitecustomize has them run the same code.
            others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path != str(folder)]
            os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), *filter(None, others)])

    def differences(self) -> Iterator[str]:
        """For Python and each installed distribution whose version is not the one where the code was frozen: both
        versions."""
        python = self._manifest["python"]
        if python != platform.python_version():
            yield f"Python {platform.python_version()} here, {python} where the backend was created"
        for name, version in self._manifest["distributions"].items():
            import importlib.metadata

            try:
                here = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                here = "none"
            if here != version:
                yield f"{name} {here} here, {version} where the backend was created"

    def leave(self) -> None:
        """Let go of the code, as the process ends. A folder that was received is removed with its last replica."""
        if self._lock is None:
            return
        lock, self._lock = self._lock, None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        finally:
            os.close(lock)
        shutil.rmtree(self._folder, ignore_errors=True)  # A handler's child may still write there.
        for parent in self._folder.parents[:2]:
            with contextlib.suppress(OSError):  # Something else is there.
                parent.rmdir()

    def _receive(self, directory: Path, digest: str, data: bytes) -> Path:
        """Unpack the code below this user's base on this machine, and lock its folder against removal by another
        replica."""
        parent = Path(make_base(temporary_folder()[0]), directory.name)
        make_private(str(parent))
        make_private(str(parent / _RECEIVED))
        self._folder = parent / _RECEIVED / digest
        code = bundle.decode(data)
        for _ in range(_MOST_TRIES):
            bundle.unpack(code, self._folder)
            try:
                lock = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:  # Another replica has just removed it.
                continue
            fcntl.flock(lock, fcntl.LOCK_SH)
            if self._folder.exists() and os.path.samestat(os.stat(self._folder), os.fstat(lock)):
                self._lock = lock
                return self._folder
            os.close(lock)
        raise InternalError(f"{self._folder} was removed again and again while it was being unpacked")
