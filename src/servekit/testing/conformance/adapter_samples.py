"""What the kit for adapters sends and answers: by hand, and drawn by hypothesis."""

from __future__ import annotations

from typing import Any

from servekit.testing.conformance.drawing import hypothesis

BODIES = (b"", b"text", b"\r\n--a line--\r\n", "größer 文".encode(), bytes(range(256)), bytes(range(256)) * 4096)
ODD_PARTS = (b"\0", b"\r\n", b"\n", b"\xff", b"\xef\xbb\xbf", b"%41", b"+", b'"', b"\\", b"{}", b" ")
PIECE_SIZES = (0, 1000, 70_000)
"""Of the pieces in which a body arrives; 0: all of it at once."""
PATHS = ("", "/a b", "/100%", "/%41", "/größer/文", "/a//b", "/a;b=c", "/a+b")
QUERIES = (b"", b"a=1&a=2&b=", b"q=a%20b+c%26", b"%C3%BC=%FF", b"flag", b"a=b=c;d")
STATUSES = (200, 201, 202, 301, 400, 404, 409, 418, 422, 500, 503, 599)
HEADERS = [("X-Kit-A", "1"), ("x-kit-b", "grün"), ("X-Kit-A", "3"), ("X-Kit-C", ""), ("X-Kit-A", "2")]
ANSWERED = [("X-Kit-B", "größer"), ("X-Kit-A", "2"), ("Set-Cookie", "a=1"), ("X-Kit-A", "1"), ("Set-Cookie", "b=2, c")]
CODED = [("Content-Type", "text/x-kit; charset=latin-1"), ("Content-Encoding", "x-kit"), ("Content-Language", "de")]


def bodies() -> Any:
    """Long enough to have in them what somebody might strip, replace or interpret."""
    st = hypothesis().strategies
    return st.lists(st.one_of(st.sampled_from(ODD_PARTS), st.binary(max_size=50)), max_size=30).map(b"".join)


def header_lists() -> Any:
    """Few names, so that they are repeated, and every character that a value may have but commas."""
    st = hypothesis().strategies
    character = st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters=",\x7f")
    value = st.text(character, max_size=15).map(lambda text: text.strip(" "))
    return st.lists(st.tuples(st.sampled_from(["X-Kit-A", "X-Kit-B", "x-kit-c"]), value), max_size=6)
