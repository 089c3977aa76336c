"""After a copy that was given up, a backend gets none for a while."""

from __future__ import annotations

from servekit.ingress.copy_pauses import FIRST_S, LONGEST_S, CopyPauses


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def lengths(pauses: CopyPauses, clock: Clock, count: int) -> list[float]:
    """Of so many pauses, each begun when the last has ended."""
    found = []
    for _ in range(count):
        pauses.begin("b")
        began = clock.now
        while pauses.is_on("b"):
            clock.now += 1
        found.append(clock.now - began)
    return found


def test_each_pause_is_twice_as_long_until_a_copy_is_answered() -> None:
    clock = Clock()
    pauses = CopyPauses(clock)
    assert not pauses.is_on("b")
    assert lengths(pauses, clock, 6) == [FIRST_S, 2 * FIRST_S, 4 * FIRST_S, 8 * FIRST_S, LONGEST_S, LONGEST_S]
    pauses.end("b")
    assert lengths(pauses, clock, 2) == [FIRST_S, 2 * FIRST_S]
    clock.now += LONGEST_S
    assert lengths(pauses, clock, 1) == [FIRST_S]


def test_backends_are_told_apart() -> None:
    pauses = CopyPauses(Clock())
    pauses.begin("b")
    assert pauses.is_on("b")
    assert not pauses.is_on("c")
    pauses.end("c")
    pauses.end("b")
    assert not pauses.is_on("b")
