"""Reductions of objects that pickling does not take, or that it takes wrongly.

The functions and classes of a script are pickled whole, for its ``__main__`` cannot be imported in a replica; and with
them come the locks, caches, context variables and weak references of people's programs. This is the one place that
knows these: a table from a type to the reduction (`object.__reduce_ex__`) of its objects.
"""

from __future__ import annotations

import concurrent.futures
import contextvars
import dataclasses
import functools
import importlib
import inspect
import pickle
import queue
import subprocess
import sys
import threading
import types
import typing
import weakref
from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias

import msgspec

ByValue: TypeAlias = Callable[[str], bool]
"""Whether the objects of the module of that name are pickled whole, as no import elsewhere would find them."""
Reduction: TypeAlias = "tuple[Any, ...]"


def reduced(obj: Any, by_value: ByValue) -> Any:
    """The reduction of ``obj``, or `NotImplemented` where pickling itself has the right one.

    Raises `pickle.PicklingError` for an object that pickling would take, and that would be of no use elsewhere.
    """
    kind = type(obj)
    reduce: _Reduce | None = _BY_TYPE.get(kind)
    if reduce is None and kind.__module__ in _MODULES:
        reduce = _BY_NAME.get(f"{kind.__module__}.{kind.__qualname__}")
    if reduce is not None:
        return reduce(obj, by_value)
    if issubclass(kind, _BOUND_HERE):
        advice = ": await it, or take its .result()" if issubclass(kind, concurrent.futures.Future) else ""
        raise pickle.PicklingError(f"a {kind.__qualname__} belongs to the process that made it{advice}")
    if hasattr(kind, "__getattr__") and _pickled_by_default(kind):
        return _set_whole(obj)
    return NotImplemented


def is_named(obj: Any, by_value: ByValue) -> bool:
    """Whether the module of ``obj`` has this very object under its name, so that the object travels as that name."""
    module = str(getattr(obj, "__module__", None))
    found: Any = sys.modules.get(module)
    if found is None or by_value(module):
        return False
    for part in (getattr(obj, "__qualname__", None) or obj.__name__).split("."):
        found = getattr(found, part, None)
    return found is obj


def name_of(obj: Any, by_value: ByValue) -> tuple[str, str] | None:
    """``(module, attribute)``, where a replica can import ``obj`` by that name; None where there is no such name."""
    for name, module in list(sys.modules.items()):
        attributes = vars(module) if isinstance(module, types.ModuleType) else {}
        for attribute, value in list(attributes.items()):
            if value is obj and not by_value(name):
                return name, attribute
    return None


# -- what stays the same object: a name in a module, where one has it ------------------------------------------------


def _attribute(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def _by_name(obj: Any, by_value: ByValue) -> Any:
    name = name_of(obj, by_value)
    return NotImplemented if name is None else (_attribute, name)


def _context_variable(obj: contextvars.ContextVar[Any], by_value: ByValue) -> Reduction:
    name = name_of(obj, by_value)
    if name is not None:
        return _attribute, name
    try:
        return _make_context_variable, (obj.name, contextvars.Context().run(obj.get))
    except LookupError:
        return contextvars.ContextVar, (obj.name,)


def _make_context_variable(name: str, default: Any) -> contextvars.ContextVar[Any]:
    return contextvars.ContextVar(name, default=default)


# -- what pickling takes for a name in a module ----------------------------------------------------------------------


def _cached(obj: Any, by_value: ByValue) -> Any:
    parameters = getattr(obj, "cache_parameters", None)
    if parameters is None or is_named(obj, by_value):
        return NotImplemented
    own = {name: value for name, value in vars(obj).items() if name not in ("__wrapped__", "cache_parameters")}
    return _make_cached, (obj.__wrapped__, *parameters().values()), own


def _make_cached(function: Callable[..., Any], maxsize: int | None, typed: bool) -> Any:
    return functools.lru_cache(maxsize, typed)(function)


def _new_type(obj: Any, by_value: ByValue) -> Any:
    if is_named(obj, by_value):
        return NotImplemented
    return typing.NewType, (obj.__name__, obj.__supertype__), vars(obj)


def _type_parameter(obj: Any, by_value: ByValue) -> Any:
    return NotImplemented if is_named(obj, by_value) else (type(obj), (obj.__name__,))


def _type_alias(obj: Any, by_value: ByValue) -> Any:
    if is_named(obj, by_value):
        return NotImplemented
    return _make_type_alias, (type(obj), obj.__name__, obj.__value__, obj.__type_params__)


def _make_type_alias(kind: Any, name: str, value: Any, parameters: tuple[Any, ...]) -> Any:
    return kind(name, value, type_params=parameters)


# -- weak references -------------------------------------------------------------------------------------------------


class _Gone:
    """Takes the place of an object that a weak reference led to, and that is gone."""


def _reference(obj: weakref.ref[Any], _: ByValue) -> Reduction:
    target = obj()
    if target is None:
        return _make_dead, (weakref.ref,)
    callback = obj.__callback__
    return weakref.ref, ((target,) if callback is None else (target, callback))


def _proxy(obj: Any, _: ByValue) -> Reduction:
    try:
        found = (getattr(getattr(obj, name, None), "__self__", None) for name in ("__init__", "__repr__", "__dir__"))
        for target in found:
            # A proxy says of itself all that its target does; that it is this one's proxy, the target knows.
            if target is not None and any(own is obj for own in weakref.getweakrefs(target)):
                return weakref.proxy, (target,)
    except ReferenceError:
        return _make_dead, (weakref.proxy,)
    raise pickle.PicklingError("a weakref.proxy whose target hides itself")


def _make_dead(kind: Callable[[Any], Any]) -> Any:
    return kind(_Gone())


def _method_reference(obj: weakref.WeakMethod[Any], _: ByValue) -> Reduction:
    method = obj()
    return (_make_dead, (weakref.ref,)) if method is None else (weakref.WeakMethod, (method,))


def _weak_mapping(obj: Any, _: ByValue) -> Reduction:
    return type(obj), (), None, None, iter(list(obj.items()))


# -- locks, and what is made of nothing but how it was made ----------------------------------------------------------


def _lock(obj: Any, _: ByValue) -> Reduction:
    if repr(obj).startswith("<locked"):
        raise pickle.PicklingError("a lock that is held")
    return _LOCKS[type(obj)], ()


def _queue(obj: queue.SimpleQueue[Any], _: ByValue) -> Reduction:
    if not obj.empty():
        raise pickle.PicklingError("a SimpleQueue that has items, which cannot be read without being taken")
    return queue.SimpleQueue, ()


def _thread_local(_: Any, __: ByValue) -> Reduction:
    """A thread-local object is rebuilt empty, as each thread first sees it."""
    return threading.local, ()


def _thread_pool(obj: Any, _: ByValue) -> Reduction:
    given: Any = vars(obj)
    if "_initializer" not in given:  # From Python 3.14 on, only the closure that makes the threads' contexts has it.
        given = inspect.getclosurevars(obj._create_worker_context).nonlocals
        given = {f"_{name}": value for name, value in given.items()}
    arguments = (obj._max_workers, obj._thread_name_prefix, given["_initializer"], given["_initargs"])
    return _made_anew(obj, obj._shutdown, arguments)


def _process_pool(obj: Any, _: ByValue) -> Reduction:
    arguments = (obj._max_workers, obj._mp_context, obj._initializer, obj._initargs)
    return _made_anew(
        obj, obj._shutdown_thread, arguments, max_tasks_per_child=getattr(obj, "_max_tasks_per_child", None)
    )


def _made_anew(obj: Any, is_shut_down: bool, arguments: tuple[Any, ...], **more: Any) -> Reduction:
    if is_shut_down:
        raise pickle.PicklingError(f"a {type(obj).__qualname__} that was shut down")
    kind: Any = type(obj)
    given = {name: value for name, value in more.items() if value is not None}
    return functools.partial(kind, **given), arguments


def _process_context(obj: Any, _: ByValue) -> Reduction:
    return _make_process_context, (obj.get_start_method(True),)


def _make_process_context(method: str | None) -> Any:
    import multiprocessing

    return multiprocessing.get_context(method)


def _library(obj: Any, _: ByValue) -> NoReturn:
    raise pickle.PicklingError(f"the library {obj._name!r} is loaded by each process for itself")


def _coder(obj: Any, _: ByValue) -> Reduction:
    """A decoder or encoder of msgspec shows all options that it was made with."""
    given = {name: getattr(obj, name) for name in dir(obj) if not name.startswith("_")}
    return _make_of_options, (type(obj), {name: value for name, value in given.items() if name in _CODER_OPTIONS})


def _make_of_options(kind: Callable[..., Any], options: dict[str, Any]) -> Any:
    return kind(**options)


def _constraints(obj: Any, _: ByValue) -> Reduction:
    """msgspec's metadata of an annotation shows all that it was made with."""
    given = {name: getattr(obj, name) for name in dir(obj) if not name.startswith("_")}
    return _make_of_options, (type(obj), {name: value for name, value in given.items() if value is not None})


def _template(obj: Any, _: ByValue) -> Reduction:
    """A template of jinja2 is rebuilt from its attributes: its class, when it is called, compiles a source."""
    return object.__new__, (type(obj),), vars(obj)


def _empty(obj: Any, _: ByValue) -> Reduction:
    """pydantic's table of names for building a model is rebuilt empty: it holds all globals of the script, and is of no
    use once the model is built."""
    return type(obj), ()


# -- classes whose __getattr__ is asked before there is anything -----------------------------------------------------


def _pickled_by_default(kind: Any) -> bool:
    return (
        kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__reduce__ is object.__reduce__
        and not hasattr(kind, "__setstate__")
    )


def _set_whole(obj: Any) -> Any:
    """The default reduction, except that the new and empty object is not asked whether it has a ``__setstate__``."""
    reduction = obj.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    if not isinstance(reduction, tuple) or len(reduction) < 3 or reduction[2] is None:
        return reduction
    return (*reduction, *[None] * (5 - len(reduction)), _set_state)


def _set_state(obj: Any, state: Any) -> None:
    attributes, slots = state if isinstance(state, tuple) else (state, None)
    if attributes:
        vars(obj).update(attributes)
    for name, value in (slots or {}).items():
        object.__setattr__(obj, name, value)


# -- the tables ------------------------------------------------------------------------------------------------------

_LOCKS: dict[type, Any] = {type(threading.Lock()): threading.Lock, type(threading.RLock()): threading.RLock}
_CODER_OPTIONS = frozenset(
    {"type", "strict", "dec_hook", "enc_hook", "ext_hook", "float_hook", "decimal_format", "uuid_format", "order"}
)
_CODERS: tuple[Any, ...] = (
    msgspec.json.Decoder,
    msgspec.json.Encoder,
    msgspec.msgpack.Decoder,
    msgspec.msgpack.Encoder,
)
_BOUND_HERE = (threading.Thread, concurrent.futures.Future, subprocess.Popen)

_Reduce: TypeAlias = Callable[[Any, ByValue], Any]
_BY_TYPE: dict[Any, _Reduce] = {
    functools._lru_cache_wrapper: _cached,
    contextvars.ContextVar: _context_variable,
    typing.NewType: _new_type,
    typing.ParamSpec: _type_parameter,
    object: _by_name,
    type(dataclasses.MISSING): _by_name,
    type(dataclasses.KW_ONLY): _by_name,
    weakref.ReferenceType: _reference,
    weakref.ProxyType: _proxy,
    weakref.CallableProxyType: _proxy,
    weakref.WeakMethod: _method_reference,
    weakref.WeakKeyDictionary: _weak_mapping,
    weakref.WeakValueDictionary: _weak_mapping,
    queue.SimpleQueue: _queue,
    threading.local: _thread_local,
    concurrent.futures.ThreadPoolExecutor: _thread_pool,
    **dict.fromkeys(_LOCKS, _lock),
    **dict.fromkeys(_CODERS, _coder),
    msgspec.Meta: _constraints,
}
_BY_NAME: dict[str, _Reduce] = {
    "typing.TypeVarTuple": _type_parameter,
    "typing.TypeAliasType": _type_alias,
    "concurrent.futures.process.ProcessPoolExecutor": _process_pool,
    **{f"multiprocessing.context.{name}Context": _process_context for name in ("Fork", "Spawn", "ForkServer")},
    "multiprocessing.context.DefaultContext": _process_context,
    **{f"ctypes.{name}": _library for name in ("CDLL", "PyDLL")},
    "werkzeug.local.LocalProxy": _by_name,
    "jinja2.environment.Template": _template,
    "pydantic._internal._namespace_utils.NsResolver": _empty,
}
"""Types that are not imported here, or that not every Python has."""
_MODULES = frozenset(name.rpartition(".")[0] for name in _BY_NAME)
