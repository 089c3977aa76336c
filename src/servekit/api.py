"""The current instance: how it is started or attached to, and the module functions that act on it."""

from __future__ import annotations

import atexit
import functools
import inspect
import logging
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from servekit import config
from servekit.arguments import checked
from servekit.config import BUSY_POLL_S, DEFAULT_RUNTIME, HttpLimits
from servekit.errors import AlreadyRunningError, InvalidInputError, NotRunningError
from servekit.handles import callers
from servekit.instance import Instance, new_handle

if TYPE_CHECKING:
    from servekit.control.setup import InstanceOptions
    from servekit.handles.caller import Caller
    from servekit.handles.handle import Handle

_log = logging.getLogger("servekit")

_current: Instance | InstanceWanted | None = None


@checked
def init(
    *,
    name: str = "default",
    address: str | None = None,
    runtime: str | None = None,
    runtime_options: Mapping[str, Any] | None = None,
    http_host: str | None = "127.0.0.1",
    http_port: int = 8000,
    ingress_workers: int = 1,
    admin_host: str = "127.0.0.1",
    admin_port: int | None = None,
    open_metrics: bool = False,
    http_limits: HttpLimits | Mapping[str, Any] | None = None,
    busy_poll_s: float = BUSY_POLL_S,
    debug: bool = False,
    drain_delay_s: float = 0.0,
    drain_timeout_s: float = 10.0,
    trusted_proxies: Sequence[str] = (),
    log_level: str = "warning",
    log_format: str = "text",
    access_log: bool = False,
    observers: Mapping[str, Mapping[str, Any]] | None = None,
) -> Instance:
    """Start an instance, which ends with this process however that ends, and make it the current one. Called without
    arguments, as a notebook calls it again and again, it gives the current one where there is one.

    Replicas have the environment variables that are there now. What is set in ``os.environ`` later they do not see.

    Args:
        name: of the instance.
        address: ``"auto"`` attaches to the standing instance of that name, which ``servekit start`` runs, in the place
            of starting one; `shutdown` then leaves it running. All other options are those that it was started with.
        runtime: where replicas live: ``ray``, ``process``, or what a plugin gives; None: ``ray``, and under
            ``servekit run`` ``process``.
        runtime_options: keyword arguments of the runtime.
        http_host, http_port: where to answer HTTP; port 0 takes a free one: see `Instance.url`. Host None: no HTTP, and
            handles alone reach the endpoints.
        ingress_workers: processes that answer HTTP.
        admin_host, admin_port: also serve the admin API there, with metrics for Prometheus at ``/metrics``; port 0
            takes a free one: ``status()["admin_url"]``. Who can reach it needs a token: see `Instance.read_token`.
        open_metrics: ``/metrics`` needs no token.
        http_limits: what the HTTP listener bears: `HttpLimits`, or a dict of some of its fields.
        busy_poll_s: how long an ingress worker and a replica look for more work before they sleep. It takes that much
            CPU after a request, and saves the next one the time of a wake-up; 0 where CPU is what is short.
        debug: answers to failed requests carry the traceback.
        drain_delay_s: how long all is served yet, though ``/-/readyz`` says that it is not ready, when the instance is
            told to end: a load balancer needs that time to hear of it.
        drain_timeout_s: how long requests in flight have then; what is left is cut off.
        trusted_proxies: addresses and networks, ``["127.0.0.1", "10.0.0.0/8"]``, of proxies in front: what their
            ``X-Forwarded-For``, ``-Proto`` and ``-Host`` say is the client's address, the scheme and the host.
        log_level: ``debug``, ``info``, ``warning`` or ``error``: lines of servekit's processes from this level on.
        log_format: ``text``, or ``json``: an object a line.
        access_log: write a line for each request that has ended.
        observers: what else is told of requests that have ended: the keyword arguments of each request observer that a
            plugin gives, by its name, ``{"otel": {}}``.

    Raises:
        AlreadyRunningError: an instance is current, or this is a replica.
        PortInUseError: said before anything is started.
        InstanceStartError, MissingDependencyError: a part did not come up.
    """
    given = dict(locals())
    _refuse_in_replica()
    if isinstance(_current, InstanceWanted):
        return _current.begin(given)
    said = {key: given[key] for key, p in inspect.signature(init).parameters.items() if given[key] != p.default}
    if _current is not None and not said:
        return _current
    for option in sorted(said.keys() - {"name", "address"}) if address == "auto" else ():
        raise InvalidInputError(
            f"init(address='auto') attaches to an instance that was started with its own {option}: leave {option} out, "
            "or give it to the command that starts the instance"
        )
    return begin(given)


class InstanceWanted(NamedTuple):
    """In the place of the current instance, while ``servekit run`` runs a script: the first call of a module function
    that needs an instance starts it."""

    begin: Callable[[dict[str, Any]], Instance]
    """Is given the arguments of `init`, calls `begin` with those that the command has made of them, and returns what
    that does."""


def begin(given: dict[str, Any]) -> Instance:
    """Start an instance or attach to one, as `init` does with these arguments, every one of them."""
    _refuse_second()
    name, address = given["name"], given["address"]
    if address not in (None, "auto"):
        raise InvalidInputError(
            f"address must be 'auto', for the standing instance {name!r} (another is named by name=), or None; "
            f"not {address!r}"
        )
    return make_current(attach(name) if address else _start(instance_options(given, outlives=False)))


def instance_options(given: Mapping[str, Any], *, outlives: bool) -> InstanceOptions:
    """The options that the arguments of `init` say; the instance ``outlives`` this process, or does not."""
    from servekit.control.setup import InstanceOptions
    from servekit.plugins import complete_runtime_options

    rest = {key: value for key, value in given.items() if key not in ("address", "http_limits")}
    runtime = rest["runtime"] = given["runtime"] or DEFAULT_RUNTIME
    limits = config.http_limits(given["http_limits"])
    rest["runtime_options"] = complete_runtime_options(runtime, given["runtime_options"] or {}, outlives=outlives)
    rest["trusted_proxies"] = tuple(given["trusted_proxies"])
    rest["observers"] = {name: dict(options) for name, options in (given["observers"] or {}).items()}
    return InstanceOptions(**rest, limits=limits)


def _refuse_in_replica() -> None:
    import multiprocessing

    from servekit.code.finder import runs_frozen_code

    if callers.in_worker is not None or (multiprocessing.parent_process() is not None and runs_frozen_code()):
        raise AlreadyRunningError(
            "servekit.init() was called in a replica, or in a process pool of one: its code imports a script that "
            "starts an instance. Put what the script starts under: if __name__ == '__main__':"
        )


def _refuse_second() -> None:
    if isinstance(_current, Instance):
        raise AlreadyRunningError(f"{_current!r} is current; call servekit.shutdown() first")


def _start(options: InstanceOptions) -> Instance:
    from servekit.control.launch import Launch

    launch = Launch(options, standing=False)
    launch.begin()
    from servekit.client import AdminClient  # Takes its time, which the controller needs as well.

    ready = launch.wait_up()
    for line in [*ready.plugins, *ready.runtimes]:
        _log.info("%s", line)
    for problem in ready.problems:
        # Python shows warnings without any logging set-up: that a plugin is not in use must not be missed.
        _log.warning("servekit: %s", problem)
    launch.close_sockets()

    owner = os.getpid()

    def end() -> None:
        atexit.unregister(end)
        if os.getpid() == owner:  # The child of a fork, which has the hook too, leaves the instance to its parent.
            launch.stop()

    atexit.register(end)
    setup = launch.setup
    client = AdminClient(f"{setup.directory}/admin.sock", setup.token)
    return Instance(options.name, setup.http_url, client, end, setup.directory, setup.token.hex())


def attach(name: str) -> Instance:
    """The standing instance ``name``, without making it the current one. Raises `NotRunningError`."""
    from servekit.client import AdminClient
    from servekit.control.standing import find
    from servekit.processes import fill_standard_descriptors

    fill_standard_descriptors()
    found = find(name)
    client = AdminClient(f"{found.directory}/admin.sock", found.token, standing=lambda: find(name))
    return Instance(name, found.url, client, lambda: None, found.directory, found.token.hex(), standing=True)


AnInstance = TypeVar("AnInstance", bound=Instance)


def make_current(instance: AnInstance) -> AnInstance:
    """Let the module functions act on ``instance``. Raises `AlreadyRunningError`."""
    global _current
    _refuse_second()
    _current = instance
    instance._leave = _leave
    return instance


def _leave(instance: Instance) -> None:
    if _current is instance:
        leave_current()


def leave_current(wanted: InstanceWanted | None = None) -> None:
    """Let no instance be current. The one that was goes on."""
    global _current
    _current = wanted


@checked
def current() -> Instance:
    """The current instance. Raises `NotRunningError`."""
    if _current is None and callers.in_worker is not None:
        raise NotRunningError(
            "this is a replica: of the module's functions only get_handle() works here. What changes an instance is "
            "called by the script that started it, or by one that attaches: servekit.init(address='auto')"
        )
    if _current is None:
        raise NotRunningError("no servekit instance is running; call servekit.init() first")
    return _current if isinstance(_current, Instance) else init()


P = ParamSpec("P")
R = TypeVar("R")


def _on_current(method: Callable[Concatenate[Instance, P], R]) -> Callable[P, R]:
    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return method(current(), *args, **kwargs)

    signature = inspect.signature(method)
    call.__signature__ = signature.replace(parameters=[*signature.parameters.values()][1:])  # type: ignore[attr-defined]
    return call


@checked
def get_handle(endpoint: str, missing_ok: bool = False) -> Handle:
    """A handle of an endpoint, to call it with Python objects: ``handle.remote(21).result()``.

    In a script and in any process attached to the instance; and in a handler, where a name that no endpoint has is
    found out by the first call.

    Args:
        endpoint: an endpoint's name.
        missing_ok: there need be no such endpoint before the first call.

    Raises:
        NotFoundError: there is no such endpoint.
        NotRunningError: no instance is current, and this is no handler's process.
    """
    return new_handle(endpoint, callers.find, missing_ok)


def _current_caller(endpoint: str) -> Caller:
    return current()._caller_of(endpoint)


callers.of_current_instance = _current_caller

create_endpoint = _on_current(Instance.create_endpoint)
delete_endpoint = _on_current(Instance.delete_endpoint)
set_traffic = _on_current(Instance.set_traffic)
get_traffic = _on_current(Instance.get_traffic)
list_endpoints = _on_current(Instance.list_endpoints)
create_backend = _on_current(Instance.create_backend)
delete_backend = _on_current(Instance.delete_backend)
update_backend_config = _on_current(Instance.update_backend_config)
restart_backend = _on_current(Instance.restart_backend)
get_backend_config = _on_current(Instance.get_backend_config)
list_backends = _on_current(Instance.list_backends)
rollout = _on_current(Instance.rollout)
pause_rollout = _on_current(Instance.pause_rollout)
resume_rollout = _on_current(Instance.resume_rollout)
promote_rollout = _on_current(Instance.promote_rollout)
abort_rollout = _on_current(Instance.abort_rollout)
shadow = _on_current(Instance.shadow)
stop_shadow = _on_current(Instance.stop_shadow)
shadow_report = _on_current(Instance.shadow_report)
shadow_traffic = _on_current(Instance.shadow_traffic)
plan = _on_current(Instance.plan)
apply = _on_current(Instance.apply)
export = _on_current(Instance.export)
history = _on_current(Instance.history)
rollback = _on_current(Instance.rollback)
status = _on_current(Instance.status)
stat = _on_current(Instance.stat)
events = _on_current(Instance.events)
failures = _on_current(Instance.failures)
explain = _on_current(Instance.explain)
last_requests = _on_current(Instance.last_requests)


@checked
def wait() -> None:
    """Serve until SIGTERM or Ctrl-C, and then `shutdown`: for a script that is to stay. Called on the main thread.

    A second Ctrl-C, while what is in flight is being answered, cuts that off: ``SystemExit`` is raised, with 130.

    Raises:
        NotRunningError: no instance is current.
        InvalidInputError: this is not the main thread, which alone hears of signals.
    """
    instance = current()
    if threading.current_thread() is not threading.main_thread():
        raise InvalidInputError("servekit.wait() was called in a thread; signals come to the main thread alone")
    instance._waits()
    ending = threading.Event()
    before = {number: signal.signal(number, lambda *_: ending.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        ending.wait()
    finally:
        _restore(signal.SIGINT, before)  # A second SIGTERM, as supervisors send it, changes nothing.
        try:
            shutdown()
        except KeyboardInterrupt:
            raise SystemExit(130) from None
        finally:
            _restore(signal.SIGTERM, before)


def _restore(number: signal.Signals, before: Mapping[signal.Signals, Any]) -> None:
    signal.signal(number, signal.SIG_DFL if before[number] is None else before[number])


@checked
def shutdown() -> None:
    """End the current instance; nothing where there is none.

    In a process that was forked from the one that started it: let go of it here.
    """
    if isinstance(_current, Instance):
        _current.shutdown()
