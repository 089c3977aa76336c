"""Handles themselves: what they ask for, and of whom."""

from __future__ import annotations

import math
import pickle
import time
from typing import Any

import msgspec
import pytest

import servekit
from servekit.context import Context, current_call
from servekit.errors import DeadlineError, InvalidInputError, NotRunningError
from servekit.handles import callers
from servekit.handles.future import CallFuture
from servekit.handles.handle import Handle
from servekit.handles.payload import unpack
from servekit.wire.data_frames import Invoke


class Asked:
    """In the place of a `Caller`: remembers what it is to send."""

    is_here = True

    def __init__(self) -> None:
        self.calls: list[tuple[Invoke, Any, float]] = []

    def call(self, invoke: Invoke, payload: bytes, timeout_s: float) -> CallFuture:
        self.calls.append((invoke, unpack(payload), timeout_s))
        return CallFuture(lambda: None)


@pytest.fixture
def asked() -> Any:
    return Asked()


def within(remaining_s: float) -> Context:
    return Context("b", "r2", "outer", "the-id", 1, time.perf_counter() + remaining_s, ("r1", "r2"))


def test_a_script_asks_for_what_its_handle_says(asked: Any) -> None:
    handle = Handle("e", asked)
    handle.remote(1, a=2)
    handle.options(method_name="m").options(timeout_s=1.5).remote()
    (first, arguments, waits_s), (second, _, waits_less_s) = asked.calls
    assert arguments == ((1,), {"a": 2})
    assert (first.endpoint, first.method, first.timeout_ms, first.limit_ms, first.chain) == ("e", None, None, None, ())
    assert (second.method, second.timeout_ms) == ("m", 1500)
    assert (waits_s, waits_less_s) == (60.0, 1.5)
    handle.remote()
    assert asked.calls[2][0].method is None, "options make another handle"


def test_a_handler_asks_in_the_name_of_its_own_call(asked: Any) -> None:
    token = current_call.set(within(2.0))
    try:
        Handle("e", asked).options(timeout_s=50.0).remote()
    finally:
        current_call.reset(token)
    invoke, _, waits_s = asked.calls[0]
    assert (invoke.chain, invoke.request_id, invoke.timeout_ms) == (("r1", "r2"), "the-id", 50_000)
    assert 0 < invoke.limit_ms <= 2000
    assert 0 < waits_s <= 2.0


def test_a_handler_passes_on_the_trace_of_its_own_call(asked: Any) -> None:
    trace = [(b"baggage", b"a=1"), (b"traceparent", b"00-1-2-01"), (b"tracestate", b"v=1")]
    token = current_call.set(msgspec.structs.replace(within(2.0), headers=[(b"cookie", b"secret"), *trace]))
    try:
        Handle("e", asked).remote()
    finally:
        current_call.reset(token)
    assert asked.calls[0][0].headers == tuple(trace)


def test_a_handler_without_time_does_not_ask(asked: Any) -> None:
    token = current_call.set(within(-1.0))
    try:
        future = Handle("e", asked).remote()
    finally:
        current_call.reset(token)
    with pytest.raises(DeadlineError, match="no time left"):
        future.result(0)
    assert not asked.calls


@pytest.mark.parametrize(
    "options",
    [
        {"method_name": "_m"},
        {"method_name": "__call__"},
        {"method_name": "not one"},
        {"method_name": ""},
        {"timeout_s": 0},
        {"timeout_s": -1.0},
        {"timeout_s": math.inf},
        {"timeout_s": math.nan},
    ],
)
def test_options_that_are_none(asked: Any, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        Handle("e", asked).options(**options)


def test_a_handle_that_was_pickled_asks_where_it_is(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = Handle("e", asked, "m", 2.0)
    assert repr(handle) == "<servekit handle of endpoint 'e', method 'm'>"
    there: Any = Asked()
    monkeypatch.setattr(callers, "in_worker", there)
    again = pickle.loads(pickle.dumps(handle))
    again.remote(3)
    assert not asked.calls
    invoke, arguments, _ = there.calls[0]
    assert (invoke.endpoint, invoke.method, invoke.timeout_ms, arguments) == ("e", "m", 2000, ((3,), {}))
    servekit.get_handle("f").remote()
    assert there.calls[1][0].endpoint == "f"


def test_where_no_instance_is_running_there_are_no_handles() -> None:
    with pytest.raises(NotRunningError):
        servekit.get_handle("e")
    with pytest.raises(NotRunningError):
        pickle.loads(pickle.dumps(Handle("e", None))).remote()
