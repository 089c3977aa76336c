from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import cloudpickle
import pytest

from servekit.config import BackendConfig
from servekit.errors import InvalidInputError
from servekit.interfaces import RequestAdapter
from servekit.marks import accept_batch
from servekit.replica.target import Handlers, Target, load, takes_body_as_it_comes


class Model:
    def __init__(self, factor: int = 1, *, offset: int = 0) -> None:
        self.factor, self.offset = factor, offset

    def __call__(self, value: int) -> int:
        return value * self.factor + self.offset


class NotCallable:
    pass


class Reads(RequestAdapter):
    """An adapter as its two class variables say."""

    def decode(self, request: Any) -> Any: ...

    def encode(self, result: Any) -> Any: ...


def double(value: int) -> int:
    return 2 * value


async def coroutine(value: int) -> int:
    return value


async def async_generator(value: int) -> AsyncIterator[int]:
    yield value


class AsyncModel:
    async def __call__(self, value: int) -> int:
        return value


def packed(*parts: Any) -> bytes:
    data: bytes = cloudpickle.dumps(Target(*parts))
    return data


def test_a_function() -> None:
    handlers = Handlers(load(packed(double)))
    assert handlers.call(4) == 8
    assert handlers.method("__call__") is None
    handlers.release()
    assert handlers.call(4) == 8


def test_a_class_is_built_once_with_its_arguments() -> None:
    handlers = Handlers(load(packed(Model, (3,), {"offset": 1})))
    assert handlers.call(4) == 13
    assert handlers.method("__call__")(4) == 13  # type: ignore[misc]
    assert handlers.method("factor") is None
    assert handlers.method("nothing") is None


class Watched:
    ended: ClassVar[list[str]] = []

    def __init__(self, name: str = "it", cyclic: bool = False) -> None:
        self.name = name
        self.me = self if cyclic else None

    def __call__(self, value: object) -> None: ...

    def __del__(self) -> None:
        self.ended.append(self.name)


@pytest.mark.parametrize("cyclic", [False, True])
def test_what_a_class_made_is_let_go_of(cyclic: bool) -> None:
    Watched.ended.clear()
    handlers = Handlers(Target(Watched, ("it", cyclic)))
    handlers.release()
    assert Watched.ended == ["it"]
    with pytest.raises(RuntimeError, match="has ended"):
        handlers.call(1)


class Slotted:
    __slots__ = ()

    def __call__(self, value: object) -> None: ...


def test_a_class_with_slots_is_let_go_of_too() -> None:
    handlers = Handlers(Target(Slotted))
    handlers.release()
    assert not isinstance(handlers.call, Slotted)


@pytest.mark.parametrize(("path", "result"), [("posixpath:basename", "b"), ("collections:OrderedDict.fromkeys", None)])
def test_by_path(path: str, result: object) -> None:
    handlers = Handlers(load(packed(path)))
    assert callable(handlers.call)
    if result is not None:
        assert handlers.call("a/b") == result


@pytest.mark.parametrize(
    ("path", "error"), [("no_such_module_here:x", ImportError), ("posixpath:nothing", AttributeError)]
)
def test_a_path_that_leads_nowhere(path: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        load(packed(path))


def test_a_class_whose_objects_cannot_be_called() -> None:
    with pytest.raises(InvalidInputError, match="__call__"):
        Handlers(Target(NotCallable))


def test_init_arguments_of_what_is_no_class() -> None:
    with pytest.raises(InvalidInputError, match="not a class"):
        Handlers(Target(double, (1,)))


@pytest.mark.parametrize(
    ("target", "is_coroutine", "on_loop"),
    [
        (double, False, False),
        (coroutine, True, True),
        (functools.partial(coroutine), True, True),
        (async_generator, False, True),
        (AsyncModel, True, True),
        (Model, False, False),
        ("abc".upper, False, False),
    ],
)
def test_how_a_handler_is_called(target: Any, is_coroutine: bool, on_loop: bool) -> None:
    entry = Handlers(Target(target)).main
    assert (entry.is_coroutine, entry.on_loop, entry.batches) == (is_coroutine, on_loop, False)


class Batches:
    def __call__(self, request: Any) -> Any:
        return request

    @accept_batch
    def several(self, requests: list[Any]) -> list[Any]:
        return requests

    @accept_batch
    async def later(self, requests: list[Any]) -> list[Any]:
        return requests


def test_methods_differ() -> None:
    handlers = Handlers(load(packed(Batches)))
    found = {name: handlers.find(name) for name in (None, "several", "later", "nothing")}
    assert [entry.batches for entry in found.values()] == [False, True, True, False]
    assert [entry.on_loop for entry in found.values()] == [False, False, True, False]
    assert found["nothing"].handler is None


class Whole(RequestAdapter):
    whole_application = True

    def decode(self, request: Any) -> Any: ...

    def encode(self, result: Any) -> Any: ...


class Asynchronous(Whole):
    whole_application = False
    is_async = True


class Ordinary(Whole):
    whole_application = False


@pytest.mark.parametrize(
    ("target", "adapter", "config", "slots"),
    [
        (double, Ordinary, {}, 1),
        (coroutine, Ordinary, {}, 100),
        (async_generator, Ordinary, {}, 100),
        (double, Asynchronous, {}, 100),
        (coroutine, Ordinary, {"max_concurrent_queries": 3}, 3),
        (double, Asynchronous, {"max_concurrent_queries": 1}, 1),
        (Batches, Ordinary, {"max_batch_size": 4}, 1),
    ],
)
def test_slots(target: Any, adapter: Any, config: dict[str, Any], slots: int) -> None:
    handlers, built = Handlers(Target(target)), BackendConfig(**config)
    handlers.check(adapter(), built)
    assert handlers.capabilities(adapter(), built).slots == slots


class Streaming(Ordinary):
    streams_body = True


@pytest.mark.parametrize(
    ("target", "adapter", "config", "streams"),
    [
        (double, Streaming, {}, False),
        (double, Streaming, {"max_concurrent_queries": 2}, True),
        (double, Ordinary, {"max_concurrent_queries": 2}, False),
        (coroutine, Streaming, {}, False),
        (double, Asynchronous, {"max_concurrent_queries": 1}, True),
        (Batches, Streaming, {"max_concurrent_queries": 2, "max_batch_size": 4}, False),
        (Model, Streaming, {"max_concurrent_queries": 2}, True),
    ],
)
def test_bodies_come_as_they_arrive_where_that_holds_up_no_other_call(
    target: Any, adapter: Any, config: dict[str, Any], streams: bool
) -> None:
    handlers, built = Handlers(Target(target)), BackendConfig(**config)
    handlers.check(adapter(), built)
    assert handlers.capabilities(adapter(), built).streams_bodies is streams


@pytest.mark.parametrize(
    ("target", "adapter", "config", "message"),
    [
        (double, Ordinary, {"max_batch_size": 4}, "accept_batch.*max_batch_size out"),
        (Model, Ordinary, {"max_batch_size": 1}, "accept_batch"),
        (accept_batch(lambda requests: requests), Whole, {}, "one request at a time"),
        (Batches, Asynchronous, {"max_batch_size": 4}, "one request at a time"),
    ],
)
def test_what_does_not_go_together(target: Any, adapter: Any, config: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        Handlers(Target(target)).check(adapter(), BackendConfig(**config))


def quiet(function: Any) -> Any:
    """As ``torch.no_grad()`` does it."""

    @functools.wraps(function)
    def inner(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return inner


class Hidden:
    @quiet
    async def __call__(self, value: int) -> int:
        return value

    @quiet
    @accept_batch
    async def several(self, values: list[int]) -> list[int]:
        return values

    @quiet
    def plain(self, value: int) -> int:
        return value


@pytest.mark.parametrize(
    ("target", "method", "named"),
    [
        (quiet(coroutine), None, "'coroutine'"),
        (functools.partial(quiet(quiet(coroutine))), None, "'coroutine'"),
        (Hidden, None, "'Hidden.__call__'"),
        (Hidden, "several", "'Hidden.several'"),
    ],
)
def test_an_async_def_that_a_decorator_hides_is_told(target: Any, method: str | None, named: str) -> None:
    entry = Handlers(Target(target)).find(method)
    assert not entry.on_loop
    with pytest.raises(TypeError, match=f"{named} is an async def, and a decorator hides that"):
        entry.blocking(1)  # type: ignore[misc]


def test_a_decorator_may_run_an_async_def_to_its_end() -> None:
    run = functools.wraps(coroutine)(lambda value: asyncio.run(coroutine(value)))
    assert Handlers(Target(run)).main.blocking(3) == 3  # type: ignore[misc]
    assert Handlers(Target(Hidden)).find("plain").blocking(3) == 3  # type: ignore[misc]


def test_other_callables() -> None:
    assert Handlers(Target(functools.partial(double))).call(3) == 6
    assert Handlers(Target(Model(5))).call(3) == 15
    assert Handlers(Target("abc".upper)).call() == "ABC"


@pytest.mark.parametrize(
    ("target", "streams_body", "is_async", "slots", "expected"),
    [
        (double, True, False, 1, False),
        (double, True, False, 2, True),
        (double, False, False, 2, False),
        (coroutine, True, False, 2, False),
        (coroutine, False, True, 1, True),
        (double, False, True, 1, True),
        (accept_batch(lambda requests: requests), True, False, 2, False),
    ],
)
def test_bodies_come_whole_where_a_read_would_hold_up_the_main_thread(
    target: Any, streams_body: bool, is_async: bool, slots: int, expected: bool
) -> None:
    adapter = type("Adapter", (Reads,), {"streams_body": streams_body, "is_async": is_async})()
    assert takes_body_as_it_comes(Handlers(Target(target)).main, adapter, slots) is expected
