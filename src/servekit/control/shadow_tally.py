"""What two versions of an endpoint differ in, beyond what two answers of one version do: pure.

The method is Diffy's (github.com/twitter-archive/diffy): the same request is sent to the version that serves a second
time, and what its two answers differ in is noise. A path is told of where the versions differ there more often than
noise does: by its thresholds, relative and absolute. Diffy compares as many pairs of one kind as of the other, and
many; here there may be few, so what chance explains is not told of, either.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

RELATIVE, ABSOLUTE = 0.2, 0.0003
"""Diffy's thresholds: of the difference between the two shares to their sum, and of the difference itself."""
SIGMAS = 3.5
"""So many standard deviations the difference is above what chance would make of equal shares."""
FEW_REPEATS = 10
"""Below that nothing is known of noise, and all is told of that differs."""
MOST_PATHS = 500
"""Paths that are told apart."""
MOST_SIGNATURES = 4096
MOST_TOLD = 50
MOST_EXAMPLES = 3


class ShadowExample(msgspec.Struct, frozen=True):
    """One pair of values that differ, short, as text."""

    live: str
    shadow: str
    request_id: str


class PathTally(msgspec.Struct):
    """One kind of difference at one path."""

    count: int = 0
    """Pairs of the two versions that have it."""
    noise: int = 0
    """Pairs of one version that have it."""
    examples: list[ShadowExample] = []


class ShadowTally:
    """The sums of the pairs of one shadow; bounded, however many there are."""

    def __init__(self) -> None:
        self.pairs = 0
        self.repeats = 0
        """Pairs of two answers of one version."""
        self.repeats_differing = 0
        self.paths: dict[tuple[str, str], PathTally] = {}
        """By path and kind."""
        self.left_out = 0
        """Differences at paths that were too many."""
        self._signatures: Counter[frozenset[tuple[str, str]]] = Counter()
        """Pairs of the two versions, by all that they differ in."""

    def add(self, found: Mapping[tuple[str, str], ShadowExample], *, repeat: bool) -> None:
        """Count one pair: all that its two answers differ in, by path and kind."""
        known = [key for key in found if key in self.paths or self._new(key)]
        if repeat:
            self.repeats += 1
            self.repeats_differing += bool(found)
        else:
            self.pairs += 1
            signature = frozenset(known)
            if signature in self._signatures or len(self._signatures) < MOST_SIGNATURES:
                self._signatures[signature] += 1
        for key in known:
            tally = self.paths[key]
            if repeat:
                tally.noise += 1
                continue
            tally.count += 1
            if len(tally.examples) < MOST_EXAMPLES:
                tally.examples = [*tally.examples, found[key]]

    def _new(self, key: tuple[str, str]) -> bool:
        if len(self.paths) >= MOST_PATHS:
            self.left_out += 1
            return False
        self.paths[key] = PathTally()
        return True

    def beyond_noise(self) -> list[tuple[str, str]]:
        """The paths, with their kinds, at which the versions differ more often than one version does, the most frequent
        first."""
        found = [
            key for key, each in self.paths.items() if is_beyond_noise(each.count, self.pairs, each.noise, self.repeats)
        ]
        return sorted(found, key=lambda key: (-self.paths[key].count, key))

    def differing(self) -> int:
        """How many pairs differ at one of these paths; an estimate, where there are very many kinds of pairs."""
        return self._differing(self.beyond_noise())

    def _differing(self, named: Iterable[tuple[str, str]]) -> int:
        wanted = frozenset(named)
        there = sum(count for signature, count in self._signatures.items() if signature & wanted)
        recorded = self._signatures.total()
        return there if recorded in (0, self.pairs) else round(there * self.pairs / recorded)

    def told(self) -> dict[str, Any]:
        """For people and programs."""
        named = self.beyond_noise()
        noisy = self._noisy(named)
        return {
            "pairs": self.pairs,
            "differing": self._differing(named),
            "paths": [self._told(*key) for key in named[:MOST_TOLD]],
            "paths_left_out": max(0, len(named) - MOST_TOLD),
            "noisy_paths": len(noisy),
            "noisy": list(dict.fromkeys(path for path, _ in noisy))[:MOST_TOLD],
            "repeats": self.repeats,
            "repeats_differing": self.repeats_differing,
        }

    def _noisy(self, named: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """The paths, with their kinds, at which the versions differ, but that are not among the ``named``; the most
        frequent first."""
        others = self.paths.keys() - set(named)
        return sorted((key for key in others if self.paths[key].count), key=lambda key: (-self.paths[key].count, key))

    def _told(self, path: str, kind: str) -> dict[str, Any]:
        tally = self.paths[path, kind]
        return {
            "path": path,
            "kind": kind,
            "count": tally.count,
            "noise": round(tally.noise / self.repeats, 4) if self.repeats else 0.0,
            "examples": [msgspec.structs.asdict(each) for each in tally.examples],
        }


def is_beyond_noise(count: int, pairs: int, noise: int, repeats: int) -> bool:
    """Whether two versions that differ in ``count`` of so many ``pairs`` do so more often than one version does, with
    ``noise`` of so many ``repeats``."""
    if not count:
        return False
    if repeats < FEW_REPEATS:
        return True
    raw, own = count / pairs, noise / repeats
    if raw - own <= ABSOLUTE or (raw - own) / (raw + own) <= RELATIVE:
        return False
    share = (count + noise) / (pairs + repeats)
    deviation = math.sqrt(share * (1 - share) * (1 / pairs + 1 / repeats))
    return raw - own > SIGMAS * deviation
