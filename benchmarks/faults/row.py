"""A row of the table: what was observed of one fault; and the table as text."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

NOT_RUN = "not run here"


@dataclass
class Row:
    """What became of the requests of one run with a fault in it.

    ``expected``: of the failed ones, those of which it is known beforehand that they may fail, and ``why``.
    ``gap_s``: the longest time without a success. ``well_s``: from the fault until nothing failed or was slow any more.
    ``whole_s``: from the fault until every process was there again. None: not within the time that the run had; and
    where one of these says nothing, ``has_whole`` or ``has_times`` is false.
    """

    fault: str
    setup: str
    sent: int = 0
    failed: int = 0
    kinds: str = ""
    expected: int = 0
    why: str = ""
    gap_s: float = 0.0
    well_s: float | None = 0.0
    whole_s: float | None = 0.0
    has_whole: bool = True
    notes: list[str] = field(default_factory=list)
    has_times: bool = True
    """Whether ``gap_s`` and ``well_s`` say something."""
    not_run: str = ""
    """Why there is nothing of all this."""
    commit: str = ""
    busy_cores: float = 0.0
    """What other work of the machine took meanwhile."""

    @property
    def more(self) -> int:
        """Failures that nobody expected."""
        return self.failed - self.expected


def not_run(fault: str, why: str) -> Row:
    return Row(fault, "", not_run=why)


def to_json(row: Row) -> str:
    return json.dumps(asdict(row))


def from_json(text: str) -> Row:
    return Row(**json.loads(text))


HEADINGS = ("fault", "sent", "failed", "expected", "more", "longest gap", "well again", "whole again")


def table(rows: Sequence[Row], width: int = 118) -> str:
    """All rows; below each the kinds of its failures, why some are expected, and what else was seen."""
    cells = [HEADINGS, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADINGS))]
    lines = [_line(HEADINGS, widths)]
    for row, line in zip(rows, cells[1:], strict=True):
        lines.append(_line(line, widths))
        lines += [f"    {note}" for text in _below(row) for note in _wrapped(text, width - 4)]
    return "\n".join(lines)


def seconds(value: float | None) -> str:
    if value is None:
        return "never"
    return f"{value:.2f} s" if value < 10 else f"{value:.0f} s"


def _cells(row: Row) -> tuple[str, ...]:
    if row.not_run:
        return (row.fault, "-", "-", "-", "-", "-", "-", "-")
    numbers = (row.sent, row.failed, row.expected, row.more)
    times = (seconds(row.gap_s), seconds(row.well_s)) if row.has_times else ("-", "-")
    whole = seconds(row.whole_s) if row.has_whole else "-"
    return (row.fault, *(f"{number:,}" for number in numbers), *times, whole)


def _below(row: Row) -> list[str]:
    if row.not_run:
        return [f"{NOT_RUN}: {row.not_run}"]
    failed = f"failed: {row.kinds}" if row.kinds else ""
    expected = f"expected: {row.why}" if row.expected else ""
    return [text for text in (row.setup, failed, expected, *row.notes) if text]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    (name, *numbers), (wide, *others) = cells, widths
    aligned = [f"{cell:>{width}}" for cell, width in zip(numbers, others, strict=True)]
    return "  ".join([f"{name:<{wide}}", *aligned]).rstrip()


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent="  ")
