"""All that the processes of an instance have counted, those that are gone included: sums that never go back.

The file of a process that has ended is folded into the base: the base is written with what the file has and with the
file's name, and then the file is deleted. A controller that finds a file which the base names deletes it, no more: its
predecessor was killed between the two.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from operator import add
from pathlib import Path
from typing import TypeAlias

import msgspec

from servekit.private_folders import write_private
from servekit.tallies import SUFFIX, Key, TallyFile, all_others

_log = logging.getLogger("servekit.control")

BASE = "tallies.json"
MOST_BASE_KEYS = 16_384
Sums: TypeAlias = "dict[Key, Sequence[int]]"


class Base(msgspec.Struct):
    """The file of what is no more to be read elsewhere."""

    folded: list[str] = []
    """The names of the files that it has in it, and that may be there yet."""
    sums: list[tuple[list[str | int], list[int]]] = []
    """Keys, and their slots."""
    forgotten_endpoints: list[tuple[list[str | int], list[int]]] = []
    forgotten_backends: list[tuple[list[str | int], list[int]]] = []
    """See `Totals`."""


class Totals:
    """Reads the files in an instance's directory. Of an instance that counts nowhere, all is empty."""

    def __init__(self, directory: str | None, *, resumed: bool = False, most_keys: int = MOST_BASE_KEYS) -> None:
        """``resumed``: what an earlier controller, and its workers, have counted is counted on."""
        self._directory = None if directory is None else Path(directory)
        self._most_keys = most_keys
        self._sums: Sums = {}
        self._folded: set[str] = set()
        self.forgotten: tuple[Sums, Sums] = ({}, {})
        """What endpoints that were deleted, and backends, had counted then, by the keys of their records."""
        self._files: dict[str, TallyFile] = {}
        self._last: dict[str, Mapping[Key, Sequence[int]]] = {}
        """What each file had when it was read last."""
        self._warned = False
        if self._directory is not None:
            if resumed:
                self._load(self._directory / BASE)
            else:
                for left in (*self._directory.glob(f"*{SUFFIX}*"), self._directory / BASE):
                    left.unlink(missing_ok=True)

    def read(self) -> Sums:
        """The sums, by key, of all processes. What cannot be read is in the log, and not in the sums."""
        found = dict(self._sums)
        if self._directory is None:
            return found
        names = {path.name for path in self._directory.glob(f"*{SUFFIX}")}
        for gone in self._files.keys() - names:
            del self._files[gone]
            self._last.pop(gone, None)
        self._folded &= names
        for name in sorted(names - self._folded):
            try:
                self._last[name] = self._read(name, self._directory / name)
            except OSError as error:
                self._warn("what %s has counted cannot be read: %s", name, error)
            add_to(found, self._last.get(name, {}), self._most_keys)
        for name in self._folded:
            with contextlib.suppress(OSError):
                (self._directory / name).unlink()
        return found

    def save(self) -> None:
        """Write the base."""
        if self._directory is not None:
            try:
                self._save(self._directory / BASE, self._sums, self._folded)
            except OSError as error:
                self._warn("what was counted would be lost with this process: %s", error)

    def _read(self, name: str, path: Path) -> Mapping[Key, Sequence[int]]:
        """What a process has counted; if it has ended, the base has that too, from now on."""
        file = self._files.setdefault(name, TallyFile(str(path)))
        is_left = file.is_left
        counted = file.read()
        if is_left:
            sums = dict(self._sums)
            add_to(sums, counted, self._most_keys)
            try:
                self._save(path.with_name(BASE), sums, self._folded | {name})
            except OSError as error:  # It is read again and again.
                self._warn("what ended processes have counted stays in their files: %s", error)
            else:
                self._sums = sums
                self._folded.add(name)
        return counted

    def _save(self, path: Path, sums: Sums, folded: Iterable[str]) -> None:
        endpoints, backends = self.forgotten
        base = Base(sorted(folded), _listed(sums), _listed(endpoints), _listed(backends))
        write_private(path, msgspec.json.encode(base), durable=False)

    def _load(self, path: Path) -> None:
        try:
            base = msgspec.json.decode(path.read_bytes(), type=Base)
        except FileNotFoundError:
            return
        except (OSError, msgspec.MsgspecError) as error:
            _log.warning("%s is damaged, and what it had counted is lost: %s", path, error)
            return
        self._folded = set(base.folded)
        self._sums = _by_key(base.sums)
        self.forgotten = (_by_key(base.forgotten_endpoints), _by_key(base.forgotten_backends))

    def _warn(self, message: str, *arguments: object) -> None:
        """Once: it is read again and again."""
        if not self._warned:
            self._warned = True
            _log.warning(message, *arguments)


def add_to(sums: Sums, counted: Mapping[Key, Sequence[int]], most_keys: int = MOST_BASE_KEYS) -> None:
    """Add up, by key; what would be beyond ``most_keys``, under `all_others`."""
    for key, slots in counted.items():
        into = key if key in sums or len(sums) < most_keys else all_others(key)
        there = sums.get(into)
        sums[into] = list(slots) if there is None else list(map(add, there, slots))


def _listed(sums: Sums) -> list[tuple[list[str | int], list[int]]]:
    return [(list(key), list(slots)) for key, slots in sums.items()]


def _by_key(listed: list[tuple[list[str | int], list[int]]]) -> Sums:
    return {tuple(key): slots for key, slots in listed}
