"""Measure servekit and its peers side by side, on this machine alone: ``python -m benchmarks.peers``."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.cases import CASES, FULL, QUICK, Effort, warm_up
from benchmarks.load import LoadError, check_wrk
from benchmarks.machine import OtherWork, describe, version_of
from benchmarks.processes import Server, ServerError, become_subreaper
from benchmarks.report import Report, as_json, fill_page, plot, text
from benchmarks.servers import PEERS, Peer
from benchmarks.venvs import CACHE, InstallError, python_for

QUICK_CASES = ("start", "memory", "hello", "sleep")


def main() -> int:
    options = parse_arguments()
    try:
        wrk = check_wrk()
    except LoadError as error:
        print(error, file=sys.stderr)
        return 1
    become_subreaper()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # by way of `Server.stop`
    report = Report(describe(wrk))
    pythons = install(options.only, options.cache, report)
    effort = effort_of(options)
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
    write(report, options)
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under three minutes (once installed), and less exact")
    parser.add_argument("--only", type=named_peers, default=PEERS, metavar="NAMES", help="peers: servekit,mosec")
    parser.add_argument("--cases", type=named_cases, metavar="NAMES", help=f"of {','.join(CASES)}")
    parser.add_argument(
        "--repeats", type=int, metavar="N", help=f"default {FULL.repeats}, with --quick {QUICK.repeats}"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was measured, as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw it: .svg or .png (needs matplotlib)")
    parser.add_argument("--page", type=Path, metavar="FILE", help="put the table between the marks of a Markdown page")
    parser.add_argument("--section", default="figures", metavar="NAME", help="the marks' name; default figures")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="start no server after so many")
    parser.add_argument("--cache", type=Path, default=CACHE, metavar="FOLDER", help=f"for the venvs; default {CACHE}")
    options = parser.parse_args()
    options.cases = options.cases or (QUICK_CASES if options.quick else tuple(CASES))
    return options


def effort_of(options: argparse.Namespace) -> Effort:
    effort = QUICK if options.quick else FULL
    return replace(effort, repeats=options.repeats or effort.repeats, budget_s=options.budget or effort.budget_s)


def named_peers(names: str) -> tuple[Peer, ...]:
    """The peers whose names begin with one of ``names``, which have commas between them."""
    for name in names.split(","):
        if not any(peer.name.startswith(name) for peer in PEERS):
            raise argparse.ArgumentTypeError(f"no peer {name!r}; there are {', '.join(peer.name for peer in PEERS)}")
    return tuple(peer for peer in PEERS if peer.name.startswith(tuple(names.split(","))))


def named_cases(names: str) -> tuple[str, ...]:
    for name in names.split(","):
        if name not in CASES:
            raise argparse.ArgumentTypeError(f"no case {name!r}; there are {', '.join(CASES)}")
    return tuple(name for name in CASES if name in names.split(","))


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


def install(peers: Sequence[Peer], cache: Path, report: Report) -> dict[str, str]:
    """The Python of each peer that could be installed."""
    pythons = {}
    for peer in peers:
        try:
            pythons[peer.name] = python_for(peer, cache)
            report.versions[peer.name] = version_of(peer, pythons[peer.name])
        except (InstallError, OSError) as error:
            report.missing[peer.name] = str(error)
    return pythons


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


def write(report: Report, options: argparse.Namespace) -> None:
    order = [peer.name for peer in options.only]
    table = text(report, order)
    print(table)
    if options.json:
        options.json.write_text(as_json(report))
    if options.page:
        options.page.write_text(fill_page(options.page.read_text(), table, options.section))
    if options.plot:
        plot(report, order, options.plot)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
