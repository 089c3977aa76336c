"""Sequences of everything that can happen to an endpoint, drawn by hypothesis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from servekit.interfaces import Outcome
from servekit.testing.conformance.drawing import hypothesis
from servekit.testing.conformance.driver import PolicyDriver

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

NAMES = ("a", "b", "c", "d")

Operation: TypeAlias = tuple[str, tuple[Any, ...]]
"""A method of `PolicyDriver`, and its arguments."""


def shares() -> SearchStrategy[list[int]]:
    """Weights of the backends `NAMES`, relative to each other; at least one is above 0."""
    st = hypothesis().strategies

    drawn: SearchStrategy[list[int]] = st.lists(st.integers(0, 9), min_size=1, max_size=len(NAMES)).filter(any)
    return drawn


def operations() -> SearchStrategy[list[Operation]]:
    """What can happen to an endpoint, in any order."""
    st = hypothesis().strategies

    backend = st.sampled_from(NAMES)
    numbers = st.integers(0, 7)
    happenings: dict[str, SearchStrategy[tuple[Any, ...]]] = {
        "request": st.tuples(numbers),
        "wait": st.just(()),
        "give_room": st.just(()),
        "finish": st.tuples(numbers, st.sampled_from(Outcome)),
        "set_traffic": st.tuples(shares().map(weights_of)),
        "set_replicas": st.tuples(backend, st.integers(0, 4)),
        "replace_replicas": st.tuples(backend),
        "reorder": st.tuples(st.permutations(range(len(NAMES)))),
    }
    one = [st.tuples(st.just(name), arguments) for name, arguments in happenings.items()]
    # Lists of lists, for hypothesis draws about five of a list: and longer sequences find more.
    drawn: SearchStrategy[list[Operation]] = st.lists(st.lists(st.one_of(*one), max_size=8), max_size=8).map(
        lambda lists: [operation for operations in lists for operation in operations]
    )
    return drawn


def weights_of(shares: Sequence[float]) -> dict[str, float]:
    """``{"a": 9, "b": 1}`` of ``[9, 1]``; of more than four: ``b0``, ``b1`` …"""
    names = NAMES if len(shares) <= len(NAMES) else [f"b{index}" for index in range(len(shares))]
    return dict(zip(names, shares, strict=False))


def perform(driver: PolicyDriver, sequence: Sequence[Operation]) -> None:
    """Let ``sequence`` happen to an endpoint that begins with two backends, four replicas and two dozen requests."""
    driver.set_traffic({"a": 3, "b": 1, "c": 0, "d": 0})
    driver.set_replicas("a", 3)
    for room in range(24):
        driver.request(room)
    for name, arguments in sequence:
        getattr(driver, name)(*arguments)
