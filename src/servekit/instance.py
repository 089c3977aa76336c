"""An `Instance`: what the Python API is made of."""

from __future__ import annotations

import atexit
import contextlib
import inspect
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec.structs import asdict as as_dict
from msgspec.structs import replace

from servekit.arguments import checked
from servekit.config import (
    DEFAULT_ADAPTER,
    DEFAULT_JUDGE,
    DEFAULT_POLICY,
    DEFAULT_STEPS,
    DEFAULT_TIMEOUT_S,
    BackendConfig,
    backend_config,
    check_plain,
    short,
)
from servekit.errors import ArgumentError, BackendStartError, InvalidInputError, NotFoundError, NotRunningError
from servekit.forks import PerProcess, forks
from servekit.tokens import read_only

if TYPE_CHECKING:
    from pathlib import Path

    from typing_extensions import Self

    from servekit.client import Client
    from servekit.code.freezing import Freezing
    from servekit.deploy.plan import DeployPlan
    from servekit.handles.caller import Caller
    from servekit.handles.handle import Handle
    from servekit.targets import Packed

_log = logging.getLogger("servekit")

MOST_LISTED = 100
"""Requests that `Instance.last_requests` gives."""


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
        """Where HTTP is answered: ``http://127.0.0.1:8000``; empty where none is."""
        self.directory = directory
        self.token = token
        """What the admin API asks for, as ``Authorization: Bearer TOKEN``. Who has it can run code: keep it secret."""
        self._client = client
        self._end = end
        self._standing = standing
        self._leave: Callable[[Instance], None] = lambda instance: None
        """Told by `shutdown`, before anything ends; set by `servekit.api`, for which this instance may be current."""
        self._waits: Callable[[], None] = lambda: None
        """Told by `servekit.wait`; set by ``servekit run``."""
        self._callers = PerProcess(self._make_caller)
        """For handles; made with the first of them."""
        self._ingresses: list[list[str]] = []
        """Where the last of them was to dial."""

    @property
    def read_token(self) -> str:
        """What will do, likewise, for those who only look: it opens ``/metrics``, and the operations that tell what is
        served. Who has it can change nothing, nor see code."""
        return read_only(bytes.fromhex(self.token)).hex()

    def __repr__(self) -> str:
        where = f"at {self.url}" if self.url else "without HTTP"
        return f"<servekit instance {self.name!r} {'shut down' if isinstance(self._client, ClosedClient) else where}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    # -- endpoints ---------------------------------------------------------------------------------------------------

    @checked
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
            methods: a list, a tuple or a set; default ``("GET",)``, or every method where ``mount`` is set.
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

    @checked
    def delete_endpoint(self, name: str) -> None:
        """Delete an endpoint. Its backends stay, and its name and route can be used again."""
        self._client.call("delete_endpoint", name=name)

    @checked
    def set_traffic(self, endpoint: str, traffic: Mapping[str, float]) -> None:
        """Split an endpoint's traffic between backends.

        Args:
            endpoint: an endpoint's name.
            traffic: weight by backend name; finite, not negative, summing to 1. Also understood, as the first Ray Serve
                had it: a backend's name, and its shares by endpoint name.

        Raises:
            InvalidInputError: the old traffic stays, whole.
        """
        self._client.call("set_traffic", name=endpoint, shares=dict(traffic))

    @checked
    def get_traffic(self, endpoint: str) -> dict[str, float]:
        """Weight by backend name; empty before `set_traffic`."""
        traffic: dict[str, float] = self._client.call("get_traffic", name=endpoint)
        return traffic

    @checked
    def list_endpoints(self) -> dict[str, dict[str, Any]]:
        """Route, methods, policy and traffic of each endpoint, by name."""
        endpoints: dict[str, dict[str, Any]] = self._client.call("list_endpoints")
        return endpoints

    @checked
    def get_handle(self, endpoint: str, missing_ok: bool = False) -> Handle:
        """A handle of an endpoint, to call it with Python objects: ``handle.remote(21).result()``.

        Args:
            endpoint: an endpoint's name.
            missing_ok: there need be no such endpoint before the first call.

        Raises:
            NotFoundError: there is no such endpoint.
        """
        return new_handle(endpoint, self._caller_of, missing_ok)

    def _caller_of(self, endpoint: str) -> Caller:
        self._ingresses = self._client.call("link_addresses", name=endpoint)
        return self._callers.get()

    def _make_caller(self) -> Caller:
        caller = self._new_caller(self._ingresses)
        caller.in_child = self._callers.get
        atexit.register(self._close_caller)
        return caller

    def _new_caller(self, ingresses: list[list[str]]) -> Caller:
        from servekit.handles.caller import Caller
        from servekit.wire.loop_thread import LoopThread

        forks.guard(worker=False)
        links = LoopThread("servekit-handles")
        token = bytes.fromhex(self.token)
        return Caller(token, f"client-{os.getpid()}", links.loop, ingresses, closed=links.close)

    def _close_caller(self) -> None:
        atexit.unregister(self._close_caller)
        caller = self._callers.made()
        if caller is not None:
            caller.close()

    # -- backends ----------------------------------------------------------------------------------------------------

    @checked
    def create_backend(
        self,
        name: str,
        target: Any,
        *init_args: Any,
        init_kwargs: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | BackendConfig | None = None,
        adapter: str | Any | None = None,
        adapter_options: Mapping[str, Any] | None = None,
        runtime: str | None = None,
        runtime_options: Mapping[str, Any] | None = None,
        placement: Mapping[str, Any] | None = None,
        ray_actor_options: Mapping[str, Any] | None = None,
        freeze: bool = True,
        include: Iterable[str] = (),
        exclude: Iterable[str] = (),
        wait: bool = True,
    ) -> None:
        """Create a backend: a handler, and processes that run it.

        The local modules that the target needs are frozen: every replica, now and later, on this machine or another,
        runs them as they are at this moment.

        Args:
            name: what `set_traffic` and others call it.
            target: a function of one argument, the request, or of none; a class whose instances are called so, built
                once per replica, or one without ``__call__``, whose own public methods are then the
                `callable_methods`; or either as ``"module:attr"``, imported in the replica.
            init_args, init_kwargs: for the class.
            config: see `servekit.config.BackendConfig`, as a dict: ``{"num_replicas": 2}``.
            adapter: what the handler receives, by name or as ``"module:attr"``; ``flask`` gives a `flask.Request`,
                ``json`` what the annotations of the handler's parameters say. Default: ``json`` where every parameter
                is annotated with a model or a plain value, else ``flask``; `list_backends` says which. A handler that
                is annotated otherwise than for a request, and gets one, is warned of in the log ``servekit``.
            adapter_options: keyword arguments of the adapter.
            runtime: where replicas live; default, the instance's runtime.
            runtime_options: keyword arguments of that runtime.
            placement: what each replica is given: of the runtime ``process`` ``{"gpus": [0, 1], "threads": 4}``, on Ray
                the options of an actor, ``{"num_gpus": 1}``. Replicas have the environment variables that were there at
                `init`, not those set in ``os.environ`` since; ``{"env": {"NAME": "value"}}`` gives them others, and on
                Ray ``{"runtime_env": {"env_vars": …}}``.
            ray_actor_options: the older name of ``placement``.
            freeze: False: replicas import local modules as they find them.
            include: what else to freeze: names of modules that nothing imports by name, and patterns of data files,
                relative to the folders that the target's modules are in: ``"package/templates/*.html"``.
            exclude: what not to freeze of that, likewise.
            wait: return when every replica is ready; False: at once.

        Raises:
            InvalidInputError: a part of it is not acceptable; nothing has changed.
            BackendStartError: a replica could not start; the message has its traceback, and nothing is left behind.
        """
        from servekit.processes import working_directory

        if placement is not None and ray_actor_options is not None:
            raise InvalidInputError("ray_actor_options is the older name of placement: give one of the two")
        arguments = self._backend_arguments(
            name,
            target,
            init_args,
            init_kwargs=init_kwargs,
            config=config,
            adapter=adapter,
            adapter_options=adapter_options,
            runtime=runtime,
            runtime_options=runtime_options,
            placement=ray_actor_options if placement is None else placement,
            freeze=freeze,
            include=include,
            exclude=exclude,
            cwd=working_directory(BackendStartError),
        )
        self._client.call("create_backend", **arguments, wait=wait)

    def _backend_arguments(
        self,
        name: str,
        target: Any,
        init_args: tuple[Any, ...],
        *,
        init_kwargs: Mapping[str, Any] | None,
        config: Mapping[str, Any] | BackendConfig | None,
        adapter: str | Any | None,
        adapter_options: Mapping[str, Any] | None,
        runtime: str | None,
        runtime_options: Mapping[str, Any] | None,
        placement: Mapping[str, Any] | None,
        freeze: bool,
        include: Iterable[str],
        exclude: Iterable[str],
        cwd: str,
    ) -> dict[str, Any]:
        """What travels to the controller of the arguments of `create_backend`."""
        from servekit import handler_shape
        from servekit.code import freezing
        from servekit.processes import own_sys_path
        from servekit.targets import text_of

        settings = backend_config(config)
        chosen = handler_shape.chosen_adapter(target) if adapter is None else adapter
        doubt = handler_shape.doubt_of_any(target) if adapter is None and chosen == DEFAULT_ADAPTER else None
        adapter_path = self._plugin("adapter", chosen)
        modules = [adapter_path.partition(":")[0]] if ":" in adapter_path else []
        needed, shape = "", None
        if not isinstance(target, str):
            shape = handler_shape.shape_of(target, adapter_path, doubt)
            handler_shape.check(text_of(target), target, adapter_path)
            handler_shape.check_config(text_of(target), shape, settings)
            if inspect.isclass(target):
                handler_shape.check_arguments(text_of(target), target, init_args, init_kwargs or {})
                if not handler_shape.is_called(target) and not settings.callable_methods:
                    settings = replace(settings, callable_methods=handler_shape.methods_of(target))
            if adapter_path == DEFAULT_ADAPTER:
                needed = handler_shape.requires(text_of(target), target)
        what = freezing.check(freeze, include, exclude)
        packed = self._pack_target(target, init_args, init_kwargs, what, modules)
        for warning in packed.warnings:
            warnings.warn(warning, stacklevel=_callers_depth())
        if doubt is not None:
            _log.warning(handler_shape.warning_of(doubt, name, text_of(target)))
        return {
            "name": name,
            "target_data": packed.data,
            "target_text": text_of(target),
            "requires": needed,
            "shape": shape,
            "sys_path": own_sys_path(),
            "cwd": cwd,
            "config": as_dict(settings),
            "adapter": adapter_path,
            "adapter_options": dict(adapter_options or {}),
            "runtime": runtime,
            "runtime_options": self._runtime_options(runtime, runtime_options),
            "worker_options": dict(placement or {}),
            "in_file": _in_file(target, init_args, init_kwargs or {}, what),
            "code_data": b"" if packed.code.is_empty or not self._code_travels else packed.code.encode(),
            "code_digest": "" if packed.code.is_empty else packed.code.digest,
        }

    @checked
    def delete_backend(self, name: str) -> None:
        """Delete a backend and end its replicas, once they have answered what they have.

        Raises:
            InUseError: an endpoint has it in its traffic (a `ValueError`).
        """
        self._client.call("delete_backend", name=name)

    @checked
    def update_backend_config(self, name: str, config: Mapping[str, Any] | BackendConfig) -> None:
        """Change a backend's config; returns when that has come about, with no request lost.

        Args:
            name: a backend's name.
            config: a dict of the keys to change; or a `BackendConfig`, which is all of it: what that does not say is
                its default again.

        Raises:
            InvalidInputError: an unknown key or a bad value; nothing has changed.
            BackendStartError: a new replica could not start, or a handler raised on its ``user_config``; the old config
                is back.
        """
        backend_config(config)
        changes = as_dict(config) if isinstance(config, BackendConfig) else dict(config)
        self._client.call("update_backend_config", name=name, changes=changes)

    @checked
    def restart_backend(self, name: str) -> None:
        """Replace every replica of a backend by a new one, with the same code and config; returns when that has come
        about. Each new one is ready before an old one goes, where there is a place for it, and no request is lost.

        Args:
            name: a backend's name.

        Raises:
            NotFoundError: there is no such backend.
            BackendStartError: a new replica could not start; the old ones that are left go on.
        """
        self._client.call("restart_backend", name=name)

    @checked
    def get_backend_config(self, name: str) -> dict[str, Any]:
        """Every key of a backend's config."""
        config: dict[str, Any] = self._client.call("get_backend_config", name=name)
        return config

    @checked
    def list_backends(self) -> dict[str, dict[str, Any]]:
        """Target, adapter, runtime and config of each backend, by name."""
        backends: dict[str, dict[str, Any]] = self._client.call("list_backends")
        return backends

    @checked
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
        from servekit.plugins import complete_runtime_options

        options = None if given is None else dict(given)
        if runtime is None or (options is None and runtime == self.status()["runtime"]):
            return options
        return complete_runtime_options(runtime, options or {}, outlives=self._standing)

    def _plugin(self, what: str, named: str | Any) -> str:
        if not isinstance(named, str):
            raise InvalidInputError(
                f"{what} is a name or 'module:attr' here, not {type(named).__name__}: other processes are to load it"
            )
        return named

    # -- roll-outs --------------------------------------------------------------------------------------------------

    @checked
    def rollout(
        self,
        endpoint: str,
        *,
        to: str,
        steps: Sequence[float | str] = DEFAULT_STEPS,
        hold_s: float = 60.0,
        judge: str | Any = DEFAULT_JUDGE,
        judge_options: Mapping[str, Any] | None = None,
        on_failure: Literal["rollback", "pause"] = "rollback",
        warmup_s: float = 10.0,
        max_duration_s: float = 3600.0,
        keep_warm_s: float = 300.0,
        header: bool = False,
        propagate: bool = False,
        notify: str | Sequence[str] | None = None,
        seed: int | None = None,
    ) -> None:
        """Have a backend take over an endpoint's requests step by step, as long as a judge finds it no worse than the
        version that serves beside it. Returns at once; ``status()["rollouts"]`` tells how far it is.

        Args:
            to: the backend that is to take over, the candidate. The endpoint's traffic is one other backend's.
            steps: the candidate's shares, each larger than the one before; ``"gate"`` among them is where somebody has
                to say `resume_rollout`. The last one is 1.0.
            hold_s: how long each step takes at least.
            judge: the name of a plugin, or ``module:attr``: ``sequential``, ``threshold``.
            judge_options: what that takes, see ``docs/judges.md``.
            on_failure: what becomes of a candidate that is worse: ``"rollback"``, or ``"pause"``, which leaves it where
                it is for somebody to decide.
            warmup_s: how long the candidate is not judged from its first share on.
            max_duration_s: how long a step may take. Where the judge is not certain by then, the roll-out is
                inconclusive: it stays where it is until somebody decides.
            keep_warm_s: how long the old version keeps its replicas after the candidate has all requests, where it
                autoscales.
            header: a request may name its version by the header ``x-servekit-version``, for testers; such requests are
                not judged.
            propagate: what a handler calls by handles stays on the side of the request that the handler answers, at
                endpoints with a roll-out of their own.
            notify: the URL of a webhook, or a command, that is told where somebody has to decide, and of the end, by
                JSON as in ``status()["rollouts"]``.
            seed: what the order of versions is drawn from; default, a random one.

        Raises:
            InvalidInputError: the steps, or what the endpoint serves, allow no roll-out; or the judge looks at figures
                that were never reported.
            InUseError: one is under way at this endpoint, or a deploy.
        """
        self._client.call(
            "rollout",
            name=endpoint,
            to=to,
            steps=list(steps),
            hold_s=hold_s,
            judge=self._plugin("judge", judge),
            judge_options=dict(judge_options or {}),
            on_failure=on_failure,
            warmup_s=warmup_s,
            max_duration_s=max_duration_s,
            keep_warm_s=keep_warm_s,
            header=header,
            propagate=propagate,
            notify=notify if notify is None or isinstance(notify, str) else list(notify),
            seed=seed or 0,
        )

    @checked
    def pause_rollout(self, endpoint: str, why: str = "") -> None:
        """Have a roll-out stay where it is, until `resume_rollout`. Raises `NotFoundError` where none is under way."""
        self._client.call("pause_rollout", name=endpoint, why=why)

    @checked
    def resume_rollout(self, endpoint: str) -> None:
        """Have a roll-out go on that is paused, at a gate, or inconclusive: its step is held and judged anew. Raises
        `NotFoundError` where none is under way, and `InUseError` where it goes on already."""
        self._client.call("resume_rollout", name=endpoint)

    @checked
    def promote_rollout(self, endpoint: str, why: str = "") -> None:
        """Give all requests to the candidate of a roll-out, whatever its judge says. Raises `NotFoundError` where none
        is under way."""
        self._client.call("promote_rollout", name=endpoint, why=why)

    @checked
    def abort_rollout(self, endpoint: str, why: str = "") -> None:
        """Give all requests back to the version from which a roll-out began. Raises `NotFoundError` where none is under
        way."""
        self._client.call("abort_rollout", name=endpoint, why=why)

    # -- shadows ----------------------------------------------------------------------------------------------------

    @checked
    def shadow(
        self,
        endpoint: str,
        to: str,
        *,
        share: float = 0.1,
        compare: str | None = "json",
        include_unsafe: bool = False,
        timeout_s: float = 10.0,
        noise: float = 0.5,
        tolerance: float = 0.0,
        ignore: Iterable[str] = (),
        redact: str | None = None,
    ) -> None:
        """Send copies of an endpoint's requests to a backend whose answers nobody gets, and compare these with the live
        ones. A copy is sent after the live answer, where there is room for it. A shadow that there is already is
        replaced.

        Args:
            endpoint: an endpoint's name.
            to: the backend that gets the copies.
            share: of the requests, those that are copied; above 0, at most 1.
            compare: ``json`` compares by path, ``status`` the status alone; a function as ``"module:attr"``, which the
                controller imports, takes two answers (``status``, ``content_type``, ``body``) and returns True where
                they are alike, or a list of the paths that differ; None: nothing is compared.
            include_unsafe: other methods than GET, HEAD and OPTIONS are copied, too.
            timeout_s: how long a copy may take; at most 3600.
            noise: of the copies, those that are sent to the version which has answered, too: what its two answers
                differ in is noise. 0: none.
            tolerance: numbers that are so near to each other are alike: relative, and absolute near 0.
            ignore: JSON pointers of what is not compared: ``/time``, ``/items/*/id``.
            redact: a function as ``"module:attr"``, which the controller imports: takes a path and a value, and returns
                what an example shows in its place.

        Raises:
            InvalidInputError: a part of it is not acceptable; nothing has changed.
            NotFoundError: there is no such endpoint, or backend.
        """
        self._client.call(
            "shadow",
            name=endpoint,
            to=to,
            share=share,
            compare=compare,
            include_unsafe=include_unsafe,
            timeout_s=timeout_s,
            noise=noise,
            tolerance=tolerance,
            ignore=list(ignore),
            redact=redact,
        )

    @checked
    def stop_shadow(self, endpoint: str) -> None:
        """Copy no more requests of an endpoint, and forget what its shadow has shown. Raises `NotFoundError` where it
        has none."""
        self._client.call("stop_shadow", name=endpoint)

    @checked
    def shadow_report(self, endpoint: str) -> dict[str, Any]:
        """What an endpoint's shadow has shown: ``pairs`` that were compared, how many of them are ``differing`` beyond
        noise, and in ``paths``, the most frequent first, where: ``path`` (a JSON pointer), ``kind``, ``count``, the
        share of ``noise``, and ``examples``. What has become of copies: ``sent``, ``answered``, ``failed``, ``late``,
        and ``dropped`` by the reason. See ``docs/shadow.md``.

        Raises:
            NotFoundError: the endpoint has no shadow.
        """
        report: dict[str, Any] = self._client.call("shadow_report", name=endpoint)
        return report

    @checked
    def shadow_traffic(
        self, endpoint: str, backend: str | Mapping[str, float], proportion: float | None = None
    ) -> None:
        """As the first Ray Serve had it: `shadow`, with nothing compared and requests of every method copied; a share
        of 0 ends it.

        Args:
            endpoint: an endpoint's name.
            backend: a backend's name, or its share by its name: ``{"v3": 0.1}``.
            proportion: the share, where ``backend`` is a name.
        """
        shares = dict(backend) if isinstance(backend, Mapping) else {} if proportion is None else {backend: proportion}
        if len(shares) != 1:
            raise ArgumentError(
                f"shadow_traffic(): an endpoint has one shadow: give one backend and its share, as in {{'v3': 0.1}}; "
                f"not {short(backend)}"
            )
        ((name, share),) = shares.items()
        if share == 0:
            self.stop_shadow(endpoint)
        else:
            self.shadow(endpoint, name, share=share, compare=None, include_unsafe=True)

    # -- deploys ----------------------------------------------------------------------------------------------------

    @checked
    def plan(self, *files: str | Path | Mapping[str, Any]) -> DeployPlan:
        """What would change, were this instance to serve what configuration files say, and nothing else.

        Args:
            files: paths of TOML files, or dicts of the same tables. Later ones change the earlier ones: tables are
                merged, all else is replaced. Targets are found beside the files.

        Raises:
            InvalidInputError: a file cannot be read, or what it says is not acceptable: the message has the key.
        """
        from servekit.deploy.plan import DeployPlan, errors_as_written, wanted_of
        from servekit.deploy.reading import read

        if not files or not all(isinstance(file, (str, os.PathLike, Mapping)) for file in files):
            raise ArgumentError(f"plan() takes paths of configuration files, or dicts, and at least one; not {files!r}")
        configuration = read(files, os.environ)
        with errors_as_written(configuration.values):
            wanted = wanted_of(configuration, files, self._backend_arguments, stay_on_path=not self._code_travels)
            answer = self._client.call("plan", **wanted)
        told = {"instance": self.name, "wanted": wanted, "values": configuration.values}
        return msgspec.convert({**answer, **told}, DeployPlan)

    @checked
    def apply(self, plan: Any) -> None:
        """Make the changes of a plan; returns when what it asks for serves, with no request lost.

        New and replaced backends start while the old ones serve; then endpoints and traffic change, and what is not
        asked for goes.

        Args:
            plan: what `plan` returned.

        Raises:
            StalePlanError: the instance has changed since the plan was made; nothing was done.
            InUseError: another deploy is under way; the message says whose.
            BackendStartError: a replica could not start; the message has its traceback, and all is as it was.
        """
        from servekit.deploy.plan import DeployPlan, errors_as_written

        if not isinstance(plan, DeployPlan):
            raise ArgumentError(f"apply(): plan must be what servekit.plan(FILE) returned, not {short(plan)}")
        if plan.instance != self.name:
            raise InvalidInputError(f"the plan was made for instance {plan.instance!r}, and this is {self.name!r}")
        with errors_as_written(plan.values):
            self._client.call("apply", **plan.wanted, number=plan.number)

    @checked
    def export(self) -> str:
        """What is served, as a configuration file, in TOML: deployed here, it changes nothing.

        Raises:
            InvalidInputError: no file could say it: a target of the main script, say.
        """
        import tomli_w

        status = self.status()
        named = {"instance": {"name": status["name"], "runtime": status["runtime"]}}
        return tomli_w.dumps({**named, **self._client.call("export")})

    @checked
    def history(self, endpoint: str) -> list[dict[str, Any]]:
        """What an endpoint's traffic has been, the newest first: ``number``, ``time``, ``traffic`` by backend,
        ``revisions`` of these backends, ``who`` changed it and ``why``; the last 100.

        Args:
            endpoint: an endpoint's name.
        """
        entries: list[dict[str, Any]] = self._client.call("history", name=endpoint)
        return entries

    @checked
    def rollback(self, endpoint: str, number: int | None = None) -> dict[str, Any]:
        """Go back to what an endpoint's traffic was, with the revisions of the backends that it had; returns that entry
        of the `history`. What that needs starts first, and no request is lost.

        Args:
            endpoint: an endpoint's name.
            number: of the entry; default, the one before what serves now.

        Raises:
            InvalidInputError: there is no such entry, or a revision is not kept any more.
            BackendStartError: a replica could not start; all is as it was.
        """
        entry: dict[str, Any] = self._client.call("rollback", name=endpoint, number=number)
        return entry

    @checked
    def cancel_deploy(self) -> str:
        """End the deploy, or rollback, that is under way, whoever began it, and put back what was served before;
        returns what ``status()["deploy"]`` said, once it has ended. One that has all replicas ready comes about.

        Raises:
            NotFoundError: none is under way.
        """
        under_way: str = self._client.call("cancel_deploy")
        return under_way

    # -- the whole ---------------------------------------------------------------------------------------------------

    @checked
    def status(self) -> dict[str, Any]:
        """Endpoints, ingress workers, in ``runtimes`` where the workers of each live, in ``deploy`` which deploy is
        under way, and backends: how many replicas each is to have (``wanted_replicas``) and has (``replicas``: id,
        state, pid, node, outstanding, started), its ``load``, where it autoscales, and why a replica last could not
        start (``last_start_error``) or failed at all (``last_failure``)."""
        status: dict[str, Any] = self._client.call("status")
        return status

    @checked
    def stat(self) -> dict[str, Any]:
        """Requests that ended since the instance began, by endpoint and by backend: how many, with what status, in what
        mean time, and in ``latency_s`` for the last ``minute`` and ``hour`` the times that half of them (``p50``), nine
        tenths (``p90``) and 99 of 100 (``p99``) stayed below; None where there were none. An endpoint has the same of
        each backend's part in ``backends``. See ``docs/metrics.md``."""
        stat: dict[str, Any] = self._client.call("stat")
        return stat

    @checked
    def events(
        self, since: int = 0, *, endpoint: str | None = None, backend: str | None = None, kind: str | None = None
    ) -> list[dict[str, Any]]:
        """What has happened to the instance, the oldest first; the last 2,000. Each has a ``number``, ``at`` and
        ``time``, a ``kind``, a ``text``, ``who`` made a change, the ``endpoint``, ``backend`` and ``replica`` that are
        meant, and ``detail``. Many that are alike are one, which has been ``count`` times since ``first_at``.

        Args:
            since: a number; only what has happened, or was counted again, after the event of that number.
            endpoint, backend: only what is about these.
            kind: only events of this kind; ``docs/events.md`` says what there is.
        """
        found: list[dict[str, Any]] = self._client.call(
            "events", since=since, endpoint=endpoint, backend=backend, kind=kind
        )
        return found

    @checked
    def failures(self, backend: str | None = None) -> list[dict[str, Any]]:
        """What handlers have raised, by where it was raised, the last one last; the last 200 such places. Each has the
        ``type`` of the exception, the ``file``, ``line`` and ``function`` of the user's code, ``what`` was being done
        (``call``, ``build``, ``reconfigure`` or ``check_health``), the ``backend``, a ``count``, ``first_at`` and
        ``last_at``, and of the last one the ``endpoint``, the ``request_id`` and the ``traceback``.

        Args:
            backend: only what is raised there.
        """
        found: list[dict[str, Any]] = self._client.call("failures", backend=backend)
        return found

    @checked
    def explain(self, request_id: str) -> dict[str, Any]:
        """Why a request went where it went, and when: of the last 10,000 of each ingress worker, and longer where it
        failed or was slow.

        The dict has ``id``, ``endpoint``, ``route``, ``method``, ``path``, ``client``, ``came_at``, ``latency_s``,
        ``status`` and ``error``; ``policy`` and ``weights``, from which ``backend`` was chosen, ``replica``, and
        ``ahead``, how many calls that had; ``sends``, ``service_s``, ``body_bytes``; ``steps``, of which each ``says``
        what happened ``after_s``; ``pending``, whether the request is under way yet; ``times``, how many of this id are
        known, of which this is the last, and ``others``, what its handler has called by handles among them, each with
        its ``chain``, the replicas that waited for it; ``ingress``, the worker that had it, and ``silent``, those that
        did not answer; ``snapshot``, the number of the configuration that it was routed by.

        Args:
            request_id: what the answer has as ``X-Request-Id``.

        Raises:
            NotFoundError: the request is not remembered; the message says how far back is.
        """
        explanation: dict[str, Any] = self._client.call("explain", id=request_id)
        return explanation

    @checked
    def last_requests(self, kind: str, endpoint: str | None = None, most: int = 20) -> list[dict[str, Any]]:
        """The last requests that failed, or that were slow, the newest first: ``id``, which `explain` takes,
        ``came_at``, ``endpoint``, ``method``, ``path``, ``status``, ``error``, ``latency_s``, ``backend``, ``replica``
        and ``ingress``.

        Args:
            kind: ``failed``: with a 5xx, or broken off; ``slow``: slower than 99 of 100 of the last ones of their
                endpoint.
            endpoint: an endpoint's name; None: all.
            most: how many, from 1 to 100.
        """
        if kind not in ("failed", "slow"):
            raise ArgumentError(f"last_requests(): kind must be 'failed' or 'slow', not {short(kind)}")
        if not 1 <= most <= MOST_LISTED:
            raise ArgumentError(f"last_requests(): most must be from 1 to {MOST_LISTED}, not {most}")
        answer = self._client.call("last_requests", kind=kind, endpoint=endpoint, most=most)
        requests: list[dict[str, Any]] = answer["requests"]
        return requests

    @checked
    def shutdown(self) -> None:
        """End the instance, with all its processes, once what is in flight has been answered. Again: nothing.

        Whatever else is asked of it then raises `NotRunningError`.
        An instance that was attached to goes on: ``servekit stop`` ends it. So does one that another process started,
        from which this one was forked: the parent ends it.
        """
        self._leave(self)
        end, self._end = self._end, lambda: None
        client, self._client = self._client, ClosedClient(self.name)
        with contextlib.suppress(Exception):
            client.close()
        try:
            end()
        finally:
            self._close_caller()


def _in_file(
    target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], freezing: Freezing
) -> dict[str, Any] | None:
    """What a configuration file would say of a target; None where none could."""
    from servekit.targets import name_in_file

    try:
        check_plain("args", [args, dict(kwargs)])
    except InvalidInputError:
        return None
    return None if name_in_file(target) is None else {"args": args, "kwargs": dict(kwargs), **freezing._asdict()}


class ClosedClient:
    """The `Client` of an instance that was shut down."""

    def __init__(self, instance: str) -> None:
        self._instance = instance

    def call(self, operation: str, **arguments: Any) -> Any:
        raise shut_down(self._instance)

    def close(self) -> None: ...


def shut_down(instance: str) -> NotRunningError:
    return NotRunningError(f"instance {instance!r} was shut down here; servekit.init() starts another")


def new_handle(endpoint: str, find: Callable[[str], Caller], missing_ok: bool) -> Handle:
    from servekit.handles.handle import Handle

    try:
        return Handle(endpoint, find(endpoint))
    except NotFoundError:
        if not missing_ok:
            raise
        return Handle(endpoint, None)  # Its first call finds one.


def _callers_depth() -> int:
    """For `warnings.warn` in the function that calls this: how far up the code is that is none of servekit's."""
    depth, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("servekit."):
        depth, frame = depth + 1, frame.f_back
    return depth
