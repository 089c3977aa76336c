"""How many replicas a backend is to have, by its load: a pure function, with no clock of its own.

The load is all requests that the backend's replicas have, or that wait for one. The load, divided by
``target_ongoing_requests``, asks for a number of replicas. There are more only when the load has asked for more
throughout ``upscale_delay_s``, and then at once as many as it asks for now, as in Ray Serve. There are fewer only when
the load has asked for fewer throughout ``downscale_delay_s``, and then as many as the most that it asked for in that
time: this is the stabilisation window of Kubernetes' HorizontalPodAutoscaler, which also has the tolerance around the
target.
"""

from __future__ import annotations

import math

import msgspec

from servekit.config import Autoscaling

TOLERANCE = 0.1
"""A load that differs from the target by no more than this share of it asks for no other number of replicas."""


class Scaling(msgspec.Struct, frozen=True):
    """One backend's number of replicas, and what of the past the next decision depends on. Times are in seconds."""

    replicas: int
    at: float
    """When this was decided."""
    load: float = 0.0
    """Smoothed: requests come and go faster than anyone looks."""
    idle_since: float | None = None
    rising_since: float | None = None
    """Since when the load has asked for more at every decision."""
    falling_since: float | None = None
    """Since when the load has asked for fewer at every decision; `falling_to` is the most that it asked for."""
    falling_to: int = 0


def begin(config: Autoscaling, replicas: int, now: float) -> Scaling:
    """The first state of a backend that has ``replicas``, or is to begin with so many, within its bounds."""
    return Scaling(within(config, replicas), now)


def decide(config: Autoscaling, past: Scaling, load: int, now: float, *, starting: bool = False) -> Scaling:
    """The next state.

    Args:
        past: the last state. It may have been decided by another config: the bounds of this one hold at once.
        load: how many requests the replicas have, and how many wait, now.
        starting: none of the replicas is ready yet. Their number is not lowered then: a start may take longer than the
            request that it was for could wait.
    """
    replicas = within(config, past.replicas)
    per_replica = config.target_ongoing_requests
    if not replicas and load:
        # A backend without replicas gets some at once.
        return Scaling(within(config, math.ceil(load / per_replica)), now, load)
    smooth = _smoothed(config, past, load, now)
    idle_since = None if load or starting else _earlier(past.idle_since, now)
    if idle_since is not None and now - idle_since >= config.downscale_delay_s:
        return Scaling(config.min_replicas, now, smooth, idle_since)
    rising_since = falling_since = None
    falling_to = 0
    fewer = max(1, math.ceil(smooth / (per_replica * (1 - TOLERANCE))))
    if smooth > replicas * per_replica * (1 + TOLERANCE):
        rising_since = _earlier(past.rising_since, now)
        if now - rising_since >= config.upscale_delay_s:
            return Scaling(within(config, math.ceil(smooth / per_replica)), now, smooth)
    elif fewer < replicas and not starting:
        falling_since = _earlier(past.falling_since, now)
        falling_to = max(past.falling_to, fewer)
        if now - falling_since >= config.downscale_delay_s:
            return Scaling(within(config, falling_to), now, smooth, idle_since)
    return Scaling(replicas, now, smooth, idle_since, rising_since, falling_since, falling_to)


def _smoothed(config: Autoscaling, past: Scaling, load: int, now: float) -> float:
    """The exponential mean of the load, with ``upscale_delay_s`` as its time constant; without a delay, the load."""
    if config.upscale_delay_s <= 0:
        return float(load)
    fresh = -math.expm1(-max(0.0, now - past.at) / config.upscale_delay_s)
    return past.load + (load - past.load) * fresh


def within(config: Autoscaling, replicas: int) -> int:
    """``replicas``, or the nearest bound of the config."""
    return min(max(replicas, config.min_replicas), config.max_replicas)


def _earlier(since: float | None, now: float) -> float:
    return now if since is None else since
