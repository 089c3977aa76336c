"""The lines that servekit's processes log: their times and names, and what request each is about."""

from __future__ import annotations

import io
import json
import logging
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec import structs

from servekit.context import Context, current_call
from servekit.control.launch import Launch
from servekit.control.setup import InstanceOptions
from servekit.errors import InvalidInputError
from servekit.logs import LogSetup, RequestFilter, formatter, stamp

NAMES = {"role": "replica", "backend": "v1", "replica": "r3-92fbe6"}
CONTEXT = Context("v1", "r3-92fbe6", "digits", "6b1d-7", 1, 0.0, ())


class Logger:
    """A logger whose lines are in `text`."""

    def __init__(self) -> None:
        self._stream = io.StringIO()
        self.handler = logging.StreamHandler(self._stream)
        self.handler.addFilter(RequestFilter())
        self.log = logging.Logger("servekit.replica")
        self.log.addHandler(self.handler)

    def writes(self, names: dict[str, str], format: str, **options: Any) -> None:
        self.handler.setFormatter(formatter(names, LogSetup(format=format), **options))

    @property
    def text(self) -> str:
        return self._stream.getvalue()


@pytest.fixture
def logger() -> Logger:
    return Logger()


@pytest.fixture
def in_call() -> Iterator[None]:
    token = current_call.set(CONTEXT)
    yield
    current_call.reset(token)


def test_a_line_of_text_has_time_level_and_names(logger: Logger) -> None:
    logger.writes(NAMES, "text")
    before = stamp(time.time())
    logger.log.warning("it is %s", "late")
    at, rest = logger.text.split(" ", 1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", at)
    assert before <= at <= stamp(time.time())
    assert rest == "WARNING replica v1 r3-92fbe6 it is late\n"


def test_a_moment_is_in_utc_to_the_millisecond() -> None:
    assert stamp(1796040000.1239) == "2026-11-30T12:00:00.123Z"
    assert stamp(1796040000.0) == "2026-11-30T12:00:00.000Z"


def test_a_line_of_a_call_has_the_request_and_no_name_twice(logger: Logger, in_call: None) -> None:
    logger.writes(NAMES, "text")
    logger.log.error("no")
    assert " ERROR replica v1 r3-92fbe6 [request 6b1d-7, endpoint digits] no\n" in logger.text


def test_what_a_record_says_of_its_request_comes_before_the_call_that_is_answered(
    logger: Logger, in_call: None
) -> None:
    logger.writes({"role": "ingress", "worker": "ingress1"}, "text")
    logger.log.error("no", extra={"request_id": "other", "endpoint": "e", "backend": "", "replica": ""})
    assert " ERROR ingress ingress1 [request other, endpoint e] no\n" in logger.text


@pytest.mark.parametrize("format", ["text", "json"])
def test_a_line_of_a_call_has_the_trace_that_the_call_belongs_to(logger: Logger, format: str) -> None:
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = [(b"traceparent", f"00-{trace_id}-00f067aa0ba902b7-01".encode())]
    logger.writes(NAMES, format)
    token = current_call.set(structs.replace(CONTEXT, headers=headers))
    try:
        logger.log.error("no")
    finally:
        current_call.reset(token)
    if format == "json":
        assert json.loads(logger.text)["trace_id"] == trace_id
    else:
        assert f"[request 6b1d-7, endpoint digits, trace {trace_id}] no\n" in logger.text


def test_each_line_of_a_traceback_can_have_what_is_before_the_first(logger: Logger, in_call: None) -> None:
    logger.writes(NAMES, "text", each_line=True)
    try:
        raise LookupError("lost")
    except LookupError:
        logger.log.exception("failed")
    lines = logger.text.splitlines()
    assert len(lines) == 5
    assert {line[24:].partition("] ")[0] for line in lines} == {
        " ERROR replica v1 r3-92fbe6 [request 6b1d-7, endpoint digits"
    }
    assert lines[-1].endswith("] LookupError: lost")


@pytest.mark.parametrize("how", ["exc_info", "extra"])
def test_json_is_one_object_a_line_with_the_traceback_in_a_field(logger: Logger, in_call: None, how: str) -> None:
    logger.writes(NAMES, "json")
    if how == "extra":
        logger.log.error("failed\n%s", "where\nwhat", extra={"traceback": "where\nwhat"})
    else:
        try:
            raise LookupError("lost")
        except LookupError:
            logger.log.exception("failed")
    (line,) = logger.text.splitlines()
    found = json.loads(line)
    trace = found.pop("traceback")
    assert trace == "where\nwhat" if how == "extra" else trace.endswith("\nLookupError: lost")
    assert re.fullmatch(r"\d{4}-.*Z", found.pop("time"))
    assert found == {
        "level": "ERROR",
        "role": "replica",
        "backend": "v1",
        "replica": "r3-92fbe6",
        "request_id": "6b1d-7",
        "endpoint": "digits",
        "message": "failed",
        "logger": "servekit.replica",
    }


def test_json_bears_what_is_no_text(logger: Logger) -> None:
    logger.writes(NAMES, "json")
    logger.log.error("path %s", "/\udcff")
    assert json.loads(logger.text)["message"] == "path /\udcff"


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"log_level": "loud"}, "log_level must be one of debug, info, warning, error, not 'loud'"),
        ({"log_format": "xml"}, "log_format must be one of text, json, not 'xml'"),
        ({"log_file_bytes": 10}, "log_file_bytes must be at least 100000, not 10"),
        ({"log_files": 0}, "log_files must be at least 1, not 0"),
    ],
)
def test_what_cannot_be_is_refused(option: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        Launch(InstanceOptions("it", "process", **option), standing=False)
