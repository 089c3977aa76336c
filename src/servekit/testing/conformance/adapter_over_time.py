"""What an adapter must do over time: one request after another, several at once, and from its start to its end."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import pytest

from servekit.interfaces import Response
from servekit.testing.conformance import adapter_samples as samples
from servekit.testing.conformance import exchanges
from servekit.testing.conformance.adapter_cases import AdapterCases, fails
from servekit.testing.conformance.adapter_checks import answer_to, check_body, check_data, check_same, data_in
from servekit.testing.conformance.exchanges import Fault, Got, Seen, Sent, echo, named
from servekit.testing.conformance.on_loop import OnLoop
from servekit.testing.conformance.ways import Direct, Http, Way

AT_ONCE = 4


class OverTimeTests(AdapterCases):
    """See `RequestAdapterTests`."""

    def test_what_a_handler_raises_comes_out(self, way: Way) -> None:
        plain = answer_to(way, Sent(b"plain"))
        for error in (Fault("for the kit"), ValueError("kit"), TypeError("kit"), KeyError("kit"), SystemExit(3)):
            contract = "what a handler raises comes out of the call; the core logs it and answers 500"
            try:
                got = way.ask(Sent(self.request_body(b"odd"), samples.HEADERS), functools.partial(fails, error))
            except BaseException as raised:
                if raised is not error:
                    way.fail(f"the handler raised {named(error)}, and {named(raised)} came out", contract)
            else:
                if not (isinstance(way, Http) and got.status == 500 and b"failed on this request" in got.body):
                    way.fail(f"the handler raised {named(error)}, and the answer is {got.status}", contract)
            check_same(way, plain, f"after a handler that raised {named(error)}")

    def test_a_request_leaves_nothing_behind(self, way: Way) -> None:
        plain = answer_to(way, Sent(b"plain"))
        answer_to(way, Sent(samples.BODIES[-1], samples.HEADERS, "/kit/other", b"a=1"))
        check_same(way, plain, "after a request with headers, a query string and a long body")
        if self.sets_status and self.sets_headers:
            answer_to(way, Sent(), lambda seen: Response(404, list(samples.ANSWERED), b"no"))
            check_same(way, plain, "after an answer with a status and headers")
        if self.streams:
            source = way.source([b"one", b"two"])
            with way.streamed(Sent(self.request_body(b"")), lambda seen: Response(200, [], source)) as stream:
                if isinstance(way, Direct):  # Another call while this one's answer is still going out.
                    check_same(way, plain, "while an answer was streamed")
                list(stream)
            check_same(way, plain, "after an answer was streamed")

    def test_requests_at_once_do_not_mix(self, way: Way) -> None:
        way.slots = AT_ONCE
        meeting = threading.Barrier(AT_ONCE, timeout=exchanges.PATIENCE_S)
        seen_by: list[Seen] = []

        def answer(seen: Seen) -> Response:
            seen_by.append(seen)
            headers = [("X-Kit-Who", seen.body.decode("latin-1"))] if self.sets_headers else []
            return Response(200, headers, seen.body)

        def ask(who: int) -> Got:
            data = b"%d" % who
            return way.ask(Sent(self.request_body(data), [("x-kit-who", str(who))], query=data), answer)

        contract = "an adapter answers several requests at once, and keeps nothing of them in itself"
        with ThreadPoolExecutor(AT_ONCE) as threads:
            way.start()
            way.act.before = way.act.after = meeting.wait
            try:
                answers = list(threads.map(ask, range(AT_ONCE)))
            except threading.BrokenBarrierError:
                answers = []
            finally:
                way.act.before = way.act.after = None
        if meeting.broken:
            way.fail(f"{AT_ONCE} calls at once were never in their handlers together (is there a lock?)", contract)
        for who, got in enumerate(answers):
            if data_in(way, got) != b"%d" % who or got.header("x-kit-who") not in (None, str(who)):
                way.fail(f"of {AT_ONCE} requests at once, number {who} got the answer of another", contract)
        for seen in seen_by:
            names = {value for name, value in seen.headers or () if name.lower() == "x-kit-who"}
            if seen.query not in (None, seen.body, seen.body.decode()) or names - {seen.body.decode()}:
                way.fail(f"of {AT_ONCE} requests at once, a handler saw parts of two: {seen}", contract)

    def test_a_call_that_nobody_waits_for_ends(self, direct: Direct) -> None:
        if not isinstance(direct, OnLoop):
            pytest.skip("the adapter is not is_async: a call in a thread cannot be cancelled")
        plain = answer_to(direct, Sent(b"plain"))
        with held(direct):
            call = direct.begin(direct.request(Sent(self.request_body(b"odd"), samples.HEADERS)))
            direct.act.began.wait(exchanges.PATIENCE_S)
            direct.act.ended.clear()
            call.close()
            if not direct.act.ended.wait(exchanges.PATIENCE_S):
                what = "a call was cancelled, and has ended; but its handler goes on"
                direct.fail(what, "call_async is cancelled when nobody waits for the answer, and ends the handler too")
        check_same(direct, plain, "after a call that was cancelled")

    def test_what_is_under_way_is_answered_while_the_replica_leaves(self, direct: Direct) -> None:
        with ThreadPoolExecutor(1) as thread:
            with held(direct):
                asked = thread.submit(direct.ask, Sent(self.request_body(b"data")), echo)
                direct.act.began.wait(exchanges.PATIENCE_S)
                direct.life.drain()
            error = asked.exception()
        if error is not None:
            what = f"{named(error)} came out of a call that was under way when drain() was called"
            direct.fail(what, "a call that has begun is answered before the replica ends")
        check_data(direct, "an answer", b"data", data_in(direct, asked.result()))

    def test_it_is_closed_once(self) -> None:
        """After requests, in a replica that has had none, and in one that never got ready."""
        with closing(self._direct()) as used, closing(self._direct()) as unused, closing(self._direct()) as unready:
            if used.adapter is unused.adapter:
                used.fail("make_adapter returned the same object twice", "each replica has an adapter of its own")
            check_body(used, b"data", 0)
            unused.start()
            for way in (used, unused, unready):
                way.life.end()
        with closing(self._direct()) as another:
            check_body(another, b"data", 0)


@contextmanager
def held(way: Way) -> Iterator[None]:
    """Handlers that have begun go no further before the end of this, which comes while there is patience left."""
    let_go = threading.Event()

    def hold() -> None:
        way.act.began.set()
        let_go.wait(4 * exchanges.PATIENCE_S)

    way.start()
    way.act.before = hold
    try:
        yield
    finally:
        way.act.before = None
        let_go.set()
