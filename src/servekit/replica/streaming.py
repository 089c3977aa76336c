"""Answers that a handler makes piece by piece: a generator's, mostly. In a thread, or in a task on the data loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from servekit.replica.call import Job
from servekit.replica.joining import Joiner
from servekit.replica.outgoing import AsyncPieceSender, PieceSender, StoppedError
from servekit.replica.render import Rendered, aclose_body, close_body
from servekit.wire.data_frames import PIECE_BYTES, UNKNOWN, Answer

Post = Callable[[Callable[[], None]], None]
Failure = Callable[[Job, BaseException], Rendered]


def stream(job: Job, rendered: Rendered, post: Post, joiner: Joiner, failure: Failure) -> bool | tuple[Rendered, bool]:
    """In a thread: send what a body's iterable makes. Returns whether all of it could be sent.

    Where it fails before its first piece, nothing is sent, and it returns the answer to be sent instead, and True for
    "failed". ``post`` has a call made on the data loop; ``failure`` logs an error and gives the answer that says so.
    """
    body: Any = rendered[2]
    sender = job.sender = PieceSender(post, job.link, job.id, joiner)
    if job.stopped:  # It was told so before it had a sender.
        sender.stop()
    begun = False
    try:
        for piece in _pieces(job, rendered):
            if begun:
                sender.send(piece)
            else:
                begun = True
                _begin(sender, job, rendered, piece)
        if not begun:
            _begin(sender, job, rendered, b"")
        return True
    except StoppedError:
        return False
    except BaseException as error:
        answer = failure(job, error)
        return False if begun else (answer, True)
    finally:
        sender.end()
        _close(job, body, failure)


async def stream_async(job: Job, rendered: Rendered, joiner: Joiner, failure: Failure) -> bool | tuple[Rendered, bool]:
    """On the loop, in a task of its own or that of the handler: as `stream`, for an async iterable."""
    body: Any = rendered[2]
    sender = job.sender = AsyncPieceSender(job.link, job.id, joiner, joins=rendered[0] != 101)
    begun = False
    try:
        if job.stopped:
            raise StoppedError
        if _has_body(job, rendered):
            async for piece in body:
                more = _checked(piece)
                if not begun:
                    begun = True
                    first, more = _first(job, rendered, more)
                    sender.begin(first)
                if not sender.send(more):
                    await sender.ready()
        if not begun:
            begun = True
            sender.begin(_first(job, rendered, b"")[0])
        return True
    except BaseException as error:
        if begun and job.stopped:
            return False
        answer = failure(job, error)
        return False if begun else (answer, True)
    finally:
        sender.push()
        try:
            await aclose_body(body)
        except BaseException as error:
            failure(job, error)


def _has_body(job: Job, rendered: Rendered) -> bool:
    return job.request.method != "HEAD" and rendered[0] not in (204, 304)  # RFC 9110, 6.4.1


def _pieces(job: Job, rendered: Rendered) -> Iterator[bytes]:
    if _has_body(job, rendered):
        body: Any = rendered[2]
        for piece in body:
            yield _checked(piece)


def _checked(piece: object) -> bytes:
    if not isinstance(piece, (bytes, bytearray, memoryview)):
        raise TypeError(f"a streamed body is made of bytes; {type(piece).__name__} came")
    return bytes(piece)


def _begin(sender: PieceSender, job: Job, rendered: Rendered, piece: bytes) -> None:
    first, more = _first(job, rendered, piece)
    sender.begin(first)
    if more:
        sender.send(more)


def _first(job: Job, rendered: Rendered, piece: bytes) -> tuple[Answer, bytes]:
    """The frame that begins the answer, and what of its first piece is to follow."""
    status, head, _, length = rendered
    piece = piece[:length]
    first, more = piece[:PIECE_BYTES], piece[PIECE_BYTES:]
    rest = UNKNOWN if length is None else length - len(first)
    return Answer(job.id, status, head, first, 0, 0, False, rest, True), more


def _close(job: Job, body: object, failure: Failure) -> None:
    """What that raises is told like any other failure; the answer has gone out by then, or has failed itself."""
    try:
        close_body(body)
    except BaseException as error:
        failure(job, error)
