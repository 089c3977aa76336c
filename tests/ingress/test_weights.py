"""Which weights an endpoint had under which snapshot."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from servekit.ingress.weights import MOST_CHANGES, MOST_GONE, Weights, WeightsHistory


def test_a_snapshot_has_the_weights_of_the_last_change_up_to_it() -> None:
    history = WeightsHistory()
    history.changed("e", Weights(3, "weighted", {"a": 1.0}))
    history.changed("e", Weights(7, "weighted", {"b": 1.0}))
    found = [history.at("e", version) for version in (2, 3, 6, 7, 99)]
    assert [each and each.weights for each in found] == [None, {"a": 1.0}, {"a": 1.0}, {"b": 1.0}, {"b": 1.0}]
    assert history.at("f", 3) is None


def test_an_endpoint_that_is_gone_is_remembered_and_comes_back() -> None:
    history = WeightsHistory()
    history.changed("e", Weights(1, "weighted", {"a": 1.0}))
    history.removed("e")
    history.changed("e", Weights(2, "first", {"b": 1.0}))
    for number in range(MOST_GONE + 1):
        history.changed(f"e{number}", Weights(3, "weighted", {}))
        history.removed(f"e{number}")
    assert history.at("e", 1) == Weights(1, "weighted", {"a": 1.0})
    assert history.at("e0", 3) is None
    assert history.at("e1", 3) is not None


@given(st.lists(st.tuples(st.integers(0, 150), st.booleans()), max_size=600))
def test_it_is_bounded(changes: list[tuple[int, bool]]) -> None:
    history, there = WeightsHistory(), set()
    for version, (number, is_there) in enumerate(changes):
        name = f"e{number}"
        if is_there:
            history.changed(name, Weights(version, "weighted", {}))
            there.add(name)
        elif name in there:
            history.removed(name)
            there.discard(name)
        assert there <= history._changes.keys()
        assert len(history._changes) <= len(there) + MOST_GONE
        assert all(len(kept) <= MOST_CHANGES for kept in history._changes.values())
