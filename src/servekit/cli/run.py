"""Serving in the foreground, until Ctrl-C or SIGTERM: `run`."""

from __future__ import annotations

import contextlib
import logging
import os
import pkgutil
import signal
from collections.abc import Iterator
from typing import Any

import click

from servekit import api, handler_shape
from servekit.cli import main_script
from servekit.cli.ending import say_soon
from servekit.cli.options import DEFAULTS, check_told, given, init_options, log_file_options, merged
from servekit.deploy.reading import read
from servekit.errors import InvalidInputError, NotFoundError, NotRunningError, ServekitError
from servekit.instance import Instance

RUNTIME = "process"
"""Where replicas live, unless the command or the script says it."""
METHODS = ("GET", "POST")
"""Of what is served as ``module:attr``."""


class Run(click.Command):
    """What follows a script is the script's; what follows anything else is the command's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.obj = [*args]
        ctx.allow_interspersed_args = False
        rest = super().parse_args(ctx, [*args])
        if ctx.params.get("arguments") and not is_script(ctx.params["app"]):
            ctx.params.clear()
            ctx.allow_interspersed_args = True
            rest = super().parse_args(ctx, [*args])
            if ctx.params["arguments"]:
                ctx.fail(f"{ctx.params['app']!r} takes no arguments, such as {ctx.params['arguments'][0]!r}")
        return rest


def is_script(app: str) -> bool:
    return app.endswith(".py") or not (":" in app or app.endswith(".toml"))


@click.command(cls=Run)
@click.argument("app", metavar="APP")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[ARGS]...")
@click.option("--route", metavar="PATH", help="Of module:attr (default: /).")
@click.option("--method", "methods", multiple=True, help="Of module:attr (default: GET and POST).")
@click.option("--adapter", help="Of module:attr: what it receives.")
@click.option("--replicas", type=click.IntRange(min=1), metavar="N", help="Of module:attr (default: 1).")
@click.option("--reload", "reloads", is_flag=True, help="Start again when a Python file changes.")
@click.option("--reload-dir", metavar="DIR", help="Where (default: beside the script).")
@click.option("--reloaded-by", type=int, hidden=True)
@click.option("-v", "--verbose", is_flag=True, help="List the plugins that are in use.")
@init_options(runtime=RUNTIME)
@log_file_options
def run(
    app: str,
    arguments: tuple[str, ...],
    reloads: bool,
    reload_dir: str | None,
    reloaded_by: int | None,
    verbose: bool,
    **options: Any,
) -> int:
    """Serve APP here until Ctrl-C or SIGTERM, and then answer what is in flight.

    APP is a script, app.py, with its ARGS; module:attr, a function, a class or an application; or a configuration file,
    servekit.toml. Options stand before a script. They override what it gives servekit.init, which it need not call, and
    the file's [instance].
    """
    if reloaded_by is not None:
        from servekit.cli.reloading import end_with

        end_with(reloaded_by)
    elif reloads or reload_dir is not None:
        from servekit.cli.reloading import reload

        beside = os.path.dirname(os.path.abspath(app)) if is_script(app) else os.getcwd()
        words = click.get_current_context().obj
        return reload(reload_dir or beside, ["run", "--reloaded-by", str(os.getpid()), *words])
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # So that it unwinds the script, as Ctrl-C does.
    of_target = given({key: options.pop(key) or None for key in ("route", "methods", "adapter", "replicas")})
    told = given(options)
    check_told(told, RUNTIME)
    begin = Beginning(told, verbose)
    try:
        if app.endswith(".toml"):
            _serve_file(app, of_target, begin)
        elif is_script(app):
            _serve_script(app, arguments, of_target, begin)
        else:
            _serve_target(app, begin, **of_target)
    except KeyboardInterrupt:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # A second Ctrl-C alone cuts off what is in flight.
        saying = say_soon("answering what is in flight; Ctrl-C again cuts that off")
        try:
            api.shutdown()
        finally:
            saying.cancel()
    return 0


class Beginning:
    """How the command starts its instance."""

    def __init__(self, told: dict[str, Any], verbose: bool) -> None:
        self._told = told
        self._verbose = verbose
        self.done = False
        self.failure: ServekitError | None = None
        self.attached = False
        """Whether the script has attached to a standing instance, which goes on without the command."""

    def __call__(self, asked: dict[str, Any]) -> Instance:
        """Start it, with the arguments of the script's `servekit.init`, and those that the command was told."""
        if asked["address"] is not None:
            self.done = self.attached = True
            return api.begin(asked)
        try:
            with self._plugins_listed():
                instance = api.begin({**merged(asked, self._told, RUNTIME), "gather_output": True})
        except ServekitError as error:
            self.failure = error
            raise
        self.done = True
        return instance

    @contextlib.contextmanager
    def _plugins_listed(self) -> Iterator[None]:
        if not self._verbose:
            yield
            return
        log, lines = logging.getLogger("servekit"), logging.StreamHandler()
        level = log.level
        log.addHandler(lines)
        log.setLevel(logging.INFO)
        try:
            yield
        finally:
            log.setLevel(level)
            log.removeHandler(lines)


def say_where(instance: Instance, route: str = "") -> None:
    where = f"answers at {instance.url}{route}" if instance.url else "serves, without HTTP"
    click.echo(f"servekit: {where}")


class SaysWhere:
    """The `Client` of an instance that a script has started. Says once where the instance answers: when the first
    endpoint has traffic, or when the script waits, or has ended."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._client = instance._client
        self._has_said = False
        instance._client, instance._waits = self, self.say

    def say(self) -> None:
        if not self._has_said:
            self._has_said = True
            say_where(self._instance)

    def call(self, operation: str, **arguments: Any) -> Any:
        answer = self._client.call(operation, **arguments)
        if operation in ("set_traffic", "apply") or (operation == "create_endpoint" and arguments["backend"]):
            self.say()
        return answer

    def close(self) -> None:
        self._client.close()


def _refuse(of_target: dict[str, Any], who: str) -> None:
    if of_target:
        option = next(iter(of_target)).replace("methods", "method")
        raise InvalidInputError(f"--{option} is of module:attr alone; {who} says it itself")


def _serve_file(path: str, of_target: dict[str, Any], begin: Beginning) -> None:
    """Serve what a configuration file says, until a signal comes."""
    _refuse(of_target, "a configuration file")
    instance = begin({**DEFAULTS, **read([path], os.environ).instance})
    instance.apply(instance.plan(path))
    say_where(instance)
    api.wait()


def _serve_script(path: str, arguments: tuple[str, ...], of_target: dict[str, Any], begin: Beginning) -> None:
    """Run a script, and serve what it has created, until it has ended and a signal comes."""
    _refuse(of_target, "a script")
    source = main_script.source_of(path)
    stray = next((each for each in arguments if each.startswith(("--http-", "--runtime", "--reload"))), None)
    if stray is not None:
        click.echo(f"servekit: {path} is given {stray}; what is for servekit run stands before the script", err=True)

    def started(asked: dict[str, Any]) -> Instance:
        instance = begin(asked)
        if begin.attached:
            say_where(instance)
        else:
            SaysWhere(instance)
        return instance

    api.leave_current(api.InstanceWanted(started))
    try:
        main_script.run(path, source, arguments)
    except Exception as error:
        if error is begin.failure:  # That the port is taken, say, needs no traceback.
            raise
        main_script.show(error)
    if not begin.done:
        raise NotRunningError(
            f"{path} has ended and serves nothing: create a backend and an endpoint in it, or serve one "
            f"of its functions with: servekit run {os.path.basename(path).removesuffix('.py')}:NAME"
        )
    if not begin.attached:
        with contextlib.suppress(NotRunningError):  # The script has ended the instance itself.
            api.wait()


def _serve_target(
    path: str,
    begin: Beginning,
    route: str = "/",
    methods: tuple[str, ...] = (),
    adapter: str | None = None,
    replicas: int = 1,
) -> None:
    """Serve what ``module:attr`` names, found from the working directory, until a signal comes."""
    main_script.find_modules_in(os.getcwd())
    try:
        target = pkgutil.resolve_name(path)
    except Exception as error:
        if main_script.users_part(error.__traceback__) is None:
            if isinstance(error, ValueError):
                raise InvalidInputError(f"{path!r} is no module:attr, such as app:Greeter") from error
            raise NotFoundError(f"there is no {path!r} here: {type(error).__name__}: {error}") from error
        main_script.show(error)
    adapter = adapter or handler_shape.application_adapter(target)
    is_whole = adapter in ("asgi", "wsgi")
    api.leave_current(api.InstanceWanted(begin))
    instance = api.init()
    name = path.rpartition(":")[2]
    instance.create_backend(name, target, adapter=adapter, config={"num_replicas": replicas})
    allowed = methods or (None if is_whole else METHODS)
    instance.create_endpoint(name, route, allowed, backend=name, mount=is_whole)
    say_where(instance, route)
    api.wait()
