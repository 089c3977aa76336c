"""The page's files, which are the same for everyone and hold nothing of the instance."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

FOLDER = Path(__file__).parent / "static"
TYPES = {
    ".html": b"text/html; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".svg": b"image/svg+xml",
}


class Asset(msgspec.Struct, frozen=True):
    """One file."""

    head: bytes
    """The lines of its own in the head of an answer."""
    tag: bytes
    """Its ETag."""
    content: bytes


class Assets:
    """Reads each file when it is asked for first, for most controllers never show the page."""

    def __init__(self) -> None:
        self._read: dict[str, Asset] = {}
        self._paths: dict[str, Path] | None = None

    def find(self, name: str) -> Asset | None:
        """The file of that name, which is relative to the folder."""
        if self._paths is None:
            files = (path for path in FOLDER.rglob("*") if path.suffix in TYPES)
            self._paths = {path.relative_to(FOLDER).as_posix(): path for path in files}
        path = self._paths.get(name)
        if path is None:
            return None
        if name not in self._read:
            content = path.read_bytes()
            tag = b'"%b"' % hashlib.sha256(content).hexdigest()[:32].encode()
            head = b"content-type: %b\r\netag: %b\r\ncache-control: no-cache\r\n" % (TYPES[path.suffix], tag)
            self._read[name] = Asset(head, tag, content)
        return self._read[name]
