"""What is counted of a request that has ended: how long each part of it took, bytes, sends, fail-overs."""

from __future__ import annotations

from typing import Any

import pytest

from servekit.http1.body import IncomingBody
from servekit.tallies import (
    BYTES_IN,
    BYTES_OUT,
    DURATION_US,
    FAILOVERS,
    FIRST_BYTE,
    HANDLER,
    INGRESS_WAIT,
    REPLICA_WAIT,
    RESENDS,
    SUM,
)
from servekit.wire.data_frames import UNKNOWN, Answer, Chunk, End

PARTS = {"ingress": INGRESS_WAIT, "replica": REPLICA_WAIT, "handler": HANDLER, "first byte": FIRST_BYTE}


@pytest.fixture
def served(world: Any) -> Any:
    world.apply(world.backend("b", ["r1", "r2"]), world.endpoint())
    return world


def only(world: Any) -> list[int]:
    """The slots of the only record."""
    (slots,) = world.counted.values()
    return list(slots)


def parts(slots: list[int]) -> dict[str, list[int]]:
    """Of each part, how many are in which bucket, without those behind the last that are empty."""
    found = {}
    for name, first in PARTS.items():
        counts = slots[first : first + SUM]
        while counts and not counts[-1]:
            counts.pop()
        found[name] = counts
    return found


def answered(world: Any, *, waited_s: float, there_s: float, service_us: int) -> list[int]:
    asked = world.ask()
    (call,) = world.calls("r1")
    asked.exchange.received_at -= waited_s + there_s
    asked.exchange.sent_at -= there_s
    world.answer("r1", call, b"four", service_us=service_us)
    return only(world)


def test_a_quick_request(served: Any) -> None:
    slots = answered(served, waited_s=0.001, there_s=0.001, service_us=500)
    assert sum(slots[:DURATION_US]) == 1
    assert parts(slots) == {"ingress": [1], "replica": [1], "handler": [1], "first byte": []}
    assert 1000 <= slots[INGRESS_WAIT + SUM] < 1500
    assert 500 <= slots[REPLICA_WAIT + SUM] < 3000
    assert slots[HANDLER + SUM] == 500
    assert slots[DURATION_US] == sum(slots[PARTS[name] + SUM] for name in ("ingress", "replica", "handler"))
    assert (slots[BYTES_IN], slots[BYTES_OUT], slots[RESENDS], slots[FAILOVERS]) == (0, 4, 0, 0)


def test_a_slow_request(served: Any) -> None:
    slots = answered(served, waited_s=0.3, there_s=3.0, service_us=2_000_000)
    assert sum(slots[:DURATION_US]) == 1
    assert parts(slots) == {
        "ingress": [0] * 7 + [1],
        "replica": [0] * 10 + [1],
        "handler": [0] * 10 + [1],
        "first byte": [],
    }
    assert 3_300_000 <= slots[DURATION_US] < 3_400_000
    assert slots[HANDLER + SUM] == 2_000_000


def test_a_request_that_was_not_sent_has_no_parts(served: Any) -> None:
    served.ask("/nowhere", method="POST", body=b"12345")
    slots = only(served)
    assert sum(slots[:DURATION_US]) == 1
    assert parts(slots) == {key: [] for key in PARTS}
    assert slots[BYTES_IN] == 5


def test_an_answer_in_pieces_has_a_first_byte(served: Any) -> None:
    asked = served.ask()
    (call,) = served.calls("r1")
    asked.exchange.received_at -= 0.03
    served.receive("r1", Answer(call.id, 200, b"", b"first", 0, 0, True, UNKNOWN))
    served.receive("r1", Chunk(call.id, b"second"), End(call.id, 0, 10_000, True))
    slots = only(served)
    assert parts(slots) == {"ingress": [0, 0, 0, 1], "replica": [], "handler": [], "first byte": [0, 0, 0, 1]}
    assert slots[BYTES_OUT] == 11


def test_a_long_body(served: Any) -> None:
    incoming = IncomingBody()
    served.ask(method="POST", body=b"a" * 10, incoming=incoming)
    incoming.receive(b"b" * 20)
    incoming.receive(b"c" * 30)
    incoming.end()
    served.answer("r1", served.calls("r1")[0])
    assert only(served)[BYTES_IN] == 60


def test_sends_beyond_the_first(served: Any) -> None:
    served.ask()
    served.lose("r1")
    served.answer("r2", served.calls("r2")[0])
    assert only(served)[RESENDS] == 1


def test_requests_that_another_version_took_over(world: Any) -> None:
    world.apply(world.backend("a", ["a1"]), world.backend("b", ["b1"]), world.endpoint(weights={"a": 0.5, "b": 0.5}))
    world.lose("a1")
    world.ask()
    world.answer("b1", world.calls("b1")[0])
    assert only(world)[FAILOVERS] == 1


def test_methods_that_few_use_are_one(world: Any) -> None:
    world.apply(world.backend(), world.endpoint(methods=()))
    for method in ("PROPFIND", "MKCOL", "PURGE"):
        world.ask(method=method)
        world.answer("r1", world.calls("r1")[-1])
    assert {key[2]: sum(slots[:DURATION_US]) for key, slots in world.counted.items()} == {"_OTHER": 2, "PURGE": 1}
