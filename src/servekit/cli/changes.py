"""Changes of what a standing instance serves, one at a time: `traffic`, `scale` and `restart`."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator

import click

from servekit.cli.main import INTERRUPTED
from servekit.cli.options import instance_name
from servekit.cli.status import attached
from servekit.errors import InvalidInputError
from servekit.instance import Instance


@click.command()
@click.argument("endpoint")
@click.argument("shares", nargs=-1, metavar="[BACKEND=SHARE]...")
@instance_name
def traffic(endpoint: str, shares: tuple[str, ...], name: str) -> None:
    """Split an endpoint's traffic between backends; without shares, print how it is split.

    \b
    For example: servekit traffic digits v1=0.9 v2=0.1
    """
    wanted = dict(map(_share, shares))
    with attached(name) as instance:
        if wanted:
            instance.set_traffic(endpoint, wanted)
        found = instance.get_traffic(endpoint)
    for backend, share in found.items():
        click.echo(f"{backend}={share:g}")


def _share(text: str) -> tuple[str, float]:
    backend, _, share = text.partition("=")
    try:
        return backend, float(share)
    except ValueError:
        raise click.UsageError(f"{text!r} is no share; write BACKEND=SHARE, as in v1=0.9") from None


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("backend")
@click.argument("replicas", type=click.IntRange(min=0), metavar="N")
@instance_name
def scale(backend: str, replicas: int, name: str) -> None:
    """Give a backend N replicas; return when they are ready, and no request is lost."""
    with attached(name) as instance:
        scaling = instance.get_backend_config(backend)["autoscaling"]
        if scaling is not None:
            between = f"{scaling['min_replicas']} to {scaling['max_replicas']}"
            raise InvalidInputError(
                f"backend {backend!r} scales by itself, from {between} replicas; change its config's autoscaling"
            )
        with goes_on("the change", instance):
            instance.update_backend_config(backend, {"num_replicas": replicas})
    click.echo(f"servekit: backend {backend!r} has {plural(replicas, 'replica')}")


@click.command()
@click.argument("backend")
@instance_name
def restart(backend: str, name: str) -> None:
    """Replace every replica of a backend, each new one before an old one goes."""
    with attached(name) as instance, goes_on("the restart", instance):
        instance.restart_backend(backend)
    click.echo(f"servekit: every replica of backend {backend!r} is a new one")


@contextlib.contextmanager
def goes_on(what: str, instance: Instance) -> Iterator[None]:
    """Say of a Ctrl-C, while the instance is waited for, that the command alone ends."""
    try:
        yield
    except KeyboardInterrupt:
        see = shlex.join(["servekit", "status", *([] if instance.name == "default" else ["--name", instance.name])])
        click.echo(f"servekit: interrupted; {what} goes on in the instance: see {see}", err=True)
        raise click.exceptions.Exit(INTERRUPTED) from None


def plural(count: int, noun: str) -> str:
    """``1 replica``, ``2 replicas``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
