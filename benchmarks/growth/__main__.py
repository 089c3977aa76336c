"""Measure how servekit's cost grows, on this machine: ``python -m benchmarks.growth``."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks.growth.curves import Curves, as_json, plot, text
from benchmarks.growth.effort import FULL, QUICK, Budget, BudgetError
from benchmarks.growth.endpoints import endpoints
from benchmarks.growth.instance import raise_file_limit
from benchmarks.growth.studies import connections, headers, ingress, replicas
from benchmarks.load import LoadError, check_wrk
from benchmarks.machine import OtherWork, describe
from benchmarks.processes import ServerError, become_subreaper
from benchmarks.report import fill_page
from servekit.errors import ServekitError

STUDIES = {
    "replicas": replicas,
    "connections": connections,
    "headers": headers,
    "ingress": ingress,
    "endpoints": endpoints,
}


def main() -> int:
    options = parse_arguments()
    effort = QUICK if options.quick else FULL
    effort = replace(effort, **({"repeats": options.repeats} if options.repeats else {}))
    effort = replace(effort, **({"budget_s": options.budget} if options.budget else {}))
    try:
        wrk = check_wrk()
        raise_file_limit(max(effort.connections))
    except (LoadError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    become_subreaper()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # by way of the `with` blocks
    curves, others, budget = Curves(describe(wrk)), OtherWork(), Budget(effort.budget_s)
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        for name in options.only:
            say(f"{budget.spent_s:5.0f} s  {name}")
            try:
                STUDIES[name](curves, effort, budget, Path(scratch))
            except (BudgetError, LoadError, ServerError, ServekitError, OSError) as error:
                curves.missing[f"{name}, all or the rest"] = str(error)
                say(f"         {name}: {error}")
    say(f"{budget.spent_s:5.0f} s  done")
    curves.machine["other work meanwhile"] = str(others)
    write(curves, options)
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer steps, shorter, once: minutes")
    parser.add_argument("--only", type=named, default=tuple(STUDIES), metavar="NAMES", help=f"of {','.join(STUDIES)}")
    parser.add_argument(
        "--repeats", type=int, metavar="N", help=f"default {FULL.repeats}, with --quick {QUICK.repeats}"
    )
    parser.add_argument("--budget", type=float, metavar="SECONDS", help=f"default {FULL.budget_s:.0f}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all curves, as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw them: .svg or .png (needs matplotlib)")
    parser.add_argument("--page", type=Path, metavar="FILE", help="put the table between the marks of a Markdown page")
    return parser.parse_args()


def named(names: str) -> tuple[str, ...]:
    for name in names.split(","):
        if name not in STUDIES:
            raise argparse.ArgumentTypeError(f"no study {name!r}; there are {', '.join(STUDIES)}")
    return tuple(name for name in STUDIES if name in names.split(","))


def write(curves: Curves, options: argparse.Namespace) -> None:
    table = text(curves)
    print(table)
    if options.json:
        options.json.write_text(as_json(curves))
    if options.page:
        options.page.write_text(fill_page(options.page.read_text(), table, "growth"))
    if options.plot:
        plot(curves, options.plot)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
