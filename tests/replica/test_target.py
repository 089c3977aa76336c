from __future__ import annotations

import asyncio
import functools
import random
import zlib
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import cloudpickle
import msgspec
import pytest

from servekit.config import BackendConfig
from servekit.decorators import accept_batch
from servekit.errors import InvalidInputError
from servekit.interfaces import HandlerTypes, Request, RequestAdapter
from servekit.replica.target import TYPES_BYTES, Handlers, Target, load, takes_body_as_it_comes
from servekit.wire.control_frames import Capabilities, WorkerHello
from servekit.wire.handshake import HANDSHAKE_BYTES, Handshake


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
        (Model, Ordinary, {"max_batch_size": 2}, "accept_batch"),
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


class Fitting(Ordinary):
    """Each handler gets what its name says; one that is called ``bad`` cannot be served."""

    def __init__(self, name: str = "") -> None:
        self.name = name

    def fit(self, handler: Any, *, batches: bool) -> Any:
        name = handler.__name__
        if name == "bad":
            raise InvalidInputError("bad is bad")
        return Fitting(name), lambda decoded: (batches, handler(decoded))

    def types(self) -> HandlerTypes:
        return HandlerTypes(summary=self.name)


class Named:
    __name__ = "whole"

    def __call__(self, value: int) -> int:
        return value

    def good(self, value: int) -> int:
        return value + 1

    def bad(self, value: int) -> int:
        return value


def test_adapter_and_handler_are_fitted_to_each_other_once() -> None:
    handlers, adapter = Handlers(Target(Named)), Fitting()
    handlers.check(adapter, BackendConfig())
    assert handlers.main.blocking is not None
    assert handlers.main.blocking(3) == (False, 3)
    assert isinstance(handlers.main.adapter, Fitting)
    assert handlers.main.adapter.name == "whole"
    good = handlers.find("good")
    assert good is handlers.find("good")
    assert (good.adapter.name, good.blocking(3)) == ("good", (False, 4))  # type: ignore[union-attr, misc]
    assert handlers.find("nothing").problem == ""
    handlers.call.good = Named.bad.__get__(handlers.call)  # type: ignore[attr-defined]
    assert handlers.find("good").problem == "the method 'good' cannot be called: bad is bad"
    bad = handlers.find("bad")
    assert (bad.handler, bad.problem) == (None, "the method 'bad' cannot be called: bad is bad")
    types = handlers.capabilities(adapter, BackendConfig()).types
    assert msgspec.json.decode(zlib.decompress(types), type=HandlerTypes).summary == "whole"
    handlers.release()
    assert handlers.main.handler is None


def test_an_adapter_that_does_not_fit_itself_is_the_replicas() -> None:
    handlers = Handlers(Target(double))
    handlers.check(Ordinary(), BackendConfig())
    assert handlers.main.adapter is None
    assert handlers.main.handler is double
    assert handlers.capabilities(Ordinary(), BackendConfig()).types == b""


def nothing() -> str:
    return "nothing"


async def nothing_later() -> str:
    return "nothing"


def test_a_handler_that_takes_nothing_is_called_without_the_request() -> None:
    for target in (nothing, quiet(nothing)):
        handlers = Handlers(Target(target))
        handlers.check(Ordinary(), BackendConfig())
        assert handlers.main.blocking("request") == "nothing"  # type: ignore[misc]
    handlers = Handlers(Target(nothing_later))
    handlers.check(Ordinary(), BackendConfig())
    assert handlers.main.is_coroutine
    assert asyncio.run(handlers.main.handler("request")) == "nothing"  # type: ignore[misc]
    with pytest.raises(InvalidInputError, match="accepts batches and takes no argument"):
        Handlers(Target(accept_batch(lambda: []))).check(Ordinary(), BackendConfig())


def test_an_application_is_left_as_it_is() -> None:
    handlers = Handlers(Target(nothing))
    handlers.check(Whole(), BackendConfig())
    assert handlers.main.blocking is nothing


def test_an_item_of_a_batch_is_answered_as_if_it_was_returned_or_raised() -> None:
    class Echo(Ordinary):
        def decode(self, request: Any) -> Any:
            return request

        def encode(self, result: Any) -> Any:
            return f"encoded {result}"

    request: Any = "request"
    assert Echo().answer_item(3, request) == "encoded 3"
    with pytest.raises(KeyError):
        Echo().answer_item(KeyError("k"), request)


def test_a_description_that_cannot_be_written_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    handlers, adapter = Handlers(Target(Model)), Ordinary()
    for types in (lambda: HandlerTypes(body={"examples": [object()]}), lambda: 1 / 0):
        adapter.types = types  # type: ignore[assignment,method-assign]
        assert handlers.capabilities(adapter, BackendConfig()).types == b""
    assert caplog.text.count("whose types cannot be written") == 2


def test_a_description_that_is_too_long_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    handlers, adapter = Handlers(Target(Model)), Ordinary()
    text = random.Random(1).randbytes(TYPES_BYTES).hex()
    adapter.types = lambda: HandlerTypes(summary=text)  # type: ignore[method-assign]
    assert handlers.capabilities(adapter, BackendConfig()).types == b""
    assert f"more than {TYPES_BYTES} bytes, compressed" in caplog.text


def test_the_longest_description_fits_into_the_hello_of_a_worker_that_dials_again() -> None:
    hello = WorkerHello(
        "r" * 300, 2**31, "n" * 300, True, ["unix:/" + "d" * 100], Capabilities(1, True, bytes(TYPES_BYTES))
    )
    proof = Handshake(bytes(32), msgspec.msgpack.encode(hello), dialing=True)
    challenge = Handshake(bytes(32), b"", dialing=False).first()
    assert challenge is not None
    message = proof.receive(challenge)
    assert message is not None
    assert TYPES_BYTES < len(message) <= HANDSHAKE_BYTES


class StaticModel:
    @staticmethod
    def __call__(value: int) -> int:
        return 2 * value


def test_a_static_call_has_all_its_parameters() -> None:
    from servekit_json import create_adapter

    handlers = Handlers(Target(StaticModel))
    handlers.check(create_adapter(), BackendConfig())
    request = Request("GET", "/", b"value=3", [], b"", "e", "/", "request-1", "")
    assert handlers.main.adapter is not None
    assert handlers.main.handler is not None
    assert handlers.main.adapter.call(handlers.main.handler, request).body == b"6"
