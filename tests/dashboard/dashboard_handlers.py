"""What the instance serves that a browser looks at."""

from __future__ import annotations

import os

import flask


class Version:
    """Fails where it is told to, and dies where it is told to; the one named ``broken`` cannot be built."""

    def __init__(self, name: str) -> None:
        if name == "broken":
            raise LookupError("no weights for it")
        self.name = name

    def __call__(self, request: flask.Request) -> str:
        if "fail" in request.args:
            raise ValueError(f"<i>{self.name}</i> was told to fail")
        if "die" in request.args:
            os._exit(3)
        return self.name
