"""Calls one routing policy as an ingress worker does, and checks every choice."""

from __future__ import annotations

import inspect
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import FrozenInstanceError
from typing import Any, NoReturn, TypeVar

from servekit.interfaces import Outcome, RequestInfo, RoutingPolicy
from servekit.testing.conformance.views import FakeBackend, FakeReplica, FakeRequest

SHOWN_CALLS = 20
"""How many of the last calls a failure shows."""

_View = TypeVar("_View", FakeBackend, FakeReplica)


class PolicyDriver:
    """One endpoint and its policy. What the policy does wrong is an ``AssertionError`` with the calls that led there.

    Views are made anew for every call, for the core may do so at every snapshot: only names and ids stay.
    """

    def __init__(self, policy: RoutingPolicy, make_request: Callable[[int], RequestInfo] | None = None) -> None:
        self.policy = policy
        self.make_request = make_request or (lambda number: FakeRequest(id=f"request-{number}"))
        self.weights: dict[str, float] = {}
        self.replicas: dict[str, list[str]] = {}
        """Ids of the ready replicas, by backend; the order is that in which backends are listed."""
        self.counts: Counter[str] = Counter()
        """Requests that each backend has had since the traffic was last set."""
        self.choices: list[tuple[str, str]] = []
        """Every choice so far: ``backend`` or ``replica``, and which."""
        self.sent: list[tuple[RequestInfo, FakeReplica]] = []
        self.waiting: deque[tuple[RequestInfo, str]] = deque()
        """Requests whose backend is chosen, and that wait for a replica with room."""
        self._outstanding: Counter[str] = Counter()
        self._queue_lengths: dict[str, int] = {}
        self._requests = 0
        self._replicas_made = 0
        self._calls: deque[tuple[str, tuple[Any, ...], Any]] = deque(maxlen=SHOWN_CALLS)
        self._calls_made = 0

    # -- what happens to an endpoint ---------------------------------------------------------------------------

    def set_traffic(self, weights: Mapping[str, float]) -> None:
        """Weights relative to each other, as many backends as there are; those of weight 0 are left out."""
        total = sum(weights.values())
        self.weights = {name: weight / total for name, weight in weights.items() if weight > 0}
        for name in weights:
            self.replicas.setdefault(name, [self._new_replica(name)])
        self.counts.clear()
        given = dict(self.weights)
        self.call("traffic_changed", given)
        if given != self.weights:
            self.fail("traffic_changed wrote to the weights that it was given: copy what you mean to change")

    def set_replicas(self, backend: str, count: int) -> None:
        """So many are ready: the oldest go, new ones come."""
        ready = self.replicas.setdefault(backend, [])
        del ready[: max(0, len(ready) - count)]
        ready.extend(self._new_replica(backend) for _ in range(count - len(ready)))

    def replace_replicas(self, backend: str) -> None:
        """As many as there were, none of them the same."""
        count = len(self.replicas[backend])
        self.set_replicas(backend, 0)
        self.set_replicas(backend, count)

    def reorder(self, order: Sequence[int]) -> None:
        """List the backends in another order (numbers to sort by, as many as you like), and their replicas reversed."""
        ranks = dict(zip(self.replicas, [*order, *range(len(self.replicas))], strict=False))
        self.replicas = {
            name: self.replicas[name][::-1] for name in sorted(self.replicas, key=lambda name: ranks[name])
        }

    # -- requests --------------------------------------------------------------------------------------------------

    def request(self, room: int = -1) -> str | None:
        """One request: its backend and its replica are chosen. ``room``: a bit for each replica that has some."""
        chosen = self.choose_backend(self.next_request())
        if chosen is None:
            return None
        request, backend = chosen
        self.choose_replica(request, backend, room)
        return backend

    def wait(self) -> None:
        """A request whose backend has no replica with room."""
        chosen = self.choose_backend(self.next_request())
        if chosen is not None:
            self.waiting.append(chosen)

    def give_room(self) -> None:
        """The request that has waited longest is sent; if its backend is gone by now, another is chosen."""
        if self.waiting:
            request, backend = self.waiting.popleft()
            chosen = (request, backend) if self.is_there(backend) else self.choose_backend(request)
            if chosen is not None:
                self.choose_replica(*chosen)

    def finish(self, index: int = 0, outcome: Outcome = Outcome.ANSWERED) -> None:
        """One of the requests that were sent ends."""
        if self.sent:
            request, replica = self.sent.pop(index % len(self.sent))
            self._outstanding[replica.id] -= 1
            self._queue_lengths[replica.id] = self._outstanding[replica.id] * 2
            self.call("request_finished", request, replica, outcome)

    def next_request(self) -> RequestInfo:
        self._requests += 1
        return self.make_request(self._requests)

    def choose_backend(self, request: RequestInfo, *, strict: bool = False) -> tuple[RequestInfo, str] | None:
        """None when there is none to choose from. ``strict``: backends without a replica are listed as well."""
        given = [
            FakeBackend(name, self.weights[name], [self._view(replica) for replica in replicas])
            for name, replicas in self.replicas.items()
            if name in self.weights and (replicas or strict)
        ]
        if not given:
            return None
        name = self._choose("choose_backend", request, given).name
        self.counts[name] += 1
        return request, name

    def choose_replica(self, request: RequestInfo, backend: str, room: int = -1) -> FakeReplica:
        ids = self.replicas[backend]
        free = [replica for bit, replica in enumerate(ids) if room >> bit & 1] or ids
        chosen = self._choose("choose_replica", request, [self._view(replica) for replica in free])
        self._outstanding[chosen.id] += 1
        self.sent.append((request, chosen))
        return chosen

    def close(self) -> None:
        self.call("close")

    # -- checks ------------------------------------------------------------------------------------------------------

    def is_there(self, backend: str) -> bool:
        return backend in self.weights and bool(self.replicas[backend])

    def fail(self, sentence: str) -> NoReturn:
        """Raise ``AssertionError``: what is wrong, and the calls up to it."""
        __tracebackhide__ = True
        raise AssertionError(self._report(sentence))

    def _report(self, sentence: str) -> str:
        lines = [f"  {_line(*call)}" for call in self._calls]
        earlier = self._calls_made - len(lines)
        if earlier:
            lines.insert(0, f"  … {earlier} earlier calls")
        return "\n".join([f"{type(self.policy).__name__}: {sentence}", "The calls were:", *lines])

    def call(self, method: str, *arguments: Any) -> Any:
        """Call the policy; what it raises is a failure."""
        __tracebackhide__ = True
        self._calls_made += 1
        self._calls.append((method, arguments, _RAISED))
        try:
            result = getattr(self.policy, method)(*arguments)
        except Exception as error:
            if isinstance(error, FrozenInstanceError):
                sentence = f"{method} wrote to a view ({error}): views are read-only, keep state by name or id"
            else:
                sentence = f"{method} raised {type(error).__name__}: {error}: it must not raise, whatever happens"
            raise AssertionError(self._report(sentence)) from error
        self._calls[-1] = (method, arguments, result)
        return result

    def _choose(self, method: str, request: RequestInfo, given: list[_View]) -> _View:
        __tracebackhide__ = True
        before = given[:]
        fields = [_fields(view) for view in given]
        chosen = self.call(method, request, given)
        if len(given) != len(before) or any(one is not other for one, other in zip(given, before, strict=False)):
            self.fail(f"{method} changed the list that it was given, which is the core's own: sort or cut a copy")
        if [_fields(view) for view in given] != fields:
            self.fail(f"{method} wrote to a view that it was given: views are read-only, keep state by name or id")
        for position, view in enumerate(before):
            if view is chosen:
                self.choices.append((method, _name(view)))
                return before[position]
        self.fail(f"{method} {self._why_not(chosen, before)}")

    def _why_not(self, chosen: Any, given: Sequence[FakeBackend | FakeReplica]) -> str:
        """What is wrong with a choice that is none of those given."""
        if inspect.iscoroutine(chosen):
            chosen.close()
            return "returned a coroutine: policies are called, not awaited, so make it a plain method"
        if not isinstance(chosen, (FakeBackend, FakeReplica)):
            return f"returned {chosen!r}: it must return one of the views that it was given"
        name = _name(chosen)
        if name in map(_name, given):
            return f"returned an earlier view of {name!r}: return one of those given now, and remember names, not views"
        if isinstance(chosen, FakeReplica):
            return f"returned replica {name!r}, which is not ready, has no room or is another backend's"
        if name not in self.weights:
            return f"returned backend {name!r}, which has no traffic: its weight is 0, or it was removed"
        return f"returned backend {name!r}, which has no ready replica"

    # -- views -------------------------------------------------------------------------------------------------------

    def _new_replica(self, backend: str) -> str:
        self._replicas_made += 1  # ids are never used again
        return f"{backend}-{self._replicas_made}"

    def _view(self, replica: str) -> FakeReplica:
        return FakeReplica(replica, self._outstanding[replica], self._queue_lengths.get(replica, 0))


_RAISED = object()


def _name(view: FakeBackend | FakeReplica) -> str:
    return view.name if isinstance(view, FakeBackend) else view.id


def _fields(view: FakeBackend | FakeReplica) -> tuple[object, ...]:
    if isinstance(view, FakeBackend):
        return view.name, view.weight, tuple(map(id, view.replicas))
    return view.id, view.outstanding, view.queue_length, view.node


def _line(method: str, arguments: tuple[Any, ...], result: Any) -> str:
    """One call, as failures show it."""
    shown = ", ".join(map(_shown, arguments))
    if result is _RAISED:
        return f"{method}({shown})  <- here"
    return f"{method}({shown})" + (f" -> {_shown(result)}" if method.startswith("choose") else "")


def _shown(value: Any) -> str:
    if isinstance(value, FakeBackend):
        return f"{value.name}:{value.weight:.3g}[{', '.join(map(_shown, value.replicas))}]"
    if isinstance(value, FakeReplica):
        return f"{value.id}({value.outstanding}+{value.queue_length})"
    if isinstance(value, FakeRequest):
        return f"{value.method} {value.path} {dict(value.headers) if len(value.headers) < 5 else value.headers}"
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    return str(value) if isinstance(value, Outcome) else repr(value)
