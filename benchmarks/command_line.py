"""The command line of the benchmarks that fill a page: the options that all have, and the writing of the results."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from benchmarks.processes import become_subreaper
from benchmarks.report import fill_page


class HasLimits(Protocol):
    """How thoroughly a benchmark measures: a dataclass of the benchmark's own."""

    @property
    def repeats(self) -> int: ...

    @property
    def budget_s(self) -> float: ...


E = TypeVar("E", bound=HasLimits)


@dataclass(frozen=True)
class Results:
    """The results of one run, in each form in which they can be written."""

    table: str
    json: Callable[[], str]
    plot: Callable[[Path], None]


def parser(
    name: str, description: str | None, quick_help: str, full: HasLimits, quick: HasLimits
) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks have; ``name`` is that of the module in ``benchmarks``."""
    found = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    found.add_argument("--quick", action="store_true", help=quick_help)
    found.add_argument("--repeats", type=int, metavar="N", help=f"default {full.repeats}, with --quick {quick.repeats}")
    found.add_argument(
        "--budget",
        type=float,
        metavar="SECONDS",
        help=f"begin nothing after so many; default {full.budget_s:.0f}, with --quick {quick.budget_s:.0f}",
    )
    found.add_argument("--json", type=Path, metavar="FILE", help="write all that was measured, as JSON")
    found.add_argument("--plot", type=Path, metavar="FILE", help="draw it: .svg or .png (needs matplotlib)")
    found.add_argument("--page", type=Path, metavar="FILE", help="put the table between the marks of a Markdown page")
    return found


def named(names: str, known: Sequence[str], kind: str, *, beginnings: bool = False) -> tuple[str, ...]:
    """Those of ``known`` that stand in ``names``, with commas between them; or, by ``beginnings``, begin so.

    Raises ``argparse.ArgumentTypeError`` for a name that fits none; ``kind`` is what the names stand for.
    """
    fits = str.startswith if beginnings else str.__eq__
    wanted = names.split(",")
    for name in wanted:
        if not any(fits(one, name) for one in known):
            raise argparse.ArgumentTypeError(f"no {kind} {name!r}; there are {', '.join(known)}")
    return tuple(one for one in known if any(fits(one, name) for name in wanted))


def effort_of(options: argparse.Namespace, full: E, quick: E) -> E:
    """``full`` or ``quick``, with the repeats and the budget that were asked for."""
    effort: Any = quick if options.quick else full
    effort = replace(effort, repeats=options.repeats or effort.repeats, budget_s=options.budget or effort.budget_s)
    return effort  # type: ignore[no-any-return]


def prepare_process() -> None:
    """Let this process end what it has started, its children's orphans included, when it is ended by SIGTERM."""
    become_subreaper()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # by way of the `with` blocks


def write(results: Results, options: argparse.Namespace, section: str) -> None:
    """Print the results, and write the files that were asked for; ``section`` is the name of the marks in a page."""
    print(results.table)
    if options.json:
        options.json.write_text(results.json())
    if options.page:
        options.page.write_text(fill_page(options.page.read_text(), results.table, section))
    if options.plot:
        results.plot(options.plot)


def say(line: str) -> None:
    """Print a line about the progress."""
    print(line, file=sys.stderr, flush=True)
