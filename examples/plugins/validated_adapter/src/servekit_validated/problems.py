"""What is wrong with a body, and where."""

from __future__ import annotations

import re

import msgspec

_WHERE = re.compile(r"(?P<text>.*?) - at (?:`key` in )?`\$(?P<path>.*)`", re.DOTALL)
_STEP = re.compile(r"\[(\d+|\.\.\.)\]|\.([^.\[]+)")
_FIELD = re.compile(r"Object (?:missing required|contains unknown) field `(.+)`")


class Problem(msgspec.Struct):
    """One thing that is wrong."""

    loc: list[str | int]
    """Names of fields and indices of lists, from the outside in; ``...`` is a key of a dict, unknown which."""
    msg: str


class RefusedError(Exception):
    """A body that does not fit, or is no JSON at all."""

    def __init__(self, status: int, problems: list[Problem]) -> None:
        super().__init__(status, problems)
        self.status = status
        self.problems = problems


def problem_of(message: str) -> Problem:
    """``Expected `float`, got `str` - at `$.items[2].price` `` in two parts: msgspec says where in its text alone."""
    where = _WHERE.fullmatch(message)
    text, path = (where["text"], where["path"]) if where else (message, "")
    loc: list[str | int] = [int(index) if index.isdecimal() else index or name for index, name in _STEP.findall(path)]
    field = _FIELD.fullmatch(text)
    return Problem([*loc, field[1]] if field else loc, text)
