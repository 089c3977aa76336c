"""The frozen code of a backend: `code`."""

from __future__ import annotations

import json

import click

from servekit.cli.options import instance_name
from servekit.cli.status import attached


@click.command()
@click.argument("backend")
@instance_name
@click.option("--json", "as_json", is_flag=True, help="Also hashes, and versions of what is installed.")
def code(backend: str, name: str, as_json: bool) -> None:
    """List the files of a backend's frozen code."""
    with attached(name) as instance:
        found = instance.get_code(backend)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    digest = found["digest"] or "none: nothing of it is local, or nobody knows its source"
    click.echo(f"{backend}: code digest {digest}")
    for file in found["files"]:
        click.echo(f"{file['size_bytes']:>10,}  {file['path']}  ({file['file']})")
