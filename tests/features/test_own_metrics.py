"""Metrics of handlers' own, from a handler to the controller, in instances inside this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.support.waiting import until

import servekit as serve
from servekit import inprocess
from servekit.control.service import Service
from servekit.testing.instances import ServedInstance, open_host
from servekit.testing.instances import serve as serve_in

WORDS = serve.metrics.counter("test_words", "Words that were read", labels=("language",))
"""A global, as most will be."""

Open = Callable[[], "Opened"]


def read(request: Any) -> str:
    WORDS.labels(request.args["language"]).inc()
    return "read"


@serve.accept_batch
def read_all(requests: list[Any]) -> list[str]:
    WORDS.labels("batch").inc(len(requests))
    return ["read"] * len(requests)


async def read_async(request: Any) -> str:
    await asyncio.to_thread(WORDS.labels("async").inc)
    return "read"


class Model:
    def __init__(self, kind: str) -> None:
        self.loaded = getattr(serve.metrics, kind)("test_loaded", "Models")
        self.loaded.inc()

    def __call__(self, request: Any) -> str:
        self.loaded.inc()
        return "hello"


class Opened:
    """An instance, and what its controller knows of metrics."""

    def __init__(self, served: ServedInstance, service: Service) -> None:
        self.served = served
        self._service = service

    def lines(self, start: str = "test_") -> list[str]:
        instance: Any = self.served.instance
        text, _ = instance.submit(self._service.metrics.scraped(""))
        return [line for line in text.decode().splitlines() if line.startswith(start)]

    def get(self, path: str) -> None:
        assert self.served.client.get(path).status_code == 200


@pytest.fixture
def instances(monkeypatch: pytest.MonkeyPatch) -> Iterator[Iterator[Opened]]:
    """Each is another instance; the one before is over."""
    services: list[Service] = []

    class Kept(Service):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            services.append(self)

    monkeypatch.setattr(inprocess, "Service", Kept)

    def opened() -> Iterator[Opened]:
        with open_host("inprocess") as host:
            while True:
                with serve_in(host) as served:
                    yield Opened(served, services[-1])

    found: Any = opened()
    yield found
    found.close()


def test_replicas_are_summed_and_what_ended_stays(instances: Iterator[Opened]) -> None:
    here = next(instances)
    serve.create_backend("a", read, config={"num_replicas": 2})
    serve.create_backend("b", read)
    for name in ("a", "b"):
        serve.create_endpoint(name, f"/{name}", backend=name)
    for _ in range(6):
        here.get("/a?language=en")
    here.get("/b?language=de")
    expected = [
        'test_words_total{backend="a",language="en"} 6.0',
        'test_words_total{backend="b",language="de"} 1.0',
    ]
    until(lambda: here.lines() == expected)
    here.get("/b?language=de")  # What a replica has not told yet, it tells at its end.
    serve.delete_endpoint("b")
    serve.delete_backend("b")
    expected[1] = expected[1].replace("1.0", "2.0")
    assert here.lines() == expected
    serve.update_backend_config("a", {"num_replicas": 1})
    here.get("/a?language=en")
    until(lambda: here.lines() == [expected[0].replace("6.0", "7.0"), expected[1]])


def test_another_instance_begins_anew_and_may_have_another_metric_of_the_name(instances: Iterator[Opened]) -> None:
    for kind, text in (("gauge", 'test_loaded{backend="m",replica='), ("counter", 'test_loaded_total{backend="m"}')):
        here = next(instances)
        serve.create_backend("m", Model, kind)
        serve.create_endpoint("m", "/m", backend="m")
        here.get("/m")
        until(lambda here=here: [line.split()[-1] for line in here.lines()] == ["2.0"])  # type: ignore[misc]
        assert here.lines()[0].startswith(text)


def test_what_is_of_another_kind_already_is_the_handlers_error(instances: Iterator[Opened]) -> None:
    next(instances)

    class Wrong:
        def __init__(self) -> None:
            serve.metrics.gauge("test_loaded", "Models")
            serve.metrics.counter("test_loaded", "Models")

        def __call__(self, request: Any) -> str:
            return "hello"

    with pytest.raises(serve.ServekitError, match="'test_loaded' is a gauge without labels already"):
        serve.create_backend("wrong", Wrong)


def test_batches_and_coroutines_count_in_their_replica(instances: Iterator[Opened]) -> None:
    here = next(instances)
    serve.create_backend("batch", read_all, config={"max_batch_size": 4})
    serve.create_backend("async", read_async)
    for name in ("batch", "async"):
        serve.create_endpoint(name, f"/{name}", backend=name)
        here.get(f"/{name}")
    until(lambda: len(here.lines()) == 2)
    assert here.lines() == [
        'test_words_total{backend="async",language="async"} 1.0',
        'test_words_total{backend="batch",language="batch"} 1.0',
    ]
    assert here.lines("servekit_batch_size_") == [
        *(f'servekit_batch_size_bucket{{backend="batch",le="{2.0**power}"}} 1.0' for power in range(10)),
        'servekit_batch_size_bucket{backend="batch",le="+Inf"} 1.0',
        'servekit_batch_size_count{backend="batch"} 1.0',
        'servekit_batch_size_sum{backend="batch"} 1.0',
    ]
    assert here.lines("servekit_batch_wait_seconds_count") == ['servekit_batch_wait_seconds_count{backend="batch"} 1.0']
