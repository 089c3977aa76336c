"""More and more endpoints, each with a backend of its own that has no replica: all but one cost memory alone.

At each number it is measured what a request costs, on the first and on the last route, beside an instance with one
endpoint that is measured in turns; what creating one more endpoint costs; how long the first request after that takes,
as the routes may have to be compiled; and how many bytes the ingress worker is sent for a change to one endpoint.
"""

from __future__ import annotations

import http.client
import sys
import time
from pathlib import Path

import servekit
from benchmarks.growth.curves import Curve, Curves
from benchmarks.growth.effort import Budget, Effort
from benchmarks.growth.instance import HELLO, hello_instance, ingress_pid, port_of
from benchmarks.growth.studies import CONNECTIONS
from benchmarks.load import LoadError, wrk
from benchmarks.processes import Server, bytes_read
from benchmarks.servers import PEERS, Call

EXACT = ("/endpoint/{n}", "/endpoint/{n}")
PATTERN = ("/endpoint/{n}/<int:item>", "/endpoint/{n}/42")
"""Route, and a path that it matches."""
ASK_TIMEOUT_S = 60.0
KINDS = {"exact routes": EXACT, "routes with a variable": PATTERN}


def endpoints(curves: Curves, effort: Effort, budget: Budget, scratch: Path) -> None:
    reference = next(peer for peer in PEERS if peer.name == "servekit-process")
    for kind, (route, path) in KINDS.items():
        with Server(reference, sys.executable, "hello", 1, scratch) as one, hello_instance() as instance:
            instance.delete_endpoint("hello")
            instance.create_backend("spare", HELLO, config={"num_replicas": 0})
            grown = Grown(instance, route, effort.endpoints)
            for size in effort.endpoints:
                grown.grow(size, budget)
                measured = Measured(curves, kind, size, grown, effort)
                measured.throughput(one.port, path, scratch)
                measured.creation(path)
                measured.bytes_of_a_change()


class Grown:
    """An instance whose endpoints become more: number 0, and the last of each size, have a live backend."""

    def __init__(self, instance: servekit.Instance, route: str, sizes: tuple[int, ...]) -> None:
        self.instance = instance
        self.size = 0
        self._route = route
        self._live = {0, *(size - 1 for size in sizes)}

    def grow(self, size: int, budget: Budget) -> None:
        for n in range(self.size, size):
            budget.check()
            backend = "live"
            if n not in self._live:
                backend = f"backend {n}"
                self.instance.create_backend(backend, HELLO, config={"num_replicas": 0})
            self.create_endpoint(n, backend)
        self.size = size

    def create_endpoint(self, n: int, backend: str) -> None:
        self.instance.create_endpoint(f"endpoint {n}", self._route.format(n=n), backend=backend)


class Measured:
    """What is measured at one size."""

    def __init__(self, curves: Curves, kind: str, size: int, grown: Grown, effort: Effort) -> None:
        self._curves = curves
        self._kind = kind
        self._size = size
        self._grown = grown
        self._instance = grown.instance
        self._effort = effort

    def throughput(self, reference_port: int, path: str, scratch: Path) -> None:
        """Also in parts of what an instance with one endpoint answers, just before and after: whatever else runs."""
        seconds, port = self._effort.seconds, port_of(self._instance)
        first, last = (Call("GET", path.format(n=n)) for n in (0, self._size - 1))
        self._ask(last.path)  # what compiles the routes takes longer than wrk waits for an answer
        for call in (first, last):
            wrk(port, call, CONNECTIONS, self._effort.warmup_s, scratch)
        for _ in range(self._effort.repeats):
            before = wrk(reference_port, Call("GET", "/hello"), CONNECTIONS, seconds, scratch).rate
            rates = [wrk(port, call, CONNECTIONS, seconds, scratch).rate for call in (first, last)]
            after = wrk(reference_port, Call("GET", "/hello"), CONNECTIONS, seconds, scratch).rate
            for name, rate in zip(("first", "last"), rates, strict=True):
                self._add(f"hello on the {name} route", "requests/s", rate, "high")
            self._add(
                "hello on the last route, of one with one endpoint", "%", 200 * rates[1] / (before + after), "high"
            )

    def creation(self, path: str) -> None:
        """One more endpoint, and the first request after it; then it is deleted again."""
        for n in range(self._size, self._size + self._effort.changes):
            began = time.perf_counter()
            self._grown.create_endpoint(n, "live")
            created = time.perf_counter()
            self._ask(path.format(n=n))
            answered = time.perf_counter()
            self._add("creating one more endpoint", "ms", 1000 * (created - began))
            self._add("first request after that", "ms", 1000 * (answered - created))
            self._instance.delete_endpoint(f"endpoint {n}")

    def bytes_of_a_change(self) -> None:
        """The traffic of the last endpoint set, to and fro: nothing else reaches the ingress worker meanwhile."""
        name, pid = f"endpoint {self._size - 1}", ingress_pid(self._instance)
        before = bytes_read(pid)
        for _ in range(self._effort.changes):
            self._instance.set_traffic(name, {"live": 0.5, "spare": 0.5})
            self._instance.set_traffic(name, {"live": 1.0})
        self._add("sent for one change", "bytes", (bytes_read(pid) - before) / (2 * self._effort.changes))

    def _ask(self, path: str) -> None:
        """One request, on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", port_of(self._instance), timeout=ASK_TIMEOUT_S)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise LoadError(f"status {answer.status} from {path}")

    def _add(self, name: str, unit: str, value: float, better: str = "low") -> None:
        self._curves.add(Curve(f"{name}, {self._kind}", "endpoints", unit, better), self._size, value)
