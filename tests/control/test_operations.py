from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from servekit.control.counts import Counts
from servekit.control.operations import Operations, Resolver
from servekit.control.rollout_keeper import RolloutKeeper
from servekit.control.state import Desired
from servekit.errors import BackendStartError, InvalidInputError, NotFoundError, ServekitError
from servekit.interfaces import Placement, ReplicaRuntime
from servekit.plugins import Registry
from servekit.wire.control_frames import PluginRef, Report


class Plugins(Resolver):
    """In the place of the resolver, without an installed plugin, and of the runtimes."""

    def __init__(self) -> None:
        super().__init__(Registry((), (), ()))
        self.opened: list[tuple[str, Any]] = []
        self.refused: ServekitError | None = None
        self.placed = Placement()

    def policy(self, name: str, options: Any) -> PluginRef:
        return PluginRef(f"policies:{name}", dict(options))

    def adapter(self, name: str, options: Any) -> PluginRef:
        return PluginRef(f"adapters:{name}", dict(options))

    def check(self, name: str, options: Any) -> None: ...

    def lines(self) -> list[str]:
        return [f"runtime {name}: here" for name, _ in self.opened]

    async def get(self, name: str, options: Any) -> Any:
        self.opened.append((name, options))
        return ReplicaRuntime

    async def placement(self, name: str, runtime: Any, options: Any) -> Placement:
        if self.refused is not None:
            raise self.refused
        return self.placed


class Bench:
    def __init__(self, control: Any) -> None:
        self.control = control
        self.plugins: Any = Plugins()
        self.operations = Operations(
            control.controller,
            RolloutKeeper(control.controller, self.plugins.judge),
            self.plugins,
            self.plugins,
            control.store_thread,
            ("process", {"python": "x"}),
            lambda: {"name": "n"},
        )

    async def call(self, operation: str, **arguments: Any) -> Any:
        return json.loads(await self.operations.call(operation, msgspec.msgpack.encode(arguments)))

    async def create_backend(self, name: str = "b", **more: Any) -> Any:
        fixed = {"target_data": b"pickle", "target_text": "m:f", "sys_path": ["/lib"], "cwd": "/"}
        return await self.call("create_backend", name=name, **{**fixed, **more})


@pytest.fixture
def run(new_control: Any) -> Callable[..., None]:
    def run(test: Callable[[Bench], Any]) -> None:
        async def whole() -> None:
            control = new_control(Desired())
            await control.controller.begin()
            try:
                await asyncio.wait_for(test(Bench(control)), 10)
            finally:
                await control.end()

        asyncio.run(whole())

    return run


def test_from_nothing_to_traffic_and_back(run: Any) -> None:
    async def test(bench: Bench) -> None:
        await bench.create_backend(config={"num_replicas": 2})
        await bench.call("create_endpoint", name="e", route="/e", policy_options={"a": 1})
        assert await bench.call("get_traffic", name="e") == {}
        await bench.call("set_traffic", name="b", shares={"e": 1})
        assert await bench.call("get_traffic", name="e") == {"b": 1.0}
        await bench.call("update_backend_config", name="b", changes={"num_replicas": 1})
        assert (await bench.call("get_backend_config", name="b"))["num_replicas"] == 1
        assert (await bench.call("list_endpoints"))["e"] == {
            "route": "/e",
            "methods": ["GET"],
            "mount": False,
            "policy": "weighted",
            "timeout_s": 60.0,
            "strict": False,
            "traffic": {"b": 1.0},
        }
        listed = (await bench.call("list_backends"))["b"]
        assert (listed["target"], listed["adapter"], listed["runtime"]) == ("m:f", "flask", "process")
        await bench.call("delete_endpoint", name="e")
        await bench.call("delete_backend", name="b")
        assert await bench.call("list_endpoints") == await bench.call("list_backends") == {}

    run(test)


def test_code_that_is_none_is_refused_before_anything_changes(run: Any) -> None:
    async def test(bench: Bench) -> None:
        arguments = {"name": "b", "target_data": b"t", "target_text": "m:f", "sys_path": [], "cwd": "/"}
        with pytest.raises(InvalidInputError, match="code_data is not frozen code"):
            await bench.call("create_backend", **arguments, code_data=b"junk")
        assert bench.control.controller.desired.backends == {}

    run(test)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({}, ("GET",)),
        ({"methods": ["POST", "GET", "POST"]}, ("POST", "GET")),
        ({"mount": True}, ()),
        ({"mount": True, "methods": ["GET"]}, ("GET",)),
    ],
)
def test_the_methods_of_an_endpoint(run: Any, given: dict[str, Any], kept: tuple[str, ...]) -> None:
    async def test(bench: Bench) -> None:
        await bench.call("create_endpoint", name="e", route="/e", **given)
        assert bench.control.controller.desired.endpoint("e").methods == kept

    run(test)


def test_an_endpoint_with_no_method_is_refused(run: Any) -> None:
    async def test(bench: Bench) -> None:
        with pytest.raises(InvalidInputError, match="methods is empty"):
            await bench.call("create_endpoint", name="e", methods=[])

    run(test)


@pytest.mark.parametrize(
    ("operation", "arguments", "reason"),
    [
        ("create_endpoint", {}, "create_endpoint: .*name"),
        ("create_endpoint", {"name": 3}, r"create_endpoint: Expected `str`"),
        ("create_endpoint", {"name": "e", "rout": "/e"}, "unknown field `rout`"),
        ("set_traffic", {"name": "e", "shares": [1]}, "set_traffic: "),
        ("status", {"verbose": True}, "unknown field `verbose`"),
    ],
)
def test_arguments_that_do_not_fit(run: Any, operation: str, arguments: dict[str, Any], reason: str) -> None:
    async def test(bench: Bench) -> None:
        with pytest.raises(InvalidInputError, match=reason):
            await bench.call(operation, **arguments)
        desired = bench.control.controller.desired
        assert desired == Desired(number=desired.number)

    run(test)


def test_what_is_neither_json_nor_msgpack_nor_an_operation(run: Any) -> None:
    async def test(bench: Bench) -> None:
        assert json.loads(await bench.operations.call("list_backends", b"{}", json=True)) == {}
        for as_json, body in ((True, b"{"), (False, b"\xc1"), (True, b""), (False, b"")):
            with pytest.raises(InvalidInputError):
                await bench.operations.call("list_backends", body, json=as_json)
        with pytest.raises(NotFoundError, match="no operation 'destroy'; there are create_endpoint"):
            await bench.call("destroy")

    run(test)


def test_the_runtime_of_a_backend(run: Any) -> None:
    async def test(bench: Bench) -> None:
        await bench.create_backend("a")
        await bench.create_backend("b", runtime="process")
        await bench.create_backend("c", runtime="ray")
        await bench.create_backend("d", runtime_options={"own": 1})
        assert bench.plugins.opened == [
            ("process", {"python": "x"}),
            ("process", {"python": "x"}),
            ("ray", {}),
            ("process", {"own": 1}),
        ]

    run(test)


def test_a_runtime_is_not_opened_for_a_backend_that_cannot_be(run: Any) -> None:
    async def test(bench: Bench) -> None:
        await bench.create_backend("a")
        for more in ({"name": "a"}, {"name": "a\nb"}, {"name": "b", "config": {"num_replica": 1}}):
            with pytest.raises(InvalidInputError):
                await bench.create_backend(**more)
        assert len(bench.plugins.opened) == 1

    run(test)


def test_targets_are_kept_while_a_backend_needs_them(run: Any) -> None:
    async def test(bench: Bench) -> None:
        store = bench.control.store_thread.store
        await bench.create_backend("a", target_data=b"same")
        await bench.create_backend("b", target_data=b"same")
        await bench.call("delete_backend", name="a")
        assert list(store.targets.values()) == [b"same"]
        await bench.call("delete_backend", name="b")
        assert list(store.targets.values()) == [b"same"]  # For a rollback.

    run(test)


def test_a_rollback_to_what_can_be_placed_no_more_changes_nothing(run: Any) -> None:
    async def test(bench: Bench) -> None:
        await bench.create_backend()
        await bench.call("create_endpoint", name="e", route="/e", backend="b")
        await bench.call("update_backend_config", name="b", changes={"max_concurrent_queries": 3})
        before = bench.control.controller.desired
        bench.plugins.refused = InvalidInputError("its folder is gone")
        with pytest.raises(InvalidInputError, match="its folder is gone"):
            await bench.call("rollback", name="e")
        assert bench.control.controller.desired is before
        bench.plugins.refused = None
        assert (await bench.call("rollback", name="e"))["number"] == 1

    run(test)


def test_nothing_is_kept_of_a_backend_that_is_not_to_be_kept(run: Any) -> None:
    async def test(bench: Bench) -> None:
        await bench.create_backend("a", config={"keep_last": 0})
        await bench.call("delete_backend", name="a")
        assert bench.control.store_thread.store.targets == {}

    run(test)


@pytest.mark.parametrize("early", [True, False], ids=["its options are refused", "its replica fails"])
def test_nothing_is_left_of_a_backend_that_fails(run: Any, early: bool) -> None:
    async def test(bench: Bench) -> None:
        fault = BackendStartError("oh")
        if early:
            bench.plugins.refused = fault
        else:
            bench.control.workers.fails = fault
        with pytest.raises(BackendStartError, match="oh"):
            await bench.create_backend()
        assert bench.control.store_thread.store.targets == {}
        desired = bench.control.controller.desired
        assert desired == Desired(number=desired.number)

    run(test)


def test_status_and_stat(run: Any, new_totals: Any) -> None:
    async def test(bench: Bench) -> None:
        await bench.create_backend(config={"num_replicas": 2})
        await bench.call("create_endpoint", name="e")
        totals = new_totals()
        bench.control.ingresses.counts = Counts(totals)
        first, second = (replica.id for replica in bench.control.ready("b"))
        bench.control.ingresses.report({first: 3}, {}, "ingress1")
        bench.control.ingresses.report({first: 2, second: 1}, {}, "ingress2")
        totals.count("e", "b", 200, 3, 0.3, failovers=1)
        totals.count("e", "b", 500, 1, 0.5, failovers=1)
        totals.count("", "", 404, 2, 0.0)
        totals.count("e", "", 503, 1, 0.0)
        totals.count("e", "b", 502, 4, 0.0, error="deadly_request")
        status = await bench.call("status")
        assert status["name"] == "n"
        replicas = status["backends"]["b"]["replicas"]
        assert [(one["id"], one["state"], one["outstanding"]) for one in replicas] == [
            (first, "ready", 5),
            (second, "ready", 1),
        ]
        stat = await bench.call("stat")
        assert stat["unrouted"] == 2
        told = stat["backends"]["b"]
        assert (told["requests"], told["by_status"], told["mean_latency_s"]) == (
            8,
            {"200": 3, "500": 1, "502": 4},
            0.1,
        )
        assert stat["endpoints"]["e"]["by_status"] == {"200": 3, "500": 1, "502": 4, "503": 1}
        assert stat["endpoints"]["e"]["failovers"] == 2
        assert stat["endpoints"]["e"]["deadly"] == 4

    run(test)


def test_where_the_handles_of_an_endpoint_dial(run: Any) -> None:
    async def test(bench: Bench) -> None:
        await bench.call("create_endpoint", name="e")
        bench.control.ingresses.addresses = [["unix:i1"], ["unix:i2", "tcp:h:1"]]
        assert await bench.call("link_addresses", name="e") == [["unix:i1"], ["unix:i2", "tcp:h:1"]]
        with pytest.raises(NotFoundError, match="'f'"):
            await bench.call("link_addresses", name="f")

    run(test)


def test_what_waits_and_what_was_replaced_is_told(run: Any) -> None:
    async def test(bench: Bench) -> None:
        await bench.create_backend()
        await bench.call("create_endpoint", name="e", backend="b")
        for name, queued in (("ingress1", 2), ("ingress2", 3)):
            bench.control.ingresses.linked(name).report = Report(queued={"b": queued}, parked={"e": 1})
        status = await bench.call("status")
        assert (status["backends"]["b"]["queued"], status["endpoints"]["e"]["parked"]) == (5, 2)
        assert [replica["memory_bytes"] for replica in status["backends"]["b"]["replicas"]] == [0]
        assert (await bench.call("stat"))["restarts"] == {}

    run(test)


def test_the_samples_of_the_last_hour(run: Any) -> None:
    async def test(bench: Bench) -> None:
        await bench.create_backend()
        await bench.call("create_endpoint", name="e", backend="b")
        assert await bench.call("recent") == {"endpoints": {"e": []}, "backends": {"b": []}, "parts": {"e": {}}}
        assert await bench.call("recent", endpoint="e") == {"endpoints": {"e": []}, "backends": {}, "parts": {"e": {}}}
        assert await bench.call("recent", backend="nowhere") == {"endpoints": {}, "backends": {}, "parts": {}}

    run(test)


def test_the_logs_tail(run: Any, tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        with pytest.raises(NotFoundError, match="gathers no log"):
            await bench.call("log_tail")
        log = tmp_path / "servekit.log"
        log.write_text("one\ntwo\nthree\n")
        bench.operations = Operations(
            bench.control.controller,
            RolloutKeeper(bench.control.controller, bench.plugins.judge),
            bench.plugins,
            bench.plugins,
            bench.control.store_thread,
            ("process", {}),
            dict,
            str(log),
        )
        assert await bench.call("log_tail") == ["one", "two", "three"]
        assert await bench.call("log_tail", lines=1) == ["three"]
        for lines in (0, 1001):
            with pytest.raises(InvalidInputError, match="from 1 to 1000"):
                await bench.call("log_tail", lines=lines)

    run(test)
