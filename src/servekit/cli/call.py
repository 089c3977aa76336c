"""One request to an endpoint of a standing instance: `call`."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from servekit.cli.options import instance_name
from servekit.cli.status import status_of
from servekit.errors import InvalidInputError, NotFoundError, UnavailableError

MARGIN_S = 10.0
"""The time beyond the endpoint's own in which an answer must have come."""


@click.command()
@click.argument("endpoint")
@instance_name
@click.option("--data", metavar="JSON", help="The body; @FILE reads it from a file.")
@click.option("--method", help="Default: GET, with --data POST, where the endpoint has it.")
@click.option("--path", help="Default: the endpoint's route.")
@click.option("--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="May be repeated.")
def call(
    endpoint: str, name: str, data: str | None, method: str | None, path: str | None, headers: tuple[str, ...]
) -> int:
    """Send an HTTP request to an endpoint and print the answer's body.

    The exit code is 1 where the status is 400 or more, which is printed to standard error.
    """
    import httpx

    body = None if data is None else _body(data)
    given = dict(map(_header, headers))
    status = status_of(name)
    if endpoint not in status["endpoints"]:
        raise NotFoundError(f"there is no endpoint {endpoint!r}; there are {', '.join(status['endpoints']) or 'none'}")
    known = status["endpoints"][endpoint]
    url = status["url"] + _path(endpoint, known, path, status["url"])
    json_type = {} if body is None else {"content-type": "application/json"}
    try:
        answer = httpx.request(
            method or _method(known["methods"], body is not None),
            url,
            content=body,
            headers={**json_type, **given},
            timeout=known["timeout_s"] + MARGIN_S,
            trust_env=False,
            verify=False,
        )
    except httpx.HTTPError as error:
        raise UnavailableError(f"{url} has not answered: {error or type(error).__name__}") from error
    sys.stdout.buffer.write(answer.content)
    sys.stdout.buffer.flush()
    if sys.stdout.isatty() and not answer.content.endswith(b"\n"):
        click.echo()
    if answer.status_code >= 400:
        click.echo(f"servekit: {url} answered {answer.status_code} {answer.reason_phrase}", err=True)
        return 1
    return 0


def _body(data: str) -> bytes:
    if data.startswith("@"):
        try:
            with open(data[1:], "rb") as file:
                return file.read()
        except OSError as error:
            raise NotFoundError(f"--data: {data[1:]!r} cannot be read: {error.strerror or error}") from error
    try:
        json.loads(data)
    except ValueError as error:
        raise click.UsageError(f"--data is no JSON ({error}); text is written in quotes, as in '\"hello\"'") from None
    return data.encode()


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise click.UsageError(f"--header {text!r} is no header; write 'NAME: VALUE'")
    return name.strip(), value.strip()


def _method(methods: list[str], has_body: bool) -> str:
    wanted = ("POST", "PUT", "PATCH") if has_body else ("GET", "POST")
    return next((each for each in wanted if each in methods or methods == ["*"]), methods[0])


def _path(endpoint: str, known: dict[str, Any], path: str | None, url: str) -> str:
    route = known["route"]
    if route is None or not url:
        raise InvalidInputError(f"endpoint {endpoint!r} has no route: handles alone reach it, servekit.get_handle")
    if path is None and "<" in route:
        raise InvalidInputError(f"the route of endpoint {endpoint!r} has variables, {route}: say the path with --path")
    return "/" + (route if path is None else path).lstrip("/")
