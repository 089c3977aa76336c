from __future__ import annotations

from typing import Any

import msgspec
import pytest

from servekit.control.nesting import LEVELS, is_too_deep


class Arguments(msgspec.Struct):
    name: str
    changes: Any


def nested(levels: int, around: Any) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = around(value)
    return value


@pytest.mark.parametrize("around", [lambda v: [v], lambda v: (1, v), lambda v: {"a": 1, "b": v}])
def test_at_the_bound_and_beyond(around: Any) -> None:
    assert not is_too_deep(Arguments("a", nested(0, around)))
    assert not is_too_deep(Arguments("a", nested(LEVELS - 1, around)))
    assert not is_too_deep(Arguments("a", nested(LEVELS, around)))
    assert is_too_deep(Arguments("a", nested(LEVELS + 1, around)))


def test_keys_are_looked_at_too() -> None:
    assert not is_too_deep(Arguments("a", {nested(LEVELS - 1, lambda v: (v,)): 1}))
    assert is_too_deep(Arguments("a", {nested(LEVELS, lambda v: (v,)): 1}))
