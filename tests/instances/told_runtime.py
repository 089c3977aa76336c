"""A runtime that is completed in the calling process, and says so."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from servekit.errors import InvalidInputError
from servekit_process import ProcessRuntime


class Told(ProcessRuntime):
    def __init__(self, caller: str, outlives: bool | None = None) -> None:
        super().__init__()
        self.caller = caller
        self.outlives = outlives

    @classmethod
    def complete_options(cls, options: Mapping[str, Any], *, outlives: bool) -> Mapping[str, Any]:
        if options.get("caller") == "":
            raise InvalidInputError("a caller has a name")
        return {"caller": f"process {os.getpid()}", "outlives": outlives, **options}

    def describe(self) -> str:
        return f"children, for {self.caller}"


def say_nothing() -> Told:
    """A factory that is no class."""
    return Told("nobody")
