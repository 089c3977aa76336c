"""The rows of one runtime, or of the peers, with those of earlier runs; and the section of the page that shows them."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.faults.row import Row, table
from benchmarks.servers import ROOT

Rows = dict[str, list[Row]]
"""By the name of the fault: one row, or one for each peer."""


def kept(file: Path | None, section: str) -> Rows:
    """The rows that an earlier run has written to the file."""
    if file is None or not file.exists():
        return {}
    found = json.loads(file.read_text()).get(section, {})
    return {name: [Row(**row) for row in rows] for name, rows in found.items()}


def keep(file: Path, section: str, rows: Rows) -> None:
    """Write them to the file, beside what other sections have there."""
    whole = json.loads(file.read_text()) if file.exists() else {}
    whole[section] = {name: [asdict(row) for row in some] for name, some in rows.items()}
    file.write_text(json.dumps(whole, indent=1) + "\n")


def text(command: str, names: Mapping[str, str], rows: Rows) -> str:
    """``names``: of the faults, in order; where one has a title, it stands over the rows of its own."""
    shown = {name: rows[name] for name in names if name in rows}
    every = [row for some in shown.values() for row in some]
    if any(names.values()):
        tables = [f"{names[name]}\n\n{table(some)}" for name, some in shown.items()]
    else:
        tables = [table(every)]
    return "\n\n".join(["\n".join([f"command: {command}", *_machine(every)]), *tables])


def commit() -> str:
    asked = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def _machine(rows: Sequence[Row]) -> list[str]:
    """What the rows were observed on, in general words."""
    system = f"{platform.system()} {platform.release().partition('-')[0]}, Python {platform.python_version()}"
    busy = [row.busy_cores for row in rows if not row.not_run] or [0.0]
    return [
        f"commit: {', '.join(dict.fromkeys(row.commit for row in rows))}",
        f"machine: {len(os.sched_getaffinity(0))} cores, {system}; other work meanwhile took {min(busy):.1f} to"
        f" {max(busy):.1f} of them",
        "load: 20 connections, 16 that GET and 4 that POST, one request after another each, every answer checked",
    ]
