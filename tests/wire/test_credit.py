"""Credit: a sender and a receiver that keep to it, whatever the sizes of their pieces."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.wire.credit import Debt
from servekit.wire.data_frames import BODY_WINDOW_BYTES, PIECE_BYTES

LONGEST = 256 * 1024
"""A piece of a request's body, as it was read."""


def test_less_than_a_piece_is_kept_back() -> None:
    debt = Debt()
    taken = [1, PIECE_BYTES - 2, 1, 5, PIECE_BYTES]
    assert [debt.taken(size) for size in taken] == [0, 0, PIECE_BYTES, 0, PIECE_BYTES + 5]


def test_what_is_not_due_is_granted_later() -> None:
    debt = Debt()
    assert debt.taken(3 * PIECE_BYTES, due=False) == 0
    assert debt.taken(0) == 3 * PIECE_BYTES
    assert debt.taken(0) == 0


@pytest.mark.parametrize("first", [0, 1, PIECE_BYTES, LONGEST])
def test_the_first_part_of_an_answer_is_owed_and_that_of_a_call_is_not(first: int) -> None:
    assert Debt(first).taken(PIECE_BYTES) == first + PIECE_BYTES
    call = Debt(-first)
    assert call.taken(first) == 0
    assert call.taken(PIECE_BYTES) == PIECE_BYTES


class Body:
    """One that goes from a sender to a receiver."""

    def __init__(self, pieces: list[int], first: int, *, of_a_call: bool) -> None:
        self.to_send = deque(pieces)
        self.arrived = first if of_a_call else 0
        """Not yet taken."""
        self.unpaid = 0 if of_a_call else first
        """Sent and not granted, of what takes credit."""
        self.credit = BODY_WINDOW_BYTES - self.unpaid
        self.debt = Debt(-first if of_a_call else first)

    def send(self) -> None:
        while self.credit > 0 and self.to_send:
            size = self.to_send.popleft()
            self.credit -= size
            self.unpaid += size
            self.arrived += size
            assert self.unpaid < BODY_WINDOW_BYTES + size

    def take(self, size: int, due: bool) -> None:
        size = min(size, self.arrived)
        self.arrived -= size
        granted = self.debt.taken(size, due)
        assert granted == 0 or (due and granted >= PIECE_BYTES)
        self.credit += granted
        self.unpaid -= granted
        assert self.unpaid >= 0, "no more is granted than took credit"


SIZES = st.integers(1, LONGEST)


@given(
    st.lists(SIZES, max_size=30),
    st.integers(0, PIECE_BYTES),
    st.booleans(),
    st.lists(st.one_of(st.none(), st.tuples(SIZES, st.booleans())), max_size=40),
)
def test_neither_side_waits_for_the_other_and_no_more_than_the_window_is_on_the_way(
    pieces: list[int], first: int, of_a_call: bool, steps: list[tuple[int, bool] | None]
) -> None:
    body = Body(pieces, first, of_a_call=of_a_call)
    for step in steps:
        if step is None:
            body.send()
        else:
            body.take(*step)
    while body.to_send:
        body.take(body.arrived, due=True)
        assert body.unpaid < PIECE_BYTES
        assert body.credit > 0, "all was taken, and the sender waits"
        body.send()
