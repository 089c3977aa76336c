"""Credit: how much of a long body its sender may send before its receiver has passed on what came.

The sender begins with `BODY_WINDOW_BYTES`. A piece takes its length of that, and is sent, whole, while there is any
left: so less than the window and one piece are ever sent and not granted. (An ingress that has none left at a handle
sends on what still comes from the replica, and grants that none: there it may be two windows.) The receiver grants what
it has passed on, and may keep back less than `PIECE_BYTES` of it: so the sender has credit again once all that it sent
was passed on.

The first part of a body, in the frame that begins it, differs:

- in an `Answer` it takes credit like any piece, and its receiver owes that (an ingress sends handles an empty one);
- in a `Call` or an `Invoke` it takes none, and nothing is owed for it.
"""

from __future__ import annotations

from servekit.wire.data_frames import PIECE_BYTES


class Debt:
    """What the receiver of a body has passed on, and has not granted yet."""

    __slots__ = ("_owed",)

    def __init__(self, first_bytes: int = 0) -> None:
        """``first_bytes``: the length of an `Answer`'s first part. Or less than 0, by that of a call's: nothing is owed
        for it, though it will be taken like what follows."""
        self._owed = first_bytes

    def taken(self, size_bytes: int, due: bool = True) -> int:
        """So much more was passed on. Returns what to grant now: 0 while that is less than a piece, or not ``due``."""
        owed = self._owed + size_bytes
        if due and owed >= PIECE_BYTES:
            self._owed = 0
            return owed
        self._owed = owed
        return 0
