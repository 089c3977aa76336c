"""What is wrong with a request, and where."""

from __future__ import annotations

import re

from servekit.error_answers import ServekitProblem as Problem

_WHERE = re.compile(r"(?P<text>.*?) - at (?:`key` in )?`\$(?P<path>.*)`", re.DOTALL)
_STEP = re.compile(r"\[(\d+|\.\.\.)\]|\.([^.\[]+)")
__all__ = ["Problem", "RefusedError", "problem_of", "said"]

_FIELD = re.compile(r"Object (?:missing required|contains unknown) field `(.+)`")


class RefusedError(Exception):
    """A request that does not fit the handler."""

    def __init__(self, problems: list[Problem], type: str = "invalid_request") -> None:
        super().__init__(type, problems)
        self.type = type
        """As in `servekit.error_answers`."""
        self.problems = problems


def problem_of(message: str, *within: str | int) -> Problem:
    """``Expected `float`, got `str` - at `$.items[2].price` `` in two parts: msgspec says where in its text alone."""
    where = _WHERE.fullmatch(message)
    text, path = (where["text"], where["path"]) if where else (message, "")
    loc: list[str | int] = [*within]
    loc += [int(index) if index.isdecimal() else index or name for index, name in _STEP.findall(path)]
    field = _FIELD.fullmatch(text)
    return Problem([*loc, field[1]] if field else loc, text)


def said(problem: Problem) -> str:
    """``body.items[2].price: Expected `float`, got `str` ``"""
    steps = (f"[{step}]" if isinstance(step, int) or step == "..." else f".{step}" for step in problem.loc[1:])
    return f"{problem.loc[0]}{''.join(steps)}: {problem.msg}"
