"""How many series a backend may have."""

from __future__ import annotations

from servekit.control.series_limit import SeriesLimit
from servekit.wire.control_frames import MetricFamily


def family(kind: str, *names: str, bounds: tuple[float, ...] = ()) -> MetricFamily:
    return MetricFamily(kind, "words", "", ("language",), bounds, {(name,): [1.0] for name in names})


def test_what_comes_first_stays() -> None:
    limit = SeriesLimit(3)
    assert limit.admit(family("counter", "a", "b"), "r1") == (family("counter", "a", "b"), 0)
    assert limit.admit(family("counter", "b", "c", "d"), "r2") == (family("counter", "b", "c"), 1)
    assert limit.admit(family("counter", "a", "d"), "r1") == (family("counter", "a"), 1)


def test_gauges_go_with_their_replica() -> None:
    limit = SeriesLimit(2)
    assert limit.admit(family("gauge", "a", "b"), "r1")[1] == 0
    assert limit.admit(family("gauge", "a"), "r2") == (family("gauge"), 1)
    limit.forget_replica("r1")
    limit.forget_replica("r1")
    assert limit.admit(family("gauge", "a", "b"), "r2")[1] == 0


def test_a_histogram_takes_the_room_of_its_buckets() -> None:
    limit = SeriesLimit(9)
    assert limit.admit(family("histogram", "a", "b", bounds=(1.0, 2.0)), "r1")[1] == 1
    assert limit.admit(family("counter", "a", "b", "c", "d"), "r1")[1] == 0


def test_a_metric_that_is_forgotten_leaves_its_room() -> None:
    limit = SeriesLimit(1)
    limit.admit(family("counter", "a"), "r1")
    limit.forget_metric("other")
    assert limit.admit(family("counter", "b"), "r1")[1] == 1
    limit.forget_metric("words")
    assert limit.admit(family("counter", "b"), "r1")[1] == 0
