"""Requests that are refused, as raw bytes; after each the connection is closed."""

from __future__ import annotations

import json
from typing import Any

import pytest

GET = b"GET / HTTP/1.1\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
HOST = b"Host: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

MALFORMED = {
    "noise": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "two lengths": POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\na",
    "two equal lengths": POST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na",
    "list of lengths": POST + b"Content-Length: 1, 1\r\n\r\na",
    "signed length": POST + b"Content-Length: +1\r\n\r\na",
    "negative length": POST + b"Content-Length: -1\r\n\r\na",
    "hex length": POST + b"Content-Length: 0x1\r\n\r\na",
    "empty length": POST + b"Content-Length: \r\n\r\na",
    "length overflow": POST + b"Content-Length: 18446744073709551617\r\n\r\na",
    "length of many zeros": POST + b"Content-Length: " + b"0" * 5000 + b"1\r\n\r\na",
    "length with encoding": POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "encoding with length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n0\r\n\r\n",
    "gzip": POST + b"Transfer-Encoding: gzip\r\n\r\n",
    "gzip, chunked": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked, gzip": POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "chunked twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "identity, then chunked": POST + b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "xchunked": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "vertical tab chunked": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "empty encoding": POST + b"Transfer-Encoding:\r\n\r\n0\r\n\r\n",
    "encoding in 1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "space before the encoding's colon": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "obs-fold": GET + HOST + b"X: a\r\n b\r\n\r\n",
    "obs-fold by tab": GET + HOST + b"X: a\r\n\tb\r\n\r\n",
    "leading fold": GET + b" X: a\r\n" + HOST + b"\r\n",
    "space before colon": GET + b"Host : a\r\n\r\n",
    "no colon": GET + HOST + b"abc\r\n\r\n",
    "no name": GET + HOST + b": a\r\n\r\n",
    "name with a bracket": GET + HOST + b"a(b: c\r\n\r\n",
    "name with UTF-8": GET + HOST + b"a\xc3\xa9: c\r\n\r\n",
    "NUL": GET + HOST + b"X: a\0b\r\n\r\n",
    "control byte": GET + HOST + b"X: a\x01b\r\n\r\n",
    "DEL": GET + HOST + b"X: a\x7fb\r\n\r\n",
    "bare CR": GET + HOST + b"X: a\rY: b\r\n\r\n",
    "bare LF in a value": GET + HOST + b"X: a\nY: b\r\n\r\n",
    "bare LF after the request line": b"GET / HTTP/1.1\nHost: a\r\n\r\n",
    "bare LF at the end": GET + b"Host: a\r\n\n",
    "missing Host": GET + b"\r\n",
    "two Hosts": GET + HOST + HOST + b"\r\n",
    "two Hosts in 1.0": b"GET / HTTP/1.0\r\n" + HOST + HOST + b"\r\n",
    "Host with a path": GET + b"Host: a/b\r\n\r\n",
    "Host with a user": GET + b"Host: a@b\r\n\r\n",
    "Host with a comma": GET + b"Host: a, b\r\n\r\n",
    "empty Host": GET + b"Host:\r\n\r\n",
    "unknown method": b"BREW / HTTP/1.1\r\n" + HOST + b"\r\n",
    "method in lower case": b"get / HTTP/1.1\r\n" + HOST + b"\r\n",
    "bad method token": b"G@T / HTTP/1.1\r\n" + HOST + b"\r\n",
    "space before the method": b" GET / HTTP/1.1\r\n" + HOST + b"\r\n",
    "tab after the method": b"GET\t/ HTTP/1.1\r\n" + HOST + b"\r\n",
    "space in the target": b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n",
    "NUL in the target": b"GET /\0 HTTP/1.1\r\n" + HOST + b"\r\n",
    "UTF-8 in the target": b"GET /\xc3\xa9 HTTP/1.1\r\n" + HOST + b"\r\n",
    "fragment": b"GET /a#b HTTP/1.1\r\n" + HOST + b"\r\n",
    "relative target": b"GET a HTTP/1.1\r\n" + HOST + b"\r\n",
    "asterisk": b"GET * HTTP/1.1\r\n" + HOST + b"\r\n",
    "CONNECT": b"CONNECT a:80 HTTP/1.1\r\n" + HOST + b"\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "version in lower case": b"GET / http/1.1\r\n" + HOST + b"\r\n",
    "version 1.2": b"GET / HTTP/1.2\r\n" + HOST + b"\r\n",
    "version 11.1": b"GET / HTTP/11.1\r\n" + HOST + b"\r\n",
    "space after the version": b"GET / HTTP/1.1 \r\n" + HOST + b"\r\n",
    "chunk size with 0x": CHUNKED + b"0x1\r\na\r\n0\r\n\r\n",
    "chunk size with a space": CHUNKED + b"1 \r\na\r\n0\r\n\r\n",
    "chunk size with a sign": CHUNKED + b"+1\r\na\r\n0\r\n\r\n",
    "chunk size overflow": CHUNKED + b"ffffffffffffffff1\r\na\r\n0\r\n\r\n",
    "bare LF after a chunk size": CHUNKED + b"1\na\r\n0\r\n\r\n",
    "bare LF after a chunk": CHUNKED + b"1\r\na\n0\r\n\r\n",
    "chunk longer than it says": CHUNKED + b"1\r\nab\r\n0\r\n\r\n",
    "line feed in a chunk extension": CHUNKED + b'1;a="\n"\r\na\r\n0\r\n\r\n',
    "bad trailer": CHUNKED + b"0\r\nX : y\r\n\r\n",
}


def refusal(data: bytes) -> tuple[int, str]:
    """The one answer in ``data``."""
    head, _, body = data.partition(b"\r\n\r\n")
    assert b"\r\nconnection: close" in head
    assert b"content-type: text/plain" in head
    assert b"content-length: %d\r\n" % len(body) in head
    assert body.endswith(b"\n")
    return int(head[9:12]), body.decode()


ASKS_JSON = b"Host: a\r\nAccept: application/json\r\n"
REFUSED_IN_JSON = {
    "head": (b"GET / HTTP/1.1\r\n" + ASKS_JSON + b"Expect: cake\r\n\r\n", 417, "expectation_failed"),
    "no more headers": (b"GET / HTTP/1.1\r\n" + ASKS_JSON + b"A: b\r\nX Y: z\r\n\r\n", 400, "malformed"),
    "target": (b"CONNECT a:1 HTTP/1.1\r\n" + ASKS_JSON + b"\r\n", 400, "malformed"),
    "websocket": (
        b"GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 8\r\n"
        + ASKS_JSON
        + b"\r\n",
        426,
        "upgrade_required",
    ),
    "body": (b"POST / HTTP/1.1\r\n" + ASKS_JSON + b"Transfer-Encoding: chunked\r\n\r\nx\r\n", 400, "malformed"),
    "long body": (b"POST / HTTP/1.1\r\n" + ASKS_JSON + b"Content-Length: 999999999999\r\n\r\n", 413, "body_too_large"),
}


@pytest.mark.parametrize("name", REFUSED_IN_JSON)
def test_a_client_that_asks_for_json_is_refused_in_json(echo: Any, name: str) -> None:
    data, status, kind = REFUSED_IN_JSON[name]
    head, _, body = echo.exchange(data).partition(b"\r\n\r\n")
    assert int(head[9:12]) == status
    assert b"\r\ncontent-type: application/json\r\n" in head
    error = json.loads(body)["error"]
    assert (error["type"], error["request_id"]) == (kind, "")
    assert error["message"]


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed(echo: Any, name: str) -> None:
    handled = len(echo.app.handled)
    smuggled = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
    status, text = refusal(echo.exchange(MALFORMED[name] + smuggled))
    assert status == 400, text
    assert len(text) > 10
    assert len(echo.app.handled) == handled


@pytest.mark.parametrize("version", [b"2.0", b"0.9"])
def test_other_versions(echo: Any, version: bytes) -> None:
    assert refusal(echo.exchange(b"GET / HTTP/%b\r\n" % version + HOST + b"\r\n"))[0] == 505


def test_other_expectations(echo: Any) -> None:
    assert refusal(echo.exchange(GET + HOST + b"Expect: a-miracle\r\n\r\n"))[0] == 417


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n\r\n" + GET + HOST + b"\r\n",  # RFC 9112, 2.2: empty lines before a request are skipped
        GET + HOST + b"X: \xc3\xa9\r\n\r\n",
        GET + HOST + b"Empty:\r\n\r\n",
        GET + b"hOST:a\r\n\r\n",
        GET + HOST + b"Content-Length: 0\r\n\r\n",
        b"DELETE / HTTP/1.1\r\n" + HOST + b"\r\n",
    ],
)
def test_well_formed(echo: Any, data: bytes) -> None:
    assert echo.exchange(data, shutdown=True).startswith(b"HTTP/1.1 200 OK\r\n")
