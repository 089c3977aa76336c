"""Inject faults under load, on this machine alone: ``python -m benchmarks.faults``. Fills ``docs/failures.md``.

Each fault is a process of its own, below this one, and whatever it leaves is ended before the next.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks.command_line import named, prepare_process, say
from benchmarks.faults import (
    capacity,
    changes,
    descriptors,
    ends,
    hangs,
    hosts,
    kills,
    peers,
    poison,
    ray_daemons,
    recycling,
    stores,
)
from benchmarks.faults.row import Row, from_json, not_run, table, to_json
from benchmarks.faults.section import commit, keep, kept, text
from benchmarks.machine import OtherWork
from benchmarks.processes import kill_tree, wait_until
from benchmarks.report import fill_page
from benchmarks.servers import ROOT

LIMIT_S = 240.0
"""One fault, with its instance, takes no longer."""
ROW = "ROW"

GROUPS = (kills, ends, changes, capacity, hangs, poison, recycling, stores, descriptors)
EVERYWHERE = {name: inject for group in GROUPS for name, inject in group.FAULTS.items()}
ON_RAY_TOO = ("replica", "every-replica", "sigterm-replica", "ingress", "controller", "controller-slow", "keeper")
"""Where Ray has a part in it."""
FAULTS: dict[str, dict[str, Callable[[str], Row]]] = {
    "process": EVERYWHERE,
    "ray": {**{name: EVERYWHERE[name] for name in ON_RAY_TOO}, **ray_daemons.FAULTS, **hosts.FAULTS},
}
"""By runtime, and by the name of the fault."""


def main() -> int:
    options = parse_arguments()
    prepare_process()
    if options.inject:
        print(ROW + to_json(inject(options)), flush=True)
        return 0
    began, section = time.monotonic(), "peers" if options.peers else options.runtime
    names, rows = known(options), kept(options.keep, section)
    for name in options.only or names:
        say(f"{time.monotonic() - began:5.0f} s  {name}")
        rows[name] = injected(name, options)
        say(table(rows[name]))
        if options.keep:
            keep(options.keep, section, rows)
    shown = text(f"python -m benchmarks.faults {'--peers' if options.peers else f'--runtime {section}'}", names, rows)
    print(shown)
    if options.page:
        options.page.write_text(fill_page(options.page.read_text(), shown, f"faults-{section}"))
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--runtime", choices=tuple(FAULTS), default="process", help="default process")
    parser.add_argument("--peers", action="store_true", help="a few of the faults in servekit and in its peers")
    parser.add_argument("--only", metavar="NAMES", help="faults, with commas between them: replica,keeper")
    parser.add_argument("--page", type=Path, metavar="FILE", help="put the table between the marks of a Markdown page")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="JSON: rows of earlier runs, which stay beside these")
    parser.add_argument("--inject", help=argparse.SUPPRESS)
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        options.only = named(options.only, list(known(options)), "fault")
    return options


def known(options: argparse.Namespace) -> dict[str, str]:
    """The faults, and the titles of those that have several rows."""
    return peers.faults() if options.peers else dict.fromkeys(FAULTS[options.runtime], "")


def inject(options: argparse.Namespace) -> Row:
    """In this process."""
    if options.peers:
        (peer,) = (peer for peer in peers.peers() if peer.name == options.peer)
        return peers.observed(options.inject, peer)
    return FAULTS[options.runtime][options.inject](options.runtime)


def injected(name: str, options: argparse.Namespace) -> list[Row]:
    """The rows of one fault, each from a process of its own; and nothing is left of that."""
    if options.peers:
        return [_injected(name, ["--peers", "--peer", peer.name], peer.name) for peer in peers.peers()]
    return [_injected(name, ["--runtime", options.runtime], name)]


def _injected(name: str, more: list[str], shown: str) -> Row:
    """``shown``: what the row is called where the process gives none."""
    command, others = [sys.executable, "-m", "benchmarks.faults", *more, "--inject", name], OtherWork()
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        found = [line.removeprefix(ROW) for line in done.stdout.splitlines() if line.startswith(ROW)]
        why = f"it ended with {done.returncode}, and no row: {' '.join(done.stderr.split())[-300:]}"
    except subprocess.TimeoutExpired:
        found, why = [], f"it did not end within {LIMIT_S:.0f} s"
    finally:
        wait_until(kill_tree, 10.0)
    row = from_json(found[0]) if found else not_run(shown, why)
    return replace(row, commit=commit(), busy_cores=max(0.0, others.cores()))


if __name__ == "__main__":
    sys.exit(main())
