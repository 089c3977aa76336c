"""Users' own metrics, outside of a replica: what is taken, what is refused, and what they count."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cloudpickle
import pytest

import servekit as serve
from servekit import metrics
from servekit.errors import ArgumentError, InvalidInputError
from servekit.metrics import MOST_METRICS, MOST_SERIES, Recorder, counter, gauge, histogram, recorder


@pytest.fixture(autouse=True)
def recorded() -> Iterator[Recorder]:
    """One for the test alone."""
    token = recorder.set(Recorder())
    yield recorder.get()
    recorder.reset(token)


def values(recorded: Recorder) -> dict[str, float]:
    """By name and label values, without when each was made."""
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for metric in recorded.collect()
        for sample in metric.samples
        if not sample.name.endswith("_created")
    }


def test_importing_servekit_does_not_import_prometheus() -> None:
    probe = "import sys, servekit; assert servekit.metrics.counter; assert 'prometheus_client' not in sys.modules"
    subprocess.run([sys.executable, "-c", probe], check=True, timeout=60)


def test_a_counter_counts(recorded: Recorder) -> None:
    words = serve.metrics.counter("words", "Words that were read", labels=("language",))
    words.labels("en").inc()
    words.labels(language="en").inc(2.5)
    words.labels("de").inc(0)
    lines = counter("lines_total", "Lines")
    lines.inc()
    with pytest.raises(KeyError), counter("failures", "Failures").count_exceptions(LookupError):
        raise KeyError("x")
    assert values(recorded) == {
        "words_total en": 3.5,
        "words_total de": 0.0,
        "lines_total": 1.0,
        "failures_total": 1.0,
    }


def test_a_gauge_goes_up_and_down(recorded: Recorder) -> None:
    loaded = gauge("loaded", "Models")
    loaded.set(5)
    loaded.inc()
    loaded.dec(2)
    with loaded.track_inprogress():
        assert values(recorded) == {"loaded": 5.0}
    assert values(recorded) == {"loaded": 4.0}
    loaded.set_to_current_time()
    assert values(recorded)["loaded"] > 1e9


def test_a_histogram_counts_by_buckets(recorded: Recorder) -> None:
    lengths = histogram("length", "Words of a text", buckets=[1, 10, float("inf")])
    for value in (1, 2, 50):
        lengths.observe(value)
    assert values(recorded) == {
        "length_bucket 1.0": 1.0,
        "length_bucket 10.0": 2.0,
        "length_bucket +Inf": 3.0,
        "length_count": 3.0,
        "length_sum": 53.0,
    }
    took = histogram("took_seconds", "Seconds")

    @took.time()
    def work() -> None: ...

    work()
    work()
    assert values(recorded)["took_seconds_count"] == 2.0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_no_sum_takes_a_value_that_is_not_finite(recorded: Recorder, value: float) -> None:
    for use in (counter("words", "Words").inc, histogram("length", "Letters").observe):
        with pytest.raises(InvalidInputError, match="Leave such values out, or set a gauge"):
            use(value)
    gauge("loaded", "Models").set(value)
    found = values(recorded)
    assert (found["words_total"], found["length_count"], found["length_sum"]) == (0, 0, 0)
    assert str(found["loaded"]) == str(value)


async def of_coroutine(steps: list[str]) -> None:
    await asyncio.sleep(0)
    steps.append("ran")
    raise LookupError


def of_generator(steps: list[str]) -> Iterator[int]:
    yield 1
    steps.append("ran")
    raise LookupError


async def of_async_generator(steps: list[str]) -> AsyncIterator[int]:
    yield 1
    steps.append("ran")
    raise LookupError


async def drained(answer: Any) -> None:
    if inspect.isawaitable(answer):
        await answer
    elif hasattr(answer, "__aiter__"):
        async for _ in answer:
            pass
    else:
        list(answer)


@pytest.mark.parametrize("function", [of_coroutine, of_generator, of_async_generator])
def test_decorators_see_a_call_to_its_end(recorded: Recorder, function: Callable[..., Any]) -> None:
    failures, running, took = counter("failures", "F"), gauge("running", "R"), histogram("took", "T")
    steps: list[str] = []

    class Steps(list[str]):
        def append(self, step: str) -> None:
            steps.append(step)
            assert values(recorded)["running"] == 1
            assert values(recorded)["took_count"] == len(steps) - 1

    decorated = took.time()(running.track_inprogress()(failures.count_exceptions(LookupError)(function)))
    assert inspect.iscoroutinefunction(decorated) == inspect.iscoroutinefunction(function)
    assert inspect.isasyncgenfunction(decorated) == inspect.isasyncgenfunction(function)
    assert inspect.isgeneratorfunction(decorated) == inspect.isgeneratorfunction(function)
    for _ in range(2):
        with pytest.raises(LookupError):
            asyncio.run(drained(decorated(Steps())))
    found = values(recorded)
    assert steps == ["ran", "ran"]
    assert (found["failures_total"], found["running"], found["took_count"]) == (2, 0, 2)


def test_calls_of_a_decorated_coroutine_function_are_apart(recorded: Recorder) -> None:
    running = gauge("running", "R")
    seen: list[float] = []

    @running.track_inprogress()
    async def work() -> None:
        await asyncio.sleep(0)
        seen.append(values(recorded)["running"])

    async def test() -> None:
        await asyncio.gather(work(), work(), work())

    asyncio.run(test())
    assert max(seen) == 3
    assert values(recorded)["running"] == 0


def test_a_decorated_function_travels(recorded: Recorder) -> None:
    took = histogram("took", "T")
    decorated = took.time()(lambda: 5)
    assert pickle.loads(cloudpickle.dumps(decorated))() == 5
    assert values(recorded)["took_count"] == 1


def test_the_same_name_is_the_same_metric(recorded: Recorder) -> None:
    counter("words", "Words", ["language"]).labels("en").inc()
    counter("words", "Words, told otherwise", ["language"]).labels("en").inc()
    counter("words_total", "Words", ["language"]).labels("en").inc()
    assert values(recorded) == {"words_total en": 3.0}


@pytest.mark.parametrize(
    "again",
    [
        lambda: gauge("words", "x", ["language"]),
        lambda: counter("words", "x"),
        lambda: counter("words", "x", ["place"]),
        lambda: histogram("words", "x", ["language"]),
    ],
)
def test_another_metric_of_the_same_name_is_refused(again: Callable[[], Any]) -> None:
    counter("words", "Words", ["language"])
    with pytest.raises(InvalidInputError, match="'words' is a counter with the labels language already.* another name"):
        again()


def test_other_buckets_are_refused() -> None:
    histogram("length", "x", buckets=[1, 2])
    with pytest.raises(InvalidInputError, match="is a histogram without labels and the buckets 1, 2 already"):
        histogram("length", "x", buckets=[1, 3])


@pytest.mark.parametrize("name", ["", "9lives", "a b", "ä", "a:b", "a-b", "x" * 200, "_total"])
def test_a_name_that_prometheus_does_not_take_is_refused(name: str) -> None:
    with pytest.raises(InvalidInputError, match="none that Prometheus takes: write letters"):
        counter(name, "x")


def test_a_name_of_servekits_own_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="do not begin it with servekit_"):
        gauge("servekit_mine", "x")


def test_a_name_that_is_part_of_another_metric_is_refused() -> None:
    counter("words", "x")
    with pytest.raises(InvalidInputError, match="Take another name"):
        gauge("words_total", "x")


@pytest.mark.parametrize("label", ["", "9", "a b", "__a", "quantile", "backend", "replica", "le"])
def test_a_label_that_cannot_be_is_refused(label: str) -> None:
    with pytest.raises(InvalidInputError, match=f"the label {label!r} of metric 'words' is"):
        counter("words", "x", [label])


@pytest.mark.parametrize("labels", [["a", "a"], [f"l{n}" for n in range(11)]])
def test_too_many_labels_are_refused(labels: list[str]) -> None:
    with pytest.raises(InvalidInputError, match="give each once, at most 10"):
        counter("words", "x", labels)


@pytest.mark.parametrize(
    "buckets", [[], [2, 1], [1, 1], [float("nan")], [float("-inf"), 1], [1, 10**400], list(range(101))]
)
def test_buckets_that_do_not_rise_are_refused(buckets: list[float]) -> None:
    with pytest.raises(InvalidInputError, match="each above the one before"):
        histogram("length", "x", buckets=buckets)


def test_a_plain_text_for_labels_is_refused() -> None:
    labels: Any = "language"
    with pytest.raises(ArgumentError, match=r"write labels=\['language'\]"):
        counter("words", "x", labels)


def test_a_wrong_use_says_what_to_write() -> None:
    words, lines = counter("words", "x", ["language", "place"]), counter("lines", "x")
    for use in (
        lambda: words.labels("en"),
        lambda: words.labels(language="en"),
        lambda: words.labels("en", place="here"),
        lambda: words.labels("en", "here").labels("en", "here"),
        lambda: words.inc(),
    ):
        with pytest.raises(InvalidInputError, match=r"words\.labels\(language=…, place=…\)"):
            use()
    with pytest.raises(InvalidInputError, match=r"leave labels\(\) out"):
        lines.labels("en")
    with pytest.raises(InvalidInputError, match="never goes back. Use a gauge"):
        lines.inc(-1)


def test_label_values_are_texts_of_a_limited_length(recorded: Recorder) -> None:
    seen = counter("seen", "x", ["what"])
    for value in ("x" * 1000, "x" * 1001, 7, "\ud800"):
        seen.labels(value).inc()
    assert values(recorded) == {f"seen_total {'x' * 128}": 2.0, "seen_total 7": 1.0, "seen_total ?": 1.0}


def test_series_beyond_the_limit_are_counted_and_go_nowhere(recorded: Recorder) -> None:
    seen = counter("seen", "x", ["what"])
    for number in range(MOST_SERIES + 5):
        seen.labels(number).inc()
    seen.labels(0).inc()
    assert recorded.dropped == 5
    assert len(values(recorded)) == MOST_SERIES
    assert values(recorded)["seen_total 0"] == 2.0
    gauge("late", "x").set(1)
    histogram("later", "x", ["what"]).labels("y").observe(1)
    assert len(values(recorded)) == MOST_SERIES
    assert recorded.dropped == 8


def test_a_histogram_counts_for_as_many_as_it_has(recorded: Recorder) -> None:
    sizes = histogram("size", "x", ["what"], buckets=range(1, 98))
    for number in range(20):
        sizes.labels(number).observe(1)
    assert recorded.dropped == 10


def test_too_many_metrics_are_refused() -> None:
    for number in range(MOST_METRICS):
        counter(f"words{number}", "x")
    with pytest.raises(InvalidInputError, match="put what differs between their names into labels"):
        counter("words", "x")


def test_a_metric_travels_as_its_name(recorded: Recorder) -> None:
    english = counter("words", "Words", ["language"]).labels("en")
    english.inc()
    copy = pickle.loads(pickle.dumps(english))
    copy.inc()
    assert values(recorded) == {"words_total en": 2.0}
    recorder.set(elsewhere := Recorder())
    copy.inc(5)
    assert values(elsewhere) == {"words_total en": 5.0}
    assert repr(copy) == "<counter words {'language': 'en'}>"
    assert repr(gauge("g", "x")) == "<gauge g>"


def test_a_global_of_another_kind_is_refused_where_it_is_used() -> None:
    words = counter("words", "Words")
    recorder.set(Recorder())
    gauge("words", "Words")
    with pytest.raises(InvalidInputError, match="'words' is a gauge without labels already"):
        words.inc()


def test_threads_count_each(recorded: Recorder) -> None:
    words = counter("words", "Words", ["language"])
    ready = threading.Barrier(4)

    def work() -> None:
        recorder.set(recorded)
        ready.wait()
        for number in range(500):
            words.labels(number % 50).inc()

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work) for _ in range(4)]:
            done.result()
    assert values(recorded) == {f"words_total {number}": 40.0 for number in range(50)}


def test_all_of_the_module_is_public() -> None:
    assert serve.metrics is metrics
    assert set(metrics.__all__) == {"Counter", "Gauge", "Histogram", "counter", "gauge", "histogram"}
