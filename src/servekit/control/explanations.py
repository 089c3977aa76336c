"""Why a request went where it went: what the ingress workers remember of it, as `servekit.explain` tells it.

Everything here is pure. A step of an explanation is a dict of `RequestStep`'s fields, with a sentence, ``says``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec

from servekit.interfaces import RequestRecord, RequestStep
from servekit.wire.control_frames import Recalled, RecalledRequest

MOST_OTHERS = 20
"""Other requests of the same id, in an explanation."""
MOST_SHOWN = 200
"""Characters of a path, or of an id that is not known, in a sentence."""
LONG_WAIT_S = 0.001
"""A wait at a replica that is told of."""
_CHOSEN_BEFORE = ("sent", "alone", "held", "queued", "queue_full", "overloaded")
"""Steps that follow upon the choice of a backend."""
_CHOSEN_AGAIN = ("lost", "left", "parked", "gathered")
"""Steps upon which a backend is chosen once more."""

_PLACES = {
    "began": ("its answer had begun", "its answer goes on"),
    "sent": ("replica {replica} had it", "replica {replica} has it"),
    "parked": ("it waited for a replica", "it waits for a replica"),
    "queued": ("it waited in the queue of {backend!r}", "it waits in the queue of {backend!r}"),
    "held": ("it waited for a replica of its own", "it waits for a replica of its own"),
    "gathering": ("its body was arriving", "its body is arriving"),
    "": ("it had not been sent", "it has not been sent"),
}
"""Where a request was, and where it is, by the step after which it is there."""

_SAYS = {
    "parked": "no backend had a ready replica: it waited for one that was coming, behind {number}",
    "queued": "no replica of {backend!r} had room: it waited in the queue, behind {number}",
    "queue_full": "the queue of {backend!r} was full, {number} waited, and no replica had room ({loads})",
    "overloaded": "{backend!r} would have come to it too late: {number} waited, and no replica had room ({loads})",
    "failed_over": "no replica of {text} was ready: {backend!r} had its share",
    "ejected": "of {backend!r}, {text} got no requests for a while, for it had failed again and again",
    "gathering": "its body was taken in, for a replica that is to have it whole",
    "gathered": "all of its body was here: {bytes}",
    "held": "{text}: it waited for a replica that it would have to itself, behind {number}",
    "alone": "{text}: it went alone into {replica}",
    "sent": "sent to replica {replica} of {backend!r}, which had {calls} from here",
    "lost": "replica {replica} died with it{again}",
    "left": "replica {replica} was to end, and had not begun it{again}",
}
"""The sentences of those steps that are noted on the way."""


def explanation(answers: Mapping[str, Recalled | None]) -> dict[str, Any] | None:
    """Explain the last request of an id of which the ingress workers tell; None where none knows of any.

    What a handler has called by handles, with the id of its own request, is among the others.

    Args:
        answers: by ingress worker; None: it did not answer.
    """
    found = [(each, worker) for worker, answer in answers.items() if answer is not None for each in answer.requests]
    if not found:
        return None
    found.sort(key=lambda pair: (not pair[0].record.chain, pair[0].pending, pair[0].record.ended_at), reverse=True)
    (told, worker), *others = found
    record = told.record
    return {
        **summary(told, worker),
        "client": record.client,
        "route": record.route,
        "policy": told.policy,
        "weights": told.weights,
        "snapshot": record.snapshot,
        "sends": record.sends,
        "ahead": record.ahead,
        "service_s": record.service_s if record.service_s >= 0 else None,
        "body_bytes": record.body_bytes,
        "steps": [_as_dict(step, told) for step in steps_of(told)],
        "times": sum(answer.found for answer in answers.values() if answer is not None),
        "others": [summary(*other) for other in others[:MOST_OTHERS]],
        "silent": silent(answers),
    }


def summary(told: RecalledRequest, worker: str) -> dict[str, Any]:
    """What is said of a request in a list of several."""
    record = told.record
    return {
        "id": record.id,
        "pending": told.pending,
        "endpoint": record.endpoint,
        "method": record.method,
        "path": record.path,
        "status": record.status,
        "error": record.error,
        "came_at": record.ended_at - record.latency_s,
        "latency_s": record.latency_s,
        "backend": record.backend,
        "replica": record.replica,
        "chain": list(record.chain),
        "ingress": worker,
    }


def last_of(answers: Mapping[str, Recalled | None], most: int) -> list[dict[str, Any]]:
    """The requests that the ingress workers tell of, the last first."""
    told = [(each, worker) for worker, answer in answers.items() if answer is not None for each in answer.requests]
    told.sort(key=lambda pair: pair[0].record.ended_at, reverse=True)
    return [summary(each, worker) for each, worker in told[:most]]


def silent(answers: Mapping[str, Recalled | None]) -> list[str]:
    """The ingress workers that did not answer."""
    return [worker for worker, answer in answers.items() if answer is None]


def unknown(request_id: str, answers: Mapping[str, Recalled | None]) -> str:
    """Why a request is not known: how far back is remembered."""
    told = [answer for answer in answers.values() if answer is not None]
    oldest = [answer.oldest for answer in told if answer.oldest]
    reach = f", back to {time.strftime('%H:%M:%S', time.localtime(max(oldest)))}" if oldest else ""
    quiet = f" Ingress workers that did not answer: {', '.join(silent(answers))}." if silent(answers) else ""
    number = sum(answer.known for answer in told)
    known = (
        f"The last {number:,} are{reach}, and of those before that the last that failed or were slow"
        if number
        else "None has ended since the ingress workers began"
    )
    return f"no request {cut(request_id)!r} is remembered. {known}; ids are in the answers' X-Request-Id.{quiet}"


def steps_of(told: RecalledRequest) -> list[RequestStep]:
    """All steps of a request in order: those that were noted, and those that its record has times of."""
    record, steps, chosen = told.record, [RequestStep(0.0, "came")], False
    noted = [*record.steps]
    if (
        record.sent_s >= 0
        and record.replica
        and not any(s.what == "sent" and s.after_s == record.sent_s for s in noted)
    ):
        noted.append(RequestStep(record.sent_s, "sent", record.backend, record.replica, record.ahead))
    if record.began_s >= 0:
        noted.append(RequestStep(record.began_s, "began", record.backend, record.replica))
    # A step that was noted later of an earlier time, and one of the same time stays behind those before it.
    for step in sorted(noted, key=lambda step: step.after_s):
        if step.what in _CHOSEN_BEFORE and step.backend and not chosen:
            steps.append(RequestStep(step.after_s, "chosen", step.backend))
            chosen = True
        chosen = chosen and step.what not in _CHOSEN_AGAIN
        steps.append(step)
    return [*steps, RequestStep(record.latency_s, "pending" if told.pending else "ended", record.backend)]


def _as_dict(step: RequestStep, told: RecalledRequest) -> dict[str, Any]:
    return {**msgspec.to_builtins(step), "says": sentence(step, told)}


def sentence(step: RequestStep, told: RecalledRequest) -> str:
    """What happened in a step, for people."""
    record = told.record
    match step.what:
        case "came":
            return _came(record)
        case "chosen":
            return _chosen(step, told)
        case "began":
            return f"the answer began{_handler(record)}"
        case "pending":
            return f"under way: {_place(record, pending=True)}"
        case "ended":
            return _ended(record)
        case "queue_full" if not step.loads:
            return f"the queue was full: {step.number} waited"
    says = _SAYS.get(step.what, "{text}")
    return says.format(
        backend=step.backend,
        replica=step.replica,
        number=step.number,
        text=step.text,
        loads=_loads(step),
        bytes=_bytes(step.number),
        calls=_calls(step.number),
        again=f"; not sent again, for {step.text}" if step.text else "",
    )


def printable(text: str) -> str:
    """Text of a client's for a terminal: what would move the cursor, say, is escaped, and what is long is cut."""
    return escaped(cut(text))


def cut(text: str) -> str:
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"


def escaped(text: str, *, allowed: str = "") -> str:
    """Text for a terminal, where what would move the cursor, say, is escaped, but for the characters ``allowed``."""
    return "".join(char if char.isprintable() or char in allowed else ascii(char)[1:-1] for char in text)


def _came(record: RequestRecord) -> str:
    if record.chain:
        return f"a handle called endpoint {record.endpoint!r} in {' → '.join(record.chain)}"
    what = f"{record.method} {printable(record.path)}"
    if not record.endpoint:
        return f"{what}, which is no endpoint's"
    return f"{what} of endpoint {record.endpoint!r}" + (f" (route {record.route})" if record.route else "")


def _chosen(step: RequestStep, told: RecalledRequest) -> str:
    if not told.policy:
        return f"backend {step.backend!r} was chosen; from what is not known any more"
    weights = ", ".join(f"{name}={weight:g}" for name, weight in told.weights.items())
    return f"policy {told.policy!r} chose backend {step.backend!r} from {weights}"


def _loads(step: RequestStep) -> str:
    shown = [
        f"{replica} {calls} of {room}" if room else f"{replica} none now"
        for replica, (calls, room) in list(step.loads.items())[:4]
    ]
    more = len(step.loads) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "") or "none is there"


def _calls(number: int) -> str:
    return {0: "no call", 1: "1 call"}.get(number, f"{number} calls")


def _handler(record: RequestRecord) -> str:
    """How long the handler ran, and how long the request had waited for that at the replica, where it is known: an
    answer may begin long before its handler ends."""
    if record.service_s < 0:
        return ""
    ran = f", the handler ran for {span(record.service_s)}"
    waited_s = record.began_s - record.sent_s - record.service_s
    return f"{ran}, after a wait of {span(waited_s)} there" if waited_s >= LONG_WAIT_S else ran


def _where(record: RequestRecord) -> str:
    """A key of `_PLACES`: where a request is, or was, that has no whole answer."""
    if record.began_s >= 0:
        return "began"
    if record.replica and record.sent_s >= 0:
        return "sent"
    waits = [step.what for step in record.steps if step.what in _PLACES]
    return waits[-1] if waits else ""


def _place(record: RequestRecord, *, pending: bool = False) -> str:
    was, is_now = _PLACES[_where(record)]
    return (is_now if pending else was).format(replica=record.replica, backend=record.backend)


def _ended(record: RequestRecord) -> str:
    status = f"answered {record.status}"
    match record.error:
        case "deadline":
            return f"{status} (deadline): its time was over while {_place(record)}"
        case "handler_failed":
            return f"{status}: the handler raised; servekit logs has the traceback"
        case "broken_off":
            return f"broken off after {_bytes(record.body_bytes)}; its status had been {record.status}"
        case "" if record.status == 499:
            return f"the client went away while {_place(record)}"
        case "":
            return f"{status}, {_bytes(record.body_bytes)}"
    return f"{status} ({record.error})"


def _bytes(number: int) -> str:
    return "1 byte" if number == 1 else f"{number:,} bytes"


def span(seconds: float) -> str:
    """How long, for people: ``0.21 ms``, ``14.2 ms``, ``3.10 s``."""
    if seconds < 1:
        return f"{seconds * 1000:.{2 if seconds < 0.01 else 1}f} ms"
    return f"{seconds:.2f} s"
