"""What is done, in which order and when: a pure function of the seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

LONGEST_PAUSE_S = 1.0
BESIDE = 0.4
"""How many faults have a change beside them, which begins at the same time."""


@dataclass(frozen=True)
class Act:
    """``pick``: from 0 to below 1; says which process, which backend, or how much."""

    name: str
    pick: float


@dataclass(frozen=True)
class Step:
    """Acts that begin together, after a pause; the next step follows when all is whole again."""

    number: int
    pause_s: float
    acts: tuple[Act, ...]

    def __str__(self) -> str:
        return " beside ".join(act.name for act in self.acts)


def steps(seed: int, changes: Sequence[str], faults: Sequence[str]) -> Iterator[Step]:
    """Without end. Each change and each fault comes once before any comes again."""
    chance = random.Random(seed)
    beside = _dealt(chance, changes)
    for number, name in enumerate(_dealt(chance, [*changes, *faults])):
        acts = [Act(name, chance.random())]
        if name in faults and chance.random() < BESIDE:
            acts.append(Act(next(beside), chance.random()))
        yield Step(number, chance.uniform(0, LONGEST_PAUSE_S), tuple(acts))


def _dealt(chance: random.Random, names: Sequence[str]) -> Iterator[str]:
    """As from a pack of cards, which is shuffled when it is used up."""
    while True:
        yield from chance.sample(names, len(names))
