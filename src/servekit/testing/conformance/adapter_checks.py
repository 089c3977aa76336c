"""Checks that the cases for adapters share. Each sends requests by a way, and fails with what the contract says."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest

from servekit.interfaces import Request, Response
from servekit.testing.conformance import exchanges
from servekit.testing.conformance.exchanges import Answer, Got, Sent, echo, named
from servekit.testing.conformance.sources import Source
from servekit.testing.conformance.ways import Http, Way


def answer_to(way: Way, sent: Sent, answer: Answer | None = None) -> Got:
    """The answer, where all must go well: the handler is called, once, and no exception comes out."""
    __tracebackhide__ = True
    try:
        got = way.ask(sent.having(way.tests.request_body(sent.body)), answer or echo)
    except (AssertionError, NotImplementedError):
        raise
    except Exception as error:
        way.fail(f"{named(error)} came out, for {sent}", "where the handler does not fail, nor does the call", error)
    if len(got.calls) != 1:
        way.fail(
            f"the handler was called {len(got.calls)} times, for {sent}; the answer: {got.status} {got.body!r:.70}",
            "the handler is called once for a request (does request_body give what the adapter takes?)",
        )
    if not isinstance(got.seen.body, bytes):
        way.fail(f"the handler received {got.seen.body!r:.80}: not bytes", "body_of gives the bytes that came")
    if answer is None and got.status != 200:
        way.fail(f"{sent} was answered with {got.status}: {got.body[:80]!r}", "what goes well is a 200")
    return got


def data_in(way: Way, got: Got) -> bytes:
    """The data in an answer's body."""
    __tracebackhide__ = True
    try:
        return way.tests.answered_data(got.body)
    except Exception as error:
        what = f"answered_data cannot read {got.body[:80]!r}: {named(error)}"
        way.fail(what, "an answer's body is all there", error)


def fields_of(request: Request) -> dict[str, Any]:
    """Copies of all that an adapter could change in it."""
    names = [name for name in Request.__struct_fields__ if name != "incoming"]
    return {name: copy.deepcopy(getattr(request, name)) for name in names}


def check_unchanged(way: Way, request: Request, before: dict[str, Any]) -> None:
    __tracebackhide__ = True
    for name, value in fields_of(request).items():
        if value != before[name]:
            way.fail(
                f"it changed the request's {name}: {before[name]!r} to {value!r}", "requests are read, not written"
            )


def check_body(way: Way, data: bytes, piece_bytes: int) -> None:
    """It arrives, and comes back."""
    __tracebackhide__ = True
    got = answer_to(way, Sent(data, piece_bytes=piece_bytes))
    check_data(way, "a request", data, got.seen.body)
    check_data(way, "an answer", data, data_in(way, got))


def check_data(way: Way, whose: str, sent: bytes, came: bytes) -> None:
    """``whose``: "a request" or "an answer"."""
    __tracebackhide__ = True
    if sent == came:
        return
    same = next((n for n, pair in enumerate(zip(sent, came, strict=False)) if pair[0] != pair[1]), None)
    where = f"the first {len(came)}" if same is None else f"{len(came)}, other ones from byte {same} on"
    claim = "is_async" if way.adapter.is_async else "streams_body"
    hint = f" ({claim}: is {way.reads} read?)" if getattr(way.adapter, claim) else ""
    way.fail(
        f"of the {len(sent)} bytes in the body of {whose} came {where}",
        f"every body passes whole, whatever bytes it has{hint if whose == 'a request' else ''}",
    )


def check_status(way: Way, got: Got, status: int) -> None:
    if got.status != status:
        way.fail(f"the handler answered {status}, and {got.status} came out", "the status is the handler's")


def check_headers_arrive(way: Way, headers: Sequence[tuple[str, str]]) -> None:
    __tracebackhide__ = True
    seen = answer_to(way, Sent(b"", headers)).seen.headers
    if seen is None:
        pytest.skip("headers_of is not overridden: handlers do not see them")
    came = list(seen)
    for name in dict.fromkeys(name.lower() for name, _ in headers):
        values, found = ([v for n, v in given if n.lower() == name] for given in (headers, came))
        parts = [part.strip(" \t") for value in found for part in value.split(",")]
        if parts != values:
            way.fail(
                f"of the request's header {name!r}, sent as {values!r}, the handler saw {found!r}",
                "handlers see every value of a header, decoded as latin-1, in the order in which they were sent",
            )


def check_headers_answered(way: Way, headers: Sequence[tuple[str, str]]) -> None:
    __tracebackhide__ = True
    got = answer_to(way, Sent(), lambda seen: Response(200, list(headers), b""))
    given = [(name.lower(), value) for name, value in headers]
    came = [(name, value) for name, value in got.headers if name in dict(given)]
    if came != given:
        way.fail(
            f"of an answer's headers {given!r} came {came!r}",
            "the headers of an answer are the handler's, in its order, repeated ones each on its own",
        )


def check_same(way: Way, plain: Got, when: str) -> None:
    """A request like the one that ``plain`` answered is answered so again."""
    __tracebackhide__ = True
    got = answer_to(way, Sent(b"plain"))
    for what, now, then in (
        ("the handler saw", got.seen, plain.seen),
        ("the answer was", (got.status, got.headers, got.body), (plain.status, plain.headers, plain.body)),
    ):
        if now != then:
            way.fail(
                f"{when}, the same request as before was another: {what} {now}, and before {then}",
                "an adapter keeps nothing of a request for the next one",
            )


def check_closed(way: Way, source: Source, after: str) -> None:
    __tracebackhide__ = True
    is_async = way.adapter.is_async
    source.was_closed.wait(exchanges.PATIENCE_S if is_async or isinstance(way, Http) else 0)
    if source.times_closed != 1:
        way.fail(
            f"a streamed answer that ended after {after} was closed {source.times_closed} times",
            f"the body of the Response has {'an aclose' if is_async else 'a close'} that closes what the handler gave, "
            "once, read to its end or not",
        )
