"""What several policies check of their options. All raise ``ValueError`` with what to write instead."""

from __future__ import annotations

import random


def seeded(seed: object) -> random.Random:
    """A generator of its own for one policy: the same ``seed``, the same draws; None: different ones every time."""
    if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool)):
        raise ValueError(f"seed is {seed!r}: give an integer, or leave it out for choices that differ every time")
    return random.Random(seed)


def text(name: str, value: object) -> str:
    """``value``, which must be a text that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} is {value!r}: give a text that is not empty")
    return value
