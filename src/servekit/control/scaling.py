"""How many replicas a backend is to have, by its load: a pure function, with no clock of its own.

The load is all requests that the backend's replicas have, or that wait for one. Divided by ``target_ongoing_requests``
it asks for so many replicas. There are more only when it has asked for more throughout ``upscale_delay_s``, and then at
once as many as it asks for now, as in Ray Serve. There are fewer only when it has asked for fewer throughout
``downscale_delay_s``, and then as many as the most that it asked for in that time: the stabilisation window of
Kubernetes' HorizontalPodAutoscaler, from which the tolerance around the target is, too.
"""

from __future__ import annotations

import math

import msgspec

from servekit.config import Autoscaling

TOLERANCE = 0.1
"""A load so near to what the present replicas are for asks for no other number."""


class Scaling(msgspec.Struct, frozen=True):
    """One backend's number of replicas, and what the next decision needs to know of the past. Times are in seconds."""

    replicas: int
    at: float
    """When this was decided."""
    load: float = 0.0
    """Smoothed: requests come and go faster than anyone looks."""
    idle_since: float | None = None
    rising_since: float | None = None
    """Since when the load has asked for more, each time."""
    falling_since: float | None = None
    """Since when the load has asked for fewer, each time; `falling_to` is for how many at the most."""
    falling_to: int = 0


def begin(config: Autoscaling, replicas: int, now: float) -> Scaling:
    """The state of a backend that has ``replicas``, or is to begin with so many, within its bounds."""
    return Scaling(within(config, replicas), now)


def decide(config: Autoscaling, past: Scaling, load: int, now: float, *, starting: bool = False) -> Scaling:
    """The next state.

    Args:
        past: the last state. It may come from another config: the bounds of this one hold at once.
        load: requests that replicas have and that wait, now.
        starting: none of the replicas is ready yet. They are let become so: a start may take longer than the request
            that it was for could wait.
    """
    replicas = within(config, past.replicas)
    per_replica = config.target_ongoing_requests
    if not replicas and load:
        # From none there is no delay, and nothing to smooth.
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
    """``replicas``, or the bound that is nearest."""
    return min(max(replicas, config.min_replicas), config.max_replicas)


def _earlier(since: float | None, now: float) -> float:
    return now if since is None else since
