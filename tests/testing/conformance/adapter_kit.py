"""The kit for request adapters, to be tested itself: its cases by name, and run one by one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from tests.testing.conformance.broken_adapters import Asked, Reply

from servekit.interfaces import RequestAdapter, Response
from servekit.testing.conformance import RequestAdapterTests

BODIES = "test_bodies_arrive_whole_and_come_back"
ANY_BODY = "test_any_body_comes_back"
BROKEN_OFF = "test_a_body_that_breaks_off_is_not_taken_for_a_whole_one"
HEADERS = "test_headers_arrive"
QUERIES = "test_query_strings_arrive"
PATHS = "test_paths_arrive"
AS_IT_WAS = "test_the_request_is_left_as_it_was"
STATUSES = "test_statuses"
NO_BODY = "test_a_204_and_a_304_have_no_body"
ANSWERED_HEADERS = "test_headers_of_answers"
NO_ANSWER = "test_what_is_no_answer_is_a_type_error"
STREAMED = "test_a_streamed_answer_goes_out_as_it_is_made"
UNWANTED = "test_a_streamed_answer_that_nobody_wants_is_closed"
FAILING = "test_a_streamed_answer_that_fails_is_not_taken_for_a_whole_one"
RAISED = "test_what_a_handler_raises_comes_out"
NOTHING_BEHIND = "test_a_request_leaves_nothing_behind"
AT_ONCE = "test_requests_at_once_do_not_mix"
GIVEN_UP = "test_a_call_that_nobody_waits_for_ends"
DRAINED = "test_what_is_under_way_is_answered_while_the_replica_leaves"
CLOSED = "test_it_is_closed_once"


class Kit(RequestAdapterTests):
    """For the adapters that are like `Right`."""

    factory: Callable[[], RequestAdapter]

    def make_adapter(self) -> RequestAdapter:
        return type(self).factory()

    def body_of(self, argument: Asked) -> bytes:
        return argument.data

    def headers_of(self, argument: Asked) -> list[tuple[str, str]]:
        return argument.headers

    def path_of(self, argument: Asked) -> str:
        return argument.path

    def query_of(self, argument: Asked) -> bytes:
        return argument.query

    def result(self, answer: Response) -> Reply:
        return Reply(answer.status, answer.headers, answer.body)


def kit_for(factory: Any, **claims: Any) -> Kit:
    kit: Kit = type("TheKit", (Kit,), {"factory": staticmethod(factory), **claims})()
    return kit


def run_case(kit: RequestAdapterTests, case: str, by_parts: bool = False) -> None:
    if case == CLOSED:
        kit.test_it_is_closed_once()
        return
    with closing(kit._method_client(by_parts)) as client:
        getattr(kit, case)(client)


def failure_of(kit: RequestAdapterTests, case: str, by_parts: bool = False) -> str:
    with pytest.raises(AssertionError) as raised:
        run_case(kit, case, by_parts)
    return str(raised.value)


def failure_over_http(kit: RequestAdapterTests, case: str, served: Any) -> str:
    with pytest.raises(AssertionError) as raised:
        getattr(kit, case)(kit._http_client(served))
    return str(raised.value)
