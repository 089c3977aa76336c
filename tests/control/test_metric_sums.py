"""Sums of counters and histograms, also of histograms with different buckets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from servekit.control.metric_sums import MOST_BOUNDS, add, is_sound, total
from servekit.wire.control_frames import MetricFamily


def counts(**values: float) -> MetricFamily:
    series = {(name,): [value] for name, value in values.items()}
    return MetricFamily("counter", "words", "Words", ("language",), (), series)


def observed(bounds: tuple[float, ...], *values: float) -> MetricFamily:
    numbers = [float(sum(value <= bound for value in values)) for bound in bounds]
    return MetricFamily("histogram", "size", "", (), bounds, {(): [*numbers, float(len(values)), float(sum(values))]})


def test_counters_are_added_by_label_values() -> None:
    assert add(counts(en=1, de=2), counts(en=3, fr=4)) == [counts(en=4, de=2, fr=4)]


def test_histograms_of_the_same_buckets_are_added() -> None:
    assert add(observed((1, 2), 1, 5), observed((1, 2), 2)) == [observed((1, 2), 1, 5, 2)]


def test_a_bound_that_one_lacks_has_what_was_at_most_the_bound_below() -> None:
    (both,) = add(observed((1, 4), 1, 3, 9), observed((2, 4), 1, 3, 9))
    assert both.bounds == (1, 2, 4)
    assert both.series == {(): [1, 2, 4, 6, 26]}


def test_families_with_other_labels_stay_apart() -> None:
    plain = MetricFamily("counter", "words", "Words", (), (), {(): [1.0]})
    assert add(plain, counts(en=1)) == [plain, counts(en=1)]
    assert total([plain, counts(en=1), plain, counts(de=1)]) == [
        MetricFamily("counter", "words", "Words", (), (), {(): [2.0]}),
        counts(en=1, de=1),
    ]
    assert total([]) == []


def test_there_are_only_so_many_bounds() -> None:
    first = observed(tuple(range(MOST_BOUNDS)), 0, 5)
    (both,) = add(first, observed((0.5, 3), 1))
    assert both.bounds == first.bounds
    assert both.series[()][:5] == [1, 1, 1, 2, 2]


def test_a_family_of_the_wrong_shape_is_not_sound() -> None:
    assert is_sound(counts(en=1))
    assert is_sound(observed((1, 2), 1))
    assert not is_sound(MetricFamily("counter", "words", "", ("a", "b"), (), {("x",): [1.0]}))
    assert not is_sound(MetricFamily("counter", "words", "", (), (), {(): []}))
    assert not is_sound(MetricFamily("histogram", "size", "", (), (1.0,), {(): [1.0, 1.0]}))


BOUNDS = st.lists(st.integers(0, 9), min_size=1, max_size=5, unique=True).map(lambda each: tuple(sorted(each)))
VALUES = st.lists(st.integers(0, 12), max_size=8)


@given(st.lists(st.tuples(BOUNDS, VALUES), min_size=1, max_size=4), VALUES)
def test_no_number_goes_back_when_a_replica_goes_on_or_another_comes(
    replicas: list[tuple[tuple[int, ...], list[int]]], more: list[int]
) -> None:
    before = total(observed(bounds, *values) for bounds, values in replicas)[0]
    bounds, values = replicas[-1]
    after = total([*(observed(b, *v) for b, v in replicas[:-1]), observed(bounds, *values, *more), observed((5,), 1)])
    (numbers,), (later,) = before.series.values(), after[0].series.values()
    at = {**dict(zip((*after[0].bounds, "count", "sum"), later, strict=True))}
    for bound, number in zip((*before.bounds, "count", "sum"), numbers, strict=True):
        assert at[bound] >= number
    assert later[:-1] == sorted(later[:-1])
