"""Measure how servekit's cost grows, on this machine: ``python -m benchmarks.growth``."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks import command_line
from benchmarks.command_line import Results, effort_of, prepare_process, say, write
from benchmarks.growth.curves import Curves, as_json, plot, text
from benchmarks.growth.effort import FULL, QUICK, Budget, BudgetError
from benchmarks.growth.endpoints import endpoints
from benchmarks.growth.instance import raise_file_limit
from benchmarks.growth.studies import connections, headers, ingress, replicas
from benchmarks.load import LoadError, check_wrk
from benchmarks.machine import OtherWork, describe
from benchmarks.processes import ServerError
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
    effort = effort_of(options, FULL, QUICK)
    try:
        wrk = check_wrk()
        raise_file_limit(max(effort.connections))
    except (LoadError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    prepare_process()
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
    write(Results(text(curves), lambda: as_json(curves), lambda path: plot(curves, path)), options, "growth")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = command_line.parser("growth", __doc__, "fewer steps, shorter, once: minutes", FULL, QUICK)
    parser.add_argument("--only", type=named, default=tuple(STUDIES), metavar="NAMES", help=f"of {','.join(STUDIES)}")
    return parser.parse_args()


def named(names: str) -> tuple[str, ...]:
    return command_line.named(names, list(STUDIES), "study")


if __name__ == "__main__":
    sys.exit(main())
