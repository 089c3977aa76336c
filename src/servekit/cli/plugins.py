"""The plugins that are installed here: `plugins`."""

from __future__ import annotations

import click


@click.command()
def plugins() -> int:
    """List the plugins that are installed here, and what each gives.

    The exit code is 1 where one of them cannot be used.
    """
    from servekit.plugins import disabled_by_environment, discover

    registry = discover(disabled=disabled_by_environment())
    for line in registry.loaded:
        click.echo(click.wrap_text(line.removeprefix("plugin "), 80, subsequent_indent="    "))
    for problem in registry.problems:
        click.echo(f"servekit: {problem}", err=True)
    return 1 if registry.problems else 0
