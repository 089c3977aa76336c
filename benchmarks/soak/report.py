"""What is said of a soak at its end."""

from __future__ import annotations

from benchmarks.faults.outcomes import kinds
from benchmarks.soak import acts, leftovers
from benchmarks.soak.run import Soak

KINDS = {
    "GET": "short requests that may be repeated",
    "POST": "short requests that may not",
    "up": "long bodies that are sent",
    "down": "long answers",
    "stream": "answers that are made piece by piece",
    "slow": "long answers that are read slowly",
    "handle": "calls by a handle",
    "socket": "messages over a WebSocket",
}


def text(soak: Soak, seed: int, took_s: float) -> str:
    width = max(len(name) for name in [*acts.EVERY, *KINDS.values()]) + 2
    lines = [f"seed {seed}, {took_s:.0f} s in all", "", f"{'what was done':<{width}}times"]
    lines += [f"{name:<{width}}{soak.done[name]:>5}" for name in acts.EVERY]
    lines += ["", f"{'what was sent meanwhile':<{width}}{'sent':>8}{'failed':>8}"]
    for method, what in KINDS.items():
        failed = {key: count for key, count in soak.failed.items() if key[0] == method}
        told = kinds(type(soak.failed)(failed))
        lines.append(f"{what:<{width}}{soak.sent[method]:>8,}{sum(failed.values()):>8,}  {told}".rstrip())
    lines += ["", "what there was before the first fault, and is after the last (of each kind the one that has most)"]
    lines += [leftovers.table(soak.before, soak.after)]
    verdict = "all is well: no request failed that must not, and nothing is left behind"
    lines += ["", *(f"WRONG: {reason}" for reason in soak.reasons)] if soak.reasons else ["", verdict]
    return "\n".join(lines)
