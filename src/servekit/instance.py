"""An `Instance`: what the Python API is made of."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from servekit.config import DEFAULT_ADAPTER, DEFAULT_POLICY, DEFAULT_TIMEOUT_S, BackendConfig, backend_config
from servekit.errors import BackendStartError, InvalidInputError
from servekit.per_process import PerProcess

if TYPE_CHECKING:
    from typing_extensions import Self

    from servekit.client import Client
    from servekit.handles.caller import Caller
    from servekit.handles.handle import Handle
    from servekit.targets import Packed


class Instance:
    """A running servekit instance, and the way to change it. Usable as a context manager, which shuts it down."""

    _code_travels = True
    """Replicas run frozen code, and not the very objects of this process."""

    def __init__(
        self,
        name: str,
        url: str,
        client: Client,
        end: Callable[[], None],
        directory: str = "",
        token: str = "",
        *,
        standing: bool = False,
    ) -> None:
        self.name = name
        self.url = url
        """Where HTTP is answered: ``http://127.0.0.1:8000``."""
        self.directory = directory
        self.token = token
        """What the admin API asks for, as ``Authorization: Bearer TOKEN``. Who has it can run code: keep it secret."""
        self._client = client
        self._end = end
        self._standing = standing
        self._leave: Callable[[Instance], None] = lambda instance: None
        """Told by `shutdown`, before anything ends; set by `servekit.api`, for which this instance may be current."""
        self._callers = PerProcess(self._make_caller)
        """For handles; made with the first of them."""
        self._ingresses: list[list[str]] = []
        """Where the last of them was to dial."""

    def __repr__(self) -> str:
        return f"<servekit instance {self.name!r} at {self.url}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    # -- endpoints ---------------------------------------------------------------------------------------------------

    def create_endpoint(
        self,
        name: str,
        route: str | None = None,
        methods: Iterable[str] | None = None,
        *,
        backend: str | None = None,
        policy: str | Any = DEFAULT_POLICY,
        policy_options: Mapping[str, Any] | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        mount: bool = False,
        strict: bool = False,
    ) -> None:
        """Create an endpoint: a name, an HTTP route and methods.

        Args:
            name: what `set_traffic` and others call it.
            route: ``/simple``, or with variables as in Flask, ``/users/<int:id>``; None: not reachable over HTTP.
            methods: default ``("GET",)``, or every method where ``mount`` is set.
            backend: gives it all the traffic, as ``set_traffic(name, {backend: 1.0})`` would.
            policy: a routing policy, by name or as ``"module:attr"``.
            policy_options: keyword arguments of the policy.
            timeout_s: how long a request may take; after that the client gets 504. Of a long body, all that follows its
                first 64 KiB comes within that time.
            mount: the whole subtree under ``route`` belongs to the endpoint.
            strict: a request whose chosen version has no live replica gets 503, rather than another version.

        Raises:
            InvalidInputError: a part of it is not acceptable; nothing has changed.
            AlreadyExistsError: the name or the route is taken.
        """
        if isinstance(methods, str):
            raise InvalidInputError(f"methods is a list, as in methods=[{methods!r}]")
        self._client.call(
            "create_endpoint",
            name=name,
            route=route,
            methods=None if methods is None else list(methods),
            backend=backend,
            policy=self._plugin("policy", policy),
            policy_options=dict(policy_options or {}),
            timeout_s=timeout_s,
            mount=mount,
            strict=strict,
        )

    def delete_endpoint(self, name: str) -> None:
        """Delete an endpoint. Its backends stay, and its name and route can be used again."""
        self._client.call("delete_endpoint", name=name)

    def set_traffic(self, endpoint: str, traffic: Mapping[str, float]) -> None:
        """Split an endpoint's traffic between backends.

        Args:
            endpoint: an endpoint's name.
            traffic: weight by backend name; finite, not negative, summing to 1. Also understood, as the first Ray Serve
                had it: a backend's name, and its shares by endpoint name.

        Raises:
            InvalidInputError: the old traffic stays, whole.
        """
        self._client.call("set_traffic", name=endpoint, shares=dict(mapping("traffic", traffic)))

    def get_traffic(self, endpoint: str) -> dict[str, float]:
        """Weight by backend name; empty before `set_traffic`."""
        traffic: dict[str, float] = self._client.call("get_traffic", name=endpoint)
        return traffic

    def list_endpoints(self) -> dict[str, dict[str, Any]]:
        """Route, methods, policy and traffic of each endpoint, by name."""
        endpoints: dict[str, dict[str, Any]] = self._client.call("list_endpoints")
        return endpoints

    def get_handle(self, endpoint: str) -> Handle:
        """A handle of an endpoint, to call it with Python objects: ``handle.remote(21).result()``.

        Raises:
            NotFoundError: there is no such endpoint.
        """
        from servekit.handles.handle import Handle

        return Handle(endpoint, self._caller_of(endpoint))

    def _caller_of(self, endpoint: str) -> Caller:
        self._ingresses = self._client.call("link_addresses", name=endpoint)
        return self._callers.get()

    def _make_caller(self) -> Caller:
        caller = self._new_caller(self._ingresses)
        caller.in_child = self._callers.get
        atexit.register(self._close_caller)
        return caller

    def _new_caller(self, ingresses: list[list[str]]) -> Caller:
        from servekit.forks import forks
        from servekit.handles.caller import Caller
        from servekit.wire.loop_thread import LoopThread
        from servekit.wire.network import SocketNetwork

        forks.guard(worker=False)
        links = LoopThread("servekit-handles")
        token = bytes.fromhex(self.token)
        return Caller(SocketNetwork(), token, f"client-{os.getpid()}", links.loop, ingresses, closed=links.close)

    def _close_caller(self) -> None:
        atexit.unregister(self._close_caller)
        caller = self._callers.made()
        if caller is not None:
            caller.close()

    # -- backends ----------------------------------------------------------------------------------------------------

    def create_backend(
        self,
        name: str,
        target: Any,
        *init_args: Any,
        init_kwargs: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | BackendConfig | None = None,
        adapter: str | Any = DEFAULT_ADAPTER,
        adapter_options: Mapping[str, Any] | None = None,
        runtime: str | None = None,
        runtime_options: Mapping[str, Any] | None = None,
        ray_actor_options: Mapping[str, Any] | None = None,
        freeze: bool = True,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        wait: bool = True,
    ) -> None:
        """Create a backend: a handler, and processes that run it.

        The local modules that the target needs are frozen: every replica, now and later, on this machine or another,
        runs them as they are at this moment.

        Args:
            name: what `set_traffic` and others call it.
            target: a function of one argument; a class whose instances are called with it, built once per replica; or
                either as ``"module:attr"``, imported in the replica.
            init_args, init_kwargs: for the class.
            config: see `servekit.config.BackendConfig`, as a dict: ``{"num_replicas": 2}``.
            adapter: what the handler receives, by name or as ``"module:attr"``; ``flask`` gives a `flask.Request`.
            adapter_options: keyword arguments of the adapter.
            runtime: where replicas live; default, the instance's runtime.
            runtime_options: keyword arguments of that runtime.
            ray_actor_options: passed on to Ray: ``{"num_gpus": 1}``.
            freeze: False: replicas import local modules as they find them.
            include: what else to freeze: names of modules that nothing imports by name, and patterns of data files,
                relative to the folders that the target's modules are in: ``"package/templates/*.html"``.
            exclude: what not to freeze of that, likewise.
            wait: return when every replica is ready; False: at once.

        Raises:
            InvalidInputError: a part of it is not acceptable; nothing has changed.
            BackendStartError: a replica could not start; the message has its traceback, and nothing is left behind.
        """
        from servekit.code import freezing
        from servekit.processes import own_sys_path, working_directory
        from servekit.targets import text_of

        checked = backend_config(config)
        cwd = working_directory(BackendStartError)
        adapter_path = self._plugin("adapter", adapter)
        modules = [adapter_path.partition(":")[0]] if ":" in adapter_path else []
        packed = self._pack_target(target, init_args, init_kwargs, freezing.check(freeze, include, exclude), modules)
        for warning in packed.warnings:
            warnings.warn(warning, stacklevel=_callers_depth())
        arguments: dict[str, Any] = {
            "name": name,
            "target_data": packed.data,
            "target_text": text_of(target),
            "sys_path": own_sys_path(),
            "cwd": cwd,
            "config": {field: getattr(checked, field) for field in BackendConfig.__struct_fields__},
            "adapter": adapter_path,
            "adapter_options": dict(adapter_options or {}),
            "runtime": runtime,
            "runtime_options": self._runtime_options(runtime, runtime_options),
            "worker_options": dict(ray_actor_options or {}),
            "wait": wait,
            "code_data": b"" if packed.code.is_empty or not self._code_travels else packed.code.encode(),
            "code_digest": "" if packed.code.is_empty else packed.code.digest,
        }
        self._client.call("create_backend", **arguments)

    def delete_backend(self, name: str) -> None:
        """Delete a backend and end its replicas, once they have answered what they have.

        Raises:
            InUseError: an endpoint has it in its traffic (a `ValueError`).
        """
        self._client.call("delete_backend", name=name)

    def update_backend_config(self, name: str, config: Mapping[str, Any]) -> None:
        """Change some keys of a backend's config; returns when that has come about, with no request lost.

        Raises:
            InvalidInputError: an unknown key or a bad value; nothing has changed.
            BackendStartError: a new replica could not start, or a handler raised on its ``user_config``; the old config
                is back.
        """
        changes = dict(mapping("config", config))
        backend_config(changes)
        self._client.call("update_backend_config", name=name, changes=changes)

    def get_backend_config(self, name: str) -> dict[str, Any]:
        """Every key of a backend's config."""
        config: dict[str, Any] = self._client.call("get_backend_config", name=name)
        return config

    def list_backends(self) -> dict[str, dict[str, Any]]:
        """Target, adapter, runtime and config of each backend, by name."""
        backends: dict[str, dict[str, Any]] = self._client.call("list_backends")
        return backends

    def get_code(self, name: str) -> dict[str, Any]:
        """The frozen code of a backend: its ``digest``, ``files`` (path, file, size_bytes, sha256), the installed
        ``distributions`` that it imports, and the version of ``python`` that it was frozen with."""
        code: dict[str, Any] = self._client.call("get_code", name=name)
        return code

    def _pack_target(self, *arguments: Any) -> Packed:
        from servekit.targets import pack_target

        return pack_target(*arguments)

    def _runtime_options(self, runtime: str | None, given: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """Those of a backend; None for the instance's own."""
        from servekit.runtime_options import complete

        options = None if given is None else dict(mapping("runtime_options", given))
        if runtime is None or (options is None and runtime == self.status()["runtime"]):
            return options
        return complete(runtime, options or {}, outlives=self._standing)

    def _plugin(self, what: str, named: str | Any) -> str:
        if not isinstance(named, str):
            raise InvalidInputError(
                f"{what} is a name or 'module:attr' here, not {type(named).__name__}: other processes are to load it"
            )
        return named

    # -- the whole ---------------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Endpoints, ingress workers, in ``runtimes`` where the workers of each live, and backends: how many replicas
        each is to have (``wanted_replicas``) and has (``replicas``: id, state, pid, node, outstanding, started), its
        ``load``, where it autoscales, and why a replica last could not start (``last_start_error``) or failed at all
        (``last_failure``)."""
        status: dict[str, Any] = self._client.call("status")
        return status

    def stat(self) -> dict[str, Any]:
        """Requests that ended, by endpoint and by backend: how many, with what status, in what mean time.

        Ingress workers report about once a second, so the newest requests may be missing.
        """
        stat: dict[str, Any] = self._client.call("stat")
        return stat

    def shutdown(self) -> None:
        """End the instance, with all its processes, once what is in flight has been answered. Again: nothing.

        An instance that was attached to goes on: ``servekit stop`` ends it. So does one that another process started,
        from which this one was forked: the parent ends it.
        """
        self._leave(self)
        end, self._end = self._end, lambda: None
        with contextlib.suppress(Exception):
            self._client.close()
        try:
            end()
        finally:
            self._close_caller()


def _callers_depth() -> int:
    """For `warnings.warn` in the function that calls this: how far up the code is that is none of servekit's."""
    depth, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("servekit."):
        depth, frame = depth + 1, frame.f_back
    return depth


def mapping(what: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidInputError(f"{what} is a dict, not {type(value).__name__}: {value!r}")
    return value
