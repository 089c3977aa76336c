"""Figures, as the judges' reasons have them."""

from __future__ import annotations

import math


def percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def of(hits: int, trials: int) -> str:
    """``12 of 4,000 (0.3 %)``."""
    return f"{hits:,} of {trials:,}" + (f" ({percent(hits / trials)})" if trials else "")


def quantile(value: float) -> str:
    """``p99``."""
    return f"p{100 * value:.6g}"


def seconds(value: float) -> str:
    return "no bound" if math.isinf(value) else f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"


def between(low: float, high: float) -> str:
    """Where a duration is, of which is known that it is above ``low`` and at most ``high``."""
    if math.isinf(high):
        return f"above {seconds(low)}" if low else "unknown"
    return f"{seconds(low)} to {seconds(high)}" if low else f"at most {seconds(high)}"


def joined(parts: list[str]) -> str:
    return "; ".join(parts)
