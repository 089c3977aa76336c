"""Answers that a handler makes piece by piece: a generator's, mostly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from servekit.replica.call import Job
from servekit.replica.outgoing import PieceSender, StoppedError
from servekit.replica.render import Rendered, close_body
from servekit.wire.frames import PIECE_BYTES, UNKNOWN, Answer

Post = Callable[[Callable[[], None]], None]
Failure = Callable[[Job, BaseException], Rendered]


def stream(job: Job, rendered: Rendered, post: Post, failure: Failure) -> bool | tuple[Rendered, bool]:
    """In a thread: send what a body's iterable makes. Returns whether all of it could be sent.

    Where it fails before its first piece, nothing is sent, and it returns the answer to be sent instead, and True for
    "failed". ``post`` has a call made on the data loop; ``failure`` logs an error and gives the answer that says so.
    """
    body: Any = rendered[2]
    sender = job.sender = PieceSender(post, job.link, job.id)
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
        _close(job, body, failure)


def _pieces(job: Job, rendered: Rendered) -> Iterator[bytes]:
    if job.request.method == "HEAD" or rendered[0] in (204, 304):  # RFC 9110, 6.4.1: there is none
        return
    for piece in rendered[2]:
        if not isinstance(piece, (bytes, bytearray, memoryview)):
            raise TypeError(f"a streamed body is made of bytes; {type(piece).__name__} came")
        yield bytes(piece)


def _begin(sender: PieceSender, job: Job, rendered: Rendered, piece: bytes) -> None:
    status, head, _, length = rendered
    piece = piece[:length]
    first, more = piece[:PIECE_BYTES], piece[PIECE_BYTES:]
    rest = UNKNOWN if length is None else length - len(first)
    sender.begin(Answer(job.id, status, head, first, 0, 0, False, rest, True))
    if more:
        sender.send(more)


def _close(job: Job, body: object, failure: Failure) -> None:
    """What that raises is told like any other failure; the answer has gone out by then, or has failed itself."""
    try:
        close_body(body)
    except BaseException as error:
        failure(job, error)
