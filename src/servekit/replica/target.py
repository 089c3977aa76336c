"""A backend's target, from the bytes that a client made of it to the handlers that are called."""

from __future__ import annotations

import gc
import importlib
import inspect
import logging
import weakref
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from servekit.config import ASYNC_SLOTS, BackendConfig
from servekit.decorators import accepts_batches, check_batches, function_of, takes_batches, takes_nothing
from servekit.errors import InvalidInputError
from servekit.handler_shape import methods_of
from servekit.interfaces import Handler, RequestAdapter
from servekit.replica import pools
from servekit.wire.control_frames import Capabilities

_log = logging.getLogger("servekit.replica")

TYPES_BYTES = 12 * 1024
"""The longest that what a handler says for the OpenAPI document may be, compressed: it has to fit into a hello."""


class Target(msgspec.Struct):
    """The target and the arguments that `create_backend` was given."""

    target: Any
    """A function, a class, or ``"module:attr"``."""
    init_args: tuple[Any, ...] = ()
    init_kwargs: dict[str, Any] = {}


def load(data: bytes) -> Target:
    """Unpickle a target. Raises any error of the imports of its modules."""
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
    """The handler, or one of its methods, for calls that ask for that method by name."""

    name: str | None
    handler: Handler | None
    """None: the target has no such method."""
    is_coroutine: bool = False
    """An ``async def``."""
    on_loop: bool = False
    """An ``async def``, or one that yields. It runs on the data loop, and does not block the loop."""
    batches: bool = False
    """The handler is marked by `servekit.accept_batch`."""
    blocking: Handler | None = None
    """The handler, for a call whose result nothing awaits."""
    adapter: RequestAdapter | None = None
    """That of this handler alone: see `RequestAdapter.fit`; None: the replica's."""
    problem: str = ""
    """Why the target's method of that name cannot be called."""
    methods: tuple[str, ...] = ()
    """The public methods of a target that has none of that name."""


class Handlers:
    """A replica's handler: a function, or one object built from a class, whose methods may be called by name."""

    def __init__(self, target: Target) -> None:
        self.is_class = inspect.isclass(target.target)
        self._marked = target.target
        if self.is_class:
            self._object = target.target(*target.init_args, **target.init_kwargs)
        elif target.init_args or target.init_kwargs:
            raise InvalidInputError(f"the target {target.target!r} is not a class, so it takes no init arguments")
        else:
            self._object = target.target
        if not callable(self._object) and not methods_of(type(self._object)):
            raise InvalidInputError(
                f"the target {target.target!r} makes something that cannot be called; give its class a __call__ method"
            )
        self.call: Handler = self._object
        self._adapter: RequestAdapter | None = None
        self._methods: dict[str, tuple[object, Entry]] = {}
        """Those of the class that were called by their names, each with its function."""
        self._called = self._object if callable(self._object) else None
        if isinstance(inspect.getattr_static(type(self._object), "__call__", None), staticmethod):
            self._called = self._object.__call__  # `inspect.signature` of the object leaves its first parameter out.
        self.main = self._entry(None, self._called)

    def method(self, name: str) -> Handler | None:
        """The method ``name`` of a class target; None where there is none."""
        found = getattr(self._object, name, None) if self.is_class else None
        return found if callable(found) else None

    def find(self, name: str | None) -> Entry:
        """The entry that a call by this name asks for; None is the name of the handler itself."""
        if name is None:
            return self.main
        handler = self.method(name)
        function = getattr(handler, "__func__", handler)
        known = self._methods.get(name)
        if known is not None and known[0] is function:  # An object may have taken another one for it since.
            return known[1]
        try:
            found = self._entry(name, handler)
        except Exception as error:  # The adapter's, or that of what it reads of the method.
            found = Entry(name, None, problem=f"the method {name!r} cannot be called: {error}")
        if hasattr(type(self._object), name):
            self._methods[name] = (function, found)
        return found

    def _entry(self, name: str | None, handler: Handler | None) -> Entry:
        if handler is None:
            return Entry(name, None, methods=methods_of(type(self._object)))
        return _entry(name, handler, self._adapter)

    def check(self, adapter: RequestAdapter, config: BackendConfig) -> None:
        """Raises `InvalidInputError` where handler, adapter and config do not go together, and what
        `RequestAdapter.fit` raises; else handler and adapter are fitted to each other."""
        if self.takes_batches and (adapter.whole_application or adapter.is_async):
            raise InvalidInputError(
                f"the target accepts batches, but the adapter {type(adapter).__qualname__} hands over one request at a "
                "time: take accept_batch off the target, or give the backend another adapter"
            )
        check_batches(config.max_batch_size, takes_batches(self._marked))
        if adapter.whole_application and type(adapter).call_async is RequestAdapter.call_async:
            # The application is called by `call` alone: an `async def` makes the application, and is none itself.
            self.main = Entry(None, self._object, blocking=self._object)
        elif not adapter.whole_application:
            self._adapter = adapter
            self.main = self._entry(None, self._called)

    def capabilities(self, adapter: RequestAdapter, config: BackendConfig) -> Capabilities:
        """How many calls of the handler there may be at a time, and whether a call may begin before its body is there.

        With one slot it may not, nor in a batch: a client that sends slowly would hold up all others.
        """
        slots = config.max_concurrent_queries
        if slots is None:
            slots = ASYNC_SLOTS if adapter.is_async or self.main.on_loop else 1
        streams = takes_body_as_it_comes(self.main, adapter, slots) and not self.takes_batches
        return Capabilities(slots, streams, _packed_types(self.main.adapter or adapter))

    def release(self) -> None:
        """Let go of the object that a class made, so that its ``__del__`` runs before the process ends."""
        if not self.is_class:
            return
        try:
            alive: Callable[[], object] = weakref.ref(self._object)
        except TypeError:  # Its class has slots.
            alive = object
        self.call = self._object = self._called = _gone
        self.main = Entry(None, None)
        self._methods.clear()
        if alive() is not None:
            gc.collect()  # A cycle leads to the object.

    @property
    def takes_batches(self) -> bool:
        """Whether the handler, or a method of it, is marked by `servekit.accept_batch`."""
        return takes_batches(self._marked)


def _packed_types(adapter: RequestAdapter) -> bytes:
    """`HandlerTypes` as `Capabilities` has them. They are documentation: for no fault of theirs a replica fails."""
    try:
        types = adapter.types()
        packed = b"" if types is None else zlib.compress(msgspec.json.encode(types), 9)
    except Exception as error:  # A model may show anything as its example.
        _log.warning("the OpenAPI document is without this backend, whose types cannot be written: %s", error)
        return b""
    if len(packed) > TYPES_BYTES:
        _log.warning(
            "the OpenAPI document is without this backend, whose schemas have more than %d bytes, compressed",
            TYPES_BYTES,
        )
        return b""
    return packed


def takes_body_as_it_comes(entry: Entry, adapter: RequestAdapter, slots: int) -> bool:
    """Whether a call of ``entry`` may begin while its body is on its way; else all of the body is to be here first.

    With one slot, a read that waits for more of the body would hold up the main thread, and all other calls.
    """
    if adapter.is_async:
        return True
    return adapter.streams_body and slots > 1 and not entry.on_loop and not entry.batches


def _gone(*_: Any) -> Any:
    raise RuntimeError("the replica's handler has ended")


def _entry(name: str | None, handler: Handler, adapter: RequestAdapter | None) -> Entry:
    """``adapter``: to be fitted to the handler."""
    function = function_of(handler)
    is_coroutine = inspect.iscoroutinefunction(function)
    on_loop = is_coroutine or inspect.isasyncgenfunction(function)
    batches, fitted = accepts_batches(handler), None
    if adapter is not None:
        fitted, made = adapter.fit(handler, batches=batches)
        handler = _with_argument(handler, batches) if made is handler else made
    blocking = handler if on_loop else _unless_hidden(handler, function)
    return Entry(name, handler, is_coroutine, on_loop, batches, blocking, None if fitted is adapter else fitted)


def _with_argument(handler: Handler, batches: bool) -> Handler:
    """The handler; for one that takes no argument, a function that takes the request, and calls it without."""
    if not takes_nothing(handler):
        return handler
    if batches:
        raise InvalidInputError(
            f"the handler {handler!r} accepts batches and takes no argument, so it could not know how many requests it "
            "is to answer: give it one, which is the list of them, or take accept_batch off"
        )

    def call(_: Any, *args: Any, **kwargs: Any) -> Any:
        return handler(*args, **kwargs)

    return call


def _unless_hidden(handler: Handler, function: object) -> Handler:
    """The handler; one that raises `TypeError` where a decorator hides that it is an ``async def``.

    The error is raised only when the call returns a coroutine: the decorator may run the coroutine to its end itself.
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
