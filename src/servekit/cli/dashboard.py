"""The way to the dashboard of a standing instance: `dashboard`."""

from __future__ import annotations

import html
import webbrowser
from pathlib import Path

import click

from servekit import tokens
from servekit.cli.options import instance_name
from servekit.cli.status import RESTART_TIMEOUT_S, status_of
from servekit.control import standing
from servekit.errors import NotFoundError
from servekit.private_folders import write_private

LINK = "dashboard.html"


@click.command()
@instance_name
@click.option("--read-only", is_flag=True, help="The link may only look.")
@click.option("--open", "opens", is_flag=True, help="Open it in a browser of this machine.")
def dashboard(name: str, read_only: bool, opens: bool) -> None:
    """Print a link to the dashboard of a standing instance, which logs in.

    Who has the link may change what is served, for the instance's token is in it; with --read-only, the other one.
    """
    record = standing.find(name)
    url = status_of(name, RESTART_TIMEOUT_S)["admin_url"]
    if not url:
        raise NotFoundError(
            f"the instance {name!r} has no dashboard, for it has no admin_port; start it with --admin-port 8001, say"
        )
    # Behind a #, the token is in no request, and so in no log.
    token = tokens.read_only(record.token) if read_only else record.token
    link = f"{url}/#token={token.hex()}"
    if not opens:
        click.echo(link)
    elif not webbrowser.open(_file_with(link, record.directory)):
        raise NotFoundError("no browser was found on this machine; leave out --open, and open the link that is printed")


def _file_with(link: str, directory: str) -> str:
    """The address of a file that leads to the link. A browser's arguments are there for every user to read, and this
    file for its own alone."""
    path = Path(directory, LINK)
    page = f'<!doctype html><meta http-equiv="refresh" content="0; url={html.escape(link)}"><title>servekit</title>'
    write_private(path, page.encode(), durable=False)
    return path.as_uri()
