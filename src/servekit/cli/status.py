"""What a standing instance serves: `status`."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

import click

from servekit.api import attach
from servekit.cli.options import instance_name
from servekit.errors import DeadlineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

    from servekit.cli.trends import Span, Trend
    from servekit.instance import Instance

T = TypeVar("T")

ANSWER_TIMEOUT_S = 5.0
"""How long a controller may take to say what there is."""
RESTART_TIMEOUT_S = 30.0
"""The same where something is to be done: one that crashed is started again meanwhile."""
WATCH_S = 1.0
DEGRADED = 3
MOST_PROBLEMS = 3
"""Sentences about what is wrong, on a screen that shows rows besides; at least 2."""


@click.command()
@instance_name
@click.option("--json", "as_json", is_flag=True, help="All that servekit.status() says.")
@click.option("--watch", is_flag=True, help="Show it every second, with the last minutes, until Ctrl-C.")
def status(name: str, as_json: bool, watch: bool) -> int:
    """Show what a standing instance serves.

    \b
    The exit code:
      0  it is up, and every endpoint that has traffic can serve
      1  it is not running, or its controller does not answer
      3  an endpoint has traffic, and no replica that is ready
    """
    if watch and as_json:
        raise click.UsageError("--watch shows the table; leave out --json")
    if watch:
        return _watch(name)
    found = status_of(name)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        from rich.console import Console

        Console().print(table_of(found))
    return DEGRADED if degraded(found) else 0


@contextlib.contextmanager
def attached(name: str) -> Iterator[Instance]:
    """The instance ``name``, once its controller answers. Raises as `status_of`."""
    status_of(name, RESTART_TIMEOUT_S)
    with attach(name) as instance:
        yield instance


def status_of(name: str, timeout_s: float | None = None) -> dict[str, Any]:
    """What `servekit.status()` says of the instance ``name``.

    Raises `NotRunningError`, and `DeadlineError` where its controller does not answer: one that is stopped takes
    connections, and says nothing.
    """
    return _answer(name, lambda instance: instance.status(), ANSWER_TIMEOUT_S if timeout_s is None else timeout_s)


def _answer(name: str, question: Callable[[Instance], T], timeout_s: float) -> T:
    answers: list[T] = []
    errors: list[BaseException] = []
    instance = attach(name)

    def ask() -> None:
        try:
            answers.append(question(instance))
        except BaseException as error:
            errors.append(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(timeout_s)
    instance.shutdown()
    if errors:
        raise errors[0]
    if not answers:
        raise DeadlineError(
            f"the controller of {name!r} has not answered within {timeout_s:g} s: it is stopped, or being "
            "started again; see what `servekit start` printed"
        )
    return answers[0]


def degraded(status: dict[str, Any]) -> list[str]:
    """The endpoints that have traffic and no replica for it, and none that the traffic would have started."""
    return [
        name
        for name, endpoint in status["endpoints"].items()
        if endpoint["traffic"]
        and not any(_can_serve(status["backends"][backend]) for backend, share in endpoint["traffic"].items() if share)
    ]


def _can_serve(backend: dict[str, Any]) -> bool:
    autoscaling = backend["config"]["autoscaling"]
    from_zero = autoscaling is not None and autoscaling["min_replicas"] == 0 == backend["wanted_replicas"]
    return from_zero or _ready(backend) > 0


def _ready(backend: dict[str, Any]) -> int:
    return sum(replica["state"] == "ready" for replica in backend["replicas"])


def table_of(status: dict[str, Any]) -> RenderableType:
    """Endpoints and backends, for people."""
    from rich.console import Group

    problems = _problems(status)
    more: list[RenderableType] = ["", *problems] if problems else []
    return Group(*_head(status), "", _endpoints(status), "", _backends(status), *more)


def watched(
    status: dict[str, Any], trends: Mapping[str, Trend], blocks: str = "", rows: int | None = None
) -> RenderableType:
    """The same below the requests of the last minutes, in so many rows, where a table of many shows only the first;
    None: however many."""
    from rich.console import Group

    from servekit.cli.trends import shares

    head, problems = _head(status), _problems(status)
    if rows is not None and len(problems) > MOST_PROBLEMS:
        problems = [*problems[: MOST_PROBLEMS - 1], _more(len(problems) - MOST_PROBLEMS + 1)]
    more: list[RenderableType] = ["", *problems] if problems else []
    most: list[int | None] = [None] * 3
    if rows is not None:
        left = rows - len(head) - len(more) - 2 * len(most)  # Before each table is a blank, and in it a head.
        most = [*shares(left, (len(trends), len(status["endpoints"]), len(status["backends"])))]
    tables = (trends_table(trends, blocks, most[0]), "", _endpoints(status, most[1]), "", _backends(status, most[2]))
    return Group(*head, "", *tables, *more)


def _head(status: dict[str, Any]) -> list[Text]:
    from rich.text import Text

    workers = status["ingress"]
    ready = sum(worker["ready"] for worker in workers)
    where = f"answers at {status['url']}" if status["url"] else "serves without HTTP"
    head = f"instance {status['name']!r} {where}; ingress workers {ready}/{len(workers)} ready"
    return [*(Text(line) for line in (head, status["deploy"]) if line), *_rollouts(status)]


def rollout_line(told: Mapping[str, Any]) -> str:
    """Where a roll-out is, in one line."""
    way = f"roll-out of {told['endpoint']} from {told['baseline']} to {told['candidate']}"
    where = f"{told['state'].replace('_', ' ')} at {told['share']:.4g}, step {told['step']} of {len(told['steps'])}"
    return f"{way}: {where}{': ' if told['reason'] else ''}{told['reason']}"


def _rollouts(status: dict[str, Any]) -> list[Text]:
    """A line for each roll-out under way: the first ones."""
    from rich.text import Text

    from servekit.control.explanations import escaped
    from servekit.control.rollout import ENDED

    told = {name: each for name, each in status.get("rollouts", {}).items() if each["state"] not in ENDED}
    shown, more = _first(told, MOST_PROBLEMS)
    lines = [Text(escaped(rollout_line(each)), no_wrap=True, overflow="ellipsis") for _, each in shown]
    return [*lines, *([_more(more)] if more else [])]


def _endpoints(status: dict[str, Any], most: int | None = None) -> Table:
    from rich.table import Table

    table = Table("ENDPOINT", "ROUTE", "METHODS", "TRAFFIC", box=None, pad_edge=False)
    faulty = degraded(status)
    shown, more = _first(status["endpoints"], most)
    for name, endpoint in shown:
        route = (endpoint["route"] or "no HTTP") + ("/…" if endpoint["mount"] else "")
        shares = ", ".join(f"{backend}={share:g}" for backend, share in endpoint["traffic"].items()) or "none"
        if shadow := status.get("shadows", {}).get(name):
            shares += f", shadow {shadow['backend']}={shadow['share']:g}"
        style = "bold red" if name in faulty else ""
        table.add_row(*_cells((name, route, ", ".join(endpoint["methods"]), shares), most), style=style)
    if more:
        table.add_row(_more(more))
    return table


def _backends(status: dict[str, Any], most: int | None = None) -> Table:
    from rich.table import Table

    table = Table("BACKEND", "TARGET", "READY", "LAST FAILURE", box=None, pad_edge=False)
    shown, more = _first(status["backends"], most)
    for name, backend in shown:
        failure = cause_of(backend["last_failure"] or backend["last_start_error"])
        count = f"{_ready(backend)}/{backend['wanted_replicas']}"
        style = "" if _ready(backend) >= backend["wanted_replicas"] else "yellow"
        table.add_row(*_cells((name, backend["target"], count, failure), most), style=style)
    if more:
        table.add_row(_more(more))
    return table


def _problems(status: dict[str, Any]) -> list[Text]:
    from rich.text import Text

    faults = [Text(f"endpoint {name!r} has traffic and no replica that is ready") for name in degraded(status)]
    return [*faults, *(Text(f"a plugin is not in use: {problem}") for problem in status["plugin_problems"])]


def _first(rows: Mapping[str, T], most: int | None) -> tuple[list[tuple[str, T]], int]:
    """As many as fit into so many rows, and how many more there are: that takes a row."""
    if most is None or len(rows) <= most:
        return [*rows.items()], 0
    return [*rows.items()][: most - 1], len(rows) - most + 1


def _cells(texts: Iterable[str], most: int | None) -> list[Text]:
    """Cells of a row, which is one line where rows are counted. What a handler has raised may have anything in it."""
    from rich.text import Text

    from servekit.control.explanations import escaped

    if most is None:
        return [Text(escaped(text)) for text in texts]
    return [Text(escaped(text), no_wrap=True, overflow="ellipsis") for text in texts]


def _more(number: int) -> Text:
    from rich.text import Text

    return Text(f"and {number} more", "dim")


def cause_of(failure: str) -> str:
    """The error itself of a failure's text: its first line, without whose handler could not be built."""
    line = failure.strip().partition("\n")[0]
    return line.rpartition(" could not be built: ")[2].strip()


def trends_table(trends: Mapping[str, Trend], blocks: str = "", most: int | None = None) -> Table:
    """The requests of the last minutes by endpoint, for people, in 80 columns."""
    from rich.table import Table
    from rich.text import Text

    from servekit.cli.trends import BLOCKS, CELL_S, CELLS, sparkline

    table = Table(box=None, pad_edge=False)
    table.add_column(f"LAST {CELLS * CELL_S / 60:g} MIN", max_width=16, no_wrap=True)
    for head, width in (("REQ/S", 6), ("", CELLS), ("5XX", 4), ("P99", 8), ("", CELLS)):
        table.add_column(head, justify="right" if head else "left", width=width, no_wrap=True)
    shown, more = _first(trends, most)
    for name, trend in shown:
        now, cells = trend.now(), trend.cells()
        rates = sparkline([cell.rate for cell in cells], blocks or BLOCKS)
        latencies = sparkline([cell.latency_s for cell in cells], blocks or BLOCKS)
        table.add_row(*map(Text, (name, _rate(now), rates, _failed(now), _latency(now), latencies)))
    if more:
        table.add_row(_more(more))
    return table


def _rate(span: Span) -> str:
    if span.rate is None:
        return ""
    return f"{span.rate:.1f}" if span.rate < 100 else f"{span.rate:.0f}"


def _failed(span: Span) -> str:
    return "" if span.failed is None else f"{span.failed:.0%}"


def _latency(span: Span) -> str:
    from servekit.control.explanations import span as duration

    return "" if span.latency_s is None else duration(span.latency_s)


def _watch(name: str) -> int:
    from rich.live import Live

    from servekit.cli.trends import BLOCKS, PLAIN_BLOCKS, Trends

    trends = Trends()
    with contextlib.suppress(KeyboardInterrupt), Live(auto_refresh=False) as live:
        blocks = BLOCKS if live.console.encoding.startswith("utf") else PLAIN_BLOCKS
        while True:
            found, stat = _answer(name, lambda each: (each.status(), each.stat()), ANSWER_TIMEOUT_S)
            of_endpoints = trends.add(time.monotonic(), stat, found["endpoints"])
            if live.console.is_terminal:
                live.update(watched(found, of_endpoints, blocks, live.console.height - 1), refresh=True)
            else:
                live.console.print(watched(found, of_endpoints, blocks))
            time.sleep(WATCH_S)
    return 0
