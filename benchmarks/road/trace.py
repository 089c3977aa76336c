"""Within a worker: which of servekit's own Python functions are called."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

_MADE_BY_PYTHON = ("<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>", "<module>")
"""Which of them are calls depends on Python's version."""


class Trace:
    """The calls in the thread that `start`s it; to resume a generator is a call too. At SIGUSR1 it leaves in ``folder``
    what was called since the last one."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._numbers = itertools.count(1)
        self._calls: list[CodeType] = []

    def start(self) -> None:
        signal.signal(signal.SIGUSR1, self._leave)
        sys.setprofile(self._note)

    def _note(self, frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            self._calls.append(frame.f_code)

    def _leave(self, *_: object) -> None:
        sys.setprofile(None)
        folders = own_folders()
        places = [place for code in self._calls if (place := place_of(code, folders)) is not None]
        path = Path(self._folder, f"{os.getpid()}.{next(self._numbers)}.json")
        path.with_suffix(".part").write_text(json.dumps(places))
        path.with_suffix(".part").rename(path)
        self._calls = []
        sys.setprofile(self._note)


def own_folders() -> dict[str, str]:
    """The folders of servekit and of its plugins, as far as they are imported, and the names to show them by."""
    tops = [name for name in list(sys.modules) if name == "servekit" or re.fullmatch(r"servekit_\w+", name)]
    files = {name: getattr(sys.modules[name], "__file__", None) for name in tops}
    return {os.path.dirname(file) + os.sep: name for name, file in files.items() if file}


def place_of(code: CodeType, folders: Mapping[str, str]) -> tuple[str, str] | None:
    """The file, from its package on, and the function; None where it is in none of ``folders``."""
    if code.co_name in _MADE_BY_PYTHON:
        return None
    for folder, name in folders.items():
        if code.co_filename.startswith(folder):
            file = f"{name}/{code.co_filename.removeprefix(folder)}"
            return file, getattr(code, "co_qualname", code.co_name)  # Qualified from Python 3.11 on.
    return None
