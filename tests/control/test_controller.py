from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from tests.support.waiting import until_async

from servekit.config import Autoscaling
from servekit.control import autoscalers, state
from servekit.control import controller as module
from servekit.control.events import EventLog
from servekit.control.plan import ReplicaState
from servekit.errors import BackendStartError, DeadlineError, InUseError, InvalidInputError, NotFoundError, StoreError
from servekit.interfaces import TrafficEvent
from servekit.wire.control_frames import Report

FAULT = BackendStartError("its __init__ raised")


@pytest.fixture
def run(new_control: Any, make: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs a test on a controller with endpoint ``e``, and its backend ``b`` with one ready replica."""
    monkeypatch.setattr(module, "FIRST_RETRY_S", 0.001)

    def run(test: Callable[[Any], Any]) -> None:
        async def whole() -> None:
            control = new_control(make.desired(make.endpoint(traffic={"b": 1.0}), make.backend()))
            await control.controller.begin()
            await until_async(lambda: len(control.ready("b")) == 1)
            try:
                await asyncio.wait_for(test(control), 10)
            finally:
                await control.end()

        asyncio.run(whole())

    return run


def test_a_change_is_saved_published_and_told(run: Any, make: Any) -> None:
    async def test(control: Any) -> None:
        await control.controller.create_backend(make.backend("c"), wait=True)
        await control.controller.change(state.set_traffic, "e", {"b": 0.5, "c": 0.5})
        assert control.store_thread.store.saved[-1] == control.controller.desired
        assert control.ingresses.contents[-1].endpoints["e"].traffic == {"b": 0.5, "c": 0.5}
        assert control.told == [TrafficEvent("e", {"b": 0.5, "c": 0.5})]

    run(test)


def test_an_event_that_cannot_be_saved_fails_no_change(run: Any, make: Any) -> None:
    async def never(*_: Any) -> None:
        raise StoreError("no room")

    async def test(control: Any) -> None:
        events = control.controller.event_log = EventLog((), never)
        await control.controller.change(state.add_endpoint, make.endpoint("f"))
        assert control.controller.desired.endpoints.keys() == {"e", "f"}
        assert [event["kind"] for event in events.told()] == ["endpoint_created"]

    run(test)


def test_ejections_are_told_and_not_logged_twice(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def test(control: Any) -> None:
        control.controller.replicas_ejected([("b", "r1-aaaaaa", "gets no requests for 30 s")])
        (event,) = control.controller.event_log.told(kind="replica_ejected")
        assert (event["text"], event["replica"]) == ("replica b r1-aaaaaa gets no requests for 30 s", "r1-aaaaaa")
        assert "gets no requests" not in caplog.text

    run(test)


def test_a_change_that_cannot_be_saved_is_not_made(run: Any, make: Any) -> None:
    async def test(control: Any) -> None:
        before, published = control.controller.desired, list(control.ingresses.contents)
        control.store_thread.store.fault = OSError("the disk is full")
        with pytest.raises(OSError, match="full"):
            await control.controller.change(state.add_endpoint, make.endpoint("f"))
        assert control.controller.desired is before
        assert control.ingresses.contents == published

    run(test)


def test_a_backend_is_ready_when_create_backend_returns(run: Any, make: Any) -> None:
    async def test(control: Any) -> None:
        await control.controller.create_backend(make.backend("c", config={"num_replicas": 3}), wait=True)
        assert len(control.ready("c")) == 3
        assert len(control.ingresses.contents[-1].backends["c"].replicas) == 3

    run(test)


def test_a_backend_that_cannot_start_is_gone_again(run: Any, make: Any) -> None:
    async def test(control: Any) -> None:
        await control.controller.create_backend(make.backend("c"), wait=True)
        await control.controller.delete_backend("c")
        kept = control.controller.desired.kept
        control.workers.fails = FAULT
        for _ in range(3):
            with pytest.raises(BackendStartError, match="__init__ raised"):
                await control.controller.create_backend(make.backend("c", config={"num_replicas": 2}), wait=True)
            assert "c" not in control.controller.desired.backends
            assert control.replicas.of("c") == []
            assert control.controller.desired.kept == kept
        control.workers.fails = None
        await control.controller.create_backend(make.backend("c"), wait=True)

    run(test)


def test_a_name_that_failed_before_is_not_held_back(run: Any, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_RETRY_S", 1000.0)

    async def test(control: Any) -> None:
        control.workers.fails = FAULT
        with pytest.raises(BackendStartError):
            await control.controller.create_backend(make.backend("c"), wait=True)
        control.workers.fails = None
        await control.controller.create_backend(make.backend("c"), wait=True)

    run(test)


def test_a_replica_that_ends_is_replaced(run: Any) -> None:
    async def test(control: Any) -> None:
        (first,) = control.ready("b")
        control.workers.end(first, FAULT)
        await until_async(lambda: [replica.id != first.id for replica in control.ready("b")] == [True])
        assert control.controller.failures["b"].start_error is None  # It had been ready.

    run(test)


def test_ingress_workers_are_told_which_replicas_are_on_their_way_out(run: Any) -> None:
    async def test(control: Any) -> None:
        (first,) = control.ready("b")
        control.workers.linger = True
        await control.controller.update_backend_config("b", {"num_replicas": 0})
        assert control.ingresses.contents[-1].leaving == (first.id,)
        control.workers.end(first, FAULT)
        await until_async(lambda: control.ingresses.contents[-1].leaving == ())

    run(test)


def test_they_are_replaced_later_and_later_when_they_keep_failing(
    run: Any, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LONGEST_RETRY_S", 0.005)

    async def test(control: Any) -> None:
        pauses = pauses_before(control.controller.changed)
        control.workers.fails = FAULT
        await control.controller.create_backend(make.backend("c"), wait=False)
        await until_async(lambda: len(pauses) >= 5)
        assert pauses[:5] == pytest.approx([0.002, 0.003, 0.005, 0.006, 0.006])
        assert str(control.controller.failures["c"].start_error) == "its __init__ raised"
        control.workers.fails = None
        await until_async(lambda: len(control.ready("c")) == 1)

    run(test)


def pauses_before(callback: Callable[[], None]) -> list[float]:
    """The delays with which ``callback`` is scheduled on the running loop from now on."""
    loop: Any = asyncio.get_running_loop()
    pauses: list[float] = []
    call_later = loop.call_later

    def record(delay: float, call: Any, *arguments: Any, **more: Any) -> Any:
        if call == callback:
            pauses.append(delay)
        return call_later(delay, call, *arguments, **more)

    loop.call_later = record
    return pauses


def test_a_config_that_replicas_take_over_replaces_none(run: Any) -> None:
    async def test(control: Any) -> None:
        before = control.ready("b")
        await control.controller.update_backend_config("b", {"num_replicas": 3, "max_queued_requests": 5})
        assert before[0] in control.ready("b")
        assert len(control.ready("b")) == 3
        await control.controller.update_backend_config("b", {"num_replicas": 1})
        assert control.ready("b") == before
        assert control.controller.desired.backend("b").config.max_queued_requests == 5

    run(test)


def test_a_config_that_they_do_not_replaces_all(run: Any) -> None:
    async def test(control: Any) -> None:
        (before,) = control.ready("b")
        await control.controller.update_backend_config("b", {"max_concurrent_queries": 4})
        await until_async(lambda: before.id not in control.replicas.replicas)
        (after,) = control.ready("b")
        assert (after.record.revision, after.record.config.max_concurrent_queries) == (2, 4)

    run(test)


def test_a_config_that_cannot_start_is_taken_back(run: Any) -> None:
    async def test(control: Any) -> None:
        before = control.ready("b")
        old = control.controller.desired.backend("b")
        control.workers.fails = FAULT
        with pytest.raises(BackendStartError):
            await control.controller.update_backend_config("b", {"max_concurrent_queries": 4})
        assert control.controller.desired.backend("b") == old
        assert control.ready("b") == before

    run(test)


def test_what_a_failed_change_has_left_does_not_pass_for_the_next(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_RETRY_S", 0.0)

    async def test(control: Any) -> None:
        control.workers.linger = True  # They take their time to end.
        control.workers.silent = 1
        control.workers.fails = FAULT
        with pytest.raises(BackendStartError):
            await control.controller.update_backend_config("b", {"max_concurrent_queries": 4, "num_replicas": 2})
        control.workers.fails = None
        left = [replica.record.revision for replica in control.replicas.of("b")]
        assert set(left) == {1, 2}
        await control.controller.update_backend_config("b", {"max_concurrent_queries": 5})
        current = control.controller.desired.backend("b")
        assert current.revision > max(left)
        assert all(replica.record is current for replica in control.ready("b"))

    run(test)


def test_two_changes_of_a_config_at_once_lose_neither(run: Any) -> None:
    async def test(control: Any) -> None:
        await asyncio.gather(
            control.controller.update_backend_config("b", {"max_queued_requests": 7}),
            control.controller.update_backend_config("b", {"callable_methods": ("train",)}),
        )
        config = control.controller.desired.backend("b").config
        assert (config.max_queued_requests, config.callable_methods) == (7, ("train",))

    run(test)


def test_a_roll_out_is_cancelled(run: Any) -> None:
    async def test(control: Any) -> None:
        before, cancelled = control.controller.desired, asyncio.Event()
        again = msgspec.structs.replace(before.backends["b"], revision=0)
        control.workers.silent = 1
        rolling = asyncio.ensure_future(control.controller.roll_out(lambda _: {"b": again}, cancelled=cancelled))
        await until_async(lambda: len(control.replicas.of("b")) == 2)
        cancelled.set()
        with pytest.raises(InUseError, match="it was cancelled"):
            await rolling
        after = control.controller.desired
        assert (after.backends, after.kept) == (before.backends, before.kept)

    run(test)


async def restarting(control: Any) -> tuple[asyncio.Task[None], Any]:
    """A roll-out of ``b``, and its new replica, which says nothing yet."""
    control.workers.silent = 1
    rolling = asyncio.ensure_future(control.controller.update_backend_config("b", {"max_concurrent_queries": 3}))
    await until_async(lambda: len(control.replicas.of("b")) == 2)
    return rolling, max(control.replicas.of("b"), key=lambda replica: replica.number)


def test_a_roll_out_goes_on_waiting_where_another_changes_the_config_in_place(run: Any) -> None:
    async def test(control: Any) -> None:
        rolling, replica = await restarting(control)
        other = asyncio.ensure_future(control.controller.update_backend_config("b", {"max_queued_requests": 7}))
        await until_async(lambda: control.controller.desired.backend("b").config.max_queued_requests == 7)
        control.controller.changed()
        done, _ = await asyncio.wait([rolling, other], timeout=0.05)
        assert not done
        control.workers.dial(replica)
        await asyncio.gather(rolling, other)
        assert [each.id for each in control.ready("b")] == [replica.id]

    run(test)


@pytest.mark.parametrize("deleted", [False, True])
def test_a_roll_out_fails_where_its_backend_gets_another_revision_or_goes(run: Any, deleted: bool) -> None:
    async def test(control: Any) -> None:
        rolling, _ = await restarting(control)
        if deleted:
            await control.controller.change(state.remove_endpoint, "e")
            await control.controller.delete_backend("b")
        else:
            await control.controller.restart_backend("b")
        with pytest.raises(InUseError, match=f"'b' was {'deleted' if deleted else 'changed'} by another change"):
            await rolling
        assert [*control.controller.desired.backends] == ([] if deleted else ["b"])

    run(test)


@pytest.mark.parametrize("cancelled", [False, True])
def test_what_serves_is_kept_from_the_first_change_of_a_roll_out(run: Any, cancelled: bool) -> None:
    async def test(control: Any) -> None:
        before = control.controller.desired
        rolling, replica = await restarting(control)
        saved = control.store_thread.store.saved
        assert saved[-1].kept["b"].records == (before.backends["b"],)
        if cancelled:
            rolling.cancel()
        else:
            replica.fail(FAULT)
            control.controller.changed()
        with pytest.raises(asyncio.CancelledError if cancelled else BackendStartError):
            await rolling
        assert (saved[-1].backends, saved[-1].kept) == (before.backends, before.kept)

    run(test)


def test_a_bad_config_changes_nothing(run: Any) -> None:
    async def test(control: Any) -> None:
        before = control.controller.desired
        with pytest.raises(InvalidInputError):
            await control.controller.update_backend_config("b", {"num_replicas": -1})
        with pytest.raises(NotFoundError):
            await control.controller.update_backend_config("x", {"num_replicas": 1})
        assert control.controller.desired is before

    run(test)


# -- user_config -------------------------------------------------------------------------------------------------


def test_a_user_config_reaches_every_replica_and_replaces_none(run: Any) -> None:
    async def test(control: Any) -> None:
        await control.controller.update_backend_config("b", {"num_replicas": 3})
        before = control.ready("b")
        await control.controller.update_backend_config("b", {"user_config": {"a": 1}})
        assert control.user_configs() == [{"a": 1}] * 3
        assert control.ready("b") == before
        assert control.ingresses.contents[-1].backends["b"].config.user_config is None
        await control.controller.update_backend_config("b", {"user_config": {"a": 1}})
        assert control.user_configs() == [{"a": 1}] * 3

    run(test)


def test_a_user_config_that_a_handler_raises_on_is_taken_back(run: Any) -> None:
    async def test(control: Any) -> None:
        (replica,) = control.ready("b")
        replica.link.refuse = "bad"
        await control.controller.update_backend_config("b", {"user_config": "good"})
        for _ in range(2):
            with pytest.raises(BackendStartError, match="Traceback: no"):
                await control.controller.update_backend_config("b", {"user_config": "bad"})
            assert control.controller.desired.backend("b").config.user_config == "good"
        assert control.user_configs() == ["good", "bad", "good", "bad", "good"]
        assert control.ready("b") == [replica]

    run(test)


def test_a_reconfigure_that_does_not_end_has_its_replica_replaced(run: Any) -> None:
    async def test(control: Any) -> None:
        (replica,) = control.ready("b")
        replica.link.silent = True
        with pytest.raises(DeadlineError, match=r"did not return within 0.05 s"):
            await control.controller.update_backend_config("b", {"user_config": 1, "startup_timeout_s": 0.05})
        await until_async(lambda: [each.id != replica.id for each in control.ready("b")] == [True])
        assert "reconfigure() did not return" in str(control.controller.failures["b"].last)
        assert control.controller.desired.backend("b").config.user_config is None

    run(test)


# -- health ------------------------------------------------------------------------------------------------------


def test_an_unhealthy_replica_gets_no_more_requests_and_is_replaced(run: Any) -> None:
    async def test(control: Any) -> None:
        (replica,) = control.ready("b")
        control.workers.linger = True
        control.controller.replica_unhealthy(replica, "it fell off the bus")
        assert replica.state is ReplicaState.DRAINING
        assert control.ingresses.contents[-1].backends["b"].replicas == ()
        await until_async(lambda: len(control.ready("b")) == 1)
        assert control.ready("b") != [replica]
        assert "it fell off the bus" in str(control.controller.failures["b"].last)
        assert control.controller.failures["b"].start_error is None

    run(test)


def test_none_is_recycled_in_the_look_in_which_another_hangs(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WATCH_S", 0.005)

    async def test(control: Any) -> None:
        changes = {"num_replicas": 2, "max_requests": 10, "hang_grace_s": 1.0}
        await control.controller.update_backend_config("b", changes)
        hung, worn = control.ready("b")
        control.workers.linger = True
        hung.frame_received(hung.link, Report(overdue_s=99.0))
        worn.frame_received(worn.link, Report(requests=99))
        await until_async(lambda: hung.state is ReplicaState.DRAINING)
        assert not worn.worn
        control.workers.linger = False
        await until_async(lambda: worn.worn)

    run(test)


@pytest.mark.parametrize("is_cut_off", [False, True])
def test_one_that_ends_by_itself_once_it_was_to_go_has_not_failed(
    run: Any, monkeypatch: pytest.MonkeyPatch, is_cut_off: bool
) -> None:
    async def test(control: Any) -> None:
        known = asyncio.Event()

        async def wait_applied(*_: Any) -> None:
            await known.wait()

        monkeypatch.setattr(control.ingresses, "wait_applied", wait_applied)
        (replica,) = control.ready("b")
        change = asyncio.create_task(control.controller.update_backend_config("b", {"num_replicas": 0}))
        await until_async(lambda: replica.state is ReplicaState.DRAINING)
        if is_cut_off:
            replica.lose("its machine is cut off")
        else:
            control.workers.end(replica, FAULT)
        await until_async(lambda: not control.replicas.of("b"))
        assert control.controller.failures["b"].last is None
        known.set()
        await change

    run(test)


# -- autoscaling -------------------------------------------------------------------------------------------------

SCALING = {"min_replicas": 0, "max_replicas": 5, "target_ongoing_requests": 2.0, "upscale_delay_s": 0.0}


@pytest.fixture
def scaled(new_control: Any, make: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs a test on a controller whose backend ``b`` autoscales from none, under one ingress worker."""
    monkeypatch.setattr(autoscalers, "DECIDE_EVERY_S", 0.005)

    def run(test: Callable[[Any], Any], **changes: Any) -> None:
        async def whole() -> None:
            config = {"num_replicas": 0, "autoscaling": Autoscaling(**{**SCALING, **changes})}
            control = new_control(make.desired(make.backend(config=config)))
            control.ingresses.linked()
            await control.controller.begin()
            try:
                await asyncio.wait_for(test(control), 10)
            finally:
                await control.end()

        asyncio.run(whole())

    return run


def test_replicas_follow_what_ingress_workers_report(scaled: Any) -> None:
    async def test(control: Any) -> None:
        control.ingresses.report({}, {"b": 1})
        await until_async(lambda: len(control.ready("b")) == 1)
        control.ingresses.report({control.ready("b")[0].id: 6}, {"b": 1})
        await until_async(lambda: len(control.ready("b")) == 4)
        assert control.controller.autoscalers.load("b") == 7.0
        control.ingresses.report({}, {})
        await until_async(lambda: not control.replicas.of("b"))

    scaled(test, downscale_delay_s=0.01)


def test_without_reports_nothing_changes(scaled: Any) -> None:
    async def test(control: Any) -> None:
        control.ingresses.report({}, {"b": 4})
        await until_async(lambda: len(control.ready("b")) == 2)
        control.ingresses.linked().report = None
        for _ in range(10):
            control.controller.autoscalers.decide()
            await asyncio.sleep(0.002)
        assert len(control.ready("b")) == 2

    scaled(test, downscale_delay_s=0.0)


def test_requests_that_wait_need_not_wait_for_the_clock(scaled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoscalers, "DECIDE_EVERY_S", 1000.0)

    async def test(control: Any) -> None:
        control.ingresses.report({}, {"b": 1})
        control.controller.autoscalers.decide()
        await until_async(lambda: len(control.ready("b")) == 1)

    scaled(test)


def test_there_is_no_clock_where_nothing_autoscales(run: Any) -> None:
    async def test(control: Any) -> None:
        timers = pauses_before(control.controller.autoscalers._decide_again)
        await control.controller.update_backend_config("b", {"num_replicas": 2})
        assert timers == []
        await control.controller.update_backend_config("b", {"autoscaling": {**SCALING, "min_replicas": 3}})
        assert len(timers) == 1
        assert len(control.ready("b")) == 3
        await control.controller.update_backend_config("b", {"autoscaling": None})
        assert len(control.ready("b")) == 2

    run(test)


def test_a_new_controller_begins_with_what_runs(new_control: Any, make: Any) -> None:
    async def test() -> None:
        config = {"num_replicas": 1, "autoscaling": Autoscaling(**SCALING)}
        control = new_control(make.desired(make.backend(config=config)))
        for _ in range(3):
            control.replicas.start(control.controller.desired.backend("b"))
        await control.controller.begin()
        await until_async(lambda: len(control.ready("b")) == 3)
        assert control.controller.autoscalers.replicas(control.controller.desired.backend("b")) == 3
        await control.end()
        none = new_control(make.desired(make.backend(config=config)))
        await none.controller.begin()
        assert none.replicas.of("b") == []

    asyncio.run(test())


def test_no_snapshot_is_published_before_all_replicas_of_an_earlier_controller_are_known(
    new_control: Any, make: Any
) -> None:
    async def test() -> None:
        control = new_control(make.desired(make.backend(config={"num_replicas": 2})))
        control.workers.silent = 1
        for _ in range(2):
            control.replicas.start(control.controller.desired.backend("b"))
        beginning = asyncio.ensure_future(control.controller.begin())
        await until_async(lambda: len(control.ready("b")) == 1)
        assert control.ingresses.contents == []
        assert not beginning.done()
        (silent,) = (replica for replica in control.replicas.of("b") if replica.state is ReplicaState.STARTING)
        control.workers.dial(silent)
        await beginning
        assert [len(content.backends["b"].replicas) for content in control.ingresses.contents] == [2]
        await control.end()

    asyncio.run(test())


def test_delete_backend_returns_when_its_replicas_have_ended(run: Any) -> None:
    async def test(control: Any) -> None:
        await control.controller.change(state.remove_endpoint, "e")
        control.workers.linger = True
        deleting = asyncio.ensure_future(control.controller.delete_backend("b"))
        await until_async(lambda: "b" not in control.controller.desired.backends)
        await asyncio.sleep(0.01)
        assert not deleting.done()
        control.workers.linger = False
        await deleting

    run(test)


def test_a_name_may_be_used_again_while_its_replicas_are_still_ending(run: Any, make: Any) -> None:
    async def test(control: Any) -> None:
        await control.controller.change(state.remove_endpoint, "e")
        control.workers.linger = True
        deleting = asyncio.ensure_future(control.controller.delete_backend("b"))
        await until_async(lambda: "b" not in control.controller.desired.backends)
        await control.controller.create_backend(make.backend(), wait=True)
        control.workers.linger = False
        await deleting
        assert len(control.ready("b")) == 1

    run(test)
