"""Functions and classes of a main script, in the process pools of its handlers.

`multiprocessing` refers by name to the function that a pool is to call, and to the classes of the results. The names of
a script are in no module of a replica, nor of the replica's children. So in these processes, and in no others, the
pickler of `multiprocessing` refers to them by `found`: a child that has not inherited an object builds it from the same
bytes as the replica did.
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
    """The names of the script that came whole with the replica's target."""

    def __init__(self, path: str) -> None:
        self.path = path
        """The path of a file with the target's bytes, which the replica's process keeps open for its children."""
        self.modules: dict[str, dict[str, Any]] = {}
        """The globals that the target brought along, by the name of their module."""
        self._file: Any = None

    def keep(self, data: bytes) -> None:
        """Keep the target's bytes in a file that goes with the process: on the disk, where there is room, for arguments
        may be long."""
        try:
            file: Any = tempfile.TemporaryFile()  # noqa: SIM115
            file.write(data)
            file.flush()
        except OSError:
            file = os.fdopen(memory_file(data), "rb")
        self._file = file
        self.path = f"/proc/{os.getpid()}/fd/{file.fileno()}"

    def find(self, module: str, name: str) -> Any:
        """The object of that name; None where there is none."""
        namespace, (first, *rest) = self.modules.get(module, {}), name.split(".")
        return functools.reduce(lambda found, part: getattr(found, part, None), rest, namespace.get(first))


_script: _Script | None = None
"""The script of this process; None where the process is neither a replica nor a child of one."""


def install(path: str = "") -> None:
    """From now on this process is a replica, or a child of one, and the next target that is loaded is the script's.

    ``path``: in a child, the file with the target's bytes.
    """
    global _script
    _script = _Script(path)
    ForkingPickler.reducer_override = _reduce  # type: ignore[method-assign]


def loads(data: bytes) -> Any:
    """Unpickle the ``data`` that `servekit.targets` made. In a replica's process the script is remembered."""
    loader = _Loader(io.BytesIO(data))
    loaded = loader.load()
    target = getattr(loaded, "target", None)
    namespace = loader.modules.get(getattr(target, "__module__", ""))
    if namespace is not None and isinstance(target, _NAMED):  # The target's own globals need not name the target.
        namespace.setdefault(target.__name__, target)
    if _script is not None and loader.modules:
        _script.modules.update(loader.modules)
        if not _script.path:
            _script.keep(data)
    return loaded


def found(path: str, module: str, name: str) -> Any:
    """The script's object of that name. Raises `AttributeError` where the script has no such name."""
    if _script is None:  # In a child that was not forked from the replica.
        install(path)
        loads(Path(path).read_bytes())
    value = None if _script is None else _script.find(module, name)
    if value is None:
        raise AttributeError(f"the script of this replica has no {name!r}")
    return value


class _Loader(pickle.Unpickler):
    """Notes which module the globals belong to with which cloudpickle makes functions."""

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
    if getattr(sys.modules.get(module), name, None) is obj:  # The process's own main module has it.
        return NotImplemented
    return pickle.loads, (dumps(obj),)
