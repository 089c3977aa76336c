"""How deeply arguments of an operation may be nested: whoever copies or encodes them calls itself for each level."""

from __future__ import annotations

from typing import Any

import msgspec

LEVELS = 100
"""As many as protobuf takes by default."""


def is_too_deep(arguments: msgspec.Struct) -> bool:
    """Whether there are more than `LEVELS` of lists and dicts in each other."""
    level: list[Any] = [getattr(arguments, name) for name in arguments.__struct_fields__]
    for _ in range(LEVELS + 1):
        level = [inner for value in level if isinstance(value, (dict, list, tuple)) for inner in _inner(value)]
        if not level:
            return False
    return True


def _inner(value: dict[Any, Any] | list[Any] | tuple[Any, ...]) -> list[Any]:
    return [*value, *value.values()] if isinstance(value, dict) else list(value)
