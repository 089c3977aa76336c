"""Pickles objects that travel: by reference where the other side can import them, else by value."""

from __future__ import annotations

import functools
import importlib
import io
import pickle
import sys
import threading
import types
from collections.abc import Callable
from typing import Any

import cloudpickle

from servekit.code.digest import digest_here
from servekit.code.finder import is_frozen
from servekit.code.modules import is_importable, is_main
from servekit.errors import CodeDiffersError
from servekit.rebuild.definitions import remade
from servekit.rebuild.objects import reduced

PROTOCOL = 5
"""With protocol 5 (PEP 574), large buffers leave the pickle, and are copied once less."""
_registry = threading.RLock()
"""Held while a module is in cloudpickle's table of modules to be pickled by value, of which a process has one."""


def dumps(value: Any, buffer_callback: Callable[[pickle.PickleBuffer], Any] | None = None) -> bytes:
    """The pickle of ``value``, by `Pickler`; ``buffer_callback`` as in `pickle.dumps`. Raises any error of pickling."""
    with io.BytesIO() as file:
        _PeerPickler(file, PROTOCOL, buffer_callback).dump(value)
        return file.getvalue()


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    """cloudpickle's pickler, which also pickles by value the objects of a module that no import would find, and knows
    how more objects are rebuilt (`servekit.rebuild`)."""

    helped = False
    """Whether plain pickling would not have done for some object."""

    def by_value(self, module: str) -> bool:
        """Whether the objects of the module of this name are pickled whole. Asked of every module that the pickle would
        otherwise refer to by name, so a subclass hears of all these modules, and may decide otherwise."""
        return is_main(module) or not is_importable(module)

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)  # The `__class__` of a weak proxy is that of the object that the proxy leads to.
        if issubclass(kind, (type, types.FunctionType)):
            reduction = self._by_reference_or_whole(obj)
            return reduction if reduction is NotImplemented or len(reduction) < 6 else remade(obj, reduction)
        if issubclass(kind, (types.ModuleType, types.BuiltinFunctionType)):
            name = obj.__name__ if issubclass(kind, types.ModuleType) else obj.__module__
            if isinstance(name, str):
                self.by_value(name)  # A subclass hears of it. Modules and functions in C go by name at any rate.
            return NotImplemented
        reduction = reduced(obj, self.by_value)
        if reduction is NotImplemented:
            return super().reducer_override(obj)
        self.helped = True
        return reduction

    def _by_reference_or_whole(self, obj: Any) -> Any:
        """cloudpickle's reduction of a function or a class: whole, where the object is to go by value.

        pytest's ``--import-mode=importlib`` makes modules that no import finds: another process could not import an
        object of theirs by name.
        """
        name = obj.__module__
        module = sys.modules.get(name) if isinstance(name, str) else None
        if module is None or not self.by_value(name) or is_main(name):
            return super().reducer_override(obj)
        with _registry:
            if name in cloudpickle.list_registry_pickle_by_value():  # The user has registered the module.
                return super().reducer_override(obj)
            cloudpickle.register_pickle_by_value(module)
            try:
                return super().reducer_override(obj)
            finally:
                cloudpickle.unregister_pickle_by_value(module)


class _PeerPickler(Pickler):
    """Pickles for the other end of a handle, which has code of its own: each end uses its own classes."""

    def _by_reference_or_whole(self, obj: Any) -> Any:
        module, name = obj.__module__, obj.__qualname__
        if is_main(module) or _attribute_of(sys.modules.get(module), name) is not obj:
            return super()._by_reference_or_whole(obj)
        if self.by_value(module):
            # No import finds the module, but the other end's frozen code may have it: then that one is meant.
            with io.BytesIO() as file:
                Pickler(file, PROTOCOL).dump(obj)
                return own_or_whole, (module, name, file.getvalue())
        digest = digest_here(module)
        return (own, (module, name, digest)) if digest else super()._by_reference_or_whole(obj)


def own(module: str, name: str, digest: str) -> Any:
    """The object of that name in this process's code. Raises `CodeDiffersError` where only the sender's code has it,
    whose digest is ``digest``."""
    try:
        found = _attribute_of(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):  # The module is here, and imports another in vain.
            raise
        found = None
    if found is None:
        top = module.partition(".")[0]
        here = digest_here(module) or "not there"
        raise CodeDiffersError(
            f"{module}.{name} came by a handle, and nothing has that name here: the code of {top!r} is {digest} where "
            f"it was sent, and {here} where it arrived. Let both sides have the same code"
        )
    return found


def own_or_whole(module: str, name: str, whole: bytes) -> Any:
    """The object of that name in this process's frozen code, or else the object that was pickled as ``whole``."""
    found = _attribute_of(importlib.import_module(module), name) if is_frozen(module) else None
    return pickle.loads(whole) if found is None else found


def _attribute_of(module: object, qualname: str) -> Any:
    """The attribute; None where there is none, as for a class that a function has made."""
    return functools.reduce(lambda found, part: getattr(found, part, None), qualname.split("."), module)
