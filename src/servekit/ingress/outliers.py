"""Which replicas fail where their siblings do not, and for how long such a one gets no requests. Pure.

The source is Envoy's outlier detection (``envoyproxy.io``, "Outlier detection": consecutive 5xx, 5; base ejection time,
30 s, times the number of ejections so far, 300 s at most; at most so many of a cluster's hosts). What differs: the
replica is compared with its siblings. Where a handler fails half of all requests, five failures in a row are nothing,
and where all fail alike nobody is ejected, for that is the application. Half of a backend's replicas may be ejected, in
the place of a tenth. And a replica that comes back begins with one request.
"""

from __future__ import annotations

import math

LEAST_STREAK = 5
"""Failures in a row, and successes of siblings meanwhile, before a replica is judged."""
CHANCE = 1e-6
"""A replica is ejected when so many failures in a row would be less likely than this, at the rate at which its siblings
fail."""
EJECTED_S = 30.0
LONGEST_S = 300.0


def is_outlier(streak: int, answers: int, failures: int) -> bool:
    """Whether a replica is an outlier that has failed so often in a row, where its siblings have given so many answers
    meanwhile, and so many of them were failures."""
    share = (failures + 1) / (answers + 2)  # Laplace's rule of succession: that none has failed so far proves little.
    return min(streak, answers - failures) >= LEAST_STREAK and math.log(share) * streak < math.log(CHANCE)


def may_eject(ejected: int, replicas: int) -> bool:
    """Whether one more may go, where so many of all the replicas with a link are ejected."""
    return 2 * (ejected + 1) <= replicas


def too_many(ejected: int, replicas: int) -> bool:
    """Whether one is to come back before its time: others are gone meanwhile."""
    return 2 * ejected > replicas


def ejection_s(times: int) -> float:
    """How long a replica gets no requests that is ejected for the so-manieth time: 1 for the first."""
    return min(EJECTED_S * times, LONGEST_S)
