"""Discovers the installed plugins and the factories that each of them gives, and blames those that cannot be used.

Every plugin is loaded on its own and guarded: a fault of one becomes a sentence in `Registry.problems` that names its
distribution, and the others go on. The bundled plugins are entry points like any other.
"""

from __future__ import annotations

import inspect
import logging
import os
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import importlib_metadata
import pluggy
from importlib_metadata import EntryPoint

from servekit import hookspecs
from servekit.config import nearest
from servekit.errors import UnknownPluginError
from servekit.factories import Kind, Origin, Provided, at_path, describe, load_path, path_of

GROUP = "servekit"
BUNDLE = "servekit"
"""The distribution of the bundled plugins."""
DISABLE_VARIABLE = "SERVEKIT_DISABLE_PLUGINS"

logger = logging.getLogger(__name__)

Observer: TypeAlias = Callable[..., object]

_ARGUMENTS = {
    name: tuple(inspect.signature(spec).parameters)
    for name, spec in vars(hookspecs).items()
    if name.startswith("servekit_")
}
_SIGNATURES = {name: f"{name}({', '.join(arguments)})" for name, arguments in _ARGUMENTS.items()}
_NOT_PLAIN = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
_leading_name = re.compile(r"[A-Za-z0-9._-]+").match
_REGISTRATION = {kind.hook: kind for kind in Kind}


@dataclass(frozen=True)
class _Plugin:
    origin: Origin
    provided: tuple[Provided, ...]
    observers: tuple[tuple[str, Observer, str], ...]
    """Hook, function, import path."""


class _RejectedError(Exception):
    """A plugin that servekit does not accept; the message says why."""


class Registry:
    """The plugins that `discover` found. A registry never changes."""

    def __init__(self, plugins: Iterable[_Plugin], problems: Iterable[str], disabled: Collection[str]) -> None:
        self._plugins = tuple(plugins)
        self._provided, self._clashes = _settle(self._plugins)
        self._disabled = tuple(sorted(disabled))
        self.problems = (*problems, *self._clashes.values())
        """For each plugin, or name that one gives, that is not in use: a sentence that says why."""

    @property
    def loaded(self) -> list[str]:
        """One line for each plugin in use: ``plugin weighted from servekit 0.1.0: routing policies weighted``."""
        return [self._line(plugin) for plugin in self._plugins]

    @property
    def added(self) -> list[str]:
        """The lines of `loaded` for plugins that did not come with servekit."""
        return [self._line(plugin) for plugin in self._plugins if plugin.origin.distribution != "servekit"]

    def names(self, kind: Kind) -> list[str]:
        """The names that users can choose from."""
        return sorted(name for a_kind, name in self._provided if a_kind is kind)

    def get(self, kind: Kind, name_or_path: str) -> Provided:
        """The factory of that name, or the one at that ``module:attr``; raises `UnknownPluginError`."""
        found = self._provided.get((kind, name_or_path))
        if found is not None:
            return found
        clash = self._clashes.get((kind, name_or_path))
        if clash is not None:
            raise UnknownPluginError(clash)
        if ":" in name_or_path:
            return at_path(kind, name_or_path)
        message = f"no {kind.value} is called {name_or_path!r}{nearest(name_or_path, self.names(kind))}."
        if self._disabled:
            message += f" Switched off: {', '.join(self._disabled)}."
        if self.problems:
            message += f" What is not in use, and may have given it: {'; '.join(self.problems)}"
        raise UnknownPluginError(message)

    def notify(self, hook_name: str, **arguments: Any) -> None:
        """Call every function that implements an observer hook; an exception of one is logged, and the others are
        called."""
        labelled = [(function, f"{origin}, {path}") for function, path, origin in self.observers(hook_name)]
        notify_observers(labelled, hook_name, **arguments)

    def observers(self, hook_name: str) -> list[tuple[Observer, str, Origin]]:
        """The functions that implement an observer hook, each with the path by which workers import it, and its
        plugin."""
        if hook_name not in _ARGUMENTS or hook_name in _REGISTRATION:
            raise LookupError(f"{hook_name!r} is not an observer hook{nearest(hook_name, _ARGUMENTS)}")
        return [
            (function, path, plugin.origin)
            for plugin in self._plugins
            for hook, function, path in plugin.observers
            if hook == hook_name
        ]

    def _line(self, plugin: _Plugin) -> str:
        origin = plugin.origin
        parts = []
        for kind in Kind:
            given = sorted(p.name for p in plugin.provided if p.kind is kind and (kind, p.name) in self._provided)
            if given:
                parts.append(f"{kind.plural} {', '.join(given)}")
        if plugin.observers:
            parts.append(f"observers {', '.join(sorted(hook for hook, _, _ in plugin.observers))}")
        head = f"plugin {origin.entry_point} from {origin.distribution} {origin.version}"
        return f"{head}: {'; '.join(parts) or 'nothing in use'}"


def notify_observers(observers: Iterable[tuple[Observer, str]], hook_name: str, **arguments: Any) -> None:
    """Call each function with those of ``arguments`` that it declares; an exception is logged.

    The string beside a function names the function in the log.
    """
    for function, label in observers:
        try:
            declared = inspect.signature(function).parameters
            function(**{name: value for name, value in arguments.items() if name in declared})
        except Exception:
            logger.exception("hook %s of %s raised; the other observers go on", hook_name, label)


def disabled_by_environment() -> frozenset[str]:
    """The entry point names in ``SERVEKIT_DISABLE_PLUGINS``, which are separated by commas."""
    names = (name.strip() for name in os.environ.get(DISABLE_VARIABLE, "").split(","))
    return frozenset(name for name in names if name)


def discover(*, disabled: Collection[str] = (), entry_points: Iterable[EntryPoint] | None = None) -> Registry:
    """Load every plugin, in an order that does not depend on the installation; raises nothing that a plugin does.

    ``disabled``: entry point names to leave out. Where servekit bundles a plugin of that name, only that one is
    left out, so that another distribution can take over both names. ``entry_points``: default, those installed.
    """
    if entry_points is None:
        entry_points = importlib_metadata.entry_points(group=GROUP)
    found = _sorted(entry_points)
    known = {origin.entry_point for origin, _ in found}
    bundled = {origin.entry_point for origin, _ in found if origin.distribution == BUNDLE}
    problems = [
        f"the plugin {name!r}, to be switched off, is not installed{nearest(name, known)}"
        for name in sorted(set(disabled) - known)
    ]
    plugins = []
    for origin, entry_point in found:
        name = origin.entry_point
        if name in disabled and (origin.distribution == BUNDLE or name not in bundled):
            continue
        try:
            plugins.append(_load(entry_point, origin, problems))
        except (Exception, SystemExit) as error:
            reason = str(error) if isinstance(error, _RejectedError) else describe(error)
            problems.append(f"{origin} was not loaded: {reason}")
            logger.debug("%s was not loaded", origin, exc_info=True)
    return Registry(plugins, problems, known.intersection(disabled))


def find(kind: Kind, name_or_path: str) -> Provided | None:
    """The one factory of that name, for a process that needs no other; None where no plugin gives the name.

    Loading every plugin takes up to 0.2 s, for which an `init` would wait. So the entry point of the same name is
    loaded first, and the others only where that one does not give the name. Where two plugins give the same name, the
    controller refuses it.
    """
    disabled = disabled_by_environment()
    if ":" in name_or_path:
        sources: list[Iterable[EntryPoint] | None] = [()]
    else:
        sources = [importlib_metadata.entry_points(group=GROUP, name=name_or_path), None]
    for entry_points in sources:
        try:
            return discover(disabled=disabled, entry_points=entry_points).get(kind, name_or_path)
        except UnknownPluginError:
            continue
    return None


def complete_runtime_options(name: str, options: Mapping[str, Any], *, outlives: bool) -> dict[str, Any]:
    """The options of the runtime ``name``, as `ReplicaRuntime.complete_options` completes them in the calling process.

    Raises the `ServekitError` that it raises. The options of a name that no plugin gives stay as they are: the
    controller refuses the name, and knows why.
    """
    provided = find(Kind.RUNTIME, name)
    # A factory may be a function, which completes nothing.
    complete = getattr(provided and provided.factory, "complete_options", None)
    return dict(options if complete is None else complete(options, outlives=outlives))


def _sorted(entry_points: Iterable[EntryPoint]) -> list[tuple[Origin, EntryPoint]]:
    """The entry points in one order everywhere, each once: an editable install may be found twice on ``sys.path``."""
    found = {}
    for entry_point in entry_points:
        origin = _origin(entry_point)
        found[_canonical(origin.distribution), entry_point.name, entry_point.value] = origin, entry_point
    return [found[key] for key in sorted(found)]


def _origin(entry_point: EntryPoint) -> Origin:
    distribution = entry_point.dist
    if distribution is None:
        return Origin("an unknown distribution", "", entry_point.name)
    try:
        return Origin(str(distribution.name), str(distribution.version), entry_point.name)
    except (OSError, LookupError, TypeError):  # half removed: `_load` fails on it, and it is blamed
        return Origin("a distribution without metadata", "", entry_point.name)


def _load(entry_point: EntryPoint, origin: Origin, problems: list[str]) -> _Plugin:
    """Import one plugin and ask what it gives. A fault of the plugin is raised; one of a single name that the plugin
    gives is added to ``problems``."""
    _check_requirement((entry_point.dist and entry_point.dist.requires) or ())
    plugin = entry_point.load()
    provided: list[Provided] = []
    observers = []
    for hook, function in _implementations(plugin, entry_point.name):
        kind = _REGISTRATION.get(hook)
        if kind is None:
            observers.append((hook, function, _observer_path(entry_point, function)))
            continue
        for name, factory in _registered(hook, function).items():
            try:
                provided.append(Provided(kind, name, factory, path_of(factory), origin))
            except UnknownPluginError as error:
                problems.append(f"{kind.value} {name!r} of {origin} is not used: {error}")
    return _Plugin(origin, tuple(provided), tuple(observers))


def _canonical(distribution: str) -> str:
    """The name of a distribution as PEP 503 normalizes it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _check_requirement(requires: Iterable[str]) -> None:
    """Raise where a plugin requires another version of servekit: pip may have been overruled, or servekit been
    updated."""
    for line in requires:
        name = _leading_name(line)
        if name is None or _canonical(name[0]) != BUNDLE:
            continue
        from packaging.requirements import Requirement  # 50 ms that few need

        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        running = importlib_metadata.version(BUNDLE)
        if not requirement.specifier.contains(running, prereleases=True):
            raise _RejectedError(f"it requires servekit{requirement.specifier}, and this is servekit {running}")


def _implementations(plugin: object, name: str) -> list[tuple[str, Observer]]:
    """The plugin's hook functions by hook name, each of them of the right signature."""
    # A manager with specifications would stop at the first fault, half-way; without them it takes every function.
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.register(plugin, name)
    found = [(c.name, impl) for c in manager.get_hookcallers(plugin) or () for impl in c.get_hookimpls()]
    if not found:
        raise _RejectedError("it implements no hook; mark its hook functions with servekit.hookspecs.hookimpl")
    faults = []
    for hook, impl in found:
        if hook not in _ARGUMENTS:
            faults.append(f"there is no hook {hook!r}{nearest(hook, _SIGNATURES.values())}")
        elif not set(impl.argnames) <= set(_ARGUMENTS[hook]):
            faults.append(f"its {hook}({', '.join(impl.argnames)}) should be {_SIGNATURES[hook]}")
        elif any(is_kind(impl.function) for is_kind in _NOT_PLAIN):
            faults.append(f"its {hook} must be a plain function, neither async nor a generator nor a hook wrapper")
    if faults:
        raise _RejectedError("; ".join(faults))
    return [(hook, impl.function) for hook, impl in found]


def _registered(hook: str, function: Observer) -> Mapping[str, Callable[..., Any]]:
    """The factories that a registration hook returns, by name, checked."""
    factories = function()
    if not isinstance(factories, Mapping):
        raise _RejectedError(f"{hook} returned {factories!r}, not a mapping of names to factories")
    for name, factory in factories.items():
        if not isinstance(name, str) or not name or ":" in name:
            raise _RejectedError(f"{hook} gave the name {name!r}; a name is a non-empty str without a colon")
        if not callable(factory):
            raise _RejectedError(f"{hook} gave {name!r} as {factory!r}, which cannot be called")
    return factories


def _observer_path(entry_point: EntryPoint, function: Observer) -> str:
    holder = f"{entry_point.attr}." if entry_point.attr else ""
    path = f"{entry_point.module}:{holder}{function.__name__}"
    if load_path(path) != function:
        raise _RejectedError(f"{function!r} is not to be found as {path!r}, so workers cannot load it")
    return path


def _settle(plugins: Iterable[_Plugin]) -> tuple[dict[tuple[Kind, str], Provided], dict[tuple[Kind, str], str]]:
    """The factory of each name; and for each name that several plugins give, why none of them is used."""
    given: defaultdict[tuple[Kind, str], list[Provided]] = defaultdict(list)
    for plugin in plugins:
        for provided in plugin.provided:
            given[provided.kind, provided.name].append(provided)
    clashes = {}
    for (kind, name), several in given.items():
        if len(several) > 1:
            givers = " and by ".join(f"{provided.origin} ({provided.path})" for provided in several)
            clashes[kind, name] = (
                f"{kind.value} {name!r} is given by {givers}, so none of them is used: "
                f"uninstall one, or put its entry point's name into {DISABLE_VARIABLE}"
            )
    return {key: several[0] for key, several in given.items() if key not in clashes}, clashes
