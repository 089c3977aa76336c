"""How many connections a process takes that may have few descriptors."""

from __future__ import annotations

import resource

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.http1.server import most_connections


@pytest.mark.parametrize(
    ("asked", "descriptors", "expected"),
    [
        (10_000, resource.RLIM_INFINITY, (10_000, 256)),
        (10_000, 1_048_576, (10_000, 256)),
        (10_000, 1024, (448, 112)),
        (100, 1024, (100, 112)),
        (10_000, 64, (1, 0)),
    ],
)
def test_connections_follow_the_limit_of_descriptors(asked: int, descriptors: int, expected: tuple[int, int]) -> None:
    assert most_connections(asked, descriptors) == expected


@given(st.integers(1, 10**6), st.integers(200, 10**7))
def test_there_is_a_file_for_each_connection(asked: int, descriptors: int) -> None:
    served, refused = most_connections(asked, descriptors)
    assert 1 <= served <= asked
    assert 2 * served + refused <= descriptors * 9 // 8
    assert served + refused < descriptors
