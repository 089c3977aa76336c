"""An endpoint for one routing policy, which is called as an ingress worker does, and checked at every choice."""

from __future__ import annotations

import inspect
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import FrozenInstanceError
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, TypeVar

from servekit.interfaces import DrawnUnit, Outcome, RequestInfo, RoutingPolicy
from servekit.testing.conformance.helpers import hypothesis
from servekit.testing.conformance.views import FakeBackend, FakeReplica, FakeRequest

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

SHOWN_CALLS = 20
"""The number of last calls that a failure shows."""
NAMES = ("a", "b", "c", "d")
"""The backends of the sequences that hypothesis generates."""

Operation: TypeAlias = tuple[str, tuple[Any, ...]]
"""A method of `FakeEndpoint`, and its arguments."""
_View = TypeVar("_View", FakeBackend, FakeReplica)


class FakeEndpoint:
    """An endpoint with its backends, replicas and requests, and the policy that is under test.

    A mistake of the policy raises ``AssertionError`` with the calls that led to it. Every call of the policy is given
    new views, as the core may do at every snapshot: only names and ids stay.
    """

    def __init__(self, policy: RoutingPolicy, make_request: Callable[[int], RequestInfo] | None = None) -> None:
        self.policy = policy
        self.make_request = make_request or (lambda number: FakeRequest(id=f"request-{number}"))
        self.weights: dict[str, float] = {}
        self.replicas: dict[str, list[str]] = {}
        """Ids of the ready replicas, by backend. Backends are listed to the policy in the order of this dict."""
        self.counts: Counter[str] = Counter()
        """The number of requests that each backend has had since the traffic was last set."""
        self.choices: list[tuple[str, str]] = []
        """Every choice so far: the method that made it, and the name or id that it chose."""
        self.sent: list[tuple[RequestInfo, FakeReplica]] = []
        """Requests that have not ended, each with its replica."""
        self.queued: deque[tuple[RequestInfo, str]] = deque()
        """Requests that have a backend, but no replica yet."""
        self._outstanding: Counter[str] = Counter()
        self._queue_lengths: dict[str, int] = {}
        self._requests = 0
        self._replicas_made = 0
        self._calls: deque[tuple[str, tuple[Any, ...], Any]] = deque(maxlen=SHOWN_CALLS)
        self._calls_made = 0

    # -- traffic and replicas ------------------------------------------------------------------------------------

    def set_traffic(self, weights: Mapping[str, float]) -> None:
        """Set the weights of the backends, relative to each other. A backend of weight 0 gets no traffic."""
        total = sum(weights.values())
        self.weights = {name: weight / total for name, weight in weights.items() if weight > 0}
        for name in weights:
            self.replicas.setdefault(name, [self._new_replica(name)])
        self.counts.clear()
        given = dict(self.weights)
        self.call("traffic_changed", given)
        if given != self.weights:
            self.fail("traffic_changed wrote to the weights that it was given: copy what you mean to change")

    def draw_order(self, seed: int | None) -> DrawnUnit:
        """Have a roll-out judged from now on; None: no more. Returns what the policy says that is drawn."""
        unit = self.call("draw_order", seed)
        if not isinstance(unit, DrawnUnit):
            self.fail(f"draw_order returned {unit!r}: it must return a DrawnUnit")
        return unit

    def set_replicas(self, backend: str, count: int) -> None:
        """Let ``count`` replicas be ready: the oldest go, or new ones come."""
        ready = self.replicas.setdefault(backend, [])
        del ready[: max(0, len(ready) - count)]
        ready.extend(self._new_replica(backend) for _ in range(count - len(ready)))

    def replace_replicas(self, backend: str) -> None:
        """Replace all replicas of the backend by new ones."""
        count = len(self.replicas[backend])
        self.set_replicas(backend, 0)
        self.set_replicas(backend, count)

    def reorder(self, order: Sequence[int]) -> None:
        """Sort the backends by the numbers of ``order``, and reverse their replicas."""
        ranks = dict(zip(self.replicas, [*order, *range(len(self.replicas))], strict=False))
        self.replicas = {
            name: self.replicas[name][::-1] for name in sorted(self.replicas, key=lambda name: ranks[name])
        }

    # -- requests --------------------------------------------------------------------------------------------------

    def send_request(self, room: int = -1) -> None:
        """Have a backend and a replica chosen for a new request. ``room`` has a bit for each replica with room."""
        chosen = self.choose_backend(self.next_request())
        if chosen is not None:
            self.choose_replica(*chosen, room)

    def queue_request(self) -> None:
        """Have a backend chosen for a new request, as where no replica of that backend has room."""
        chosen = self.choose_backend(self.next_request())
        if chosen is not None:
            self.queued.append(chosen)

    def send_queued_request(self) -> None:
        """Have a replica chosen for the oldest queued request, and before that another backend if its own is gone."""
        if self.queued:
            request, backend = self.queued.popleft()
            is_there = backend in self.weights and self.replicas[backend]
            chosen = (request, backend) if is_there else self.choose_backend(request)
            if chosen is not None:
                self.choose_replica(*chosen)

    def finish_request(self, index: int = 0, outcome: Outcome = Outcome.ANSWERED) -> None:
        """Let one of the requests that were sent end."""
        if self.sent:
            request, replica = self.sent.pop(index % len(self.sent))
            self._outstanding[replica.id] -= 1
            self._queue_lengths[replica.id] = self._outstanding[replica.id] * 2
            self.call("request_finished", request, replica, outcome)

    def next_request(self) -> RequestInfo:
        self._requests += 1
        return self.make_request(self._requests)

    def choose_backend(self, request: RequestInfo, *, strict: bool = False) -> tuple[RequestInfo, str] | None:
        """The request and its backend; None where the endpoint has no backend to choose from.

        ``strict``: the endpoint has ``strict=True``, so that backends without a replica are listed as well.
        """
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

    def perform(self, operations: Sequence[Operation]) -> None:
        """Begin with two backends, four replicas and two dozen requests, and carry out ``operations``."""
        self.set_traffic({"a": 3, "b": 1, "c": 0, "d": 0})
        self.set_replicas("a", 3)
        for room in range(24):
            self.send_request(room)
        for name, arguments in operations:
            getattr(self, name)(*arguments)

    # -- checks ------------------------------------------------------------------------------------------------------

    def fail(self, sentence: str) -> NoReturn:
        """Raise ``AssertionError`` with ``sentence``, which says what is wrong, and the calls that led to it."""
        __tracebackhide__ = True
        raise AssertionError(self._report(sentence))

    def _report(self, sentence: str) -> str:
        lines = [f"  {_line(*call)}" for call in self._calls]
        left_out = self._calls_made - len(lines)
        if left_out:
            lines.insert(0, f"  … {left_out} earlier calls")
        return "\n".join([f"{type(self.policy).__name__}: {sentence}", "The calls were:", *lines])

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the policy. An exception of that method is a failure."""
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
        """The rest of a sentence that says why ``chosen``, which is none of the views ``given``, is wrong."""
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
    """A call and its result, as failures show them."""
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


# -- what hypothesis generates -----------------------------------------------------------------------------------------


def shares() -> SearchStrategy[list[int]]:
    """Weights of the backends `NAMES`, relative to each other; at least one is above 0."""
    st = hypothesis().strategies

    generated: SearchStrategy[list[int]] = st.lists(st.integers(0, 9), min_size=1, max_size=len(NAMES)).filter(any)
    return generated


def operations() -> SearchStrategy[list[Operation]]:
    """Everything that can happen to an endpoint, in any order."""
    st = hypothesis().strategies

    backend = st.sampled_from(NAMES)
    numbers = st.integers(0, 7)
    arguments: dict[str, SearchStrategy[tuple[Any, ...]]] = {
        "send_request": st.tuples(numbers),
        "queue_request": st.just(()),
        "send_queued_request": st.just(()),
        "finish_request": st.tuples(numbers, st.sampled_from(Outcome)),
        "set_traffic": st.tuples(shares().map(weights_of)),
        "draw_order": st.tuples(st.none() | st.integers(0, 3)),
        "set_replicas": st.tuples(backend, st.integers(0, 4)),
        "replace_replicas": st.tuples(backend),
        "reorder": st.tuples(st.permutations(range(len(NAMES)))),
    }
    one = [st.tuples(st.just(name), given) for name, given in arguments.items()]
    # Lists of lists, for hypothesis generates about five items of a list, and longer sequences find more.
    generated: SearchStrategy[list[Operation]] = st.lists(st.lists(st.one_of(*one), max_size=8), max_size=8).map(
        lambda lists: [operation for some in lists for operation in some]
    )
    return generated


def weights_of(shares: Sequence[float]) -> dict[str, float]:
    """``{"a": 9, "b": 1}`` of ``[9, 1]``; where there are more than four, the names are ``b0``, ``b1`` …"""
    names = NAMES if len(shares) <= len(NAMES) else [f"b{index}" for index in range(len(shares))]
    return dict(zip(names, shares, strict=False))
