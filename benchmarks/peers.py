"""Measure servekit and its peers side by side, on this machine alone: ``python -m benchmarks.peers``."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import command_line
from benchmarks.cases import CASES, FULL, QUICK, Effort, warm_up
from benchmarks.command_line import Results, effort_of, named, prepare_process, say, write
from benchmarks.load import LoadError, check_wrk
from benchmarks.machine import OtherWork, describe, install
from benchmarks.processes import Server, ServerError
from benchmarks.report import Report, as_json, plot, text
from benchmarks.servers import PEERS, Peer
from benchmarks.venvs import CACHE

QUICK_CASES = ("start", "memory", "hello", "sleep")


def main() -> int:
    options = parse_arguments()
    try:
        wrk = check_wrk()
    except LoadError as error:
        print(error, file=sys.stderr)
        return 1
    prepare_process()
    report = Report(describe(wrk))
    pythons = install({peer.name: peer for peer in options.only}, options.cache, report)
    effort = effort_of(options, FULL, QUICK)
    peers = [peer for peer in options.only if peer.name in pythons]
    others, began = OtherWork(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        for step, (peer, handler, replicas) in schedule(peers, setups(options.cases), effort.repeats):
            spent_s = time.monotonic() - began
            if spent_s > effort.budget_s:
                report.missing[f"{peer.name}, {handler} x{replicas}"] = f"{effort.budget_s:.0f} s were spent before it"
                continue
            say(f"{spent_s:5.0f} s  {step}  {handler} x{replicas}  {peer.name}")
            measure(peer, pythons[peer.name], (handler, replicas), options.cases, effort, report, Path(scratch))
    say(f"{time.monotonic() - began:5.0f} s  done")
    report.machine["other work meanwhile"] = str(others)
    order = [peer.name for peer in options.only]
    results = Results(text(report, order), lambda: as_json(report), lambda path: plot(report, order, path))
    write(results, options, options.section)
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = command_line.parser("peers", __doc__, "under three minutes (once installed), and less exact", FULL, QUICK)
    parser.add_argument("--only", type=named_peers, default=PEERS, metavar="NAMES", help="peers: servekit,mosec")
    parser.add_argument("--cases", type=named_cases, metavar="NAMES", help=f"of {','.join(CASES)}")
    parser.add_argument("--section", default="figures", metavar="NAME", help="the marks' name; default figures")
    parser.add_argument("--cache", type=Path, default=CACHE, metavar="FOLDER", help=f"for the venvs; default {CACHE}")
    options = parser.parse_args()
    options.cases = options.cases or (QUICK_CASES if options.quick else tuple(CASES))
    return options


def named_peers(names: str) -> tuple[Peer, ...]:
    """The peers whose names begin with one of ``names``, which have commas between them."""
    found = named(names, [peer.name for peer in PEERS], "peer", beginnings=True)
    return tuple(peer for peer in PEERS if peer.name in found)


def named_cases(names: str) -> tuple[str, ...]:
    return named(names, list(CASES), "case")


def setups(cases: Sequence[str]) -> list[tuple[str, int]]:
    """The servers that ``cases`` need: a handler and a number of replicas, each once."""
    return list(dict.fromkeys(setup for case in cases for setup in CASES[case].setups))


def schedule(
    peers: Sequence[Peer], wanted: Sequence[tuple[str, int]], repeats: int
) -> Iterator[tuple[str, tuple[Peer, str, int]]]:
    """Every server to be started, in order, and which repeat it belongs to.

    Every other repeat has the peers the other way round: what drifts on the machine is then nobody's in particular.
    """
    for repeat in range(repeats):
        for handler, replicas in wanted:
            for peer in peers if repeat % 2 == 0 else reversed(peers):
                if handler in peer.handlers:
                    yield f"{repeat + 1}/{repeats}", (peer, handler, replicas)


def measure(
    peer: Peer, python: str, setup: tuple[str, int], cases: Sequence[str], effort: Effort, report: Report, scratch: Path
) -> None:
    """Start one server, measure every case that needs it, and end it. What fails is noted, and the rest goes on."""
    handler, replicas = setup
    what = f"{peer.name}, {handler} x{replicas}"
    try:
        with Server(peer, python, handler, replicas, scratch) as server:
            warm_up(server, effort, scratch)
            for case in cases:
                if setup in CASES[case].setups:
                    what = f"{peer.name}, {handler} x{replicas}, {case}"
                    for figure, value in CASES[case].measure(server, effort, scratch):
                        report.add(figure, peer.name, value)
    except (ServerError, LoadError, OSError) as error:
        report.missing[what] = str(error)
        say(f"         {what}: {error}")


if __name__ == "__main__":
    sys.exit(main())
