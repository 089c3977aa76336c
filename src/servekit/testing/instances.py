"""The instances behind the fixture `serve_instance`."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

import httpx

from servekit import api
from servekit.errors import NotFoundError, ServekitError
from servekit.inprocess import InProcessInstance
from servekit.instance import Instance
from servekit.plugins import Registry, disabled_by_environment, discover
from servekit.testing import rollouts
from servekit.testing.clock import Clock, StandingTime
from servekit.testing.decisions import Decision, Decisions
from servekit.testing.load import SteadyLoad

CLIENT_TIMEOUT_S = 30.0
CONNECTIONS = httpx.Limits(max_connections=1000)

_log = logging.getLogger("servekit")


class ServedInstance:
    """An `Instance` and an HTTP client on it. Everything that an `Instance` has can be called here."""

    def __init__(
        self,
        instance: Instance,
        new_client: Callable[[], httpx.Client],
        decisions: Decisions | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.instance = instance
        self.new_client = new_client
        """A client like `client`, with connections of its own; for the test to close."""
        self.client = new_client()
        self._decisions = decisions
        self._clock = clock
        self._loads = itertools.count(1)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.instance, name)

    def assert_no_drops(
        self, path: str, *, method: str = "GET", rate_per_s: float = 100.0, clients: int = 3, **request: Any
    ) -> SteadyLoad:
        """While the block runs, send requests, and fail if one of them fails: with an exception, or a status of 400 or
        more; or if none could be sent::

            with serve_instance.assert_no_drops("/model") as load:
                servekit.update_backend_config("model", {"num_replicas": 3})
                load.more()  # returns when 20 more were answered

        Args:
            path: what is asked for.
            method: by which method.
            rate_per_s: requests a second of all clients together; fewer where answers take longer than that allows.
            clients: how many send, each one request after another, on connections of its own.
            request: more of what `httpx.Client.request` takes: ``json={"value": 21}``, ``headers``, ``timeout``.

        Raises:
            AssertionError: after the block, with the failed requests: when, id, status or exception; at most 20.
        """
        name = f"load{next(self._loads)}"
        return SteadyLoad(self.new_client, name, path, method=method, rate_per_s=rate_per_s, clients=clients, **request)

    @property
    def decisions(self) -> list[Decision]:
        """Return which request was sent to which replica, in order, to now (the last 100,000). In process alone."""
        if self._decisions is None:
            raise ServekitError(
                f"decisions are recorded by in-process instances, and this is one on {self.instance!r}: its routing is "
                "in other processes. Run this test without --servekit-runtime"
            )
        return self._decisions.made()

    @property
    def clock(self) -> Clock:
        """The clock of deadlines and roll-outs, where the test is marked ``servekit(virtual_clock=True)``. In process
        alone."""
        if self._clock is None:
            raise ServekitError(
                f"{self.instance!r} has no clock to advance: its deadlines run on real time. Mark the test with "
                "@pytest.mark.servekit(virtual_clock=True), and run it in process"
            )
        return self._clock

    def finish_rollout(
        self,
        endpoint: str,
        send: Callable[[httpx.Client], object],
        at_most_s: float = 3600.0,
        every_s: float = 1.0,
    ) -> dict[str, Any]:
        """Advance the clock, and send requests, until the endpoint's roll-out has ended, or somebody has to decide: at
        a gate, or where it is inconclusive. With the virtual clock alone.

        Args:
            send: sends requests by the client that it is given; called once at each time.
            at_most_s: of the clock.
            every_s: how long the clock is advanced between two calls of ``send``.

        Returns:
            ``status()["rollouts"][endpoint]``.

        Raises:
            AssertionError: it goes on after ``at_most_s``; the message has its reason, and the figures.
            NotFoundError: the endpoint has had none.
        """
        return rollouts.finish(lambda: self._rollout(endpoint), self.clock, send, self.client, at_most_s, every_s)

    def assert_rollout(self, endpoint: str, state: str) -> dict[str, Any]:
        """Fail unless the endpoint's last roll-out is in this state: ``"promoted"``, say. The `AssertionError` has its
        reason, and what its versions did. Returns ``status()["rollouts"][endpoint]``."""
        told = self._rollout(endpoint)
        if told["state"] != state:
            raise AssertionError(f"it is not {state}: {rollouts.described(told)}")
        return told

    def _rollout(self, endpoint: str) -> dict[str, Any]:
        told: dict[str, dict[str, Any]] = self.instance.status()["rollouts"]
        if endpoint not in told:
            raise NotFoundError(f"endpoint {endpoint!r} has had no roll-out; servekit.rollout begins one")
        return told[endpoint]


@contextlib.contextmanager
def open_host(runtime: str) -> Iterator[Registry | Instance]:
    """Yield what tests share: for in-process instances the plugins, discovered once; else one real instance."""
    if runtime == "inprocess":
        registry = discover(disabled=disabled_by_environment())
        for line in registry.loaded:
            _log.info("%s", line)
        for problem in registry.problems:
            _log.warning("servekit: %s", problem)
        yield registry
        return
    instance = api.init(runtime=runtime, http_port=0)
    api.leave_current()
    with instance:
        yield instance


@contextlib.contextmanager
def serve(host: object, *, seed: int | None = None, virtual_clock: bool = False) -> Iterator[ServedInstance]:
    """Yield an instance of its own where that is cheap; else the shared one, emptied afterwards.

    ``seed`` and ``virtual_clock``: what the marker ``servekit`` says, for in-process instances alone.
    """
    if isinstance(host, Registry):
        with _in_process(host, seed, virtual_clock) as served:
            yield served
        return
    assert isinstance(host, Instance)
    assert seed is None
    assert not virtual_clock
    api.make_current(host)
    owner = os.getpid()
    try:
        served = ServedInstance(
            host,
            # Reading certificates takes longer than all the rest; and to this machine there is no proxy.
            lambda: httpx.Client(base_url=host.url, timeout=CLIENT_TIMEOUT_S, verify=False, trust_env=False),
        )
        with served.client:
            yield served
    finally:
        api.leave_current()
        if os.getpid() == owner:  # A child that the test has forked may come by here, too.
            for name in host.list_endpoints():
                host.delete_endpoint(name)
            for name in host.list_backends():
                host.delete_backend(name)


@contextlib.contextmanager
def _in_process(registry: Registry, seed: int | None, virtual_clock: bool) -> Iterator[ServedInstance]:
    decisions = Decisions(seed)
    standing = StandingTime() if virtual_clock else None
    with api.make_current(InProcessInstance(registry, around_policy=decisions.policy, clock=standing)) as instance:
        served = ServedInstance(
            instance,
            lambda: httpx.Client(
                transport=httpx.HTTPTransport(verify=False, limits=CONNECTIONS, uds=instance.http_socket),
                base_url=instance.url,
                timeout=CLIENT_TIMEOUT_S,
                trust_env=False,
            ),
            decisions,
            None if standing is None else Clock(standing, instance),
        )
        with served.client:
            yield served
