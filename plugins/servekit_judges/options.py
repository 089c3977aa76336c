"""The checks of the judges' options. All functions here raise ``ValueError`` that says what to write instead."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Limits(NamedTuple):
    """What the mean of a reported metric may be; None: there is no such limit."""

    least: float | None
    most: float | None


def share(name: str, value: object, *, low: float = 0.0, high: float = 1.0, open_ends: bool = False) -> float:
    """A number from ``low`` to ``high``; between them, where the ends are open."""
    number = _number(name, value)
    if low <= number <= high and not (open_ends and number in (low, high)):
        return number
    raise ValueError(
        f"{name} is {value!r}: give a number {'between' if open_ends else 'from'} {low:g} "
        f"{'and' if open_ends else 'to'} {high:g}"
    )


def at_least(name: str, value: object, least: float) -> float:
    number = _number(name, value)
    if number < least:
        raise ValueError(f"{name} is {value!r}: give a number that is at least {least:g}")
    return number


def positive(name: str, value: object) -> float:
    number = _number(name, value)
    if number <= 0:
        raise ValueError(f"{name} is {value!r}: give a number above 0")
    return number


def count(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}: give a whole number that is at least 1")
    return value


def quantiles(name: str, values: Iterable[float]) -> tuple[float, ...]:
    """Each between 0 and 1, none twice, in rising order."""
    found = sorted(share(name, value, open_ends=True) for value in values)
    if len(set(found)) < len(found):
        raise ValueError(f"{name} is {values!r}: give each quantile once")
    return tuple(found)


def limits(name: str, value: Mapping[str, Mapping[str, float]] | None) -> dict[str, Limits]:
    """By the name of the metric."""
    return {metric: _limits(f"{name}[{metric!r}]", each) for metric, each in (value or {}).items()}


def _limits(name: str, value: object) -> Limits:
    if not isinstance(value, Mapping) or not value or value.keys() - {"min", "max"}:
        raise ValueError(f'{name} is {value!r}: give "min", "max" or both, such as {{"min": 0.9}}')
    numbers = {key: _number(f"{name}[{key!r}]", number) for key, number in value.items()}
    found = Limits(numbers.get("min"), numbers.get("max"))
    if found.least is not None and found.most is not None and found.least > found.most:
        raise ValueError(f'{name} is {value!r}: give a "min" that is not above the "max"')
    return found


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}: give a number")
    return float(value)
