"""What the processes of a standing instance have logged and printed: `logs`."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import time
from collections import deque
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import BinaryIO

import click

from servekit.cli.options import instance_name
from servekit.config import nearest
from servekit.control.directories import state_directory
from servekit.control.log_files import LOG, aside
from servekit.control.log_lines import Which, written_by
from servekit.control.state import check_name
from servekit.errors import NotFoundError
from servekit.logs import stamp

LAST = 200
"""How many lines are shown where neither ``-n`` nor ``--since`` says it."""
LOOK_S = 0.2
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_REPLICA = re.compile(r"\breplica (\S+) (r\d+-[0-9a-f]{6})\b")


def moment(ctx: click.Context, param: click.Parameter, text: str | None) -> float | None:
    """The moment that ``--since`` was given, in seconds since 1970."""
    if text is None:
        return None
    span = re.fullmatch(r"(\d+)([smhd])", text)
    if span:
        return time.time() - int(span[1]) * UNITS_S[span[2]]
    try:
        found = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither a span, as 10m, nor a moment, as 2026-11-30T12:00:00Z") from None
    return found.astimezone(timezone.utc).timestamp()


def since_text(ctx: click.Context, param: click.Parameter, text: str | None) -> str:
    """The same, as lines have it."""
    found = moment(ctx, param, text)
    return "" if found is None else stamp(found)


@click.command()
@click.argument("backend", required=False)
@click.argument("replica", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option("-n", "--lines", "last", type=click.IntRange(0), metavar="N", help=f"The last N lines (default: {LAST}).")
@click.option("--since", callback=since_text, metavar="WHEN", help="From then on: 10m, 2h, or an ISO time.")
@instance_name
def logs(name: str, backend: str | None, replica: str | None, follow: bool, last: int | None, since: str) -> None:
    """Show what the processes of a standing instance have logged and printed.

    Of BACKEND: the lines of its replicas, and those about them; of REPLICA, r3 say, its alone.
    """
    check_name("instance", name)
    path = os.path.join(state_directory(name), "logs", LOG)
    if not os.path.exists(path):
        raise NotFoundError(f"there is no log of a standing instance {name!r}: {path} is not there")
    wanted = Which(backend, replica, since)
    most = last if last is not None else None if since else LAST
    with contextlib.closing(LogReader(path)) as log:
        try:
            kept = deque((line for line in log.read() if wanted.has(line)), most)
            unknown = "" if kept or backend is None else unknown_in(path, backend, replica)
        except OSError as error:
            raise NotFoundError(f"the log {path} cannot be read: {error.strerror or error}") from error
        if unknown and not follow:
            raise NotFoundError(unknown)
        if unknown:
            click.echo(f"servekit: waiting, for {unknown}", err=True)
        for line in kept:
            click.echo(line)
        while follow:
            for line in log.read():
                if wanted.has(line):
                    click.echo(line)
            time.sleep(LOOK_S)


def unknown_in(path: str, backend: str, replica: str | None) -> str:
    """That no line is of the backend, or of its replica, with the name that it may have meant; empty where one is."""
    found: dict[str, set[str]] = {}
    with contextlib.closing(LogReader(path)) as log:
        for line in log.read():
            for name, id_ in _REPLICA.findall(line):
                found.setdefault(name, set()).add(id_)
            if line.startswith("{") and (by := written_by(line)) is not None:
                found.setdefault(by[0], set()).add(by[1])
    if backend not in found:
        return f"there is no backend {backend!r} in the logs{nearest(backend, found)}"
    short = {id_.partition("-")[0] for id_ in found[backend]}
    if replica is None or replica in found[backend] | short:
        return ""
    return f"there is no replica {replica!r} of backend {backend!r} in the logs{nearest(replica, short)}"


class LogReader:
    """Reads on in a log, from its first line."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        """The newest file that was found. It stays open, so that no other gets its inode."""
        self._rest = b""

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def read(self) -> Iterator[str]:
        """The lines that have come since the last call, also in files that have been put aside meanwhile."""
        newer = self._newer()
        yield from self._more()  # After that look: nothing is written into a file that is put aside.
        for file in newer:
            self.close()
            self._file, self._rest = file, b""
            yield from self._more()

    def _more(self) -> Iterator[str]:
        for line in self._file or ():
            self._rest += line
            if self._rest.endswith(b"\n"):  # The rest of a line that is being written comes with the next call.
                yield self._rest[:-1].decode(errors="backslashreplace")
                self._rest = b""

    def _newer(self) -> list[BinaryIO]:
        """The files that are newer than the one that was found, all where there is none; the oldest first."""
        current = -1 if self._file is None else os.fstat(self._file.fileno()).st_ino
        found: dict[int, BinaryIO] = {}
        for number in itertools.count():
            try:
                file = open(aside(self._path, number), "rb")  # noqa: SIM115  `read` closes it.
            except FileNotFoundError:
                if number == 0:  # For a moment, while it is put aside.
                    continue
                break
            inode = os.fstat(file.fileno()).st_ino
            if inode == current:
                file.close()
                break
            if inode in found:  # It was put aside since.
                file.close()
            else:
                found[inode] = file
        return [*found.values()][::-1]
