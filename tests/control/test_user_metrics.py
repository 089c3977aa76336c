"""What the metrics of all replicas come to, whichever of them die, and however often controllers follow each other."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.full_disk import no_room
from tests.support.waiting import until_async

from servekit.control import user_metrics as module
from servekit.control.exposition import bounded_metrics, render
from servekit.control.series_limit import MOST_BACKEND_SERIES
from servekit.control.store import Store, StoreThread
from servekit.control.user_metrics import MOST_DELETED, UserMetrics
from servekit.wire.control_frames import MetricFamily, MetricsTold


def words(value: float, language: str = "en", name: str = "words") -> MetricFamily:
    return MetricFamily("counter", name, "Words", ("language",), (), {(language,): [value]})


def loaded(value: float, name: str = "loaded") -> MetricFamily:
    return MetricFamily("gauge", name, "Models", (), (), {(): [value]})


def size(*numbers: float, bounds: tuple[float, ...] = (1.0, 2.0)) -> MetricFamily:
    return MetricFamily("histogram", "size", "Sizes", (), bounds, {(): list(numbers)})


def tell(metrics: UserMetrics, replica: str, *families: MetricFamily, dropped: int = 0) -> None:
    metrics.told(replica, MetricsTold(list(families), dropped))


def lines(metrics: UserMetrics) -> list[str]:
    """The exposition, without comments."""
    text, _ = render([], "", bounded_metrics(metrics.parts(), 10**6)[0])
    return [line for line in text.decode().splitlines() if line[0] != "#"]


def test_counters_and_histograms_are_summed_and_gauges_are_not() -> None:
    async def test() -> None:
        metrics = UserMetrics()
        for replica, backend in (("r1", "a"), ("r2", "a"), ("r3", "b")):
            metrics.began(replica, backend)
            tell(metrics, replica, words(2), loaded(5), size(1, 2, 3, 7.5))
        tell(metrics, "r1", words(3))
        assert lines(metrics) == [
            'words_total{backend="a",language="en"} 5.0',
            'words_total{backend="b",language="en"} 2.0',
            'loaded{backend="a",replica="r1"} 5.0',
            'loaded{backend="a",replica="r2"} 5.0',
            'loaded{backend="b",replica="r3"} 5.0',
            'size_bucket{backend="a",le="1.0"} 2.0',
            'size_bucket{backend="a",le="2.0"} 4.0',
            'size_bucket{backend="a",le="+Inf"} 6.0',
            'size_count{backend="a"} 6.0',
            'size_sum{backend="a"} 15.0',
            'size_bucket{backend="b",le="1.0"} 1.0',
            'size_bucket{backend="b",le="2.0"} 2.0',
            'size_bucket{backend="b",le="+Inf"} 3.0',
            'size_count{backend="b"} 3.0',
            'size_sum{backend="b"} 7.5',
        ]

    asyncio.run(test())


def test_what_an_ended_replica_counted_stays_and_its_gauges_go() -> None:
    async def test() -> None:
        metrics = UserMetrics()
        metrics.began("r1", "a")
        tell(metrics, "r1", words(2), loaded(5), size(1, 2, 3, 7.5))
        await metrics.ended("r1")
        await metrics.ended("r1")
        tell(metrics, "r1", words(9))  # It was on its way.
        assert [line for line in lines(metrics) if "bucket" not in line] == [
            'words_total{backend="a",language="en"} 2.0',
            'size_count{backend="a"} 3.0',
            'size_sum{backend="a"} 7.5',
        ]
        metrics.began("r2", "a")
        tell(metrics, "r2", words(1), size(1, 1, 1, 1, bounds=(2.0, 4.0)))
        assert lines(metrics)[0] == 'words_total{backend="a",language="en"} 3.0'
        assert 'size_bucket{backend="a",le="2.0"} 3.0' in lines(metrics)

    asyncio.run(test())


def test_other_labels_are_other_series() -> None:
    async def test() -> None:
        metrics = UserMetrics()
        metrics.began("r1", "a")
        tell(metrics, "r1", words(2))
        await metrics.ended("r1")
        metrics.began("r2", "a")
        tell(metrics, "r2", MetricFamily("counter", "words", "Words", (), (), {(): [4.0]}))
        assert lines(metrics) == ['words_total{backend="a",language="en"} 2.0', 'words_total{backend="a"} 4.0']

    asyncio.run(test())


def test_series_beyond_the_limit_of_a_backend_are_counted_once() -> None:
    async def test() -> None:
        metrics = UserMetrics()
        metrics.began("r1", "a")
        many = {(str(number),): [1.0] for number in range(MOST_BACKEND_SERIES + 3)}
        family = MetricFamily("counter", "words", "Words", ("n",), (), many)
        for _ in range(2):
            tell(metrics, "r1", family, dropped=4)
        await metrics.ended("r1")
        metrics.began("r2", "a")
        tell(metrics, "r2", words(1, language=str(MOST_BACKEND_SERIES + 5)))
        assert len(lines(metrics)) == MOST_BACKEND_SERIES
        assert metrics.dropped() == {"a": 8}

    asyncio.run(test())


def test_a_family_of_the_wrong_shape_is_left_out() -> None:
    async def test() -> None:
        metrics = UserMetrics()
        metrics.began("r1", "a")
        tell(metrics, "r1", size(1), words(1))
        assert lines(metrics) == ['words_total{backend="a",language="en"} 1.0']

    asyncio.run(test())


def test_a_name_has_one_kind_at_a_time(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        metrics = UserMetrics()
        for replica, backend in (("r1", "a"), ("r2", "b")):
            metrics.began(replica, backend)
        tell(metrics, "r1", loaded(1, "words"))
        for value in (1, 2):
            tell(metrics, "r2", words(value))
        assert lines(metrics) == ['words{backend="a",replica="r1"} 1.0']
        assert metrics.dropped() == {"a": 0, "b": 1}
        assert caplog.text.count("metric words of replica r2 is a counter, and is not shown") == 1
        await metrics.ended("r1")
        tell(metrics, "r2", words(3))
        assert lines(metrics)[0] == 'words_total{backend="b",language="en"} 3.0'

    asyncio.run(test())


def seen() -> MetricFamily:
    return MetricFamily("counter", "seen", "Seen", (), (), {(): [1.0]})


def gauge(name: str) -> MetricFamily:
    return loaded(1, name)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (seen(), gauge("seen_total")),
        (seen(), gauge("seen_created")),
        (gauge("seen_total"), seen()),
        (size(1, 1, 1, 1), gauge("size_count")),
        (size(1, 1, 1, 1), gauge("size_sum")),
        (size(1, 1, 1, 1), words(1, name="size_bucket")),
        (words(1, name="size_bucket"), size(1, 1, 1, 1)),
    ],
)
def test_a_name_that_is_part_of_another_backends_metric_is_not_shown(
    caplog: pytest.LogCaptureFixture, first: MetricFamily, second: MetricFamily
) -> None:
    async def test() -> None:
        metrics = UserMetrics()
        metrics.began("r1", "a")
        tell(metrics, "r1", first)
        alone = lines(metrics)
        metrics.began("r2", "b")
        for _ in range(2):
            tell(metrics, "r2", second, words(1, name="others"))
        assert [line for line in lines(metrics) if not line.startswith("others_total")] == alone
        assert metrics.dropped() == {"a": 0, "b": 1}
        assert caplog.text.count(f"metric {second.name} of replica r2 is a {second.kind}, and is not shown") == 1
        await metrics.ended("r1")
        tell(metrics, "r2", second)
        assert {line.split('"')[1] for line in lines(metrics)} == {"b"}
        assert any(line.startswith(second.name) for line in lines(metrics))

    asyncio.run(test())


def test_the_parts_of_backends_that_are_there_come_first() -> None:
    async def test() -> None:
        metrics = UserMetrics()
        for replica, backend in (("r1", "a"), ("r2", "b"), ("r3", "c")):
            metrics.began(replica, backend)
            tell(metrics, replica, words(1))
        kept, dropped = bounded_metrics(metrics.parts(["c"]), 2)
        shown = [sample.labels["backend"] for metric in kept for sample in metric.samples]
        assert (shown, dropped, len(kept)) == (["c", "a"], 1, 1)

    asyncio.run(test())


def test_deleted_backends_are_remembered_up_to_a_number() -> None:
    async def test() -> None:
        metrics = UserMetrics()
        for number in range(MOST_DELETED + 2):
            metrics.began(f"r{number}", f"b{number:02}")
            tell(metrics, f"r{number}", words(1))
            await metrics.ended(f"r{number}")
            metrics.keep_only([])
        shown = lines(metrics)
        assert len(shown) == MOST_DELETED
        assert shown[0] == 'words_total{backend="b02",language="en"} 1.0'
        metrics.keep_only(["b02"])
        metrics.began("r", "new")
        tell(metrics, "r", words(1))
        await metrics.ended("r")
        metrics.keep_only(["b02"])
        assert shown[0] in lines(metrics)

    asyncio.run(test())


# -- controllers that follow each other --------------------------------------------------------------------------------


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Any]:
    """Makes the store of one controller after another."""
    opened: list[Store] = []

    def new() -> StoreThread:
        opened.append(Store(str(tmp_path)))
        return StoreThread(opened[-1])

    yield new
    for store in opened:
        store.close()


async def follow(stores: Any, *attached: str) -> UserMetrics:
    """The metrics of a new controller, which takes over these replicas, of backend ``a``."""
    metrics = UserMetrics(stores())
    await metrics.load()
    for replica in attached:
        metrics.began(replica, "a")
    metrics.settle()
    return metrics


def test_a_later_controller_counts_each_replica_once(stores: Any) -> None:
    async def test() -> None:
        first = await follow(stores)
        for replica in ("dead", "lives", "dies"):
            first.began(replica, "a")
            tell(first, replica, words(10), loaded(1), size(1, 2, 3, 7.5), dropped=1)
        await first.ended("dead")
        second = await follow(stores, "lives", "dies")
        assert lines(second) == lines(first)
        tell(second, "lives", words(15), dropped=1)
        await second.ended("dies")
        assert lines(second)[0] == 'words_total{backend="a",language="en"} 35.0'
        third = await follow(stores, "lives")
        assert lines(third) == lines(second)
        fourth = await follow(stores)
        assert lines(fourth)[0] == 'words_total{backend="a",language="en"} 35.0'
        assert fourth.dropped() == {"a": 3}

    asyncio.run(test())


def test_what_is_told_is_saved_before_long(stores: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAVE_EVERY_S", 0.001)

    async def test() -> None:
        first = await follow(stores)
        first.began("r1", "a")
        for value in (1, 2):
            tell(first, "r1", words(value))
            await until_async(lambda: first._saved_version == first._version)
        second = await follow(stores, "r1")
        assert lines(second) == ['words_total{backend="a",language="en"} 2.0']
        await second.close()
        tell(first, "r1", words(3))
        await first.close()
        assert lines(await follow(stores)) == ['words_total{backend="a",language="en"} 3.0']

    asyncio.run(test())


def test_a_disk_without_room_is_told_of_once(stores: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        metrics = await follow(stores)
        with no_room():
            for replica in ("r1", "r2"):
                metrics.began(replica, "a")
                tell(metrics, replica, words(1))
                await metrics.ended(replica)
        assert caplog.text.count("the metrics of replicas are not saved") == 1
        await metrics.close()
        assert lines(await follow(stores)) == ['words_total{backend="a",language="en"} 2.0']

    asyncio.run(test())


def test_a_damaged_file_is_no_reason_not_to_start(
    stores: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        (tmp_path / "metrics.last").write_bytes(b"\xc1")
        metrics = await follow(stores)
        assert lines(metrics) == []
        assert "the metrics of replicas begin anew" in caplog.text

    asyncio.run(test())


@pytest.mark.parametrize("seed", range(10))
def test_no_counter_goes_back_whatever_dies(stores: Any, seed: int) -> None:
    """Replicas that count, die and come, and controllers that follow each other, in an order of chance."""

    async def test() -> None:
        chance = random.Random(seed)
        metrics, counted, last, numbers = await follow(stores), {"r0": 0}, 0.0, 0
        metrics.began("r0", "a")
        gone = 0
        for _ in range(60):
            event = chance.choice(("count", "count", "begin", "die", "controller"))
            if event == "count" and counted:
                replica = chance.choice(list(counted))
                counted[replica] += chance.randrange(5)
                tell(metrics, replica, words(counted[replica]))
            elif event == "begin":
                numbers += 1
                counted[f"r{numbers}"] = 0
                metrics.began(f"r{numbers}", "a")
            elif event == "die" and counted:
                replica = chance.choice(list(counted))
                gone += counted.pop(replica)
                await metrics.ended(replica)
            elif event == "controller":
                metrics._version += 1
                await metrics.save()
                metrics = await follow(stores, *counted)
                for replica in chance.sample(list(counted), len(counted) // 2):
                    tell(metrics, replica, words(counted[replica]))
            shown = [float(line.split()[-1]) for line in lines(metrics)] or [0.0]
            assert shown == [gone + sum(counted.values())]
            assert shown[0] >= last
            last = shown[0]

    asyncio.run(test())
