"""The tokens of an instance: the one that opens all, and one that opens what only tells."""

from __future__ import annotations

import hmac


def read_only(token: bytes) -> bytes:
    """The read-only token of the instance that has this token. It follows from that, so nobody has to keep it; and the
    other does not follow from it."""
    return hmac.digest(token, b"servekit: read-only", "sha256")
