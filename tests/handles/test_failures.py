"""Exceptions on their way to the caller, and refusals in plain text."""

from __future__ import annotations

import asyncio
import threading

import pytest

from servekit import errors
from servekit.error_answers import ErrorAnswer
from servekit.handles.failures import pack_failure, refused, unpack_failure
from servekit.ingress import refusals


class OwnError(Exception):
    pass


class TwoPartsError(Exception):
    """As many are: pickled, it cannot be unpickled."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


class ThreadedError(Exception):
    def __init__(self) -> None:
        super().__init__("threaded")
        self.thread = threading.Thread()


def raised(error: BaseException) -> Exception:
    try:
        raise error
    except BaseException as caught:
        return unpack_failure(pack_failure(caught))


def test_an_exception_is_itself_with_its_traceback_as_cause() -> None:
    found = raised(OwnError("oh", 3))
    assert type(found) is OwnError
    assert found.args == ("oh", 3)
    assert "in raised" in str(found.__cause__)
    assert "OwnError: ('oh', 3)" in str(found.__cause__)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (TwoPartsError("here", "there"), "TwoPartsError: here and there .*could not be unpickled"),
        (ThreadedError(), "ThreadedError: threaded .*could not be pickled"),
        (SystemExit(2), "SystemExit: 2"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (StopIteration(), "StopIteration"),
        (asyncio.CancelledError(), "CancelledError"),
    ],
)
def test_what_cannot_be_raised_is_told_in_words(error: BaseException, text: str) -> None:
    found = raised(error)
    assert type(found) is errors.HandlerError
    with pytest.raises(errors.HandlerError, match=text):
        raise found
    assert type(error).__name__ in str(found.__cause__)


@pytest.mark.parametrize(
    ("refusal", "kind", "builtin"),
    [
        (refusals.no_endpoint("e", "."), errors.NotFoundError, LookupError),
        (refusals.endpoint_gone("e"), errors.NotFoundError, LookupError),
        (refusals.no_traffic("e"), errors.UnavailableError, RuntimeError),
        (refusals.no_replica("e"), errors.UnavailableError, RuntimeError),
        (refusals.version_down("e"), errors.UnavailableError, RuntimeError),
        (refusals.queue_full("e"), errors.UnavailableError, RuntimeError),
        (refusals.too_late("e", 2.0), errors.DeadlineError, TimeoutError),
        (refusals.replica_died("e"), errors.ReplicaDiedError, ConnectionError),
        (refusals.call_cycle("e", "'e' (r1)"), errors.CallCycleError, RuntimeError),
        (refusals.policy_failed("e"), errors.HandlerError, RuntimeError),
    ],
)
def test_refusals_become_errors(
    refusal: ErrorAnswer, kind: type[errors.ServekitError], builtin: type[Exception]
) -> None:
    _, body = refusal.render([], "request-1")
    found = refused(refusal.status, body)
    assert type(found) is kind
    assert isinstance(found, builtin)
    text = body.decode().strip()
    assert text.endswith(str(found))
    assert not str(found).startswith(text.partition(":")[0]), "the status line's words are for HTTP"
