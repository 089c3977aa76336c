"""Counters, gauges and histograms of handlers' own, which the instance shows to Prometheus.

What `counter`, `gauge` and `histogram` give is a name for a metric. The metric itself, one of `prometheus_client`'s, is
in the `Recorder` of the replica that uses it: so the name can be a global of a module or a script, travels with a
handler's pickle, and in an instance inside one process each replica counts for itself. Outside of replicas the process
has a recorder, which nobody reads. `prometheus_client` is imported when the first metric is made.
"""

from __future__ import annotations

import contextlib
import math
import re
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from servekit.arguments import checked
from servekit.blocks import Block
from servekit.config import short
from servekit.errors import ArgumentError, InvalidInputError

if TYPE_CHECKING:
    import prometheus_client

__all__ = ["Counter", "Gauge", "Histogram", "counter", "gauge", "histogram"]

DEFAULT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""The upper bounds of a histogram's buckets that are not given: for seconds."""
MOST_SERIES = 1_000
"""Series that one replica may have, as Prometheus counts them: a histogram has one for each bucket, and three more."""
MOST_METRICS = 200
MOST_LABELS = 10
MOST_BUCKETS = 100
LABEL_CHARS = 128
"""A label's value is cut at this length."""
DOCUMENTATION_CHARS = 500
LARGEST = sys.float_info.max
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_NAME_CHARS = 128
_TAKEN_LABELS = {"backend": "servekit adds it", "replica": "servekit adds it", "le": "histograms have it"}
_M = TypeVar("_M", bound="_Named")


class Definition(msgspec.Struct, frozen=True):
    """The part of a metric that is the same wherever the metric is asked for; but for the text, which is the first."""

    kind: str
    name: str
    documentation: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    """Of a histogram's buckets, without infinity."""

    @property
    def cost(self) -> int:
        """How many series Prometheus has of each set of label values."""
        return len(self.bounds) + 3 if self.kind == "histogram" else 1

    @property
    def text(self) -> str:
        with_labels = f" with the labels {', '.join(self.labels)}" if self.labels else " without labels"
        buckets = f" and the buckets {', '.join(f'{bound:g}' for bound in self.bounds)}" if self.bounds else ""
        return f"a {self.kind}{with_labels}{buckets}"


class Recorder:
    """The metrics of one replica, or of a process that is none. May be used in any thread."""

    def __init__(self) -> None:
        self.dropped = 0
        """How often a series was used that would have been one too many."""
        self._lock = threading.Lock()
        self._defined: dict[str, Definition] = {}
        self._metrics: dict[str, Any] = {}
        self._series: dict[tuple[str, tuple[str, ...]], Any] = {}
        self._used = 0
        self._sinks: dict[str, Any] = {}
        """By kind: what takes the place of a series that is one too many."""
        self._registry: prometheus_client.CollectorRegistry | None = None

    @property
    def defined(self) -> dict[str, Definition]:
        with self._lock:
            return dict(self._defined)

    def define(self, wanted: Definition) -> Definition:
        """The definition of that name, which is ``wanted`` where there was none. Raises `InvalidInputError` where it is
        of another kind, or has other labels or buckets."""
        with self._lock:
            found = self._defined.get(wanted.name)
            if found is None:
                self._add(wanted)
                return wanted
        if (found.kind, found.labels, found.bounds) != (wanted.kind, wanted.labels, wanted.bounds):
            raise InvalidInputError(
                f"metric {wanted.name!r} is {found.text} already, and was asked for as {wanted.text}: ask for it as it "
                "is, or give the other one another name"
            )
        return found

    def series(self, definition: Definition, values: tuple[str, ...]) -> Any:
        """The metric of `prometheus_client` with these label values."""
        key = definition.name, values
        found = self._series.get(key)
        if found is None or self._defined[definition.name] != definition:
            definition = self.define(definition)
            with self._lock:
                found = self._series.get(key) or self._new_series(definition, values)
        return found

    def collect(self) -> list[prometheus_client.Metric]:
        return [] if self._registry is None else list(self._registry.collect())

    def _add(self, wanted: Definition) -> None:
        if len(self._defined) >= MOST_METRICS:
            raise InvalidInputError(
                f"metric {wanted.name!r} would be one more than the {MOST_METRICS} that a process may have: put what "
                "differs between their names into labels"
            )
        if wanted.labels:
            self._metrics[wanted.name] = self._made(wanted)
        else:
            self._new_series(wanted, ())
        self._defined[wanted.name] = wanted

    def _new_series(self, definition: Definition, values: tuple[str, ...]) -> Any:
        if self._used + definition.cost > MOST_SERIES:
            self.dropped += 1
            return self._sink(definition)
        made = self._metrics[definition.name].labels(*values) if values else self._made(definition)
        self._used += definition.cost
        self._series[definition.name, values] = made
        return made

    def _sink(self, definition: Definition) -> Any:
        import prometheus_client

        if definition.kind not in self._sinks:
            kind = getattr(prometheus_client, definition.kind.capitalize())
            self._sinks[definition.kind] = kind("sink", "Series beyond the limit", registry=None)
        return self._sinks[definition.kind]

    def _made(self, definition: Definition) -> Any:
        import prometheus_client

        if self._registry is None:
            self._registry = prometheus_client.CollectorRegistry()
        kind = getattr(prometheus_client, definition.kind.capitalize())
        buckets = {"buckets": definition.bounds} if definition.kind == "histogram" else {}
        name, text = definition.name, definition.documentation
        try:
            return kind(name, text, definition.labels, registry=self._registry, **buckets)
        except ValueError as error:
            raise InvalidInputError(
                f"metric {name!r} cannot be {definition.text}: {error}. Take another name"
            ) from error


REPORTED = "servekit_reported"
_REPORTED = Definition("histogram", REPORTED, "What handlers gave to servekit.report()", ("name",), (0.0, 1.0))

recorder: ContextVar[Recorder] = ContextVar("servekit_metrics_recorder", default=Recorder())  # noqa: B039
"""In an instance inside one process, that of the replica that runs here; elsewhere that of the process."""


class _Named:
    """A metric's name and label values, as handlers have them."""

    __slots__ = ("_definition", "_values")

    def __init__(self, definition: Definition, values: tuple[str, ...] = ()) -> None:
        self._definition = definition
        self._values = values

    def labels(self: _M, *values: object, **named: object) -> _M:
        """The metric with these values of its labels, in their order or by their names. Each is made a text, of which
        the first 128 characters count."""
        definition = self._definition
        if named and not values and named.keys() == set(definition.labels):
            values = tuple(named[label] for label in definition.labels)
        elif named or len(values) != len(definition.labels) or not values or self._values:
            given = [*map(short, values), *(f"{name}={short(value)}" for name, value in named.items())]
            raise ArgumentError(
                f"metric {definition.name!r} is {definition.text}, and labels({', '.join(given)}) does not fit that: "
                + (f"write {self._example}" if definition.labels else "leave labels() out")
            )
        return type(self)(definition, tuple(_sendable(str(value)[:LABEL_CHARS]) for value in values))

    @property
    def _example(self) -> str:
        return f"{self._definition.name}.labels({', '.join(f'{label}=…' for label in self._definition.labels)})"

    def _here(self) -> Any:
        """The metric of `prometheus_client` in the replica that this is called in."""
        definition = self._definition
        if len(self._values) != len(definition.labels):
            raise InvalidInputError(f"metric {definition.name!r} is {definition.text}: say which, by {self._example}")
        return recorder.get().series(definition, self._values)

    def _check_finite(self, value: float) -> None:
        if not abs(value) <= LARGEST:
            raise InvalidInputError(
                f"{self._definition.kind} {self._definition.name!r} cannot count {short(value)}: its sum would stay "
                "so. Leave such values out, or set a gauge to them"
            )

    def __repr__(self) -> str:
        values = f" {dict(zip(self._definition.labels, self._values, strict=True))}" if self._values else ""
        return f"<{self._definition.kind} {self._definition.name}{values}>"

    def __reduce__(self) -> Any:
        return type(self), (self._definition, self._values)


class Counter(_Named):
    """A count that never goes back: Prometheus has its name with ``_total`` behind it."""

    __slots__ = ()

    def inc(self, amount: float = 1) -> None:
        """Count one, or ``amount`` more. Raises `InvalidInputError` where that is less than none, or not finite."""
        self._check_finite(amount)
        if amount < 0:
            raise InvalidInputError(
                f"counter {self._definition.name!r} cannot count {short(amount)}: it never goes back. Use a gauge"
            )
        self._here().inc(amount)

    def count_exceptions(self, kind: type[BaseException] | tuple[type[BaseException], ...] = Exception) -> Block:
        """Count the exceptions that leave the block, or the function that this decorates."""
        return Block(partial(self._counted, kind))

    @contextlib.contextmanager
    def _counted(self, kind: type[BaseException] | tuple[type[BaseException], ...]) -> Iterator[None]:
        try:
            yield
        except kind:
            self.inc()
            raise


class Gauge(_Named):
    """A value that goes up and down: each replica has its own."""

    __slots__ = ()

    def set(self, value: float) -> None:
        """Set the gauge to ``value``, which may be infinite, or no number."""
        self._here().set(float(value))

    def inc(self, amount: float = 1) -> None:
        """Add one, or ``amount``."""
        self._here().inc(amount)

    def dec(self, amount: float = 1) -> None:
        """Take one away, or ``amount``."""
        self._here().dec(amount)

    def set_to_current_time(self) -> None:
        """Set the gauge to the seconds since 1970."""
        self.set(time.time())

    def track_inprogress(self) -> Block:
        """The gauge is one more while the block, or the function that this decorates, runs."""
        return Block(self._tracked)

    @contextlib.contextmanager
    def _tracked(self) -> Iterator[None]:
        here = self._here()
        here.inc()
        try:
            yield
        finally:
            here.dec()


class Histogram(_Named):
    """Observed values, counted by buckets."""

    __slots__ = ()

    def observe(self, value: float) -> None:
        """Count ``value`` in its bucket. Raises `InvalidInputError` where ``value`` is not finite."""
        self._check_finite(value)
        self._here().observe(value)

    def time(self) -> Block:
        """Observe how many seconds the block, or the function that this decorates, takes."""
        return Block(self._timed)

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.observe(time.perf_counter() - began)


@checked
def counter(name: str, documentation: str, labels: Sequence[str] = ()) -> Counter:
    """The counter of that name, which is made where there is none; for handlers, and for what they call.

    Args:
        name: as in Prometheus, without ``_total``, which is added there.
        documentation: what is counted.
        labels: the names of its labels.

    Raises:
        InvalidInputError: the name is none that Prometheus takes, or the metric of that name is another.
    """
    while name.endswith("_total"):
        name = name.removesuffix("_total")
    return Counter(_define("counter", name, documentation, labels))


@checked
def gauge(name: str, documentation: str, labels: Sequence[str] = ()) -> Gauge:
    """The gauge of that name, as `counter` gives counters."""
    return Gauge(_define("gauge", name, documentation, labels))


@checked
def histogram(
    name: str, documentation: str, labels: Sequence[str] = (), buckets: Sequence[float] = DEFAULT_BUCKETS
) -> Histogram:
    """The histogram of that name, as `counter` gives counters.

    Args:
        name: as in Prometheus.
        documentation: what is observed, and in which unit.
        labels: the names of its labels.
        buckets: the upper bounds of its buckets, in rising order; default, such as suit seconds.
    """
    bounds = [bound for bound in buckets if bound != math.inf]
    is_rising = all(low < high for low, high in pairwise(bounds))
    if not (0 < len(bounds) <= MOST_BUCKETS and is_rising and bounds[0] >= -LARGEST and bounds[-1] <= LARGEST):
        raise InvalidInputError(
            f"histogram {name!r} has the buckets {short(list(buckets))}: give from 1 to {MOST_BUCKETS} numbers, each "
            "above the one before"
        )
    return Histogram(_define("histogram", name, documentation, labels, tuple(map(float, bounds))))


@checked
def report(name: str, value: float) -> None:
    """Report a figure that says how well this version does, its accuracy, say: judges of roll-outs compare versions by
    the mean, and Prometheus has it as ``servekit_reported``. For handlers, and for what they call.

    Args:
        name: what the figure is called; of many names, those beyond the limit on series go nowhere.
        value: finite.

    Raises:
        InvalidInputError: ``value`` is not finite, or ``name`` is empty.
    """
    if not name:
        raise InvalidInputError(f"report: the figure {value!r} has no name; give one, as in report('accuracy', 0.93)")
    Histogram(_REPORTED).labels(name).observe(value)


def _define(
    kind: str, name: str, documentation: str, labels: Iterable[str], bounds: tuple[float, ...] = ()
) -> Definition:
    if not _NAME.fullmatch(name) or len(name) > _NAME_CHARS:
        raise InvalidInputError(
            f"the metric's name {short(name)} is none that Prometheus takes: write letters, digits and _, at most "
            f"{_NAME_CHARS}, and no digit first"
        )
    if name.startswith("servekit_"):
        raise InvalidInputError(
            f"the metric's name {name!r} would be taken for one of servekit's own: do not begin it with servekit_"
        )
    text, names = _sendable(documentation[:DOCUMENTATION_CHARS]), _checked_labels(name, tuple(labels))
    return recorder.get().define(Definition(kind, name, text, names, bounds))


def _sendable(text: str) -> str:
    """The text without lone surrogates, which no frame takes."""
    return text if text.isascii() else text.encode(errors="replace").decode()


def _checked_labels(name: str, labels: tuple[str, ...]) -> tuple[str, ...]:
    if len(labels) > MOST_LABELS or len(set(labels)) < len(labels):
        raise InvalidInputError(
            f"metric {name!r} has the labels {short(labels)}: give each once, at most {MOST_LABELS}"
        )
    for label in labels:
        if not _NAME.fullmatch(label) or label.startswith("__") or len(label) > _NAME_CHARS or label == "quantile":
            raise InvalidInputError(
                f"the label {short(label)} of metric {name!r} is none that Prometheus takes: write letters, digits and "
                f"_, at most {_NAME_CHARS}, no digit first and not __"
            )
        if label in _TAKEN_LABELS:
            why = _TAKEN_LABELS[label]
            raise InvalidInputError(f"the label {label!r} of metric {name!r} is taken, for {why}: take another name")
    return labels
