"""Pickles for objects that travel: by reference where the other side can import, else by value."""

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
"""PEP 574: large buffers leave the pickle, and are copied once less."""
_registry = threading.RLock()
"""What cloudpickle is to pickle by value, it is told by a table of the process."""


def dumps(value: Any, buffer_callback: Callable[[pickle.PickleBuffer], Any] | None = None) -> bytes:
    """``value`` as `Pickler` pickles it; ``buffer_callback`` as in `pickle.dumps`. Raises what pickling raises."""
    with io.BytesIO() as file:
        _PeerPickler(file, PROTOCOL, buffer_callback).dump(value)
        return file.getvalue()


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    """cloudpickle's, which also takes whole what comes from a module that no import would find, and knows of more
    objects how they are rebuilt (`servekit.rebuild`)."""

    helped = False
    """Whether some object took more than plain pickling has."""

    def by_value(self, module: str) -> bool:
        """Whether what the module of this name holds is pickled whole. Asked of every module that the pickle would
        otherwise refer to by name, so a subclass hears of them all, and may decide otherwise."""
        return is_main(module) or not is_importable(module)

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)  # A weak proxy says that it is what it leads to.
        if issubclass(kind, (type, types.FunctionType)):
            reduction = self._by_reference_or_whole(obj)
            return reduction if reduction is NotImplemented or len(reduction) < 6 else remade(obj, reduction)
        if issubclass(kind, (types.ModuleType, types.BuiltinFunctionType)):
            name = obj.__name__ if issubclass(kind, types.ModuleType) else obj.__module__
            if isinstance(name, str):
                self.by_value(name)  # It is told; a module as a whole, and what C defines, go by name at any rate.
            return NotImplemented
        reduction = reduced(obj, self.by_value)
        if reduction is NotImplemented:
            return super().reducer_override(obj)
        self.helped = True
        return reduction

    def _by_reference_or_whole(self, obj: Any) -> Any:
        """What cloudpickle makes of a function or a class, which takes whole what is to go by value.

        pytest's ``--import-mode=importlib`` makes modules that no import finds: another process could not import what
        refers to them.
        """
        name = obj.__module__
        module = sys.modules.get(name) if isinstance(name, str) else None
        if module is None or not self.by_value(name) or is_main(name):
            return super().reducer_override(obj)
        with _registry:
            if name in cloudpickle.list_registry_pickle_by_value():  # By the user.
                return super().reducer_override(obj)
            cloudpickle.register_pickle_by_value(module)
            try:
                return super().reducer_override(obj)
            finally:
                cloudpickle.unregister_pickle_by_value(module)


class _PeerPickler(Pickler):
    """For the other end of a handle, which has code of its own: the classes of either are each side's own."""

    def _by_reference_or_whole(self, obj: Any) -> Any:
        module, name = obj.__module__, obj.__qualname__
        if is_main(module) or _attribute_of(sys.modules.get(module), name) is not obj:
            return super()._by_reference_or_whole(obj)
        if self.by_value(module):
            # No import finds it, but the other end's frozen code may have it: then that is meant.
            with io.BytesIO() as file:
                Pickler(file, PROTOCOL).dump(obj)
                return own_or_whole, (module, name, file.getvalue())
        digest = digest_here(module)
        return (own, (module, name, digest)) if digest else super()._by_reference_or_whole(obj)


def own(module: str, name: str, digest: str) -> Any:
    """What this process's code calls so. Raises `CodeDiffersError` where only the sender's code, ``digest``, has it."""
    try:
        found = _attribute_of(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):  # It is something else that it imports in vain.
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
    """What this process's frozen code calls so, or else what ``whole`` makes."""
    found = _attribute_of(importlib.import_module(module), name) if is_frozen(module) else None
    return pickle.loads(whole) if found is None else found


def _attribute_of(module: object, qualname: str) -> Any:
    """None where there is none, as of what a function has made."""
    return functools.reduce(lambda found, part: getattr(found, part, None), qualname.split("."), module)
