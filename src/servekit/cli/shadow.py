"""The shadow of an endpoint: `servekit shadow start`, `report` and `stop`."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

import click

from servekit.cli.options import instance_name
from servekit.cli.status import attached
from servekit.config import SAFE_METHODS

EXAMPLE_WIDTH = 60
NOISY_SHOWN = 20


@click.group()
def shadow() -> None:
    """Send copies of an endpoint's requests to a backend whose answers nobody gets, and compare these."""


@shadow.command()
@click.argument("endpoint")
@click.argument("backend")
@click.option("--share", type=float, default=0.1, help="Of the requests (default: 0.1).")
@click.option("--compare", default="json", help="json, status, none, or MODULE:FUNCTION (default: json).")
@click.option("--include-unsafe", is_flag=True, help="Also POST and other methods that may change something.")
@click.option("--timeout-s", type=float, default=10.0, metavar="S", help="Of a copy (default: 10).")
@click.option("--noise", type=float, default=0.5, help="Of the copies, sent to the live version too (default: 0.5).")
@click.option("--tolerance", type=float, default=0.0, help="Of numbers (default: 0).")
@click.option("--ignore", multiple=True, metavar="POINTER", help="Not compared; may be repeated.")
@click.option("--redact", metavar="MODULE:FUNCTION", help="What values in examples go through.")
@instance_name
def start(
    endpoint: str,
    backend: str,
    share: float,
    compare: str,
    include_unsafe: bool,
    timeout_s: float,
    noise: float,
    tolerance: float,
    ignore: tuple[str, ...],
    redact: str | None,
    name: str,
) -> None:
    """Begin to copy requests of ENDPOINT to BACKEND; a shadow that there is already is replaced."""
    with attached(name) as instance:
        instance.shadow(
            endpoint,
            backend,
            share=share,
            compare=None if compare == "none" else compare,
            include_unsafe=include_unsafe,
            timeout_s=timeout_s,
            noise=noise,
            tolerance=tolerance,
            ignore=ignore,
            redact=redact,
        )
        methods = instance.list_endpoints()[endpoint]["methods"]
    click.echo(f"servekit: {_share_of(share, 'the')} requests of {endpoint!r} are copied to {backend!r}")
    if not include_unsafe and (note := not_copied(methods)):
        click.echo(note)


@shadow.command()
@click.argument("endpoint")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@instance_name
def report(endpoint: str, as_json: bool, name: str) -> None:
    """Show what the shadow of ENDPOINT has shown."""
    with attached(name) as instance:
        found = instance.shadow_report(endpoint)
    click.echo(json.dumps(found, indent=2) if as_json else report_of(endpoint, found))


@shadow.command()
@click.argument("endpoint")
@instance_name
def stop(endpoint: str, name: str) -> None:
    """Copy no more requests of ENDPOINT."""
    with attached(name) as instance:
        instance.stop_shadow(endpoint)
    click.echo(f"servekit: requests of {endpoint!r} are copied no more")


def not_copied(methods: Collection[str]) -> str:
    """What is to be said of an endpoint's methods where unsafe ones are not asked for; empty: nothing."""
    if SAFE_METHODS.issuperset(methods):
        return ""
    safe = [method for method in sorted(SAFE_METHODS) if method in methods or "*" in methods]
    what = f"only those by {', '.join(safe)}" if safe else "none so far: the endpoint takes no GET, HEAD or OPTIONS"
    return f"servekit: {what}; where the others change nothing, have them copied by --include-unsafe"


def report_of(endpoint: str, report: Mapping[str, Any]) -> str:
    """A report for people."""
    dropped = ", ".join(f"{why} {count}" for why, count in sorted(report["dropped"].items()))
    lines = [
        f"endpoint {endpoint}: {_share_of(report['share'], 'its')} requests are copied to {report['backend']}, "
        f"since {report['since']}",
        f"copies: {report['sent']} sent, {report['answered']} answered, {report['failed']} failed, "
        f"{report['late']} late{f'; dropped: {dropped}' if dropped else ''}",
        f"pairs: {report['pairs']} compared, {report['differing']} differ beyond noise "
        f"({report['repeats']} repeats, {report['noisy_paths']} noisy paths)",
    ]
    if report["compare_error"]:
        lines.append(f"not compared: {report['not_compared']}; the last: {report['compare_error']}")
    for each in report["paths"]:
        lines.append(f"{each['count']:>8}  {each['kind']:<8}{each['path'] or '(all of it)'}")
        lines += [
            f"{'':10}{_cut(example['live'])} → {_cut(example['shadow'])}  {example['request_id']}"
            for example in each["examples"][:1]
        ]
    if report["paths_left_out"]:
        lines.append(f"and {report['paths_left_out']} more paths")
    if report["noisy"]:
        more = f", and {len(report['noisy']) - NOISY_SHOWN} more" if len(report["noisy"]) > NOISY_SHOWN else ""
        shown = ", ".join(path or "(all of it)" for path in report["noisy"][:NOISY_SHOWN])
        lines.append(f"noise, which --ignore PATH leaves out: {shown}{more}")
    return "\n".join(lines)


def _share_of(share: float, whose: str) -> str:
    if share == 1:
        return "all" if whose == "the" else f"all {whose}"
    return f"{share:g} of {whose}"


def _cut(text: str) -> str:
    return text if len(text) <= EXAMPLE_WIDTH else f"{text[: EXAMPLE_WIDTH - 1]}…"
