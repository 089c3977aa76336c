"""The command ``servekit``: a standing instance, started, looked at, stopped."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence

from servekit import api, config
from servekit.control import standing
from servekit.control.launch import Launch
from servekit.control.setup import InstanceOptions
from servekit.errors import ServekitError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    logging.basicConfig(format="servekit: %(levelname)s %(message)s", level=logging.WARNING)
    given = _parser().parse_args(arguments)
    try:
        given.run(given)
    except ServekitError as error:
        print(f"servekit: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="servekit", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    start = commands.add_parser("start", help="run a standing instance here, until Ctrl-C or `servekit stop`")
    start.add_argument("--runtime", default=config.DEFAULT_RUNTIME, help="where replicas live (default: %(default)s)")
    start.add_argument(
        "--runtime-options", type=json.loads, default={}, metavar="JSON", help="arguments of the runtime"
    )
    start.add_argument("--http-host", default="127.0.0.1", help="where to answer HTTP (default: %(default)s)")
    start.add_argument("--http-port", type=int, default=8000, help="0 takes a free one (default: %(default)s)")
    start.add_argument("--ingress-workers", type=int, default=1, help="processes that answer HTTP (default: 1)")
    start.add_argument("--admin-port", type=int, help="also serve the admin API on this port of 127.0.0.1")
    start.add_argument(
        "--busy-poll-s",
        type=float,
        default=config.BUSY_POLL_S,
        help="how long workers look for more work before they sleep (default: %(default)s)",
    )
    start.add_argument("--debug", action="store_true", help="answers to failed requests carry the traceback")
    start.set_defaults(run=_start)
    status = commands.add_parser("status", help="print what a standing instance serves, as JSON")
    status.set_defaults(run=_status)
    code = commands.add_parser("code", help="list the files of a backend's frozen code")
    code.add_argument("backend", metavar="BACKEND")
    code.add_argument("--json", action="store_true", help="also hashes, and versions of what is installed")
    code.set_defaults(run=_code)
    stop = commands.add_parser("stop", help="end a standing instance, once what is in flight has been answered")
    stop.set_defaults(run=_stop)
    for command in (start, status, code, stop):
        command.add_argument("--name", default="default", help="of the instance (default: %(default)s)")
    return parser


def _start(given: argparse.Namespace) -> None:
    options = InstanceOptions(
        given.name,
        given.runtime,
        given.runtime_options,
        given.http_host,
        given.http_port,
        given.ingress_workers,
        given.admin_port,
        config.HttpLimits(),
        given.busy_poll_s,
        given.debug,
    )
    standing.keep(options, _say_up)


def _say_up(launch: Launch) -> None:
    setup = launch.setup
    print(f"servekit: instance {setup.options.name!r} answers at {setup.http_url}; attach with", flush=True)
    print(f'    servekit.init(name={setup.options.name!r}, address="auto")', flush=True)


def _status(given: argparse.Namespace) -> None:
    instance = api.init(name=given.name, address="auto")
    print(json.dumps(instance.status(), indent=2))


def _code(given: argparse.Namespace) -> None:
    code = api.init(name=given.name, address="auto").get_code(given.backend)
    if given.json:
        print(json.dumps(code, indent=2))
        return
    print(
        f"{given.backend}: code digest {code['digest'] or 'none: nothing of it is local, or nobody knows its source'}"
    )
    for file in code["files"]:
        print(f"{file['size_bytes']:>10,}  {file['path']}  ({file['file']})")


def _stop(given: argparse.Namespace) -> None:
    standing.stop(given.name)


if __name__ == "__main__":
    sys.exit(main())
