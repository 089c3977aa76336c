"""Pickles for objects that travel: by reference where the other side can import, else by value."""

from __future__ import annotations

import contextlib
import functools
import io
import pickle
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import cloudpickle

PROTOCOL = 5
"""PEP 574: large buffers leave the pickle, and are copied once less."""


def dumps(value: Any, buffer_callback: Callable[[pickle.PickleBuffer], Any] | None = None) -> bytes:
    """``value`` as cloudpickle pickles it; ``buffer_callback`` as in `pickle.dumps`. Raises what pickling raises."""
    with io.BytesIO() as file:
        _Pickler(file, PROTOCOL, buffer_callback).dump(value)
        return file.getvalue()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    """cloudpickle's, which also takes whole what comes from a module that no import would find."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, (type, types.FunctionType)):
            with by_value(obj):
                return super().reducer_override(obj)
        return super().reducer_override(obj)


@contextlib.contextmanager
def by_value(target: Any) -> Iterator[None]:
    """While this lasts, what is in the target's module is pickled whole, if no import would find the module.

    pytest's ``--import-mode=importlib`` makes such modules: another process could not import what refers to them.
    """
    name = getattr(target, "__module__", None)
    module = sys.modules.get(name or "")
    if module is None or name == "__main__" or is_found(str(name).partition(".")[0]):
        yield
        return
    if name in cloudpickle.list_registry_pickle_by_value():  # Further out already, or by the user.
        yield
        return
    cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(module)


@functools.lru_cache(maxsize=4096)
def is_found(module: str) -> bool:
    # Not importlib.util.find_spec, which looks into sys.modules first.
    finders = (getattr(finder, "find_spec", None) for finder in sys.meta_path)
    return any(find(module, None) is not None for find in finders if find is not None)
