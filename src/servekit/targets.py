"""Packs a target, which a user gave `create_backend`, into bytes from which a replica can build the handler."""

from __future__ import annotations

import functools
import inspect
import io
import operator
import pickle
import sys
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from servekit.code.bundle import Code
from servekit.code.freezing import Freezing, freeze, is_carried
from servekit.code.modules import is_main
from servekit.code.references import References
from servekit.errors import InvalidInputError, UnpicklableTargetError
from servekit.handles.culprit import blame
from servekit.handles.pickling import PROTOCOL, Pickler
from servekit.rebuild.definitions import named_code
from servekit.rebuild.objects import name_of
from servekit.replica.target import Target

NOT_FROZEN = Freezing(freeze=False)


def text_of(target: Any) -> str:
    """The name of a target, for people."""
    if isinstance(target, str):
        return target
    name = getattr(target, "__qualname__", type(target).__qualname__)
    return f"{getattr(target, '__module__', '?')}:{name}"


def name_in_file(target: Any) -> str | None:
    """The name by which a configuration file would give a target; None where another process could not import it so."""
    if not isinstance(target, str):
        name = text_of(target)
        module, _, attribute = name.partition(":")
        try:
            if operator.attrgetter(attribute)(sys.modules[module]) is not target:
                return None
        except (KeyError, AttributeError):
            return None
        target = name
    return None if is_main(target.partition(":")[0]) else target


class Packed(NamedTuple):
    """A packed target, which travels to replicas."""

    data: bytes
    """The target and the arguments of its ``__init__``, pickled."""
    code: Code
    """The client's own modules that the pickle refers to."""
    warnings: Sequence[str]
    """Warnings of files that differ from the code that this process runs."""


def pack_target(
    target: Any,
    init_args: tuple[Any, ...],
    init_kwargs: Mapping[str, Any] | None,
    freezing: Freezing = NOT_FROZEN,
    modules: Iterable[str] = (),
) -> Packed:
    """Pack a target, and the code that the target needs.

    Args:
        modules: more modules that the replica imports, such as the adapter's.

    Raises:
        InvalidInputError: ``target`` is no target, or needs more code than may be frozen.
        UnpicklableTargetError: a part of the target cannot be pickled. The message names the part.
    """
    kwargs = dict(init_kwargs or {})
    references = References(modules)
    if isinstance(target, str):
        module, colon, attribute = target.partition(":")
        if not (colon and module and attribute):
            raise InvalidInputError(
                f"the target {target!r} is text, but not 'module:attribute': give create_backend the function or class "
                "itself, or say where a replica finds it, as in 'my_module:handler'"
            )
        if is_main(module):  # A replica has another main module.
            return pack_target(_of_main(module, attribute), init_args, init_kwargs, freezing, modules)
        references.note_module(module)
    else:
        _check_object(target, init_args, kwargs)
    try:
        data = _pack(Target(target, tuple(init_args), kwargs), references, freezing)
    except Exception as error:
        raise UnpicklableTargetError(_refusal(target, init_args, kwargs, error)) from error
    return Packed(data, *freeze(references, freezing))


def _check_object(target: Any, init_args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if not callable(target):
        raise InvalidInputError(
            f"the target {target!r} is neither a function nor a class, and cannot be called; "
            "give create_backend a function, a class, or 'module:attribute'"
        )
    if not inspect.isclass(target) and (init_args or kwargs):
        raise InvalidInputError(
            f"the target {text_of(target)} is not a class, so it takes no init arguments; leave them out"
        )


def _of_main(module: str, attribute: str) -> Any:
    try:
        return operator.attrgetter(attribute)(sys.modules[module])
    except AttributeError:
        raise InvalidInputError(f"the main script has no {attribute!r}") from None


def _is_object(target: Any) -> bool:
    """Whether the target is neither a class nor a function: an application, say, or another callable object."""
    return not isinstance(target, str) and not inspect.isclass(target) and not inspect.isroutine(target)


class _TargetPickler(Pickler):
    """Tells ``references`` of the modules and functions that it meets, and refers by name to objects whose code
    travels."""

    def __init__(self, file: io.BytesIO, references: References, freezing: Freezing) -> None:
        super().__init__(file, PROTOCOL)
        self._references = references
        self._freezing = freezing
        self._carried = functools.cache(is_carried)  # A pickle asks of a module for each object that the module has.

    def by_value(self, module: str) -> bool:
        self._references.note_module(module)
        return super().by_value(module) and not (self._freezing.freeze and self._carried(module))

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is types.CodeType:
            self._references.note_code(obj)
            return named_code, (obj.co_filename, self.dispatch_table[types.CodeType](obj)[1])
        if type(obj) is types.FunctionType:
            self._references.note_function(obj)
        return super().reducer_override(obj)


def _pack(packed: Target, references: References, freezing: Freezing) -> bytes:
    """Pickle a target. An object for which plain pickling would not do goes by its name in a module, or else as a copy.

    By its name in a module, an object is there with all of its parts fitting together.
    """
    data, failure = b"", None
    with io.BytesIO() as file:
        pickler = _TargetPickler(file, references, freezing)
        try:
            pickler.dump(packed)
            data = file.getvalue()
        except Exception as error:
            failure = error
    if _is_object(packed.target) and (pickler.helped or failure is not None):
        name = name_of(packed.target, pickler.by_value)
        if name is not None:
            return pickle.dumps(Target(":".join(name)), PROTOCOL)
    if failure is not None:
        raise failure
    return data


def _refusal(target: Any, init_args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception) -> str:
    """A message that names the part that cannot travel, the way to that part, and the remedy."""
    parts = {
        f"the target {text_of(target)}": target,
        **{f"init argument {n}": value for n, value in enumerate(init_args, 1)},
        **{f"init argument {name!r}": value for name, value in kwargs.items()},
    }
    blamed = next(filter(None, (blame(name, part) for name, part in parts.items())), None)
    what, reason = blamed or (f"the target {text_of(target)}", f"{type(error).__name__}: {error}")
    advice = "make it in the __init__ of a class target, which runs in the replica, or in the function that uses it"
    if _is_object(target):
        advice = (
            "give create_backend 'module:attribute' instead, which a replica imports; or, for an application, a "
            'function that makes it, with adapter_options={"factory": True}'
        )
    return f"{what} cannot be pickled, and so cannot travel to a replica ({reason}); {advice}"
