"""What the body of an answer to a handle's call is, said as HTTP says it: by its content type.

Whatever else an answer's type is, it is a refusal in plain text.
"""

from __future__ import annotations

VALUE = "application/vnd.servekit.value"
"""A payload of what the handler returned."""
FAILURE = "application/vnd.servekit.failure"
"""What the handler raised, as `servekit.handles.failures` packs it."""
STREAM = "application/vnd.servekit.stream"
"""Records: what the handler's generator makes."""

_TYPE_LINE = b"content-type: "


def type_of(head: bytes) -> str:
    """The content type that the header lines in ``head`` name; empty for none."""
    for line in head.split(b"\r\n"):
        if line.startswith(_TYPE_LINE):
            return line[len(_TYPE_LINE) :].decode("latin-1")
    return ""
