"""A standing instance, from its start to its end: `start`, `stop` and `restore`."""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
from functools import partial
from typing import Any

import click

from servekit import api
from servekit.cli.ending import say_soon
from servekit.cli.options import DEFAULTS, given, init_options, instance_name, log_file_options, merged
from servekit.client import who
from servekit.config import DEFAULT_RUNTIME
from servekit.control import standing
from servekit.control.launch import Launch
from servekit.control.setup import StartReport
from servekit.deploy.reading import read
from servekit.errors import ControllerGoneError, ServekitError

START_DEFAULTS = {**DEFAULTS, "drain_delay_s": 2.0, "drain_timeout_s": 60.0, "log_level": "info"}
DEPLOY_TRIES = 3


@click.command()
@init_options(**{**START_DEFAULTS, "runtime": DEFAULT_RUNTIME})
@log_file_options
@click.option("--config", "files", multiple=True, metavar="FILE", help="Serve what it says; may be repeated.")
def start(files: tuple[str, ...], **options: Any) -> None:
    """Run a standing instance here, until Ctrl-C, SIGTERM or `servekit stop`.

    What it serves it keeps, and serves again when it is started the next time. systemd is told when it is up
    (Type=notify).
    """
    logging.basicConfig(format="servekit: %(levelname)s %(message)s", level=logging.WARNING)
    asked = {**START_DEFAULTS, "gather_output": True, **(read(files, os.environ).instance if files else {})}
    told = api.instance_options(merged(asked, given(options), DEFAULT_RUNTIME), outlives=True)
    standing.keep(told, partial(_say_up, files), partial(_say_ending, told.drain_delay_s + told.drain_timeout_s))


def _say_ending(drain_s: float) -> None:
    tell_systemd("STOPPING=1")
    say_soon(f"answering what is in flight, for {drain_s:g} s at the most")


def _deploy(files: tuple[str, ...], name: str, kept: str, ending: threading.Event) -> None:
    """Serve what the files say. Where that fails, what was kept is served. A controller that crashes meanwhile is
    started again, and asked again."""
    log = logging.getLogger("servekit")
    for tries_left in range(DEPLOY_TRIES - 1, -1, -1):
        try:
            with api.attach(name) as instance:
                instance.apply(instance.plan(*files))
            return
        except ServekitError as error:
            if ending.is_set():
                return
            if isinstance(error, ControllerGoneError) and tries_left:
                log.error("the deploy is done again: %s", error)
            elif not kept:
                raise
            else:
                log.error("what was kept is served, for the deploy has failed: %s", error)
                return


def _say_up(files: tuple[str, ...], launch: Launch, report: StartReport, ending: threading.Event) -> None:
    setup = launch.setup
    if files:
        _deploy(files, setup.options.name, report.kept, ending)
    if ending.is_set():
        return
    where = f"answers at {setup.http_url}" if setup.http_url else "serves, without HTTP"
    click.echo(f"servekit: instance {setup.options.name!r} {where}")
    if report.kept:
        click.echo(f"    with {report.kept}, kept in {setup.state_directory}")
    tell_systemd("READY=1")


def tell_systemd(state: str) -> None:
    """Tell the service manager, where one has started this process and asks for it: see sd_notify(3)."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if path.startswith(("/", "@")):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as told:
            try:
                told.sendto(state.encode(), path.replace("@", "\0", 1) if path[0] == "@" else path)
            except OSError as error:
                logging.getLogger("servekit").warning("systemd could not be told %s: %s", state, error)


@click.command()
@instance_name
@click.option("--purge", is_flag=True, help="Also delete what it serves, which is kept otherwise.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def stop(name: str, purge: bool, yes: bool) -> int:
    """End a standing instance, once what is in flight has been answered."""
    asks = purge and not yes and sys.stdin.isatty()
    if asks and not click.confirm(f"Delete all that instance {name!r} serves?", err=True):
        click.echo("servekit: nothing was deleted, and nothing ended", err=True)
        return 1
    standing.stop(name, purge=purge, who=who())
    return 0


@click.command()
@instance_name
def restore(name: str) -> None:
    """Put the last good state of an instance in the place of one that is damaged."""
    click.echo(f"servekit: restored {standing.restore(name)}")
