"""What has happened to a standing instance, and what its handlers have raised: `events` and `failures`."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

import click

from servekit.cli.logs import moment
from servekit.cli.options import instance_name
from servekit.cli.status import attached
from servekit.config import nearest
from servekit.control.explanations import escaped
from servekit.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.table import Table

LAST = 50
"""How many events are shown where ``--since`` does not say it."""
FOLLOW_S = 1.0
MOST_KNOWN = 5
"""Names in the message about one that is not known."""

LINES = "\n\t"
"""What a traceback has besides characters that can be printed; its message may be of a client's making."""

json_option = click.option("--json", "as_json", is_flag=True, help="For programs: an object a line.")


@click.command()
@click.argument("about", metavar="[BACKEND|ENDPOINT]", required=False)
@click.option("--since", callback=moment, metavar="WHEN", help="From then on: 10m, 2h, or an ISO time.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@json_option
@instance_name
def events(name: str, about: str | None, since: float | None, follow: bool, as_json: bool) -> None:
    """Show what has happened to a standing instance: changes, and by whom; replicas and
    ingress workers that started or ended, and why; requests that were refused.

    The last 50, the oldest first; all since WHEN.
    """
    with attached(name) as instance:
        found = instance.events()
        seen = found[-1]["number"] if found else 0
        own = [each for each in found if _concerns(each, about)]
        if about is not None and not own and not follow:
            known = {each[key] for each in found for key in ("backend", "endpoint")} - {""}
            raise NotFoundError(f"no event is about a backend or an endpoint {about!r}{_nearest(about, known)}")
        _show([each for each in own if each["at"] >= since] if since is not None else own[-LAST:], as_json)
        while follow:
            time.sleep(FOLLOW_S)
            found = instance.events(seen)
            seen = found[-1]["number"] if found else seen
            _show([each for each in found if _concerns(each, about)], as_json)


def _nearest(name: str, known: set[str]) -> str:
    return nearest(name, known, most=MOST_KNOWN)


def _concerns(event: dict[str, Any], about: str | None) -> bool:
    return about in (None, event["backend"], event["endpoint"])


def _show(found: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        for each in found:
            click.echo(json.dumps(each))
    elif found:
        _print(events_table(found))


def events_table(found: Iterable[dict[str, Any]]) -> Table:
    """Events, for people."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for each in found:
        text = Text(escaped(each["text"], allowed="\n"), "yellow" if each["kind"].endswith(_ODD) else "")
        if each["who"]:
            text.append(f", by {each['who']}", "dim")
        if each["count"] > 1:
            text.append(f" ({each['count']} times since {each['first_time']})", "bold")
        table.add_row(Text(each["time"], "dim"), text)
    return table


_ODD = (
    "_failed",
    "_unhealthy",
    "_replaced",
    "_ejected",
    "_put_back",
    "_killed",
    "_began",
    "ingress_ended",
    "_restarted",
)


@click.command()
@click.argument("backend", required=False)
@click.option("--traceback", "with_traceback", is_flag=True, help="Show the traceback of each as well.")
@json_option
@instance_name
def failures(name: str, backend: str | None, with_traceback: bool, as_json: bool) -> None:
    """Show what handlers have raised, by where it was raised, the last one last.

    REQUEST is the last that failed so: `servekit logs` has its lines.
    """
    with attached(name) as instance:
        found = instance.failures(backend)
        if backend is not None and not found and backend not in (known := instance.list_backends()):
            failed = {each["backend"] for each in instance.failures()}
            raise NotFoundError(
                f"there is no backend {backend!r}, and nothing is known to have failed in one of that name"
                f"{_nearest(backend, failed.union(known))}"
            )
    if as_json:
        for each in found:
            click.echo(json.dumps(each))
        return
    if not found:
        click.echo(f"servekit: nothing has failed{'' if backend is None else f' in backend {backend!r}'}")
    elif with_traceback:
        for each in found:
            click.echo(f"{_times(each)} in {each['backend']}, the last time {each['last_time']}{_request(each)}")
            click.echo(f"{escaped(each['traceback'], allowed=LINES)}\n")
    else:
        _print(failures_table(found))


def failures_table(found: Iterable[dict[str, Any]]) -> Table:
    """Failures, for people."""
    from rich.table import Table
    from rich.text import Text

    table = Table("COUNT", "LAST", "BACKEND", box=None, pad_edge=False)
    table.add_column("RAISED", overflow="fold")
    table.add_column("REQUEST", overflow="fold")
    for each in found:
        where = f"{os.path.basename(each['file'])}:{each['line']} in {each['function']}"
        kind = each["type"].rpartition(".")[2]
        raised = f"{kind}, {where}" if each["file"] else kind
        if each["what"] != "call":
            raised = f"{each['what']}: {raised}"
        cells = (str(each["count"]), each["last_time"], each["backend"], raised, each["request_id"])
        table.add_row(*map(Text, cells))
    return table


def _times(failure: dict[str, Any]) -> str:
    count = failure["count"]
    return "once" if count == 1 else f"{count} times since {failure['first_time']}"


def _request(failure: dict[str, Any]) -> str:
    return f", request {failure['request_id']}" if failure["request_id"] else ""


def _print(table: Table) -> None:
    from rich.console import Console

    Console(highlight=False, markup=False, emoji=False).print(table)
