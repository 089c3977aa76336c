"""Factories of plugins, one by one: each is found by its import path, its options are checked, and it is called.

Workers use this file alone: they load the one factory they need by its path, and never scan entry points.
"""

from __future__ import annotations

import enum
import inspect
import pkgutil
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Union

from servekit.arguments import kinds_of
from servekit.config import fits, misfit, nearest
from servekit.errors import InternalError, InvalidInputError, PluginOptionsError, ServekitError, UnknownPluginError
from servekit.interfaces import ReplicaRuntime, RequestAdapter, RequestObserver, RolloutJudge, RoutingPolicy

_SCALARS: tuple[Any, ...] = (str, bytes, int, float, bool, type(None), Any)
_PLAIN = (*_SCALARS, Union, types.UnionType, list, tuple, dict, Iterable, Collection, Sequence, Mapping)


class Kind(enum.Enum):
    """The kinds of objects that plugins have factories for; the value is the word for the kind in messages."""

    plural: str
    interface: type
    """The abstract class of the objects that a factory of this kind makes."""

    def __new__(cls, label: str, plural: str, interface: type) -> Kind:
        kind = object.__new__(cls)
        kind._value_ = label
        kind.plural = plural
        kind.interface = interface
        return kind

    POLICY = ("routing policy", "routing policies", RoutingPolicy)
    RUNTIME = ("replica runtime", "replica runtimes", ReplicaRuntime)
    ADAPTER = ("request adapter", "request adapters", RequestAdapter)
    OBSERVER = ("request observer", "request observers", RequestObserver)
    JUDGE = ("rollout judge", "rollout judges", RolloutJudge)

    @property
    def hook(self) -> str:
        """The name of the hook that registers factories of this kind."""
        return f"servekit_register_{self.plural.replace(' ', '_')}"


@dataclass(frozen=True)
class Origin:
    """The plugin that a factory came from, for blame; its distribution is ``local`` where a user named
    ``module:attr``."""

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
    """The object at ``module:qualname``; raises `UnknownPluginError`, from the exception of the import."""
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
    summary = f"It takes: {', '.join(map(_summary, takes))}" if takes else "It takes no options"
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for key in options:
            if key not in names:
                hint = nearest(key, names).partition(" Known:")[0]
                raise PluginOptionsError(f"{provided} has no option {key!r}{hint} {summary}")
    missing = [p.name for p in takes if p.default is p.empty and p.name not in options]
    if missing:
        raise PluginOptionsError(f"{provided} needs the option {', '.join(map(repr, missing))}. {summary}")
    for name, kind in _kinds_of(provided.factory).items():
        if name in options and not fits(options[name], kind):
            raise PluginOptionsError(f"{provided}: its option {misfit(name, options[name], kind)}. {summary}")
    try:
        signature.bind(**options)
    except TypeError as error:
        raise PluginOptionsError(f"{provided} cannot be made from options: {error}. {summary}") from None


def takes(provided: Provided, option: str) -> bool:
    """Whether the factory has an option of this name."""
    try:
        return option in inspect.signature(provided.factory).parameters
    except ValueError:  # As in `check_options`.
        return False


def _kinds_of(factory: Callable[..., Any]) -> dict[str, Any]:
    """Annotations of its parameters, as far as options can be checked by them; none where one cannot be looked up."""
    try:
        found = kinds_of(factory.__init__ if inspect.isclass(factory) else factory)
    except Exception:
        return {}
    return {name: kind for name, kind in found.items() if _is_plain(kind)}


def _is_plain(kind: Any) -> bool:
    """Whether plain data, which options are, can be what an annotation says. Of any other, a path or a set, say, the
    factory makes what it wants itself."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return True
    return (origin or kind) in _PLAIN and all(_is_plain(each) for each in inner if each is not ...)


def build(provided: Provided, options: Mapping[str, Any]) -> Any:
    """The object that the factory makes from ``options``: an instance of the kind's abstract class.

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
    except (Exception, SystemExit) as error:
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
