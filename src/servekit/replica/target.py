"""A backend's target, from the bytes that a client made of it to the handlers that are called."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import cloudpickle
import msgspec

from servekit.errors import InvalidInputError
from servekit.interfaces import Handler


class Target(msgspec.Struct):
    """What `create_backend` was given."""

    target: Any
    """A function, a class, or ``"module:attr"``."""
    init_args: tuple[Any, ...] = ()
    init_kwargs: dict[str, Any] = {}


def load(data: bytes) -> Target:
    """The target in its pickled form; raises whatever its modules raise on import."""
    target = cloudpickle.loads(data)
    assert isinstance(target, Target)
    if isinstance(target.target, str):
        module, _, attribute = target.target.partition(":")
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
        target.target = found
    return target


class Handlers:
    """A replica's handler: a function, or one object built from a class, whose methods may be called by name."""

    def __init__(self, target: Target) -> None:
        self._is_class = inspect.isclass(target.target)
        if self._is_class:
            self._object = target.target(*target.init_args, **target.init_kwargs)
        elif target.init_args or target.init_kwargs:
            raise InvalidInputError(f"the target {target.target!r} is not a class, so it takes no init arguments")
        else:
            self._object = target.target
        if not callable(self._object):
            raise InvalidInputError(
                f"the target {target.target!r} makes something that cannot be called; give its class a __call__ method"
            )
        _refuse_async(self._object)
        self.call: Handler = self._object

    def method(self, name: str) -> Handler | None:
        """The method ``name`` of a class target; None where there is none."""
        found = getattr(self._object, name, None) if self._is_class else None
        return found if callable(found) else None

    def close(self) -> None:
        """Let the handler's own ``close()`` run, where it has one."""
        close = getattr(self._object, "close", None) if self._is_class else None
        if callable(close):
            close()


def _refuse_async(handler: Any) -> None:
    call = handler if inspect.isroutine(handler) else type(handler).__call__
    if inspect.iscoroutinefunction(call) or inspect.isasyncgenfunction(call):
        raise InvalidInputError("the handler is an `async def`, which this version does not call yet; make it a `def`")
