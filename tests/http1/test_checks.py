from __future__ import annotations

import pytest

from servekit.config import HttpLimits
from servekit.http1.checks import Fault, check_head, check_sizes, is_host, split_target

LIMITS = HttpLimits(header_count=4, header_bytes=20, headers_bytes=50, body_bytes=10)
HOST = (b"host", b"a")


def status(*headers: tuple[bytes, bytes], version: str = "1.1") -> int | None:
    fault = check_head(version, list(headers), dict(headers), LIMITS)
    return fault and fault.status


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([HOST], None),
        ([], 400),
        ([HOST, HOST], 400),
        ([HOST, (b"host", b"b")], 400),
        ([(b"host", b"a b")], 400),
        ([HOST, (b"content-length", b"1"), (b"content-length", b"1")], 400),
        ([HOST, (b"content-length", b"1"), (b"transfer-encoding", b"chunked")], 400),
        ([HOST, (b"transfer-encoding", b"gzip, chunked")], 400),
        ([HOST, (b"transfer-encoding", b"identity")], 400),
        ([HOST, (b"transfer-encoding", b"Chunked")], None),
        ([HOST, (b"content-length", b"10")], None),
        ([HOST, (b"content-length", b"11")], 413),
        ([HOST, (b"expect", b"100-Continue")], None),
        ([HOST, (b"expect", b"200-ok")], 417),
        ([HOST, (b"accept", b"a"), (b"accept", b"b")], None),
        ([HOST] + [(b"x", b"")] * 3, None),
        ([HOST] + [(b"x", b"")] * 4, 431),
    ],
)
def test_heads(headers: list[tuple[bytes, bytes]], expected: int | None) -> None:
    assert status(*headers) == expected


def test_versions() -> None:
    assert status(version="1.0") is None
    assert status(HOST, HOST, version="1.0") == 400
    assert status(HOST, version="2.0") == 505
    assert status(version="0.9") == 505
    assert status((b"transfer-encoding", b"chunked"), version="1.0") == 400
    assert status((b"expect", b"other"), version="1.0") is None  # RFC 9110, 10.1.1: ignored


@pytest.mark.parametrize("host", [b"a", b"a:1", b"127.0.0.1:8000", b"[::1]:80", b"[::1]", b"my_host", b"a:", b"a%20b"])
def test_hosts(host: bytes) -> None:
    assert is_host(host)


@pytest.mark.parametrize(
    "host", [b"", b":80", b"a b", b"a,b", b"a/b", b"u@a", b"a:b", b"a:123456", b"[::1", b"a\n", b"\xff", b"a#", b"a?b"]
)
def test_no_hosts(host: bytes) -> None:
    assert not is_host(host)


def test_sizes_at_their_bounds() -> None:
    assert check_sizes([(b"a" * 10, b"b" * 10)], LIMITS) is None
    assert check_sizes([(b"a" * 10, b"b" * 10)] * 2 + [(b"a" * 5, b"b" * 5)], LIMITS) is None
    one = check_sizes([(b"a" * 10, b"b" * 11)], LIMITS)
    every = check_sizes([(b"a" * 10, b"b" * 10)] * 2 + [(b"a" * 5, b"b" * 6)], LIMITS)
    assert one is not None
    assert (one.status, "20 bytes" in one.text) == (431, True)
    assert every is not None
    assert (every.status, "50 bytes" in every.text) == (431, True)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"/", ("/", b"", None)),
        (b"/a%20b?x=%20", ("/a b", b"x=%20", None)),
        (b"/a%2Fb%3Fc", ("/a/b?c", b"", None)),
        (b"/%C3%A9%ff%zz", ("/é\ufffd%zz", b"", None)),
        (b"//a/b", ("//a/b", b"", None)),
        (b"http://h:1/p?q", ("/p", b"q", b"h:1")),
        (b"HTTP://h", ("/", b"", b"h")),
        (b"https://h?q=1", ("/", b"q=1", b"h")),
    ],
)
def test_targets(target: bytes, expected: tuple[str, bytes, bytes | None]) -> None:
    assert split_target(b"GET", target) == expected


@pytest.mark.parametrize(
    ("method", "target"),
    [
        (b"GET", b"*"),
        (b"GET", b"/a#b"),
        (b"GET", b"http://h/#b"),
        (b"GET", b"http://u@h/"),
        (b"GET", b"http:///p"),
        (b"GET", b"ftp://h/"),
        (b"GET", b"h:80"),
        (b"CONNECT", b"h:80"),
        (b"CONNECT", b"/"),
    ],
)
def test_targets_that_are_refused(method: bytes, target: bytes) -> None:
    fault = split_target(method, target)
    assert isinstance(fault, Fault)
    assert fault.status == 400


def test_asterisk() -> None:
    assert split_target(b"OPTIONS", b"*") == ("*", b"", None)
