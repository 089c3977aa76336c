from __future__ import annotations

import functools
from collections.abc import AsyncIterator
from typing import Any

import cloudpickle
import pytest

from servekit.errors import InvalidInputError
from servekit.replica.target import Handlers, Target, load


class Model:
    def __init__(self, factor: int = 1, *, offset: int = 0) -> None:
        self.factor, self.offset, self.closed = factor, offset, 0

    def __call__(self, value: int) -> int:
        return value * self.factor + self.offset

    def close(self) -> None:
        self.closed += 1


class NotCallable:
    pass


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
    handlers.close()


def test_a_class_is_built_once_with_its_arguments() -> None:
    handlers = Handlers(load(packed(Model, (3,), {"offset": 1})))
    assert handlers.call(4) == 13
    assert handlers.method("__call__")(4) == 13  # type: ignore[misc]
    assert handlers.method("factor") is None
    assert handlers.method("nothing") is None


def test_close_runs_the_handlers_own() -> None:
    model = Model()
    Handlers(Target(lambda: model)).close()
    assert model.closed == 0  # A function's results are its own business.
    handlers = Handlers(Target(Model))
    handlers.close()
    assert handlers.call.closed == 1  # type: ignore[attr-defined]


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


@pytest.mark.parametrize("target", [coroutine, async_generator, AsyncModel])
def test_async_handlers_are_refused(target: Any) -> None:
    with pytest.raises(InvalidInputError, match="async def"):
        Handlers(Target(target))


def test_other_callables() -> None:
    assert Handlers(Target(functools.partial(double))).call(3) == 6
    assert Handlers(Target(Model(5))).call(3) == 15
    assert Handlers(Target("abc".upper)).call() == "ABC"
