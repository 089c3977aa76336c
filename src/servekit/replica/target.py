"""A backend's target, from the bytes that a client made of it to the handlers that are called."""

from __future__ import annotations

import gc
import importlib
import inspect
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from servekit.config import ASYNC_SLOTS, BackendConfig
from servekit.errors import InvalidInputError
from servekit.interfaces import Handler, RequestAdapter
from servekit.marks import accepts_batches, function_of
from servekit.replica import pools
from servekit.wire.control_frames import Capabilities


class Target(msgspec.Struct):
    """What `create_backend` was given."""

    target: Any
    """A function, a class, or ``"module:attr"``."""
    init_args: tuple[Any, ...] = ()
    init_kwargs: dict[str, Any] = {}


def load(data: bytes) -> Target:
    """The target in its pickled form; raises whatever its modules raise on import."""
    target = pools.loads(data)
    assert isinstance(target, Target)
    if isinstance(target.target, str):
        module, _, attribute = target.target.partition(":")
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
        target.target = found
    return target


class Entry(NamedTuple):
    """What a call may ask for: the handler, or a method by its name."""

    name: str | None
    handler: Handler | None
    """None: the target has no such method."""
    is_coroutine: bool = False
    """An ``async def``."""
    on_loop: bool = False
    """An ``async def``, or one that yields: it runs on the data loop, which it does not block."""
    batches: bool = False
    """It is marked by `servekit.accept_batch`."""
    blocking: Handler | None = None
    """The handler, for where nothing awaits what it returns."""


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
        self.call: Handler = self._object
        self.main = _entry(None, self._object)

    def method(self, name: str) -> Handler | None:
        """The method ``name`` of a class target; None where there is none."""
        found = getattr(self._object, name, None) if self._is_class else None
        return found if callable(found) else None

    def find(self, name: str | None) -> Entry:
        """What a call by this name asks for; None is the handler itself."""
        return self.main if name is None else _entry(name, self.method(name))

    def check(self, adapter: RequestAdapter, config: BackendConfig) -> None:
        """Raises `InvalidInputError` where handler, adapter and config do not go together; else `main`
        is fitted to the adapter."""
        batches = self.takes_batches
        if batches and (adapter.whole_application or adapter.is_async):
            raise InvalidInputError(
                f"the target accepts batches, but the adapter {type(adapter).__qualname__} hands over one request at a "
                "time: take accept_batch off the target, or give the backend another adapter"
            )
        if config.max_batch_size is not None and not batches:
            raise InvalidInputError(
                f"max_batch_size is {config.max_batch_size}, but the handler takes one request at a time: mark it with "
                "@servekit.accept_batch (it then gets a list and returns one as long), or leave max_batch_size out"
            )
        if adapter.whole_application and type(adapter).call_async is RequestAdapter.call_async:
            # It is called by `call` alone. An `async def` is what makes the application then, and not one itself.
            self.main = Entry(None, self._object, blocking=self._object)

    def capabilities(self, adapter: RequestAdapter, config: BackendConfig) -> Capabilities:
        """How many calls of the handler there may be at a time, and whether one may begin before its body is there.

        With one slot it may not, nor in a batch: whoever sends slowly would hold up all others.
        """
        slots = config.max_concurrent_queries
        if slots is None:
            slots = ASYNC_SLOTS if adapter.is_async or self.main.on_loop else 1
        return Capabilities(slots, takes_body_as_it_comes(self.main, adapter, slots) and not self.takes_batches)

    def release(self) -> None:
        """Let go of the object that a class made, so that its ``__del__`` runs before the process ends."""
        if not self._is_class:
            return
        try:
            alive: Callable[[], object] = weakref.ref(self._object)
        except TypeError:  # Its class has slots.
            alive = object
        self.call = self._object = _gone
        self.main = Entry(None, None)
        if alive() is not None:
            gc.collect()  # It is part of a cycle, or something that is refers to it.

    @property
    def takes_batches(self) -> bool:
        """Whether the handler, or a method of it, is marked by `servekit.accept_batch`."""
        kind = type(self._object)
        methods = [getattr(kind, name, None) for name in dir(kind)] if self._is_class else []
        return self.main.batches or any(map(accepts_batches, methods))


def takes_body_as_it_comes(entry: Entry, adapter: RequestAdapter, slots: int) -> bool:
    """Whether a call of ``entry`` may begin while its body is on its way; else all of it is to be here first.

    With one slot a read of what has not come would hold up the main thread, and all other calls with it.
    """
    if adapter.is_async:
        return True
    return adapter.streams_body and slots > 1 and not entry.on_loop and not entry.batches


def _gone(*_: Any) -> Any:
    raise RuntimeError("the replica's handler has ended")


def _entry(name: str | None, handler: Handler | None) -> Entry:
    if handler is None:
        return Entry(name, None)
    function = function_of(handler)
    is_coroutine = inspect.iscoroutinefunction(function)
    on_loop = is_coroutine or inspect.isasyncgenfunction(function)
    blocking = handler if on_loop else _unless_hidden(handler, function)
    return Entry(name, handler, is_coroutine, on_loop, accepts_batches(handler), blocking)


def _unless_hidden(handler: Handler, function: object) -> Handler:
    """The handler; one that raises `TypeError` where a decorator hides that it is an ``async def``.

    Not before its call makes a coroutine: the decorator may run it to its end.
    """
    try:
        hidden: Any = inspect.unwrap(function) if callable(function) else None
    except ValueError:  # A circle.
        return handler
    if not inspect.iscoroutinefunction(hidden):
        return handler

    def call(*args: Any, **kwargs: Any) -> Any:
        result = handler(*args, **kwargs)
        if inspect.iscoroutine(result):
            result.close()
            raise TypeError(
                f"the handler {hidden.__qualname__!r} is an async def, and a decorator hides that: it made a def of "
                "it, so nothing awaits the coroutine that the call returned. Do in its body what the decorator does "
                "(`with torch.no_grad():`, say), or let the decorator return an async def that awaits it"
            )
        return result

    return call
