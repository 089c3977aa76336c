"""Reads configuration files: later ones over earlier ones, the environment's variables put in, every key checked."""

from __future__ import annotations

import importlib
import re
import sys
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from servekit.config import check_plain, fits, misfit, nearest, short
from servekit.control.tables import NO_VALUE, key_path
from servekit.deploy.spec import Spec
from servekit.errors import InvalidInputError

tomllib: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

_variable = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<default>:-[^}]*)?\}|\$\{(?P<bad>[^}]*)\}?")
_LEAST_HIDDEN = 4
_MOST_BYTES = 4 * 1024 * 1024
_FREE = frozenset(
    {
        *("args", "kwargs", "user_config", "observers"),
        *("adapter_options", "policy_options", "runtime_options", "judge_options"),
    }
)


class Configuration(NamedTuple):
    """What configuration files say."""

    spec: Spec
    instance: dict[str, Any]
    """The keys of ``[instance]`` that are there."""
    written: dict[str, str]
    """By `key_path`, the texts of values that have variables of the environment, as they are written."""
    folders: list[str]
    """Where the files are, and the targets beside them."""
    values: dict[str, str]
    """What `as_written` hides: by what came of the environment's variables, how that is written."""


def read(files: Sequence[str | Path | Mapping[str, Any]], environ: Mapping[str, str]) -> Configuration:
    """Read files, or tables as they would be there, of which later ones change the earlier ones: tables are merged, all
    else is replaced.

    Raises `InvalidInputError`, which names the file and the key's path.
    """
    reader = _Reader(environ)
    tree: dict[str, Any] = {}
    for file in files:
        if isinstance(file, Mapping):
            reader.merge(tree, file, "the configuration")
        else:
            reader.merge(tree, _load(Path(file)), str(file))
    tree = reader.expand(tree)
    reader.check(tree, Spec)
    spec = reader.converted(tree)
    folders = [str(Path.cwd() if isinstance(file, Mapping) else Path(file).absolute().parent) for file in files]
    return Configuration(spec, tree.get("instance", {}), reader.written, list(dict.fromkeys(folders)), reader.values)


def as_written(message: str, values: Mapping[str, str]) -> str:
    """A message with what is written in the place of `Configuration.values`, also where those are quoted or shortened.

    Values of less than 4 characters are left: they would be found in other words.
    """
    hidden = {
        said: text
        for value, text in values.items()
        for said in (value, repr(value)[1:-1], short(value)[1:-1])
        if len(said) >= _LEAST_HIDDEN
    }
    if not hidden:
        return message
    any_of_them = "|".join(map(re.escape, sorted(hidden, key=len, reverse=True)))
    return re.sub(any_of_them, lambda found: hidden[found[0]], message)


def _load(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()[: _MOST_BYTES + 1]
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > _MOST_BYTES:
        raise InvalidInputError(f"{path} is longer than {_MOST_BYTES >> 20} MiB: it is no configuration file")
    try:
        table: dict[str, Any] = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInputError(f"{path} is not TOML: {error or 'nested too deep'}") from None
    return table


class _Reader:
    """Notes which file each key is from, and which values have variables."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._files: dict[tuple[object, ...], str] = {}
        self.written: dict[str, str] = {}
        self.values: dict[str, str] = {}

    def merge(self, into: dict[str, Any], table: Mapping[str, Any], file: str, *parts: object) -> None:
        for key, value in table.items():
            at = (*parts, key)
            self._files[at] = file
            if isinstance(value, dict) and isinstance(into.get(key), dict):
                self.merge(into[key], value, file, *parts, key)
            else:
                into[key] = value
                if isinstance(value, dict):
                    into[key] = {}
                    self.merge(into[key], value, file, *parts, key)

    def wrong(self, parts: Sequence[object], problem: str) -> InvalidInputError:
        known = (parts[:length] for length in range(len(parts), 0, -1))
        file = next((self._files[each] for each in map(tuple, known) if each in self._files), "")
        return InvalidInputError(f"{file}: {key_path(*parts)}: {as_written(problem, self.values)}")

    # -- variables ---------------------------------------------------------------------------------------------------

    def expand(self, value: Any, *parts: object) -> Any:
        """The value with the environment's variables in the place of ``${NAME}``; ``$${`` is ``${``."""
        if isinstance(value, dict):
            return {key: self.expand(inner, *parts, key) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.expand(inner, *parts, index) for index, inner in enumerate(value)]
        if not isinstance(value, str) or "${" not in value:
            return value
        expanded = _variable.sub(lambda found: self._value(found, parts), value)
        if expanded != value.replace("$${", "${"):
            self.written[key_path(*parts)] = value
            if any(each in expanded for each in self.values):  # Of a default there is nothing to hide.
                self.values[expanded] = value
        return expanded

    def _value(self, found: re.Match[str], parts: Sequence[object]) -> str:
        name, default = found["name"], found["default"]
        if found[0] == "$${":
            return "${"
        if name is None:
            raise self.wrong(parts, f"{found[0]!r} names no variable: write ${{NAME}}, or $${{ for the text ${{")
        if name in self._environ:
            self.values.setdefault(self._environ[name], f"${{{name}}}")
            return self._environ[name]
        if default is None:
            raise self.wrong(
                parts, f"the environment has no variable {name}: set it, or write what to take then, ${{{name}:-…}}"
            )
        return default[2:]

    # -- checks --------------------------------------------------------------------------------------------------------

    def check(self, table: dict[str, Any], struct: type[Any], *parts: object) -> None:
        """Check the names and the types of all keys; text from the environment becomes a number where one is wanted."""
        fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
        for key, value in table.items():
            if key not in fields:
                raise self.wrong((*parts, key), f"there is no such key{nearest(key, fields)}")
            table[key] = self._checked(value, fields[key].type, *parts, key)
        missing = next((name for name, field in fields.items() if field.required and name not in table), None)
        if missing is not None:
            raise self.wrong(parts, f"{missing} is missing")

    def _checked(self, value: Any, kind: Any, *parts: object) -> Any:
        kinds = (kind, *typing.get_args(kind))
        struct = next((each for each in kinds if isinstance(each, type) and issubclass(each, msgspec.Struct)), None)
        if struct is not None and typing.get_origin(kind) is dict and isinstance(value, dict):
            for name, inner in value.items():
                self._checked(inner, struct, *parts, name)
            return value
        if struct is not None:
            if not isinstance(value, dict):
                raise self.wrong(parts, f"it must be a table, not {short(self._shown(value, *parts))}")
            self.check(value, struct, *parts)
            return value
        if value == NO_VALUE and fits(None, kind) and not fits(value, kind):
            return None
        value = self._numbers(value, kind, *parts)
        if not fits(value, kind):
            raise self.wrong(parts, misfit(str(parts[-1]), self._shown(value, *parts), kind))
        if parts[-1] in _FREE:
            try:
                check_plain(str(parts[-1]), value)
            except InvalidInputError as error:
                raise self.wrong(parts, str(error)) from None
        return value

    def _numbers(self, value: Any, kind: Any, *parts: object) -> Any:
        """The value with a number or a boolean in the place of a variable's text, wherever text does not fit; directly
        in ``placement``, whose kinds its runtime alone knows, wherever the text is one."""
        of_placement = parts[2:3] == ("placement",)
        if isinstance(value, dict) and (len(parts) == 3 or not of_placement):
            return {key: self._numbers(each, _within(kind, dict), *parts, key) for key, each in value.items()}
        if isinstance(value, list):
            return [self._numbers(each, _within(kind, list), *parts, index) for index, each in enumerate(value)]
        if key_path(*parts) in self.written and (of_placement or not fits(value, kind)):
            return _as_number(value)
        return value

    def _shown(self, value: Any, *parts: object) -> Any:
        """The value as it is written."""
        if isinstance(value, dict):
            return {key: self._shown(inner, *parts, key) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._shown(inner, *parts, index) for index, inner in enumerate(value)]
        return self.written.get(key_path(*parts), value)

    def converted(self, tree: dict[str, Any]) -> Spec:
        """The records. Their own checks, of numbers that are too low say, are told with the table's path."""
        kinds = {field.name: field.type for field in msgspec.structs.fields(Spec)}
        for part, tables in tree.items():
            named = tables.items() if typing.get_origin(kinds[part]) is dict else ((None, tables),)
            kind = (typing.get_args(kinds[part]) or (None, kinds[part]))[1]
            for name, table in named:
                parts = (part,) if name is None else (part, name)
                try:
                    msgspec.convert(table, kind)
                except msgspec.ValidationError as error:
                    problem, _, inner = str(error).partition(" - at `$.")
                    raise self.wrong((*parts, *inner.rstrip("`").split(".")) if inner else parts, problem) from None
        return msgspec.convert(tree, Spec)


def _within(kind: Any, container: type[Any]) -> Any:
    """What the annotation ``kind`` says of the things in a dict or a list; Any where it says nothing."""
    kinds = (kind, *typing.get_args(kind))
    return next((typing.get_args(each)[-1] for each in kinds if typing.get_origin(each) is container), Any)


def _as_number(text: str) -> Any:
    """The number or boolean that a text from the environment is; else the text. What would be a list or a table stays
    text, and is refused: there would be no text to show for each thing in it."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    return value if isinstance(value, (bool, int, float)) else text
