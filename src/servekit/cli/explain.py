"""Why a request went where it went, and the last requests that failed or were slow: `explain`."""

from __future__ import annotations

import json
import textwrap
import time
from collections.abc import Mapping, Sequence
from typing import Any

import click

from servekit.cli.options import instance_name
from servekit.cli.status import attached
from servekit.control.explanations import printable, span

WIDTH = 80
LISTED = 20
MOST_SHOWN = 5
"""Other requests of the same id; --json has more."""
_AFTER_WIDTH = 12
_ENDPOINT_WIDTH = 16
_CAUSE_WIDTH = 14


@click.command()
@click.argument("what", metavar="[ID]", required=False)
@instance_name
@click.option("--slow", is_flag=True, help="List the last slow requests, of an endpoint or all.")
@click.option("--failed", is_flag=True, help="List the last requests that failed.")
@click.option("-n", "--lines", "most", type=click.IntRange(1, 100), default=LISTED, help=f"Default: {LISTED}.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def explain(name: str, what: str | None, slow: bool, failed: bool, most: int, as_json: bool) -> None:
    """Tell why a request went where it went, and when.

    ID is what its answer has as X-Request-Id. With --slow or --failed, the name of an endpoint, or nothing, stands in
    its place.
    """
    if slow and failed:
        raise click.UsageError("--slow and --failed are two lists; ask for one")
    if not (slow or failed) and what is None:
        raise click.UsageError("which request? Give its ID, or list some by --slow or --failed")
    with attached(name) as instance:
        if slow or failed:
            kind = "slow" if slow else "failed"
            requests = instance.last_requests(kind, what, most)
            click.echo(json.dumps(requests, indent=2) if as_json else list_of(requests, kind))
        else:
            explanation = instance.explain(str(what))
            click.echo(json.dumps(explanation, indent=2) if as_json else story_of(explanation))


def story_of(explanation: Mapping[str, Any]) -> str:
    """An explanation for people, in lines of `WIDTH`."""
    what = "is under way since" if explanation["pending"] else f"took {span(explanation['latency_s'])}; it came"
    lines = [
        *wrapped(f"request {explanation['id']} {what} {moment(explanation['came_at'])}, by {_by(explanation)}"),
        "",
    ]
    for step in explanation["steps"]:
        lines += wrapped(step["says"], f"{span(step['after_s']):>{_AFTER_WIDTH - 2}}  ")
    if explanation["others"]:
        lines += ["", f"{explanation['times'] - 1} more of this id:"]
        lines += [line for other in explanation["others"][:MOST_SHOWN] for line in wrapped(_other(other), "  ")]
    if explanation["silent"]:
        lines += ["", *wrapped(f"Ingress workers that did not answer: {', '.join(explanation['silent'])}.")]
    return "\n".join(lines)


def list_of(requests: Sequence[Mapping[str, Any]], kind: str) -> str:
    """Requests for people, a line each, with the whole ids."""
    if not requests:
        return f"no request that {'failed' if kind == 'failed' else 'was slow'} is remembered"
    cause = "error" if kind == "failed" else "backend"
    lines = [_line("TIME", "TOOK", "STATUS", "ENDPOINT", cause.upper(), "ID")]
    for request in requests:
        came, took = time.strftime("%H:%M:%S", time.localtime(request["came_at"])), span(request["latency_s"])
        lines.append(_line(came, took, request["status"], request["endpoint"], request[cause], request["id"]))
    return "\n".join(lines)


def _line(came: str, took: str, status: object, endpoint: str, cause: str, request_id: str) -> str:
    endpoint, cause = short(endpoint, _ENDPOINT_WIDTH), short(cause, _CAUSE_WIDTH)
    return f"{came:8}  {took:>9}  {status:<6}  {endpoint:{_ENDPOINT_WIDTH}}  {cause:{_CAUSE_WIDTH}}  {request_id}"


def _other(other: Mapping[str, Any]) -> str:
    """Another request of the same id, in a line."""
    what = f"{other['method']} {printable(other['path'])}"
    if other["chain"]:
        what = f"a handle called endpoint {other['endpoint']!r} in {' → '.join(other['chain'])}"
    end = "is under way" if other["pending"] else f"{other['status']} {other['error']}".rstrip()
    return f"{moment(other['came_at'])} {what}: {end}, {span(other['latency_s'])}, {other['replica'] or 'no replica'}"


def _by(explanation: Mapping[str, Any]) -> str:
    client = f" from {explanation['client']}" if explanation["client"] else ""
    return f"ingress worker {explanation['ingress']}{client}"


def wrapped(text: str, head: str = "") -> list[str]:
    """Text in lines of `WIDTH`, the first behind ``head``, the others as far in."""
    return textwrap.wrap(text, WIDTH, initial_indent=head, subsequent_indent=" " * len(head)) or [head.rstrip()]


def short(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def moment(at: float) -> str:
    """A time of the day here, with milliseconds."""
    return f"{time.strftime('%H:%M:%S', time.localtime(at))}.{int(at % 1 * 1000):03}"
