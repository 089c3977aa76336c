"""The kit takes adapters that are async, and fails those that are broken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.testing.conformance import async_adapters as adapters
from tests.testing.conformance.adapter_kit import (
    AT_ONCE,
    BODIES,
    BROKEN_OFF,
    CLOSED,
    DRAINED,
    FAILING,
    GIVEN_UP,
    RAISED,
    STREAMED,
    UNWANTED,
    Kit,
    failure_of,
    failure_over_http,
    kit_for,
    run_case,
)
from tests.testing.conformance.broken_adapters import Reply

from servekit.interfaces import Response
from servekit.testing.conformance import Seen

pytestmark = pytest.mark.usefixtures("impatient")


class TestRight(Kit):
    factory = adapters.RightAsync


class TestWithAsyncHandlers(Kit):
    """The handler is an ``async def`` of the author's own."""

    factory = adapters.RightAsync

    def handler(self, act: Callable[[Seen], Response]) -> Callable[..., Any]:
        async def handler(argument: Any) -> Reply:
            return self.result(act(Seen(argument.data, argument.headers, argument.path, argument.query)))

        return handler


SAID = [
    (adapters.ReadsTheFirstPart, BODIES, "came the first 1000. The contract: every body passes whole, whatever bytes"),
    (adapters.TakesWhatCame, BROKEN_OFF, "a body broke off in the middle, and it answered 200. The contract: what Re"),
    (adapters.Collects, STREAMED, "it made all of a streamed answer before the first piece went out"),
    (adapters.ClosesIfBegun, UNWANTED, "after no piece at all (HEAD) was closed 0 times. The contract: the body of t"),
    (adapters.EndsQuietly, FAILING, "a streamed answer whose iterable raised ended as if it were whole"),
    (adapters.WrapsExceptions, RAISED, "the handler raised KitError: for the kit, and RuntimeError: the handler faile"),
    (adapters.AnswersTheLast, AT_ONCE, "got the answer of another"),
    (adapters.OneAtATime, AT_ONCE, "4 calls at once were never in their handlers together (is there a lock?)"),
    (adapters.BlocksTheLoop, AT_ONCE, "nothing came of call_async(), or of its answer, after 2 s. The contract: noth"),
    (adapters.NeverAnswers, BODIES, "nothing came of call_async(), or of its answer, after 2 s. The contract: nothin"),
    (adapters.Shields, GIVEN_UP, "a call was cancelled, and has ended; but its handler goes on. The contract: call_as"),
    (adapters.IsNotCancelled, GIVEN_UP, "a call that was cancelled, or the aclose of its answer, had not ended after"),
    (adapters.CancelsWhenDrained, DRAINED, "CancelledError came out of a call that was under way when drain() was "),
    (adapters.NeedsMore, BODIES, "start() raised RuntimeError: no such model. The contract: it is called once, on th"),
    (adapters.StopsWhatItNeverBegan, CLOSED, "drain() raised AttributeError: 'NoneType' object has no attribute 'cle"),
    (adapters.NeverStops, CLOSED, "stop() had not returned after 2 s"),
    (adapters.ClosesOnTheLoop, CLOSED, "close() raised RuntimeError: no running event loop. The contract: it is call"),
    (adapters.StopsTheClass, CLOSED, "RuntimeError: stopped came out"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("factory", "case", "said"), [pytest.param(*row, id=f"{row[0].__name__}-{row[1]}") for row in SAID]
)
def test_a_broken_adapter_fails_with_what_is_wrong(factory: Callable[[], Any], case: str, said: str) -> None:
    found = failure_of(kit_for(factory), case)
    assert said in found
    assert found.startswith(f"{factory.__name__} by call_async(): ")  # type: ignore[attr-defined]


OVER_HTTP = [
    (adapters.ReadsTheFirstPart, BODIES, "(is_async: is Request.pieces read?)"),
    (adapters.Collects, STREAMED, "it made all of a streamed answer before the first piece went out"),
    (adapters.ClosesIfBegun, UNWANTED, "(HEAD) was closed 0 times"),
    (adapters.EndsQuietly, FAILING, "ended as if it were whole"),
    (adapters.AnswersTheLast, AT_ONCE, "got the answer of another"),
    (adapters.OneAtATime, AT_ONCE, "(is there a lock?)"),
]


@pytest.mark.parametrize(("factory", "case", "said"), OVER_HTTP)
def test_a_broken_adapter_fails_over_http_too(
    factory: Callable[[], Any], case: str, said: str, serve_instance: Any
) -> None:
    found = failure_over_http(kit_for(factory), case, serve_instance)
    assert found.startswith(f"{factory.__name__} over HTTP: ")  # type: ignore[attr-defined]
    assert said in found


def test_decode_and_encode_have_no_case_of_their_own() -> None:
    with pytest.raises(pytest.skip.Exception, match="is_async: the adapter is called by call_async alone"):
        run_case(kit_for(adapters.RightAsync), BODIES, by_parts=True)


def test_a_call_in_a_thread_is_not_cancelled() -> None:
    with pytest.raises(pytest.skip.Exception, match="not is_async"):
        run_case(kit_for(adapters.Right), GIVEN_UP)
