"""Roll-outs of endpoints: begins, shows and decides on them."""

from __future__ import annotations

import json
import shlex
import time
from typing import TYPE_CHECKING, Any

import click

from servekit.cli.changes import goes_on
from servekit.cli.options import given, instance_name
from servekit.cli.status import attached, rollout_line
from servekit.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import RenderableType
    from rich.text import Text

    from servekit.instance import Instance

WATCH_S = 1.0
NOT_PROMOTED = 1
"""The exit code of ``--watch`` where a roll-out has ended otherwise, or asks."""
STAYS = ("promoted", "rolled_back", "inconclusive", "paused")
"""The states at which ``--watch`` ends: in the last one, somebody has to decide."""


@click.group()
def rollout() -> None:
    """Have a backend take over an endpoint's requests step by step, while a judge finds it no worse.

    `servekit rollout COMMAND --help` tells of one command.
    """


def _steps(ctx: click.Context, param: click.Parameter, given_as: Any) -> list[float | str]:
    """What ``--step`` and ``--steps`` were given."""
    parts = given_as.split(",") if isinstance(given_as, str) else given_as or ()
    steps: list[float | str] = []
    for part in map(str.strip, parts):
        try:
            steps.append(part if part == "gate" else float(part))
        except ValueError:
            raise click.BadParameter(f"{part!r} is neither a share, as 0.1, nor gate") from None
    return steps


def _options(ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]) -> dict[str, Any] | None:
    """What ``--judge-option`` was given, by name; a value that is no JSON is text."""
    options: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{text!r} has no value; write NAME=VALUE, as in margin=0.01")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options or None


def _whom(ctx: click.Context, param: click.Parameter, text: str | None) -> str | list[str] | None:
    """The URL of a webhook, or a command with its arguments."""
    if text is None or text.startswith(("http://", "https://")):
        return text
    try:
        return shlex.split(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is neither a URL nor a command: {error}") from None


@rollout.command()
@click.argument("endpoint")
@click.option("--to", required=True, metavar="BACKEND", help="The backend that is to take over.")
@click.option("--step", multiple=True, callback=_steps, metavar="SHARE", help="A share, or gate; may be repeated.")
@click.option("--steps", callback=_steps, metavar="LIST", help='All at once: "0.01,0.1,gate,0.5,1".')
@click.option("--hold", "hold_s", type=float, metavar="S", help="How long a step takes, at least.")
@click.option("--judge", metavar="NAME", help="A plugin, or module:attr (default: sequential).")
@click.option(
    "--judge-option",
    "judge_options",
    multiple=True,
    callback=_options,
    metavar="NAME=VALUE",
    help="Of the judge; may be repeated.",
)
@click.option("--on-failure", type=click.Choice(["rollback", "pause"]), help="What becomes of one that is worse.")
@click.option("--warmup", "warmup_s", type=float, metavar="S", help="It is not judged for so long.")
@click.option("--max-duration", "max_duration_s", type=float, metavar="S", help="Of a step; then it asks.")
@click.option("--keep-warm", "keep_warm_s", type=float, metavar="S", help="The old version, at the end.")
@click.option("--header", is_flag=True, default=None, help="x-servekit-version may name a version.")
@click.option("--propagate", is_flag=True, default=None, help="What handlers call keeps to its side.")
@click.option("--notify", callback=_whom, metavar="WHOM", help="A URL, or a command; told by JSON.")
@click.option("--seed", type=int, help="Of the order of versions (default: random).")
@click.option("--watch", is_flag=True, help="Show it until it has ended, as status --watch.")
@instance_name
def start(endpoint: str, to: str, name: str, watch: bool, **options: Any) -> int:
    """Begin a roll-out of ENDPOINT; returns at once.

    \b
    For example:
      servekit rollout start digits --to v2 --steps "0.01,0.1,gate,0.5,1"
    """
    step, steps = options.pop("step"), options.pop("steps")
    if step and steps:
        raise click.UsageError("give the steps by --steps, or each by --step, not both")
    told = given(options) | ({"steps": step or steps} if step or steps else {})
    with attached(name) as instance:
        instance.rollout(endpoint, to=to, **told)
        if watch:
            return _watch(instance, endpoint)
        _say(instance, endpoint)
        ((_, begun),) = told_of(instance, endpoint).items()
        if begun["claim"]:
            click.echo(f"servekit: what the judge {begun['judge']} guarantees: {begun['claim']}")
    return 0


@rollout.command()
@click.argument("endpoint", required=False)
@click.option("--watch", is_flag=True, help="Show it every second until it has ended, or somebody has to decide.")
@click.option("--json", "as_json", is_flag=True, help='For programs: status()["rollouts"].')
@instance_name
def status(endpoint: str | None, watch: bool, as_json: bool, name: str) -> int:
    """Show the last roll-out of ENDPOINT, or of each.

    \b
    The exit code with --watch:
      0  it was promoted
      1  it was rolled back, or waits for somebody to decide
    """
    if watch and as_json:
        raise click.UsageError("--watch shows the table; leave out --json")
    with attached(name) as instance:
        if watch:
            return _watch(instance, endpoint)
        found = told_of(instance, endpoint)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif found:
        from rich.console import Console

        Console().print(table_of(found))
    else:
        click.echo("servekit: no endpoint has had a roll-out")
    return 0


why_option = click.option("--why", default="", metavar="TEXT", help="For people, in events and in the status.")


@rollout.command()
@click.argument("endpoint")
@why_option
@instance_name
def pause(endpoint: str, why: str, name: str) -> None:
    """Have a roll-out stay where it is, until it is resumed."""
    with attached(name) as instance:
        instance.pause_rollout(endpoint, why)
        _say(instance, endpoint)


@rollout.command()
@click.argument("endpoint")
@instance_name
def resume(endpoint: str, name: str) -> None:
    """Have a roll-out go on that is paused, at a gate, or inconclusive."""
    with attached(name) as instance:
        instance.resume_rollout(endpoint)
        _say(instance, endpoint)


@rollout.command()
@click.argument("endpoint")
@why_option
@instance_name
def promote(endpoint: str, why: str, name: str) -> None:
    """Give all requests to the new version, whatever the judge says."""
    with attached(name) as instance:
        instance.promote_rollout(endpoint, why)
        _say(instance, endpoint)


@rollout.command()
@click.argument("endpoint")
@why_option
@instance_name
def abort(endpoint: str, why: str, name: str) -> None:
    """Give all requests back to the old version."""
    with attached(name) as instance:
        instance.abort_rollout(endpoint, why)
        _say(instance, endpoint)


# -- what is shown ---------------------------------------------------------------------------------------------------


def told_of(instance: Instance, endpoint: str | None) -> dict[str, Any]:
    """The last roll-out of the endpoint, or of each, by endpoint. Raises `NotFoundError` where it has had none."""
    found: dict[str, Any] = instance.status()["rollouts"]
    if endpoint is None:
        return found
    if endpoint not in found:
        instance.get_traffic(endpoint)  # Raises where there is no such endpoint.
        raise NotFoundError(f"endpoint {endpoint!r} has had no roll-out; begin one by: servekit rollout start")
    return {endpoint: found[endpoint]}


def table_of(rollouts: Mapping[str, Mapping[str, Any]]) -> RenderableType:
    """Roll-outs with the figures of their versions, and their reasons below, for people."""
    from rich.console import Group
    from rich.table import Table

    table = Table("ENDPOINT", "STATE", "VERSION", box=None, pad_edge=False)
    for head in ("SHARE", "REQUESTS", "ERRORS", "RATE", "P99"):
        table.add_column(head, justify="right")
    reasons: list[RenderableType] = []
    for name, told in rollouts.items():
        shares = ((told["baseline"], 1 - told["share"]), (told["candidate"], told["share"]))
        firsts = ((name, told["state"]), ("", f"step {told['step']} of {len(told['steps'])}"))
        for first, (version, share) in zip(firsts, shares, strict=True):
            table.add_row(*map(_text, (*first, version, f"{share:.4g}", *_figures(told["seen"].get(version)))))
        reasons.append(_text(f"{name}: {told['reason'] or told['state']}"))
        if any(seen["errors"] for version, seen in told["seen"].items() if version == told["candidate"]):
            reasons.append(
                _text(f"{name}: what its handlers raised: servekit failures {shlex.quote(told['candidate'])}")
            )
    return Group(table, "", *reasons)


def _figures(seen: Mapping[str, Any] | None) -> tuple[str, ...]:
    from servekit.control.explanations import span

    if seen is None:
        return ("", "", "", "")
    rate, p99_s = seen["error_rate"], seen["p99_s"]
    return (
        f"{seen['requests']:,}",
        f"{seen['errors']:,}",
        "" if rate is None else f"{rate:.2%}",
        "" if p99_s is None else span(p99_s),
    )


def _text(text: str) -> Text:
    """A cell. What a judge or a handler has said may have anything in it."""
    from rich.text import Text

    from servekit.control.explanations import escaped

    return Text(escaped(text))


def _say(instance: Instance, endpoint: str) -> None:
    from servekit.control.explanations import escaped

    (told,) = told_of(instance, endpoint).values()
    click.echo(f"servekit: {escaped(rollout_line(told))}")


def _watch(instance: Instance, endpoint: str | None) -> int:
    """Show roll-outs until each has ended; returns the exit code."""
    from rich.live import Live

    found = told_of(instance, endpoint)
    if not found:
        raise NotFoundError("no endpoint has had a roll-out, so there is nothing to watch")
    shown: Any = None
    with goes_on("the roll-out", instance), Live(auto_refresh=False) as live:
        while True:
            if live.console.is_terminal:
                live.update(table_of(found), refresh=True)
            elif (now := {name: (told["state"], told["step"]) for name, told in found.items()}) != shown:
                shown = now  # Not each second: it may go to a file.
                live.console.print(table_of(found))
            if all(told["state"] in STAYS for told in found.values()):
                break
            time.sleep(WATCH_S)
            found = told_of(instance, endpoint)
    return 0 if all(told["state"] == "promoted" for told in found.values()) else NOT_PROMOTED
