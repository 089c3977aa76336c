"""The headers by which a request belongs to a trace."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.traces import TraceParent, parse, pass_on, passed_on, text_of, trace_id_of

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN_ID = "00f067aa0ba902b7"
CAME = f"00-{TRACE_ID}-{SPAN_ID}-01".encode()
OWN = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")

hexadecimal = st.text("0123456789abcdef")
ids = st.builds(lambda number, digits: f"{number:0{digits}x}", st.integers(1, 2**64 - 1), st.sampled_from([16, 32]))


def test_what_a_traceparent_says() -> None:
    assert parse(CAME) == TraceParent(TRACE_ID, SPAN_ID, 1)
    assert str(TraceParent(TRACE_ID, SPAN_ID, 1)) == CAME.decode()
    assert [TraceParent(TRACE_ID, SPAN_ID, flags).is_sampled for flags in (0, 1, 2, 3)] == [False, True, False, True]


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"00",
        CAME[:-1],
        CAME + b"0",
        CAME + b"-",
        CAME + b"-more",
        CAME + b"\n",
        CAME.upper(),
        b"ff" + CAME[2:],
        b"0" + CAME,
        b" " + CAME,
        CAME.replace(b"-", b"_"),
        CAME[:-2] + b"0g",
        b"00-%b-%b-01" % (b"0" * 32, SPAN_ID.encode()),
        b"00-%b-%b-01" % (TRACE_ID.encode(), b"0" * 16),
        b"01-%b-%b-0" % (TRACE_ID.encode(), SPAN_ID.encode()),
        b"01-%b-%b-01x" % (TRACE_ID.encode(), SPAN_ID.encode()),
    ],
)
def test_what_is_malformed_stands_for_nothing(value: bytes) -> None:
    assert parse(value) is None


@pytest.mark.parametrize("more", [b"", b"-", b"-what-comes-then"])
def test_of_a_later_version_what_is_known_is_taken(more: bytes) -> None:
    assert parse(b"cc" + CAME[2:-2] + b"ff" + more) == TraceParent(TRACE_ID, SPAN_ID, 1)


def test_flags_of_later_versions_are_left_out() -> None:
    assert parse(CAME[:-2] + b"ff") == TraceParent(TRACE_ID, SPAN_ID, 3)
    assert parse(CAME[:-2] + b"04") == TraceParent(TRACE_ID, SPAN_ID, 0)


@given(st.binary(max_size=80))
def test_whatever_comes_is_a_parent_or_nothing(value: bytes) -> None:
    found = parse(value)
    assert found is None or OWN.fullmatch(str(found))


@given(ids.filter(lambda each: len(each) == 32), ids.filter(lambda each: len(each) == 16), st.integers(0, 3))
def test_what_is_well_formed_comes_back(trace_id: str, span_id: str, flags: int) -> None:
    parent = TraceParent(trace_id, span_id, flags)
    assert parse(str(parent).encode()) == parent


@given(
    st.lists(st.tuples(st.sampled_from([b"traceparent", b"tracestate", b"baggage", b"x"]), st.binary(max_size=60))),
    st.sampled_from([0.0, 0.5, 1.0]),
)
def test_what_goes_on_is_well_formed_whatever_came(headers: list[tuple[bytes, bytes]], share: float) -> None:
    passage = pass_on(headers, share)
    went = [value for name, value in passage.headers if name == b"traceparent"]
    assert went == ([passage.traceparent.encode()] if passage.traceparent else [])
    assert bool(passage.traceparent) or not share
    assert not passage.traceparent or OWN.fullmatch(passage.traceparent)
    others = {b"baggage", b"x"}
    assert [each for each in passage.headers if each[0] in others] == [each for each in headers if each[0] in others]


def test_a_trace_is_continued_under_a_span_of_its_own() -> None:
    headers = [(b"a", b"1"), (b"traceparent", CAME), (b"tracestate", b"v=1"), (b"baggage", b"user=7")]
    one, other = pass_on(headers), pass_on(headers, 1.0)
    for passage in (one, other):
        assert passage.parent == SPAN_ID
        assert trace_id_of(passage.traceparent) == TRACE_ID
        assert SPAN_ID not in passage.traceparent
        assert passage.traceparent.endswith("-01")
        assert passage.headers == [headers[0], (b"traceparent", passage.traceparent.encode()), *headers[2:]]
    assert one.traceparent != other.traceparent
    assert headers[1] == (b"traceparent", CAME), "the list is a new one"


def test_of_two_parents_none_is_believed() -> None:
    twice = [(b"traceparent", CAME), (b"tracestate", b"v=1"), (b"traceparent", CAME), (b"baggage", b"b=1")]
    assert pass_on(twice) == ("", "", [(b"baggage", b"b=1")])


def test_a_trace_begins_where_a_share_of_them_is_asked_for() -> None:
    begun = [pass_on([(b"tracestate", b"v=1")], 0.5) for _ in range(400)]
    assert all(passage.parent == "" and len(passage.headers) == 1 for passage in begun)
    flags = [passage.traceparent[-2:] for passage in begun]
    assert set(flags) == {"02", "03"}
    assert len({trace_id_of(passage.traceparent) for passage in begun}) == 400
    for passage in begun:
        sampled = int(trace_id_of(passage.traceparent)[16:], 16) < 2**63
        assert passage.traceparent.endswith("03" if sampled else "02")
    assert {pass_on([], 1.0).traceparent[-2:] for _ in range(20)} == {"03"}


def test_what_goes_on_from_call_to_call() -> None:
    headers = [(b"cookie", b"c"), (b"baggage", b"a=1"), (b"traceparent", CAME), (b"baggage", b"b=2")]
    assert passed_on(headers) == tuple(headers[1:])
    assert passed_on([(b"x-servekit-side", b"baseline"), (b"x-servekit-version", b"v2")]) == (
        (b"x-servekit-side", b"baseline"),
    )
    assert text_of(headers, b"baggage") == "a=1,b=2"
    assert text_of(headers, b"tracestate") == trace_id_of("") == ""
