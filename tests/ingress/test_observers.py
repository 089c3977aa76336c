"""Request observers in an ingress worker: told in one thread at a time, and closed within a bound."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from servekit.errors import InvalidInputError
from servekit.ingress import observers
from servekit.ingress.observers import MOST_RECORDS, Observers, build_observer
from servekit.interfaces import RequestObserver, RequestRecord
from servekit.wire.control_frames import PluginRef

RECORD = RequestRecord("id", "e", "b", "r1", "GET", "/x", 200, 0.01)


class Told(RequestObserver):
    def __init__(self, trace_share: float = 0.0) -> None:
        self.trace_share = trace_share
        self.records: list[RequestRecord] = []
        self.closed = 0

    def requests_finished(self, records: Sequence[RequestRecord]) -> None:
        self.records += records

    def close(self) -> None:
        self.closed += 1


class Failing(Told):
    def requests_finished(self, records: Sequence[RequestRecord]) -> None:
        raise RuntimeError("its own trouble")

    close = requests_finished  # type: ignore[assignment]  # raises, too


def test_every_observer_is_told_whatever_another_does(caplog: pytest.LogCaptureFixture) -> None:
    failing, told = Failing(0.25), Told(0.5)
    watching = Observers([], None, [failing, told])
    assert watching
    assert watching.trace_share == 0.5
    watching.add(RECORD)
    watching.flush()
    watching.flush()
    assert told.records == [RECORD]
    watching.add(RECORD)
    asyncio.run(watching.close())
    assert (told.records, told.closed) == ([RECORD, RECORD], 1)
    assert "request observer Failing raised; the other observers go on" in caplog.text
    assert "request observer Failing could not be closed" in caplog.text


def test_without_observers_no_trace_begins() -> None:
    nobody = Observers([])
    assert not nobody
    assert nobody.trace_share == 0.0
    asyncio.run(nobody.close())


def test_records_beyond_a_bound_are_dropped_and_that_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    told = Told()
    watching = Observers([], None, [told])
    for _ in range(MOST_RECORDS + 3):
        watching.add(RECORD)
    with caplog.at_level(logging.WARNING):
        watching.flush()
    assert len(told.records) == MOST_RECORDS
    assert "3 request records were dropped" in caplog.text


def test_one_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(observers, "CLOSE_TIMEOUT_S", 0.05)
    gate = threading.Event()

    class Hanging(Told):
        def close(self) -> None:
            gate.wait()

    try:
        asyncio.run(Observers([], None, [Hanging()]).close())
        assert "the last request records may be lost" in caplog.text
    finally:
        gate.set()


def made(**options: Any) -> RequestObserver:
    return Told(**options)


def no_observer() -> Any:
    return 1


def test_a_worker_builds_one_by_its_path() -> None:
    assert build_observer(PluginRef(f"{__name__}:made", {"trace_share": 0.1})).trace_share == 0.1
    with pytest.raises(InvalidInputError, match=r"which is no servekit.interfaces.RequestObserver"):
        build_observer(PluginRef(f"{__name__}:no_observer"))
