"""What a replica tells of its metrics, and when."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from servekit.metrics import Recorder, counter, gauge, histogram, recorder
from servekit.replica.histograms import BatchHistograms
from servekit.replica.told_metrics import MetricsTeller
from servekit.wire.control_frames import MetricFamily, MetricsTold, control_codec


class Clock:
    """Each look at it takes ``step_s``."""

    def __init__(self, step_s: float = 0.0) -> None:
        self.now, self.step_s = 100.0, step_s

    def __call__(self) -> float:
        self.now += self.step_s
        return self.now


@pytest.fixture(autouse=True)
def recorded() -> Iterator[Recorder]:
    token = recorder.set(Recorder())
    yield recorder.get()
    recorder.reset(token)


def test_what_has_changed_is_told_once(recorded: Recorder) -> None:
    teller = MetricsTeller(recorded, Clock())
    assert teller.news() is None
    words, loaded = counter("words", "Words", ["language"]), gauge("loaded", "Models")
    words.labels("en").inc(2)
    assert teller.news() == MetricsTold(
        [
            MetricFamily("counter", "words", "Words", ("language",), (), {("en",): [2.0]}),
            MetricFamily("gauge", "loaded", "Models", (), (), {(): [0.0]}),
        ]
    )
    assert teller.news() is None
    loaded.set(3)
    assert teller.news() == MetricsTold([MetricFamily("gauge", "loaded", "Models", (), (), {(): [3.0]})])


def test_all_is_told_again_on_a_new_link(recorded: Recorder) -> None:
    teller = MetricsTeller(recorded, Clock())
    counter("words", "Words").inc()
    told = teller.news()
    assert teller.news() is None
    teller.forget()
    assert teller.news() == told


def test_a_histogram_is_told_with_its_bounds_and_sum(recorded: Recorder) -> None:
    sizes = histogram("size", "Sizes", ["of"], buckets=[1, 2])
    for value in (1, 2, 3):
        sizes.labels("text").observe(value)
    told = MetricsTeller(recorded, Clock()).news()
    assert told is not None
    assert told.families == [
        MetricFamily("histogram", "size", "Sizes", ("of",), (1.0, 2.0), {("text",): [1.0, 2.0, 3.0, 6.0]})
    ]
    codec = control_codec()
    assert codec.decode(codec.encode(told)) == told


def test_uses_of_series_that_are_too_many_are_told(recorded: Recorder) -> None:
    teller = MetricsTeller(recorded, Clock())
    recorded.dropped = 3
    assert teller.news() == MetricsTold([], 3)
    assert teller.news() is None


def test_looking_takes_little_of_the_time(recorded: Recorder) -> None:
    clock = Clock(step_s=1.0)
    teller, words = MetricsTeller(recorded, clock), counter("words", "Words")
    assert teller.news() is not None
    words.inc()
    clock.now += 50
    assert teller.news() is None
    assert teller.news(last=True) is not None
    clock.now += 200
    words.inc()
    assert teller.news() is not None


def test_batches_are_told_once_there_was_one(recorded: Recorder) -> None:
    teller, batches = MetricsTeller(recorded, Clock()), BatchHistograms()
    histograms = [batches.sizes, batches.waits]
    assert teller.news(histograms) is None
    for size in (1, 3, 600):
        batches.sizes.add(size)
    told = teller.news(histograms)
    assert told is not None
    (family,) = told.families
    assert (family.name, family.bounds[:4]) == ("servekit_batch_size", (1, 2, 4, 8))
    assert family.series == {(): [1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 604]}
