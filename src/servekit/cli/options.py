"""The options that commands share: the name of an instance, and one option for each argument of `servekit.init`."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click
from msgspec.structs import asdict as as_dict

from servekit import api, config
from servekit.errors import ServekitError
from servekit.logs import FORMATS, LEVELS

F = TypeVar("F", bound=Callable[..., Any])


def json_object(ctx: click.Context, param: click.Parameter, text: str | None) -> dict[str, Any] | None:
    """What an option was given as a JSON object."""
    if text is None:
        return None
    found, why = None, ""
    try:
        found = json.loads(text)
    except ValueError as error:
        why = f" ({error})"
    if not isinstance(found, dict):
        raise click.BadParameter(f"{text!r} is not a JSON object{why}; write " + '{"name": "value"}')
    return found


def limit(ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]) -> dict[str, Any] | None:
    """What ``--http-limit`` was given, by name."""
    limits: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise click.BadParameter(f"{text!r} has no value; write NAME=VALUE, as in body_bytes=1000000")
        try:
            limits[name] = json.loads(value)
        except ValueError:
            limits[name] = value
    config.http_limits(limits)
    return limits or None


def observer(ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]) -> dict[str, Any] | None:
    """What ``--observer`` was given, by name."""
    named = (text.partition("=")[::2] for text in texts)
    return {name: json_object(ctx, param, options or "{}") for name, options in named} or None


def several(ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]) -> tuple[str, ...] | None:
    """What an option was given that may be repeated; None: it was not given."""
    return texts or None


def instance_name(command: F) -> F:
    """The option that each command has which is about an instance."""
    return click.option("--name", default="default", help="Of the instance (default: default).")(command)


INIT: tuple[tuple[str, dict[str, Any]], ...] = (
    ("--name", {"help": "Of the instance ({})."}),
    ("--runtime", {"metavar": "NAME", "help": "Where replicas live ({})."}),
    ("--runtime-options", {"callback": json_object, "metavar": "JSON", "help": "Arguments of the runtime."}),
    ("--http-host", {"metavar": "HOST", "help": "none: no HTTP ({})."}),
    ("--http-port", {"type": int, "metavar": "PORT", "envvar": "PORT", "help": "Or $PORT; 0: a free one ({})."}),
    ("--http-limits", {"multiple": True, "callback": limit, "metavar": "NAME=N", "help": "Of HTTP; may be repeated."}),
    ("--ingress-workers", {"type": int, "metavar": "N", "help": "Processes that answer HTTP ({})."}),
    ("--admin-host", {"metavar": "HOST", "help": "Where the admin API and metrics are ({})."}),
    ("--admin-port", {"type": int, "metavar": "PORT", "help": "Of the admin API and metrics, over TCP."}),
    ("--open-metrics/--no-open-metrics", {"help": "Metrics need no token."}),
    ("--busy-poll-s", {"type": float, "metavar": "S", "help": "Workers poll so long ({})."}),
    ("--drain-delay-s", {"type": float, "metavar": "S", "help": "Serving, but not ready ({})."}),
    ("--drain-timeout-s", {"type": float, "metavar": "S", "help": "Then: for what is in flight ({})."}),
    (
        "--trusted-proxies",
        {"multiple": True, "callback": several, "metavar": "NET", "help": "In front; may be repeated."},
    ),
    ("--log-level", {"type": click.Choice(LEVELS), "metavar": "LEVEL", "help": "debug … error ({})."}),
    ("--log-format", {"type": click.Choice(FORMATS), "metavar": "FORMAT", "help": f"{' or '.join(FORMATS)} ({{}})."}),
    ("--access-log/--no-access-log", {"help": "A line for each request."}),
    ("--observers", {"multiple": True, "callback": observer, "metavar": "NAME[=JSON]", "help": "May be repeated."}),
    ("--debug/--no-debug", {"help": "Tracebacks in answers to failed requests."}),
)
"""For each argument of `servekit.init`: the option, and what click is to know of it; ``{}`` is the default's place."""

OPTIONS_OF = {"http_limits": "--http-limit", "trusted_proxies": "--trusted-proxy", "observers": "--observer"}
"""The options that are not called as the arguments are."""

DEFAULTS = {name: p.default for name, p in inspect.signature(api.init).parameters.items()}


def init_options(**defaults: Any) -> Callable[[F], F]:
    """The options of `INIT`, with these ``defaults`` said in their help. One that is not given has the value None."""

    def add(command: F) -> F:
        for declaration, known in reversed(INIT):
            name = declaration.partition("/")[0].lstrip("-").replace("-", "_")
            text = known["help"].format(f"default: {({**DEFAULTS, **defaults})[name]}")
            default = None if "multiple" not in known else ()
            add_option = click.option(
                OPTIONS_OF.get(name, declaration), name, **{**known, "default": default, "help": text}
            )
            command = add_option(command)
        return command

    return add


def log_file_options(command: F) -> F:
    """The options of the commands that gather what their instance prints."""
    for declaration, text in (
        ("--log-files", "Log files that are kept (default: 5)."),
        ("--log-file-bytes", "Length of a log file (default: 10000000)."),
    ):
        command = click.option(declaration, type=int, metavar="N", help=text)(command)
    return command


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the ``options`` that were given."""
    return {name: value for name, value in options.items() if value is not None}


def check_told(told: Mapping[str, Any], runtime: str) -> None:
    """Raise `click.UsageError` where an instance could not be started with what the command was ``told``, whatever the
    script asks for: the script is not to run in vain."""
    from servekit.control.launch import check_options
    from servekit.factories import Kind
    from servekit.plugins import disabled_by_environment, discover, find

    asked = merged(DEFAULTS, told, runtime)
    try:
        check_options(api.instance_options({**asked, "runtime": runtime, "runtime_options": None}, outlives=False))
        if ":" not in asked["runtime"] and find(Kind.RUNTIME, asked["runtime"]) is None:
            discover(disabled=disabled_by_environment()).get(Kind.RUNTIME, asked["runtime"])
    except ServekitError as error:
        raise click.UsageError(str(error)) from error


def merged(asked: Mapping[str, Any], told: Mapping[str, Any], runtime: str) -> dict[str, Any]:
    """The arguments of `servekit.init`: those that were ``asked`` for, and what the command was ``told``, which comes
    first; ``runtime`` where neither says one."""
    found = {**asked, **told, "runtime": told.get("runtime") or asked["runtime"] or runtime}
    if asked["runtime_options"] and "runtime_options" not in told and found["runtime"] != asked["runtime"]:
        found["runtime_options"] = None  # They are those of another runtime.
    if "http_limits" in told:
        found["http_limits"] = {**as_dict(config.http_limits(asked["http_limits"])), **told["http_limits"]}
    if told.get("http_host") == "none":
        found["http_host"] = None
    return found
