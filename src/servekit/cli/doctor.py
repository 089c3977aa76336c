"""What servekit finds on this machine, and what is wrong with it: `doctor`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import msgspec

from servekit import __version__, config
from servekit.control.directories import instance_directory
from servekit.control.launch import bind_tcp
from servekit.control.standing import StandingRecord
from servekit.errors import ServekitError
from servekit.private_folders import base_in, temporary_folder
from servekit.processes import is_alive

LIBRARIES = ("pluggy", "msgspec", "httptools", "uvloop", "httpx", "flask", "cloudpickle", "click", "rich", "ray")
CONNECT_TIMEOUT_S = 1.0
TITLE = "servekit: "
"""How the title of each process of an instance begins: see `set_title`."""
NEEDED_BYTES = 64 * 1024
"""In TMPDIR: of its files, frozen code, an instance needs more."""


class Finding(NamedTuple):
    """One line of the report."""

    what: str
    text: str
    is_wrong: bool = False


@click.command()
@click.option("--http-port", type=int, default=8000, envvar="PORT", help="Look whether it is free (default: 8000).")
def doctor(http_port: int) -> int:
    """Look at versions, plugins, the port, limits, and what is left of instances.

    The exit code is 1 where something is wrong.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    running = _running()
    found = [*_versions(), *_plugins(), *_port(http_port, running), *_limits(), *_folders(running), *_ray()]
    table = Table.grid(padding=(0, 2))
    for what, text, is_wrong in found:
        table.add_row(Text("wrong" if is_wrong else "ok"), Text(what), Text(text), style="bold red" if is_wrong else "")
    Console().print(table)
    wrong = sum(finding.is_wrong for finding in found)
    what = "nothing is" if not wrong else "1 thing is" if wrong == 1 else f"{wrong} things are"
    click.echo(f"servekit: {what} wrong")
    return 1 if wrong else 0


def _versions() -> Iterator[Finding]:
    yield Finding("servekit", f"{__version__}, Python {platform.python_version()}, {platform.platform(terse=True)}")
    versions = []
    for name in LIBRARIES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"no {name}")
    yield Finding("libraries", ", ".join(versions), any(v.startswith("no ") and v != "no ray" for v in versions))


def _plugins() -> Iterator[Finding]:
    from servekit.plugins import disabled_by_environment, discover

    registry = discover(disabled=disabled_by_environment())
    for problem in registry.problems:
        yield Finding("plugin", problem, True)
    if not registry.problems:
        yield Finding("plugins", f"all {len(registry.loaded)} can be used")


def _running() -> dict[Path, StandingRecord]:
    """The standing instances of this user that run, by their directories."""
    found = {}
    try:
        paths = [*Path(base_in(temporary_folder()[0])).glob("*/instance.json")]
    except ServekitError:  # `_folders` says it.
        return {}
    for path in paths:
        try:
            record = msgspec.json.decode(path.read_bytes(), type=StandingRecord)
        except (OSError, ValueError):  # It has just ended.
            continue
        if is_alive(record.keeper):
            found[path.parent] = record
    return found


def _port(port: int, running: dict[Path, StandingRecord]) -> Iterator[Finding]:
    for directory, record in running.items():
        if record.url.endswith(f":{port}"):
            yield Finding("port", f"{port} is that of instance {_name(directory)}, which runs")
            return
    try:
        bind_tcp("127.0.0.1", port, "http_port").close()
    except ServekitError as error:
        holder = holder_of(port)
        if f"({TITLE}" in holder:
            yield Finding("port", f"{port} is that of an instance of servekit, which runs: it is held{holder}")
            return
        yield Finding("port", f"{port} is taken{holder}" if holder else str(error), True)
    else:
        yield Finding("port", f"{port} is free")


def holder_of(port: int) -> str:
    """``" by process 17 (python …)"``, where a process of this user listens on ``port``; empty where nobody knows."""
    sockets = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:] if os.path.exists(table) else ():
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:  # 0A: it listens.
                sockets.add(f"socket:[{fields[9]}]")
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(fd) in sockets for fd in (process / "fd").iterdir()):
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                return f" by process {process.name} ({command[:60]})"
        except OSError:  # It has ended, or is another user's.
            continue
    return ""


def _limits() -> Iterator[Finding]:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = config.HttpLimits().connections
    few = hard != resource.RLIM_INFINITY and hard < wanted
    text = "no limit" if hard == resource.RLIM_INFINITY else f"{hard:,}"
    more = f"; an ingress worker may have {wanted:,} connections: raise it with ulimit -Hn" if few else ""
    yield Finding("open files", f"{text}{more}", few)


def _name(directory: Path) -> str:
    return directory.name.removeprefix("standing-")


def _folders(running: dict[Path, StandingRecord]) -> Iterator[Finding]:
    """TMPDIR, and the directories of instances in it."""
    try:
        folder = temporary_folder()[0]
        instance_directory("standing-default", make=False)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(NEEDED_BYTES))
            file.flush()
    except ServekitError as error:
        yield Finding("TMPDIR", str(error), True)
        return
    except OSError as error:
        yield Finding("TMPDIR", f"{folder} cannot be written to: {error.strerror or error}", True)
    else:
        yield Finding("TMPDIR", folder)
    base = Path(base_in(folder))
    for path in sorted(base.iterdir()) if base.is_dir() else ():
        if path in running:
            yield Finding("instance", f"{_name(path)} answers at {running[path].url}")
        elif not _is_served(path):
            yield Finding("leftover", f"of an instance that has ended without cleaning up: rm -r {path}", True)


def _is_served(directory: Path) -> bool:
    """Whether a process answers at a socket in the directory of an instance."""
    for path in (directory / "admin.sock", directory / "control.sock"):
        with socket.socket(socket.AF_UNIX) as dialled:
            dialled.settimeout(CONNECT_TIMEOUT_S)
            try:
                dialled.connect(str(path))
            except TimeoutError:  # It is stopped, or has much to do.
                return True
            except OSError:
                continue
            return True
    return False


def _ray() -> Iterator[Finding]:
    """The Ray that a file of Ray's says is running on this machine, where nothing answers there."""
    folder = Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp", "ray")
    try:
        address = (folder / "ray_current_cluster").read_text().strip()
    except OSError:
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S).close()
    except (OSError, ValueError):
        path = folder / "ray_current_cluster"
        yield Finding("leftover", f"of Ray: {path} names {address}, where nothing answers: rm {path}", True)
    else:
        yield Finding("ray", f"one runs at {address}")
