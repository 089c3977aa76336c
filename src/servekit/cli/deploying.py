"""What is served as a file says, and the way back: `deploy`, `apply`, `export`, `schema`, `history`, `rollback`."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from servekit.cli.changes import goes_on
from servekit.cli.options import instance_name
from servekit.cli.status import attached
from servekit.deploy.plan import DeployPlan
from servekit.deploy.reading import read
from servekit.deploy.spec import schema as schema_of_files
from servekit.errors import InvalidInputError, ServekitError
from servekit.instance import Instance

CHANGES = 2
"""The exit code of ``--dry-run`` where there is something to do."""
_COLORS = {"+": "green", "~": "yellow", "±": "yellow", "-": "red"}
_POLL_S = 0.5

yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


@click.command()
@click.argument("files", metavar="FILE...", nargs=-1)
@click.option("--name", help="Of the instance (default: the file's, or default).")
@click.option("--dry-run", is_flag=True, help="Show the plan only; exit code 2 where it would change something.")
@click.option("--plan-out", metavar="PLAN", help="Write the plan to a file, for servekit apply, and change nothing.")
@yes_option
@click.option("--cancel", is_flag=True, help="End the deploy or rollback that is under way; takes no FILE.")
def deploy(
    files: tuple[str, ...], name: str | None, dry_run: bool, plan_out: str | None, yes: bool, cancel: bool
) -> int:
    """Have an instance serve what configuration files say, and nothing else.

    Shows what that changes, asks, and waits until it has come about. Of several files, later ones change the earlier
    ones. On failure all is put back as it was; so it is on --cancel, whoever began the deploy.
    """
    if cancel == bool(files):
        raise click.UsageError("name one FILE or more, or --cancel alone")
    if plan_out is not None and yes:
        raise click.UsageError("--plan-out writes the plan and changes nothing; leave out --yes, or --plan-out")
    if cancel:
        with attached(name or "default") as instance:
            click.echo(f"servekit: ended: {instance.cancel_deploy()}")
        return 0
    name = name or read(files, os.environ).instance.get("name", "default")
    with attached(name) as instance:
        plan = instance.plan(*files)
        _show(plan)
        if plan_out is not None:
            plan.save(plan_out)
            click.echo(f"servekit: wrote the plan; do it with: servekit apply {plan_out}")
        if dry_run or plan_out is not None:
            return CHANGES if dry_run and plan.steps else 0
        return _apply(instance, plan, yes)


@click.command()
@click.argument("plan_file", metavar="PLAN")
@yes_option
def apply(plan_file: str, yes: bool) -> int:
    """Do what a plan says that `servekit deploy --plan-out` has written.

    It is refused where the instance has changed since then.
    """
    plan = DeployPlan.load(plan_file)
    _show(plan)
    with attached(plan.instance) as instance:
        return _apply(instance, plan, yes)


def _show(plan: DeployPlan) -> None:
    if not plan.steps:
        click.echo("servekit: nothing to do")
    for line in plan.lines():
        click.secho(line, fg=_COLORS.get(line[0]))


def _apply(instance: Instance, plan: DeployPlan, yes: bool) -> int:
    if not plan.steps:
        with _progress(instance):
            instance.apply(plan)  # What is asked for already may not serve yet.
        return 0
    _ask(f"Do this to instance {plan.instance!r}?", yes)
    began = time.monotonic()
    with goes_on("the deploy", instance), _progress(instance):
        instance.apply(plan)
    click.echo(f"servekit: done, in {time.monotonic() - began:.1f} s")
    return 0


def _ask(question: str, yes: bool) -> None:
    """Raise where the user, or the lack of one, says no."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise InvalidInputError("there is no terminal to ask at, so nothing was done; add --yes to do it")
    click.confirm(question, abort=True, err=True)


@contextlib.contextmanager
def _progress(instance: Instance) -> Iterator[None]:
    """Show which replicas start and which end while the block runs."""
    ended = threading.Event()
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    thread = threading.Thread(target=_poll, args=(instance, ended, console), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _poll(instance: Instance, ended: threading.Event, console: Console) -> None:
    begun: dict[str, float] = {}
    with console.status("") if console.is_terminal else contextlib.nullcontext() as spinner:
        while not ended.wait(_POLL_S):
            try:
                backends = instance.status()["backends"]
            except ServekitError as error:  # `apply` itself will say what is wrong.
                console.print(f"servekit: no news: {error}")
                continue
            now, moving = time.monotonic(), []
            for replica, backend, state in _moving(backends):
                if replica not in begun and spinner is None:
                    console.print(f"servekit: {backend}: replica {replica} is {state}")
                since = now - begun.setdefault(replica, now)
                moving.append(f"{backend}: {replica} {state} for {since:.0f} s")
            if spinner is not None:
                spinner.update(Text("; ".join(moving[:4]) or "endpoints and traffic"))  # A str would be markup.


def _moving(backends: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    for name, backend in backends.items():
        for replica in backend["replicas"]:
            if replica["state"] != "ready":
                yield replica["id"], name, replica["state"]


@click.command()
@instance_name
def export(name: str) -> None:
    """Write what is served as a configuration file, in TOML, to standard output.

    Deployed again, that is nothing to do.
    """
    with attached(name) as instance:
        click.echo(instance.export(), nl=False)


@click.command()
def schema() -> None:
    """Print the JSON Schema of configuration files, by which editors complete them."""
    click.echo(json.dumps(schema_of_files(), indent=2))


@click.command()
@click.argument("endpoint")
@instance_name
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def history(endpoint: str, name: str, as_json: bool) -> None:
    """Show what an endpoint's traffic has been, the newest first."""
    with attached(name) as instance:
        entries = instance.history(endpoint)
    if as_json:
        click.echo(json.dumps(entries, indent=2))
        return
    for entry in entries:
        click.echo(f"{entry['number']:>4}  {entry['time']}  {_traffic(entry)}")
        by = f", by {entry['who']}" if entry["who"] else ""
        click.echo(f"      {entry['why']}{by}")


@click.command()
@click.argument("endpoint")
@click.argument("number", type=int, required=False)
@instance_name
@yes_option
def rollback(endpoint: str, number: int | None, name: str, yes: bool) -> int:
    """Go back to what an endpoint's traffic was, with the code that its backends had.

    NUMBER is that of an entry of `servekit history`; default, the one before what serves now.
    """
    _ask(f"Roll endpoint {endpoint!r} back{'' if number is None else f' to {number}'}?", yes)
    with attached(name) as instance, goes_on("the rollback", instance), _progress(instance):
        entry = instance.rollback(endpoint, number)
    click.echo(f"servekit: {endpoint} is back at {entry['number']}: {_traffic(entry)}")
    return 0


def _traffic(entry: dict[str, Any]) -> str:
    revisions = entry["revisions"]
    return ", ".join(f"{name} (revision {revisions[name]}) {weight:g}" for name, weight in entry["traffic"].items())
