"""A plan: what a deploy would change, and all that it takes to do that, in this process or from a file."""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from servekit.code.modules import find
from servekit.control.deploys import Difference, Step
from servekit.deploy.reading import Configuration, as_written
from servekit.errors import InvalidInputError, ServekitError
from servekit.private_folders import write_private

_SIGNS = {"create": "+", "change": "~", "replace": "±", "traffic": "~", "rollout": "~", "remove": "-"}
_HOW = {
    "change": ", in place",
    "replace": ", by new replicas beside the old ones",
    "traffic": ": its traffic",
    "rollout": ": rolls out, step by step",
}
_FORMAT = 1


class DeployPlan(msgspec.Struct, frozen=True):
    """What a deploy would change. ``print(plan)`` shows it as a difference; `apply` does it."""

    instance: str
    """The name of the instance that it was made for."""
    number: int
    """Of the instance's state that it was made from: it applies to that state alone."""
    steps: list[Step]
    """Empty: there is nothing to do."""
    wanted: dict[str, Any] = {}
    values: dict[str, str] = {}
    """What errors do not show: see `as_written`."""
    format: int = _FORMAT

    def __repr__(self) -> str:
        return f"<plan of {len(self.steps)} steps for state {self.number} of instance {self.instance!r}>"

    def __str__(self) -> str:
        return "\n".join(self.lines()) or "nothing to do"

    def lines(self) -> Iterator[str]:
        """The difference, line by line; the first character of a step's first line says what it is."""
        for step in self.steps:
            yield f"{_SIGNS[step.action]} {step.kind} {step.name}{_HOW.get(step.action, '')}"
            prefix = f"{step.kind}s.{step.name}."
            for each in step.differences:
                yield f"    {each.key.removeprefix(prefix)}: {_change(each, created=step.action == 'create')}"
            if step.undoes:
                yield f"    {step.undoes}"

    def save(self, path: str | Path) -> None:
        """Write the plan to a file for `load`, which only this user can read: it has the values of variables.

        Raises `InvalidInputError` where it cannot be written there.
        """
        try:
            write_private(Path(path), msgspec.msgpack.encode(self), durable=False)
        except OSError as error:
            raise InvalidInputError(f"the plan cannot be written to {path}: {error.strerror or error}") from error

    @classmethod
    def load(cls, path: str | Path) -> DeployPlan:
        """The plan that was saved. Raises `InvalidInputError`."""
        try:
            plan = msgspec.msgpack.decode(Path(path).read_bytes(), type=cls)
        except OSError as error:
            raise InvalidInputError(f"the plan {path} cannot be read: {error.strerror or error}") from error
        except msgspec.MsgspecError:
            raise InvalidInputError(f"{path} is no plan; servekit deploy FILE --plan-out {path} writes one") from None
        if plan.format != _FORMAT:
            raise InvalidInputError(f"the plan {path} is of another version of servekit: make another")
        return plan


def _change(each: Difference, *, created: bool) -> str:
    after = "none" if each.after is None else json.dumps(each.after, ensure_ascii=False, default=str)
    before = "none" if each.before is None else json.dumps(each.before, ensure_ascii=False, default=str)
    return after if created else f"{before} → {after}"


def wanted_of(
    configuration: Configuration,
    files: Sequence[object],
    pack: Callable[..., dict[str, Any]],
    *,
    stay_on_path: bool = False,
) -> dict[str, Any]:
    """What is asked of an instance for a configuration.

    Args:
        files: that the configuration is from.
        pack: makes of `create_backend`'s arguments what travels.
        stay_on_path: replicas of this process are to find modules beside the files, too.
    """
    spec = configuration.spec
    backends = []
    with _on_path(configuration.folders, stay=stay_on_path):
        for name, table in spec.backends.items():
            given = {field: getattr(table, field) for field in table.__struct_fields__}
            target, args, kwargs = given.pop("target"), given.pop("args"), given.pop("kwargs")
            module = target.partition(":")[0]
            if table.freeze and ":" in target and find(module) is None:
                raise InvalidInputError(
                    f"backends.{name}.target: there is no module {module!r}, neither beside the file nor installed; "
                    "where replicas alone have it, write freeze = false"
                )
            try:
                packed = pack(name, target, tuple(args), init_kwargs=kwargs, **given, cwd=configuration.folders[0])
            except InvalidInputError as error:
                raise type(error)(f"backends.{name}: {error}") from error
            backends.append(packed)
    endpoints = [{"name": name, **msgspec.to_builtins(table)} for name, table in spec.endpoints.items()]
    names = ", ".join(Path(str(file)).name for file in files if not isinstance(file, dict))
    why = f"deploy of {names}" if names else "deploy"
    return {"endpoints": endpoints, "backends": backends, "written": configuration.written, "why": why}


@contextlib.contextmanager
def errors_as_written(values: Mapping[str, str]) -> Iterator[None]:
    """Errors of the block show what is written, and not the values of variables."""
    try:
        yield
    except ServekitError as error:
        message = as_written(str(error), values)
        if message == str(error):
            raise
        raise type(error)(message) from None  # The error itself, and its cause, would be in a traceback.


@contextlib.contextmanager
def _on_path(folders: Sequence[str], *, stay: bool) -> Iterator[None]:
    """Let this process find modules in these folders, for the block or, to ``stay``, from now on."""
    before = sys.path[:]
    sys.path[:0] = [folder for folder in folders if folder not in before]
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if not stay:
            sys.path[:] = before
