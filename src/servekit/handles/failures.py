"""The failure of a call, on its way from the handler, or from the ingress, to the caller."""

from __future__ import annotations

import asyncio
import traceback
from typing import Any

from servekit import errors
from servekit.errors import HandlerError, ServekitError
from servekit.handles.payload import Buffer, pack, unpack

_BY_STATUS: dict[int, type[ServekitError]] = {
    400: errors.InvalidInputError,
    404: errors.NotFoundError,
    502: errors.ReplicaDiedError,
    503: errors.UnavailableError,
    504: errors.DeadlineError,
    508: errors.CallCycleError,
}
_NOT_RAISED = (StopIteration, StopAsyncIteration, asyncio.CancelledError)
"""A caller would take these for exceptions of its own."""


class RemoteTracebackError(Exception):
    """The traceback in the handler: the ``__cause__`` of the exception that a caller catches."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._text = text

    def __str__(self) -> str:
        return f'\n"""\n{self._text.rstrip()}\n"""'


def pack_failure(error: BaseException) -> bytes:
    """A handler's exception, with its traceback. An exception that cannot be pickled is packed as text alone."""
    trace = "".join(traceback.format_exception(error))
    summary = "".join(traceback.format_exception_only(error)).strip()
    pickled: bytes | None = None
    if isinstance(error, Exception) and not isinstance(error, _NOT_RAISED):
        try:
            pickled = pack(error)
        except Exception as problem:
            summary += f" (the exception itself could not be pickled: {_summary(problem)})"
    return pack((summary, trace, pickled))


def unpack_failure(payload: Buffer) -> Exception:
    """The exception to be raised at the caller."""
    summary, trace, pickled = unpack(payload)
    found: Any = None
    if pickled is not None:
        try:
            found = unpack(pickled)
        except Exception as problem:
            summary += f" (the exception itself could not be unpickled: {_summary(problem)})"
    error = found if isinstance(found, Exception) else HandlerError(f"the handler failed: {summary}")
    error.__cause__ = RemoteTracebackError(trace)
    return error


def refused(status: int, body: bytes) -> ServekitError:
    """The error that an answer in plain text tells of. Such an answer is the ingress's own, or that of a replica which
    did not call the handler."""
    text = body.decode(errors="replace").strip()
    reason, colon, rest = text.partition(": ")
    return _BY_STATUS.get(status, HandlerError)(rest if colon and reason.istitle() else text)


def _summary(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
