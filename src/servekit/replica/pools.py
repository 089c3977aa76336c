"""What a main script defines, in the process pools of its handlers.

`multiprocessing` refers by name to what a pool is to call, and to the classes of what it returns. The names of a
script are in no module of a replica, nor of its children. So in these processes, and in no others, its pickler refers
to them by `found`: what a child has not inherited, it builds from the same bytes as the replica did.
"""

from __future__ import annotations

import functools
import io
import os
import pickle
import sys
import tempfile
import types
import typing
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

from servekit.code.modules import is_main
from servekit.handles.pickling import dumps
from servekit.processes import memory_file

_NAMED = (type, types.FunctionType, functools._lru_cache_wrapper, typing.NewType)


class _Script:
    """What came whole with the replica's target: the script's names."""

    def __init__(self, path: str) -> None:
        self.path = path
        """Of a file with the target's bytes, which the replica's process keeps open for its children."""
        self.modules: dict[str, dict[str, Any]] = {}
        """The globals of what the target brought along, by the name of their module."""
        self._file: Any = None

    def keep(self, data: bytes) -> None:
        """In a file that goes with the process: on the disk, where there is room, for arguments may be long."""
        try:
            file: Any = tempfile.TemporaryFile()  # noqa: SIM115
            file.write(data)
            file.flush()
        except OSError:
            file = os.fdopen(memory_file(data), "rb")
        self._file = file
        self.path = f"/proc/{os.getpid()}/fd/{file.fileno()}"

    def find(self, module: str, name: str) -> Any:
        """None where there is nothing of that name."""
        namespace, (first, *rest) = self.modules.get(module, {}), name.split(".")
        return functools.reduce(lambda found, part: getattr(found, part, None), rest, namespace.get(first))


_script: _Script | None = None
"""That of this process; None where it is neither a replica's nor a child of one."""


def install(path: str = "") -> None:
    """From now on this process is a replica's, and the next target that it loads is the script's.

    ``path``: of the file with its bytes, in a child.
    """
    global _script
    _script = _Script(path)
    ForkingPickler.reducer_override = _reduce  # type: ignore[method-assign]


def loads(data: bytes) -> Any:
    """What `servekit.targets` has pickled. In a replica's process its script is remembered."""
    loader = _Loader(io.BytesIO(data))
    loaded = loader.load()
    target = getattr(loaded, "target", None)
    namespace = loader.modules.get(getattr(target, "__module__", ""))
    if namespace is not None and isinstance(target, _NAMED):  # It need not name itself.
        namespace.setdefault(target.__name__, target)
    if _script is not None and loader.modules:
        _script.modules.update(loader.modules)
        if not _script.path:
            _script.keep(data)
    return loaded


def found(path: str, module: str, name: str) -> Any:
    """What the script calls so. Raises `AttributeError` where it has no such name."""
    if _script is None:  # In a child that was not forked from the replica.
        install(path)
        loads(Path(path).read_bytes())
    value = None if _script is None else _script.find(module, name)
    if value is None:
        raise AttributeError(f"the script of this replica has no {name!r}")
    return value


class _Loader(pickle.Unpickler):
    """Sees to whom the globals belong with which cloudpickle makes functions."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.modules: dict[str, dict[str, Any]] = {}

    def find_class(self, module: str, name: str) -> Any:
        attribute = super().find_class(module, name)
        if name != "_make_function" or not module.startswith("cloudpickle"):
            return attribute

        def make_function(code: types.CodeType, namespace: dict[str, Any], *rest: Any) -> Any:
            self.modules.setdefault(str(namespace.get("__name__")), namespace)
            return attribute(code, namespace, *rest)

        return make_function


def _reduce(_: Any, obj: Any) -> Any:
    """The `reducer_override` of the pickler of `multiprocessing`."""
    script = _script
    if script is None or not issubclass(type(obj), _NAMED):
        return NotImplemented
    module, name = str(obj.__module__), obj.__qualname__
    if module not in script.modules and not is_main(module):
        return NotImplemented
    if script.find(module, name) is obj:
        return found, (script.path, module, name)
    if getattr(sys.modules.get(module), name, None) is obj:  # Of the module that the process itself began with.
        return NotImplemented
    return pickle.loads, (dumps(obj),)
