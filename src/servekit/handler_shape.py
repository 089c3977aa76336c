"""What a handler looks like from outside: what it must be given, and what of it can be called."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

import msgspec

from servekit.annotations import Doubt, doubt_of, in_batches, is_scalar, is_typed, item_of, parameters_of
from servekit.config import DEFAULT_ADAPTER, TYPED_ADAPTER, BackendConfig, nearest
from servekit.decorators import UNKNOWN, accepts_batches, check_batches, takes_batches, takes_nothing
from servekit.errors import InvalidInputError
from servekit.interfaces import Request

_APPLICATIONS = {
    "flask.app.Flask": "wsgi",
    "django.core.handlers.wsgi.WSGIHandler": "wsgi",
    "starlette.applications.Starlette": "asgi",
    "django.core.handlers.asgi.ASGIHandler": "asgi",
}
"""Adapters of applications, which would be called with a request and fail; by their classes, which are not imported."""
WAYS_OUT = (
    "Annotate every parameter with a model or a plain value (docs/validation.md), or give create_backend "
    "adapter='json' or adapter='flask'"
)
_OF_LIFE = ("reconfigure", "check_health", "close")


class HandlerShape(msgspec.Struct, frozen=True):
    """What is known of a target where `create_backend` has it; it is stored with the backend, for later checks."""

    is_class: bool
    methods: tuple[str, ...]
    """Every public name of a class that can be called, or that its objects may get."""
    makes_methods: bool
    """Whether its objects make attributes as they are asked for."""
    own_methods: tuple[str, ...]
    takes_batches: bool
    parameters: dict[str, str] | None = None
    """Of a handler that the adapter ``json`` calls, by name: ``text`` or ``body``, where a request must have it;
    ``request``; ``optional`` otherwise. None: of another adapter, or not known."""
    doubt: str = ""
    """Why it cannot be called with a request, though it is of the adapter ``flask``: it is meant to be typed."""


def shape_of(target: Any, adapter: str, doubt: Doubt | None) -> HandlerShape:
    public = [name for name in dir(target) if name[0] != "_"] if inspect.isclass(target) else []
    makes_any, later = _may_have(target) if inspect.isclass(target) else (False, set())
    is_known = adapter == TYPED_ADAPTER and (not inspect.isclass(target) or is_called(target))
    return HandlerShape(
        is_class=inspect.isclass(target),
        methods=tuple(sorted({name for name in public if callable(getattr(target, name, None))} | later - set(public))),
        makes_methods=makes_any,
        own_methods=methods_of(target),
        takes_batches=takes_batches(target),
        parameters={p.name: _source(p, in_batches(target)) for p in parameters_of(target)} if is_known else None,
        doubt=str(doubt) if doubt is not None and doubt.is_meant_typed else "",
    )


def _source(parameter: inspect.Parameter, batches: bool) -> str:
    if parameter.annotation is Request:
        return "request"
    if parameter.default is not parameter.empty:
        return "optional"
    return "text" if is_scalar(item_of(parameter.annotation) if batches else parameter.annotation) else "body"


def chosen_adapter(target: Any) -> str:
    """The adapter of a backend for which none is named."""
    typed = [is_typed(handler, batches=accepts_batches(target)) for handler in _handlers_of(target)]
    others = [h for h, is_so in zip(_handlers_of(target), typed, strict=True) if not is_so and not takes_nothing(h)]
    return TYPED_ADAPTER if any(typed) and not others else DEFAULT_ADAPTER


def doubt_of_any(target: Any) -> Doubt | None:
    """That of the handler, or of the first method that has one where a class has no ``__call__``."""
    doubts = [doubt_of(handler, batches=accepts_batches(target)) for handler in _handlers_of(target)]
    return next(filter(None, doubts), None)


def warning_of(doubt: Doubt, backend: str, handler: str) -> str:
    refused = "; an endpoint with a route refuses it" if doubt.is_meant_typed else ""
    return f"backend {backend!r}: {doubt}, so the handler {handler} gets a flask.Request first{refused}. {WAYS_OUT}"


def _handlers_of(target: Any) -> list[Any]:
    if not inspect.isclass(target) or is_called(target):
        return [target]
    return [functools.partial(getattr(target, method), None) for method in methods_of(target)]  # None is self.


def application_adapter(target: Any) -> str | None:
    """The adapter that a whole application needs; None of anything else."""
    return next((_APPLICATIONS[_path(kind)] for kind in type(target).__mro__ if _path(kind) in _APPLICATIONS), None)


def _path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def check(name: str, target: Any, adapter: str) -> None:
    """Raise `InvalidInputError` where a target, which people call ``name``, does not go with its adapter."""
    needed = application_adapter(target)
    if needed is not None and adapter in (DEFAULT_ADAPTER, TYPED_ADAPTER):
        raise InvalidInputError(
            f"the target {name} is a whole application ({_path(type(target))}), and not a handler: give create_backend "
            f"adapter={needed!r}, and create its endpoint with mount=True"
        )
    if inspect.isclass(target) and not is_called(target) and not methods_of(target):
        raise InvalidInputError(f"the target {name} makes something that cannot be called; give it a __call__ method")


def check_config(name: str, shape: HandlerShape, config: BackendConfig) -> None:
    """Raise `InvalidInputError` where a config asks of a target, which people call ``name``, what it cannot do."""
    for method in config.callable_methods:
        if not shape.is_class:
            raise InvalidInputError(f"callable_methods has {method!r}, but the target {name} is not a class")
        if method not in shape.methods and not shape.makes_methods:
            hint = nearest(method, shape.own_methods)
            raise InvalidInputError(f"callable_methods has {method!r}, which {name} lacks{hint}")
    check_batches(config.max_batch_size, shape.takes_batches)


def check_arguments(name: str, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raise `InvalidInputError` where the ``__init__`` of a class does not take these arguments."""
    try:
        # What a decorator gives the function behind it is not to be asked of the user.
        inspect.signature(target, follow_wrapped=False).bind(*args, **kwargs)
    except TypeError as error:
        raise InvalidInputError(
            f"{name} cannot be built: {error}. What its __init__ takes follows the target, as in "
            'create_backend("name", Model, "path", init_kwargs={"size": 2})'
        ) from None
    except (ValueError, NameError):  # Its call will tell. See `UNKNOWN`.
        return


def is_called(target: type) -> bool:
    """Whether objects of a class can be called."""
    return any("__call__" in vars(kind) for kind in target.__mro__)


def methods_of(target: Any) -> tuple[str, ...]:
    """The public methods that a class itself defines, but those of a replica's life; empty for what is no class."""
    own = vars(target).items() if inspect.isclass(target) else ()
    return tuple(name for name, each in own if inspect.isfunction(each) and name[0] != "_" and name not in _OF_LIFE)


def _may_have(target: type) -> tuple[bool, set[str]]:
    """Whether objects of a class make attributes as they are asked for; and the names in its code: an object may get
    one of those that the class lacks, as from an ``__init__`` that wraps a method."""
    own = [each for kind in target.__mro__[:-1] for each in vars(kind).items()]
    codes = [each.__code__ for _, each in own if inspect.isfunction(each)]
    named = {name for code in codes for name in (*code.co_names, *code.co_consts) if isinstance(name, str)}
    makes_any = any(key in ("__getattr__", "__getattribute__") for key, _ in own)
    return makes_any, {name for name in named if name.isidentifier() and name[0] != "_"}


def requires(name: str, target: Any) -> str:
    """The arguments beside the request that a handler cannot be called without, which only a handle can give.

    Raises `InvalidInputError` where a class's ``__call__`` has no ``self``.
    """
    called = inspect.getattr_static(target, "__call__") if inspect.isclass(target) else target
    if inspect.isclass(target) and not (is_called(target) and inspect.isfunction(called)):
        return ""
    try:
        # A decorator may give the function behind it more than it takes itself.
        parameters = list(inspect.signature(called, follow_wrapped=False).parameters.values())
    except UNKNOWN:
        return ""
    if inspect.isclass(target):
        if not parameters:
            raise InvalidInputError(f"the __call__ of {name} takes no argument at all; its first is self")
        del parameters[0]
    by_position = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    rest = by_position[1:] + [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    return ", ".join(p.name for p in rest if p.default is p.empty)
