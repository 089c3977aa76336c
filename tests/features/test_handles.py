"""Handles on every runtime: endpoints called from a script and from handlers."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import flask
import pytest
from tests.support.runtimes import NOT_ON_RAY
from tests.support.waiting import until

import servekit
from servekit import errors
from servekit.context import get_context
from servekit.testing.instances import ServedInstance

# Ray has a part in what a handler can import and dial, and in how its replica ends; none in how a call goes on.
pytestmark = pytest.mark.runtimes("inprocess", "process")

LIMIT_S = 30.0


def deploy(serve: ServedInstance, name: str, target: Any, *init_args: Any, **config: Any) -> Any:
    """A backend, an endpoint without a route that has all its traffic, and a handle of that."""
    serve.create_backend(name, target, *init_args, config=config)
    serve.create_endpoint(name, backend=name)
    return servekit.get_handle(name)


# -- results and arguments ---------------------------------------------------------------------------------------------


def add(request: Any, one: Any, other: Any = 1) -> Any:
    return one + other


class Counter:
    def __init__(self, start: int = 0) -> None:
        self.count = start

    def __call__(self, request: Any) -> int:
        self.count += 1
        return self.count

    def by(self, request: Any, step: int) -> int:
        self.count += step
        return self.count


def test_arguments_go_there_and_a_result_comes_back(serve: ServedInstance) -> None:
    handle = deploy(serve, "add", add)
    assert handle.remote(1).result(LIMIT_S) == 2
    assert handle.remote(1, 2).result(LIMIT_S) == 3
    assert handle.remote([1], other=[{"two": (2, None)}]).result(LIMIT_S) == [1, {"two": (2, None)}]
    assert handle.remote(one=b"\0", other=b"x").result(LIMIT_S) == b"\0x"
    assert not handle.remote(1).exception(LIMIT_S)


def test_an_unknown_endpoint_is_said_at_once(serve: ServedInstance) -> None:
    deploy(serve, "add", add)
    with pytest.raises(errors.NotFoundError, match="'ad'"):
        servekit.get_handle("ad")
    with pytest.raises(LookupError, match="add"):
        serve.get_handle("ad")


def test_methods_are_called_by_name_and_need_no_callable_methods(serve: ServedInstance) -> None:
    handle = deploy(serve, "counter", Counter, 10)
    assert handle.remote().result(LIMIT_S) == 11
    by = handle.options(method_name="by")
    assert by.remote(5).result(LIMIT_S) == 16
    assert by.remote(step=4).result(LIMIT_S) == 20
    assert handle.remote().result(LIMIT_S) == 21
    with pytest.raises(errors.InvalidInputError, match="nothing"):
        handle.options(method_name="nothing").remote().result(LIMIT_S)
    with pytest.raises(ValueError, match="public"):
        handle.options(method_name="_private")


def of_the_request(request: Any, word: str = "none") -> dict[str, Any]:
    assert request is flask.request._get_current_object()
    return {
        "word": word,
        "method": request.method,
        "path": request.path,
        "body": request.get_data(),
        "id": request.headers["X-Request-ID"],
        "json": flask.jsonify(word=word).get_json(),
        "endpoint": get_context().endpoint,
    }


def test_the_handler_has_a_request_and_flask_around_it(serve: ServedInstance) -> None:
    serve.create_backend("b", of_the_request)
    serve.create_endpoint("e", "/some/<name>", backend="b")
    serve.create_endpoint("bare", backend="b")
    found = servekit.get_handle("e").remote("hello").result(LIMIT_S)
    assert found.pop("id")
    assert found == {
        "word": "hello",
        "method": "POST",
        "path": "/some/<name>",
        "body": b"",
        "json": {"word": "hello"},
        "endpoint": "e",
    }
    assert servekit.get_handle("bare").remote("x").result(LIMIT_S)["path"] == "/"


def test_many_calls_at_a_time_are_each_answered(serve: ServedInstance) -> None:
    handle = deploy(serve, "add", add)
    futures = [handle.remote(n, n) for n in range(200)]
    assert [future.result(LIMIT_S) for future in futures] == [2 * n for n in range(200)]


def test_results_can_be_awaited(serve: ServedInstance) -> None:
    handle = deploy(serve, "add", add)

    async def both() -> list[Any]:
        assert await asyncio.wait_for(handle.remote(1), LIMIT_S) == 2
        return await asyncio.gather(handle.remote(2), handle.remote(3), asyncio.wrap_future(handle.remote(4)))

    assert asyncio.run(both()) == [3, 4, 5]


def apply(request: Any, function: Any, value: Any) -> Any:
    return function(value)


def doubled(value: int) -> int:
    return 2 * value


@pytest.mark.runtimes("inprocess", "process", "ray")
def test_functions_travel_too(serve: ServedInstance) -> None:
    handle = deploy(serve, "apply", apply)
    assert handle.remote(lambda value: value + 1, 1).result(LIMIT_S) == 2
    assert handle.remote(doubled, 4).result(LIMIT_S) == 8


def test_long_arguments_and_results(serve: ServedInstance) -> None:
    handle = deploy(serve, "add", add)
    long = os.urandom(5_000_000)
    assert handle.remote(long, b"!").result(LIMIT_S) == long + b"!"
    for size in (65_000, 65_536, 66_000, 262_144, 330_000):
        assert handle.remote(b"x" * size, b"y").result(LIMIT_S) == b"x" * size + b"y"


def mark(request: Any, array: Any) -> Any:
    array[0] = 7.0
    return {"array": array, "sum": float(array.sum())}


def test_large_arrays_are_writable_on_both_sides(serve: ServedInstance) -> None:
    numpy = pytest.importorskip("numpy")
    handle = deploy(serve, "mark", mark)
    for size in (10, 5_000, 1_000_000):
        array = numpy.arange(size, dtype="float64")
        future = handle.remote(array)
        array[:] = -1  # What was sent is what it was then.
        found = future.result(LIMIT_S)
        expected = numpy.arange(size, dtype="float64")
        expected[0] = 7.0
        assert found["sum"] == expected.sum()
        assert numpy.array_equal(found["array"], expected)
        found["array"][1] = 1.5
        assert found["array"][1] == 1.5


async def add_async(request: Any, one: Any, other: Any = 1) -> Any:
    await asyncio.sleep(0)
    return one + other


def test_an_async_def_is_called_likewise(serve: ServedInstance) -> None:
    handle = deploy(serve, "add", add_async)
    long = os.urandom(3_000_000)
    futures = [handle.remote(long, b"!"), handle.remote(1, other=2)]
    assert futures[1].result(LIMIT_S) == 3
    assert futures[0].result(LIMIT_S) == long + b"!"
    with pytest.raises(TypeError):
        handle.remote(1, "x").result(LIMIT_S)


@servekit.accept_batch
def add_batch(requests: list[Any], ones: list[Any], others: list[Any]) -> list[Any]:
    assert len(requests) == len(ones) == len(others)
    found = [one + other for one, other in zip(ones, others, strict=True)]
    return [OwnError(value) if value == 13 else value for value in found]


def test_calls_are_answered_in_batches(serve: ServedInstance) -> None:
    handle = deploy(serve, "batch", add_batch, max_batch_size=8, batch_wait_timeout=0.01)
    futures = [handle.remote(n, others=10) for n in range(30)]
    assert [future.result(LIMIT_S) for n, future in enumerate(futures) if n != 3] == [
        n + 10 for n in range(30) if n != 3
    ]
    with pytest.raises(OwnError):
        futures[3].result(LIMIT_S)


def application(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


def test_a_whole_application_cannot_be_called(serve: ServedInstance) -> None:
    serve.create_backend("app", application, adapter="wsgi")
    serve.create_endpoint("app", "/app", backend="app")
    assert serve.client.get("/app").text == "hello"
    with pytest.raises(errors.InvalidInputError, match="use HTTP"):
        servekit.get_handle("app").remote().result(LIMIT_S)


# -- failures ----------------------------------------------------------------------------------------------------------


class OwnError(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return OwnError, (self.code,)


class ThreadedError(Exception):
    def __init__(self) -> None:
        super().__init__("holds a thread")
        self.thread = threading.Thread()


def fail(request: Any, how: str) -> Any:
    if how == "lookup":
        raise KeyError("missing")
    if how == "own":
        raise OwnError(42)
    if how == "threaded":
        raise ThreadedError
    if how == "exit":
        raise SystemExit(3)
    if how == "abort":
        flask.abort(404)
    return threading.Thread()


def test_what_the_handler_raises_is_raised_here_with_its_traceback(serve: ServedInstance) -> None:
    handle = deploy(serve, "fail", fail)
    with pytest.raises(KeyError, match="missing") as lookup:
        handle.remote("lookup").result(LIMIT_S)
    assert 'raise KeyError("missing")' in str(lookup.value.__cause__) or "in fail" in str(lookup.value.__cause__)
    with pytest.raises(OwnError) as own:
        handle.remote("own").result(LIMIT_S)
    assert own.value.code == 42
    future = handle.remote("lookup")
    assert isinstance(future.exception(LIMIT_S), KeyError)

    async def wait() -> None:
        await handle.remote("lookup")

    with pytest.raises(KeyError):
        asyncio.run(wait())
    assert handle.remote("again").exception(LIMIT_S) is not None


def test_what_cannot_be_raised_here_is_told_in_words(serve: ServedInstance) -> None:
    handle = deploy(serve, "fail", fail)
    with pytest.raises(errors.HandlerError, match="holds a thread") as threaded:
        handle.remote("threaded").result(LIMIT_S)
    assert "ThreadedError" in str(threaded.value.__cause__)
    with pytest.raises(errors.HandlerError, match="SystemExit: 3"):
        handle.remote("exit").result(LIMIT_S)
    with pytest.raises(errors.HandlerError, match=r"result.*cannot be pickled.*Thread"):
        handle.remote("result").result(LIMIT_S)
    with pytest.raises(Exception, match="404"):
        handle.remote("abort").result(LIMIT_S)


def test_arguments_that_cannot_be_pickled_are_refused_here(serve: ServedInstance) -> None:
    handle = deploy(serve, "add", add)
    with pytest.raises(errors.InvalidInputError, match="argument 2 of this call, a threading.Thread,"):
        handle.remote(1, threading.Thread())
    with pytest.raises(TypeError, match="missing"):
        handle.remote().result(LIMIT_S)


def sleep(request: Any, seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


def test_a_call_has_a_deadline(serve: ServedInstance) -> None:
    handle = deploy(serve, "sleep", sleep, max_concurrent_queries=4)
    with pytest.raises(errors.DeadlineError, match=r"0\.0\d+ s"):  # Less the time of the first dial.
        handle.options(timeout_s=0.05).remote(1.0).result(LIMIT_S)
    with pytest.raises(TimeoutError):
        handle.options(timeout_s=0.05).remote(1.0).result(LIMIT_S)
    assert handle.options(timeout_s=20).remote(0.0).result(LIMIT_S) == "slept"
    serve.create_endpoint("short", backend="sleep", timeout_s=0.05)
    with pytest.raises(errors.DeadlineError):
        servekit.get_handle("short").remote(1.0).result(LIMIT_S)


def test_what_the_ingress_refuses_is_an_error_to_catch(serve: ServedInstance) -> None:
    serve.create_endpoint("nothing")
    with pytest.raises(errors.UnavailableError, match="set_traffic"):
        servekit.get_handle("nothing").remote().result(LIMIT_S)
    handle = deploy(serve, "add", add)
    serve.delete_endpoint("add")
    with pytest.raises(errors.NotFoundError, match="'add'"):
        handle.remote(1).result(LIMIT_S)


def hold(request: Any, started: str, released: str) -> str:
    Path(started).touch()
    while not os.path.exists(released):
        time.sleep(0.005)
    return "held"


def test_the_queue_of_a_backend_is_bounded_and_calls_can_be_cancelled(serve: ServedInstance, tmp_path: Path) -> None:
    handle = deploy(serve, "hold", hold, max_queued_requests=1)
    started, released = tmp_path / "started", tmp_path / "released"
    first = handle.remote(str(started), str(released))
    until(started.exists)
    others = [handle.remote(str(tmp_path / f"other{n}"), str(released)) for n in range(8)]
    refused = [future for future in others if _refused(future)]
    assert refused, "one running, a few ahead in the replica, one in the queue; not all nine"
    waiting = [future for future in others if future not in refused]
    assert waiting[-1].cancel()
    assert waiting[-1].cancelled()
    with pytest.raises(CancelledError):
        waiting[-1].result(LIMIT_S)
    released.touch()
    assert first.result(LIMIT_S) == "held"
    assert not first.cancel()
    for future in waiting[:-1]:
        assert future.result(LIMIT_S) == "held"


def _refused(future: Any) -> bool:
    try:
        return isinstance(future.exception(0.5), errors.UnavailableError)
    except TimeoutError:
        return False


def die(request: Any) -> None:
    os._exit(1)


@pytest.mark.runtimes("inprocess", "process", "ray")
@pytest.mark.usefixtures("own_processes")
def test_a_replica_that_dies_with_a_call(serve: ServedInstance) -> None:
    handle = deploy(serve, "die", die)
    with pytest.raises(errors.ReplicaDiedError, match="'die'") as died:
        handle.remote().result(LIMIT_S)
    assert isinstance(died.value, ConnectionError)


@pytest.fixture
def own_processes(runtime: str) -> None:
    if runtime == "inprocess":
        pytest.skip("replicas are threads of this process")


# -- composition -------------------------------------------------------------------------------------------------------


class Sum:
    """Calls two others; the handles are arguments of its ``__init__``, and come in a pickle."""

    def __init__(self, one: Any, other: Any) -> None:
        self.handles = one, other

    def __call__(self, request: Any, value: int = 1) -> Any:
        futures = [handle.remote(value) for handle in self.handles]
        return [sum(future.result(LIMIT_S) for future in futures)]


class AsyncSum(Sum):
    async def __call__(self, request: Any, value: int = 1) -> Any:
        return [sum(await asyncio.gather(*(handle.remote(value) for handle in self.handles)))]


def find_and_call(request: Any, name: str = "add") -> Any:
    return servekit.get_handle(name).remote(1).result(LIMIT_S)


@pytest.mark.runtimes("inprocess", "process", "ray")
@pytest.mark.parametrize("kind", [Sum, pytest.param(AsyncSum, marks=NOT_ON_RAY)])
def test_one_endpoint_calls_two_others(serve: ServedInstance, kind: type) -> None:
    one, other = deploy(serve, "add", add), deploy(serve, "twice", double)
    handle = deploy(serve, "sum", kind, one, other)
    assert handle.remote(5).result(LIMIT_S) == [6 + 10]
    serve.create_endpoint("http", "/sum", backend="sum")
    assert serve.client.get("/sum").json() == [2 + 2]


def double(request: Any, value: int) -> int:
    return 2 * value


@pytest.mark.runtimes("inprocess", "process", "ray")
def test_a_handler_finds_handles_by_name(serve: ServedInstance) -> None:
    deploy(serve, "add", add)
    handle = deploy(serve, "find", find_and_call)
    assert handle.remote().result(LIMIT_S) == 2
    with pytest.raises(errors.NotFoundError, match="'nowhere'"):
        handle.remote("nowhere").result(LIMIT_S)


def call(request: Any, *names: str) -> Any:
    if not names:
        return get_context().chain
    return servekit.get_handle(names[0]).remote(*names[1:]).result(LIMIT_S)


async def call_async(request: Any, *names: str) -> Any:
    if not names:
        return get_context().chain
    return await servekit.get_handle(names[0]).remote(*names[1:])


def test_a_circle_of_calls_is_an_error_at_once(serve: ServedInstance) -> None:
    a, b = deploy(serve, "a", call), deploy(serve, "b", call)
    assert len(a.remote("b").result(LIMIT_S)) == 2
    replica_a, replica_b = (serve.status()["backends"][name]["replicas"][0]["id"] for name in "ab")
    with pytest.raises(errors.CallCycleError) as circle:
        a.remote("b", "a").result(10.0)
    for part in ("'a'", "'b'", replica_a, replica_b):
        assert part in str(circle.value)
    with pytest.raises(errors.CallCycleError):
        b.remote("b").result(10.0)
    assert len(b.remote().result(LIMIT_S)) == 1


def test_a_backend_may_call_itself_where_another_slot_is_there(serve: ServedInstance) -> None:
    handle = deploy(serve, "a", call_async, max_concurrent_queries=3)
    assert len(handle.remote("a", "a").result(LIMIT_S)) == 3
    with pytest.raises(errors.CallCycleError):
        handle.remote("a", "a", "a").result(10.0)
    two = deploy(serve, "two", call, num_replicas=2)
    assert len(set(two.remote("two").result(LIMIT_S))) == 2


def test_a_call_in_a_handler_has_no_more_time_than_the_handler(serve: ServedInstance, tmp_path: Path) -> None:
    deploy(serve, "sleep", sleep)
    handle = deploy(serve, "outer", told_when_it_ends)
    path = tmp_path / "error"
    with pytest.raises(errors.DeadlineError):
        handle.options(timeout_s=0.2).remote(str(path)).result(LIMIT_S)
    until(path.exists)
    until(lambda: path.read_text() == "DeadlineError")


def told_when_it_ends(request: Any, path: str) -> None:
    inner = servekit.get_handle("sleep").options(timeout_s=50.0)
    error = inner.remote(1.0).exception(LIMIT_S)
    Path(path).write_text(type(error).__name__)


def request_ids(request: Any, deeper: bool = True) -> list[str]:
    own = get_context().request_id
    return [own, *servekit.get_handle("ids2").remote(deeper=False).result(LIMIT_S)] if deeper else [own]


def test_the_request_id_goes_along(serve: ServedInstance) -> None:
    deploy(serve, "ids2", request_ids)
    serve.create_backend("ids", request_ids)
    serve.create_endpoint("ids", "/ids", backend="ids")
    assert serve.client.get("/ids", headers={"X-Request-ID": "mine"}).json() == ["mine", "mine"]


# -- generators --------------------------------------------------------------------------------------------------------


def count(request: Any, to: int, path: str = "", fail_at: int = -1) -> Iterator[Any]:
    try:
        for n in range(to):
            if n == fail_at:
                raise OwnError(n)
            yield n if n % 2 else {"n": n}
    finally:
        if path:
            Path(path).touch()


async def count_async(request: Any, to: int, path: str = "", fail_at: int = -1) -> AsyncIterator[Any]:
    try:
        for n in range(to):
            await asyncio.sleep(0)
            if n == fail_at:
                raise OwnError(n)
            yield n if n % 2 else {"n": n}
    finally:
        if path:
            Path(path).touch()  # noqa: ASYNC240


def expected(to: int) -> list[Any]:
    return [n if n % 2 else {"n": n} for n in range(to)]


both_kinds = pytest.mark.parametrize("generator", [count, count_async])


@both_kinds
def test_a_generator_becomes_an_iterator_and_an_async_iterator(serve: ServedInstance, generator: Any) -> None:
    handle = deploy(serve, "count", generator)
    assert list(handle.remote(5).result(LIMIT_S)) == expected(5)
    assert list(handle.remote(0).result(LIMIT_S)) == []
    assert list(handle.remote(3000).result(LIMIT_S)) == expected(3000)

    async def read() -> list[Any]:
        return [item async for item in await handle.remote(300)]

    assert asyncio.run(read()) == expected(300)


@both_kinds
def test_a_generator_that_fails_does_so_behind_its_items(serve: ServedInstance, generator: Any) -> None:
    handle = deploy(serve, "count", generator)
    stream = handle.remote(5, fail_at=3).result(LIMIT_S)
    assert [next(stream) for _ in range(3)] == expected(3)
    with pytest.raises(OwnError) as own:
        next(stream)
    assert own.value.code == 3
    assert "OwnError" in str(own.value.__cause__)
    assert list(stream) == []


@both_kinds
@pytest.mark.parametrize("way", ["close", "drop", "aclose"])
def test_leaving_a_stream_ends_its_generator(serve: ServedInstance, generator: Any, way: str, tmp_path: Path) -> None:
    handle = deploy(serve, "count", generator)
    path = tmp_path / "over"

    def read() -> None:
        stream = handle.remote(10**9, str(path)).result(LIMIT_S)
        assert [next(stream) for _ in range(10)] == expected(10)
        assert not path.exists()
        if way == "close":
            stream.close()
            assert list(stream) == []

    async def read_async() -> None:
        stream = await handle.remote(10**9, str(path))
        assert await anext(stream) == {"n": 0}
        await stream.aclose()
        assert [item async for item in stream] == []

    if way == "aclose":
        asyncio.run(read_async())
    else:
        read()
    until(path.exists)
    assert list(handle.remote(2).result(LIMIT_S)) == expected(2), "its slot is free"


class Paced:
    """Counts what its generator has made."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self, request: Any) -> Iterator[bytes]:
        for _ in range(200):
            self.made += 1
            yield bytes(100_000)

    def so_far(self, request: Any) -> int:
        return self.made


def test_a_generator_waits_for_its_reader(serve: ServedInstance) -> None:
    handle = deploy(serve, "paced", Paced, max_concurrent_queries=2)
    stream = handle.remote().result(LIMIT_S)
    assert len(next(stream)) == 100_000
    so_far = handle.options(method_name="so_far")

    def stands_still() -> bool:
        before = so_far.remote().result(LIMIT_S)
        time.sleep(0.1)
        return bool(before == so_far.remote().result(LIMIT_S))

    until(stands_still)
    assert so_far.remote().result(LIMIT_S) < 30, "twenty megabytes, of which nobody has read more than one piece"
    assert sum(len(piece) for piece in stream) == 199 * 100_000


def relay(request: Any, to: int) -> Iterator[Any]:
    yield from servekit.get_handle("count").remote(to).result(LIMIT_S)


def test_a_stream_can_be_passed_on(serve: ServedInstance) -> None:
    deploy(serve, "count", count)
    assert list(deploy(serve, "relay", relay).remote(50).result(LIMIT_S)) == expected(50)


# -- routing -----------------------------------------------------------------------------------------------------------


def one(request: Any) -> int:
    return 1


def two(request: Any) -> int:
    return 2


def test_traffic_is_split_as_over_http(serve: ServedInstance) -> None:
    serve.create_backend("one", one)
    serve.create_backend("two", two)
    serve.create_endpoint("e")
    serve.set_traffic("e", {"one": 0.25, "two": 0.75})
    handle = servekit.get_handle("e")
    found = [handle.remote().result(LIMIT_S) for _ in range(40)]
    assert found.count(1) == 10
    serve.set_traffic("e", {"one": 1.0})
    assert [handle.remote().result(LIMIT_S) for _ in range(10)] == [1] * 10


def test_calls_are_counted_with_the_requests(serve: ServedInstance) -> None:
    handle = deploy(serve, "counted", add)
    for _ in range(7):
        handle.remote(1).result(LIMIT_S)
    until(lambda: serve.stat()["endpoints"].get("counted", {}).get("requests") == 7)


@pytest.mark.runtimes("inprocess", "process", "ray")
def test_no_call_is_lost_while_replicas_come_and_go(serve: ServedInstance) -> None:
    handle = deploy(serve, "add", add, num_replicas=1)
    failures: list[BaseException] = []
    answered = 0
    ending = threading.Event()

    def keep_calling() -> None:
        nonlocal answered
        while not ending.is_set():
            error = handle.remote(1).exception(LIMIT_S)
            if error is not None:
                failures.append(error)
            answered += 1

    thread = threading.Thread(target=keep_calling)
    thread.start()
    try:
        serve.update_backend_config("add", {"num_replicas": 2})
        serve.update_backend_config("add", {"num_replicas": 1})
        before = answered
        until(lambda: answered > before + 20)
    finally:
        ending.set()
        thread.join(LIMIT_S)
    assert not failures
