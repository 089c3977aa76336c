"""What plugins give the core, one by one: finding a factory by its import path, checking options, building.

Workers use this file alone: they load the one factory they need by its path, and never scan entry points.
"""

from __future__ import annotations

import enum
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from servekit.config import nearest
from servekit.errors import InternalError, InvalidInputError, PluginOptionsError, ServekitError, UnknownPluginError
from servekit.interfaces import ReplicaRuntime, RequestAdapter, RoutingPolicy


class Kind(enum.Enum):
    """What a plugin can give a name to; the value is the word for it in messages."""

    plural: str
    interface: type
    """What a factory of this kind must make."""

    def __new__(cls, label: str, plural: str, interface: type) -> Kind:
        kind = object.__new__(cls)
        kind._value_ = label
        kind.plural = plural
        kind.interface = interface
        return kind

    POLICY = ("routing policy", "routing policies", RoutingPolicy)
    RUNTIME = ("replica runtime", "replica runtimes", ReplicaRuntime)
    ADAPTER = ("request adapter", "request adapters", RequestAdapter)

    @property
    def hook(self) -> str:
        """The name of the hook that registers factories of this kind."""
        return f"servekit_register_{self.plural.replace(' ', '_')}"


@dataclass(frozen=True)
class Origin:
    """Where something came from, for blame. The distribution is ``local`` for what was given as ``module:attr``."""

    distribution: str
    version: str
    entry_point: str

    def __str__(self) -> str:
        if self.distribution == "local":
            return f"{self.entry_point!r}"
        return f"plugin {self.entry_point!r} of {self.distribution} {self.version}".rstrip()


@dataclass(frozen=True)
class Provided:
    """A factory, the name that users choose it by, and the import path that workers load it by."""

    kind: Kind
    name: str
    factory: Callable[..., Any]
    path: str
    """``module:qualname``, which resolves to ``factory``."""
    origin: Origin

    def __str__(self) -> str:
        origin = "" if self.origin.distribution == "local" else f" ({self.origin})"
        return f"{self.kind.value} {self.name!r}{origin}"


def load_path(path: str) -> Any:
    """The object at ``module:qualname``; raises `UnknownPluginError`, from what the import raised."""
    if ":" not in path:
        raise UnknownPluginError(f"{path!r} is not an import path: write 'module:attribute'")
    try:
        return pkgutil.resolve_name(path)
    except (Exception, SystemExit) as error:
        raise UnknownPluginError(f"{path!r} cannot be loaded: {describe(error)}") from error


def path_of(factory: object) -> str:
    """The import path that leads back to ``factory``; raises `UnknownPluginError` when there is none."""
    path = f"{getattr(factory, '__module__', None)}:{getattr(factory, '__qualname__', None)}"
    try:
        same = bool(load_path(path) == factory)
    except UnknownPluginError:
        same = False
    if not same:
        raise UnknownPluginError(
            f"{factory!r} is not to be found as {path!r}, so workers cannot load it: "
            "make it a class or function at the top of a module"
        )
    return path


def at_path(kind: Kind, path: str) -> Provided:
    """The factory at ``module:attr``, as a user or a worker names it; raises `UnknownPluginError`."""
    if path.startswith("__main__:"):
        raise UnknownPluginError(f"{kind.value} {path!r}: workers cannot import __main__; move it to a module")
    try:
        factory = load_path(path)
    except UnknownPluginError as error:
        raise UnknownPluginError(f"{kind.value} {error}") from error.__cause__
    if not callable(factory):
        raise UnknownPluginError(f"{kind.value} {path!r} is {factory!r}, which cannot be called; name a class")
    return Provided(kind, path, factory, path, Origin("local", "", path))


def check_options(provided: Provided, options: Mapping[str, Any]) -> None:
    """Raise `PluginOptionsError` when the factory's signature does not take ``options`` as keyword arguments."""
    if not isinstance(options, Mapping):
        raise PluginOptionsError(f"{provided}: options are a dict, not {type(options).__name__}")
    try:
        signature = inspect.signature(provided.factory)
    except ValueError:  # some callables written in C have none; `build` will see
        return
    parameters = signature.parameters.values()
    takes = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    names = [p.name for p in takes]
    summary = f"It takes: {', '.join(map(_summary, takes)) or 'none'}"
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for key in options:
            if key not in names:
                hint = nearest(key, names).partition(" Known:")[0]
                raise PluginOptionsError(f"{provided} has no option {key!r}{hint} {summary}")
    missing = [p.name for p in takes if p.default is p.empty and p.name not in options]
    if missing:
        raise PluginOptionsError(f"{provided} needs the option {', '.join(map(repr, missing))}. {summary}")
    try:
        signature.bind(**options)
    except TypeError as error:
        raise PluginOptionsError(f"{provided} cannot be made from options: {error}. {summary}") from None


def build(provided: Provided, options: Mapping[str, Any]) -> Any:
    """What the factory makes of ``options``: an instance of the kind's abstract class.

    Raises `PluginOptionsError` when the options do not fit, or the factory refuses them by ``ValueError`` or
    ``TypeError``; `InvalidInputError` when it makes something else; `InternalError` when it fails otherwise.
    """
    check_options(provided, options)
    interface = f"servekit.interfaces.{provided.kind.interface.__name__}"
    lacking = sorted(getattr(provided.factory, "__abstractmethods__", ()))
    if lacking:
        raise InvalidInputError(f"{provided} lacks {', '.join(lacking)}, which {interface} demands")
    try:
        instance = provided.factory(**options)
    except ServekitError:
        raise
    except (ValueError, TypeError) as error:
        raise PluginOptionsError(f"{provided} refused its options: {describe(error)}") from error
    except Exception as error:
        raise InternalError(f"{provided} could not be built: {describe(error)}") from error
    if not isinstance(instance, provided.kind.interface):
        made = type(instance)
        raise InvalidInputError(f"{provided} made a {made.__module__}.{made.__qualname__}, which is no {interface}")
    return instance


def describe(error: BaseException) -> str:
    """An exception on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _summary(parameter: inspect.Parameter) -> str:
    if parameter.default is parameter.empty:
        return parameter.name
    return f"{parameter.name}={parameter.default!r}"
