"""What the processes of an instance hold, and its folders: before and after."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.faults.scene import command_line
from benchmarks.processes import pss_bytes, tree

MORE_MEMORY = 1.3, 30.0
"""A process may have so many times, and so many MB more than, what it had at the start: allocators keep pages."""
MORE_DESCRIPTORS = 2
"""A link that is about to be closed, say; what leaks with every change or fault is soon more than that."""
MORE_THREADS = {"controller": 48}
"""A pool of threads starts one when it has use for it; the controller has three pools of 16."""
FEW_THREADS = 6
"""In any other process."""
RAY = "Ray itself"
"""How many processes that is, and what they hold, is Ray's affair."""
ROLES = {
    "servekit: keeper of": "keeper",
    "servekit: controller of": "controller",
    "servekit: replica": "replica",
    "servekit: Ray agent of": "Ray's agent",
    "servekit: Ray keeper of": "Ray's keeper",
    "ray": RAY,
}
"""By words in the title of the process, or in its command line."""
OWN = "this script, with a handle"
NOT_AT_FIRST = "tallies.json"
"""The sums of what processes had counted that have ended: written when the first of them does."""


@dataclass
class Held:
    """By all processes of one kind: their number, and the most that one of them has."""

    processes: int = 0
    descriptors: int = 0
    threads: int = 0
    memory_mb: float = 0.0

    def add(self, pid: int) -> None:
        folder = Path(f"/proc/{pid}")
        try:
            descriptors, threads = len(os.listdir(folder / "fd")), len(os.listdir(folder / "task"))
        except OSError:  # It has ended meanwhile.
            return
        self.processes += 1
        self.descriptors = max(self.descriptors, descriptors)
        self.threads = max(self.threads, threads)
        self.memory_mb = max(self.memory_mb, pss_bytes(pid) / 1e6)


@dataclass
class Looked:
    """One look at all of it."""

    held: dict[str, Held] = field(default_factory=dict)
    files: Counter[str] = field(default_factory=Counter)
    """By their names, with what is another number each time left out."""


def look(folders: Sequence[Path], ingress: Sequence[int]) -> Looked:
    """``ingress``: the processes that are ingress workers, whose command lines do not tell."""
    held = {OWN: Held()}
    held[OWN].add(os.getpid())
    for pid in tree():
        kind = "ingress worker" if pid in ingress else role(command_line(pid).decode(errors="replace"))
        held.setdefault(kind, Held()).add(pid)
    names = (path.relative_to(folder) for folder in folders for path in folder.rglob("*") if not path.is_dir())
    kept = (str(name) for name in names if "ray" not in name.parts and name.name != NOT_AT_FIRST)
    return Looked(held, Counter(kind_of_file(name) for name in kept))


def role(command: str) -> str:
    found = next((role for words, role in ROLES.items() if words in command), "")
    return found or " ".join(Path(word).name for word in command.split()[:3])


def kind_of_file(name: str) -> str:
    return re.sub(r"[0-9a-f]{6,}|[0-9]+", "#", name)


def more(before: Looked, after: Looked) -> list[str]:
    """What there is more of, or less, in words; nothing where all is as it was."""
    found = []
    for kind in sorted({*before.held, *after.held} - {RAY}):
        one, other = before.held.get(kind, Held()), after.held.get(kind, Held())
        if one.processes != other.processes:
            found.append(f"{other.processes} processes of the kind {kind!r}, at first {one.processes}")
        if other.descriptors > one.descriptors + MORE_DESCRIPTORS:
            found.append(f"{kind}: {other.descriptors} descriptors, at first {one.descriptors}")
        if other.threads > one.threads + MORE_THREADS.get(kind, FEW_THREADS):
            found.append(f"{kind}: {other.threads} threads, at first {one.threads}")
        times, plus_mb = MORE_MEMORY
        if other.memory_mb > times * one.memory_mb + plus_mb:
            found.append(f"{kind}: {other.memory_mb:.0f} MB, at first {one.memory_mb:.0f}")
    return found + [f"files: {line}" for line in more_files(before.files, after.files)]


def more_files(before: Mapping[str, int], after: Mapping[str, int]) -> list[str]:
    return [
        f"{after.get(name, 0)} of {name}, at first {before.get(name, 0)}"
        for name in sorted({*before, *after})
        if before.get(name, 0) != after.get(name, 0)
    ]


def table(before: Looked, after: Looked) -> str:
    headings = ("process", "number", "descriptors", "threads", "MB")
    lines = [f"{headings[0]:<28}" + "".join(f"{heading:>16}" for heading in headings[1:])]
    for kind in [*before.held, *(kind for kind in after.held if kind not in before.held)]:
        one, other = before.held.get(kind, Held()), after.held.get(kind, Held())
        pairs = (
            (one.processes, other.processes),
            (one.descriptors, other.descriptors),
            (one.threads, other.threads),
            (round(one.memory_mb), round(other.memory_mb)),
        )
        lines.append(f"{kind:<28}" + "".join(f"{f'{first} -> {last}':>16}" for first, last in pairs))
    return "\n".join(lines)
