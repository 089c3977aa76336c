"""Objects that are targets themselves, applications mostly: how they travel to a replica.

One that a module holds under a name travels as that name, so that the replica has what the module made, all of it
fitting together. Any other travels as a copy. Applications hold what pickle does not take, so the pickler here does.
"""

from __future__ import annotations

import copyreg
import io
import sys
import threading
import types
import weakref
from typing import Any

import cloudpickle

from servekit.handles.pickling import PROTOCOL, by_value, is_found

_LOCKS: dict[type, Any] = {type(threading.Lock()): threading.Lock, type(threading.RLock()): threading.RLock}


def dumps(value: Any) -> tuple[bytes, bool]:
    """``value`` pickled, and whether that took what plain pickling has not: references to weak objects, locks (a copy
    has new ones), and objects whose ``__getattr__`` calls itself where they are still empty (`starlette`'s ``State``).
    """
    with io.BytesIO() as file:
        pickler = _Pickler(file, PROTOCOL)
        pickler.dump(value)
        return file.getvalue(), pickler.helped


def name_of(target: Any) -> str | None:
    """``module:attribute``, where a replica can import what this process has under that name."""
    for name, module in list(sys.modules.items()):
        if name == "__main__" or not isinstance(module, types.ModuleType):
            continue
        for attribute, value in list(vars(module).items()):
            if value is target and is_found(name.partition(".")[0]):
                return f"{name}:{attribute}"
    return None


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    helped = False

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if kind is weakref.ReferenceType:
            self.helped = True
            target = obj()
            return (_dead, ()) if target is None else (weakref.ref, (target,))
        if kind in _LOCKS:
            self.helped = True
            return _LOCKS[kind], ()
        if kind.__module__ == "starlette.datastructures" and kind.__name__ == "State":
            self.helped = True
            return copyreg.__newobj__, (kind,), vars(obj), None, None, _set_state  # type: ignore[attr-defined]
        if isinstance(obj, (type, types.FunctionType)):
            with by_value(obj):
                return super().reducer_override(obj)
        return super().reducer_override(obj)


def _set_state(obj: Any, state: dict[str, Any]) -> None:
    vars(obj).update(state)


def _dead() -> Any:
    """A weak reference to what is gone."""
    return _nothing


def _nothing() -> None: ...
