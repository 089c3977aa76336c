"""Files to ask about: some made here with the standard library, some that every Python installation has."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import pickle
import struct
import sys
import sysconfig
import tarfile
import wave
import zipfile
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

WORDS = "It was the best of times, it was the worst of times. " * 40
ROWS = [{"name": f"item {number}", "price": number * 1.25, "tags": ["a", "b"]} for number in range(60)]


def made() -> dict[str, tuple[str, bytes]]:
    """By name: the label that is right for it, and the file."""
    return {
        "archive.zip": ("zip", _zip()),
        "archive.tar": ("tar", _tar()),
        "words.gz": ("gzip", gzip.compress(WORDS.encode())),
        "words.bz2": ("bzip", bz2.compress(WORDS.encode())),
        "words.xz": ("xz", lzma.compress(WORDS.encode())),
        "square.png": ("png", _png()),
        "tone.wav": ("wav", _wav()),
        "rows.json": ("json", json.dumps(ROWS, indent=2).encode()),
        "rows.csv": ("csv", _csv()),
        "rows.pickle": ("pickle", pickle.dumps(ROWS)),
        "page.html": ("html", f"<!doctype html><html><head><title>t</title></head><p>{WORDS}</html>".encode()),
        "feed.xml": ("xml", b'<?xml version="1.0"?><rows>' + b"<row><name>item</name></row>" * 40 + b"</rows>"),
        "nothing": ("empty", b""),
        "three bytes": ("txt", b"abc"),
    }


def found(limit: int) -> dict[str, bytes]:
    """Up to ``limit`` files that this Python has: one of each suffix, then another of each, and so on."""
    by_suffix: dict[str, list[Path]] = {}
    for path in _installed():
        by_suffix.setdefault(path.suffix, []).append(path)
    turns = (paths[turn] for turn in range(limit) for paths in by_suffix.values() if turn < len(paths))
    return {str(path): path.read_bytes() for path in islice(turns, limit)}


def _installed() -> Iterator[Path]:
    yield Path(sys.executable).resolve()
    for name in ("stdlib", "purelib"):
        root = Path(sysconfig.get_path(name))
        paths = sorted([*islice(root.glob("*"), 2000), *islice(root.glob("*/*"), 4000)])
        yield from (path for path in paths if path.is_file() and path.stat().st_size < 1_000_000)


def _zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("words.txt", WORDS)
        archive.writestr("rows.json", json.dumps(ROWS))
    return file.getvalue()


def _tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("words.txt")
        member.size = len(WORDS)
        archive.addfile(member, io.BytesIO(WORDS.encode()))
    return file.getvalue()


def _png() -> bytes:
    """A square of 16 by 16 grey pixels (PNG specification, 5: signature, and chunks with a CRC each)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 16, 16, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + bytes(range(row, 256, 16)) for row in range(16)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def _wav() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(b"".join(struct.pack("<h", 1000 * (step % 16)) for step in range(4000)))
    return file.getvalue()


def _csv() -> bytes:
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerows([["name", "price", "stock"], *([row["name"], row["price"], 3] for row in ROWS)])
    return file.getvalue().encode()
