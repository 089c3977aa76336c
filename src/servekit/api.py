"""The current instance: how it is started or attached to, and the module functions that act on it."""

from __future__ import annotations

import atexit
import functools
import inspect
import logging
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from servekit.config import BUSY_POLL_S, DEFAULT_RUNTIME, HttpLimits
from servekit.errors import AlreadyRunningError, InvalidInputError, NotRunningError
from servekit.handles import callers
from servekit.instance import Instance, mapping

if TYPE_CHECKING:
    from servekit.control.setup import InstanceOptions
    from servekit.handles.caller import Caller
    from servekit.handles.handle import Handle

_log = logging.getLogger("servekit")

SHUTDOWN_TIMEOUT_S = 40.0

_current: Instance | None = None


def init(
    *,
    name: str = "default",
    address: str | None = None,
    runtime: str = DEFAULT_RUNTIME,
    runtime_options: Mapping[str, Any] | None = None,
    http_host: str = "127.0.0.1",
    http_port: int = 8000,
    ingress_workers: int = 1,
    admin_port: int | None = None,
    http_limits: HttpLimits | None = None,
    busy_poll_s: float = BUSY_POLL_S,
    debug: bool = False,
) -> Instance:
    """Start an instance, which ends with this process however that ends, and make it the current one.

    Args:
        name: of the instance.
        address: ``"auto"`` attaches to the standing instance of that name, which ``servekit start`` runs, in the place
            of starting one; `shutdown` then leaves it running.
        runtime: where replicas live: ``ray``, ``process``, or what a plugin gives.
        runtime_options: keyword arguments of the runtime.
        http_host, http_port: where to answer HTTP; port 0 takes a free one: see `Instance.url`.
        ingress_workers: processes that answer HTTP.
        admin_port: also serve the admin API on this port of 127.0.0.1.
        http_limits: what the HTTP listener bears.
        busy_poll_s: how long an ingress worker and a replica look for more work before they sleep. It takes that much
            CPU after a request, and saves the next one the time of a wake-up; 0 where CPU is what is short.
        debug: answers to failed requests carry the traceback.

    Raises:
        AlreadyRunningError: an instance is current, or this is a replica.
        PortInUseError: said before anything is started.
        InstanceStartError, MissingDependencyError: a part did not come up.
    """
    _refuse_in_replica()
    if _current is not None:
        raise AlreadyRunningError(f"{_current!r} is current; call servekit.shutdown() first")
    if address is not None:
        return make_current(_attach(name, address))
    from servekit.control.setup import InstanceOptions
    from servekit.runtime_options import complete

    options = InstanceOptions(
        name,
        runtime,
        complete(runtime, mapping("runtime_options", runtime_options or {}), outlives=False),
        http_host,
        http_port,
        ingress_workers,
        admin_port,
        http_limits or HttpLimits(),
        busy_poll_s,
        debug,
    )
    return make_current(_start(options))


def _refuse_in_replica() -> None:
    import multiprocessing

    from servekit.code.finder import runs_frozen_code

    if callers.in_worker is not None or (multiprocessing.parent_process() is not None and runs_frozen_code()):
        raise AlreadyRunningError(
            "servekit.init() was called in a replica, or in a process pool of one: its code imports a script that "
            "starts an instance. Put what the script starts under: if __name__ == '__main__':"
        )


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
            launch.stop(SHUTDOWN_TIMEOUT_S)

    atexit.register(end)
    setup = launch.setup
    client = AdminClient(f"{setup.directory}/admin.sock", setup.token)
    return Instance(options.name, setup.http_url, client, end, setup.directory, setup.token.hex())


def _attach(name: str, address: str) -> Instance:
    from servekit.client import AdminClient
    from servekit.control.standing import find
    from servekit.processes import fill_standard_descriptors

    if address != "auto":
        raise InvalidInputError(f"address is 'auto', for the standing instance {name!r}, or None; not {address!r}")
    fill_standard_descriptors()
    found = find(name)
    client = AdminClient(f"{found.directory}/admin.sock", found.token)
    return Instance(name, found.url, client, lambda: None, found.directory, found.token.hex(), standing=True)


AnInstance = TypeVar("AnInstance", bound=Instance)


def make_current(instance: AnInstance) -> AnInstance:
    """Let the module functions act on ``instance``. Raises `AlreadyRunningError`."""
    global _current
    if _current is not None:
        raise AlreadyRunningError(f"{_current!r} is current; call servekit.shutdown() first")
    _current = instance
    instance._leave = _leave
    return instance


def _leave(instance: Instance) -> None:
    if _current is instance:
        leave_current()


def leave_current() -> None:
    """Let no instance be current. The one that was goes on."""
    global _current
    _current = None


def current() -> Instance:
    """The current instance. Raises `NotRunningError`."""
    if _current is None and callers.in_worker is not None:
        raise NotRunningError(
            "this is a replica: of the module's functions only get_handle() works here. What changes an instance is "
            "called by the script that started it, or by one that attaches: servekit.init(address='auto')"
        )
    if _current is None:
        raise NotRunningError("no servekit instance is running; call servekit.init() first")
    return _current


P = ParamSpec("P")
R = TypeVar("R")


def _on_current(method: Callable[Concatenate[Instance, P], R]) -> Callable[P, R]:
    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return method(current(), *args, **kwargs)

    signature = inspect.signature(method)
    call.__signature__ = signature.replace(parameters=[*signature.parameters.values()][1:])  # type: ignore[attr-defined]
    return call


def get_handle(endpoint: str) -> Handle:
    """A handle of an endpoint, to call it with Python objects: ``handle.remote(21).result()``.

    In a script and in any process attached to the instance; and in a handler, where a name that no endpoint has is
    found out by the first call.

    Raises:
        NotFoundError: there is no such endpoint.
        NotRunningError: no instance is current, and this is no handler's process.
    """
    from servekit.handles.handle import Handle

    return Handle(endpoint, callers.find(endpoint))


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
get_backend_config = _on_current(Instance.get_backend_config)
list_backends = _on_current(Instance.list_backends)
status = _on_current(Instance.status)
stat = _on_current(Instance.stat)


def shutdown() -> None:
    """End the current instance; nothing where there is none.

    In a process that was forked from the one that started it: let go of it here.
    """
    if _current is not None:
        _current.shutdown()
