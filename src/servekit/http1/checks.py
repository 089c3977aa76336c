"""The rules for a request's head beyond those that llhttp holds it to: pure functions.

The rules are RFC 9112's (message syntax) and RFC 9110's; where they leave a choice, the one that two servers in a row
cannot read in two ways.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from servekit.config import HttpLimits

Headers = list[tuple[bytes, bytes]]
Fields = dict[bytes, bytes]


class Fault(NamedTuple):
    """Why a request is refused."""

    status: int
    text: str
    """The reason, for the client."""


class RequestTarget(NamedTuple):
    """A request target, taken apart."""

    path: str
    query: bytes
    host: bytes | None
    """The authority of an absolute-form target, else None."""


# RFC 3986, 3.2.2, without the comma: a joined pair of Host headers must not pass for one.
_HOST = re.compile(rb"(?:[A-Za-z0-9._~%!$&'()*+;=-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)([^?#]*)(?:\?([^#]*))?", re.IGNORECASE)
_WEBSOCKET_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")
# Not a list, each of them (RFC 9110, 5.3): of two, one server may take the first and another the last.
_SINGLE = b"""host content-length transfer-encoding content-type authorization origin range sec-websocket-key
    sec-websocket-version x-serve-call-method""".split()
# Method, target and version with one space between two, and no backslash in the path, which some take for a slash.
# llhttp takes more: several spaces, what is no HTTP (``SOURCE / ICE/1.0``), and any CR and LF in front.
_REQUEST_LINE = re.compile(rb"([A-Z-]+) ([^\0- ?\\\x7f-\xff]+(?:\?[!-~]*)?) HTTP/([0-9]\.[0-9])\r\n")
match_request_line = _REQUEST_LINE.match
"""Matches where bytes begin with a request line as it must be, and has its three parts as groups."""


@lru_cache(maxsize=1024)
def is_host(value: bytes) -> bool:
    """Whether ``value`` is a host, maybe with a port."""
    return _HOST.fullmatch(value) is not None


def check_head(version: str, headers: Headers, fields: Fields, limits: HttpLimits) -> Fault | None:
    """The first fault of a head, or None. ``fields`` is ``dict(headers)``: here to be made once."""
    host = fields.get(b"host")
    if version != "1.1":
        if version != "1.0":
            return Fault(505, f"HTTP/{version} is not spoken here; use HTTP/1.1")
    elif host is None:
        return Fault(400, "the Host header is missing")
    if host is not None and not is_host(host):
        return Fault(400, "the Host header is not a host, with or without a port")
    if len(fields) != len(headers):
        names = [name for name, _ in headers]
        for name in _SINGLE:
            if names.count(name) > 1:
                return Fault(400, f"more than one {name.decode().title()} header")
    if len(headers) > limits.header_count:
        return Fault(431, f"more than {limits.header_count} headers")
    if b"content-length" in fields or b"transfer-encoding" in fields:
        fault = _check_framing(version, fields, limits)
        if fault is not None:
            return fault
    if b"expect" in fields and version == "1.1" and fields[b"expect"].lower() != b"100-continue":
        return Fault(417, "an Expect header other than 100-continue")
    return None


def _check_framing(version: str, fields: Fields, limits: HttpLimits) -> Fault | None:
    length = fields.get(b"content-length")
    encoding = fields.get(b"transfer-encoding")
    if encoding is not None:
        if length is not None:
            return Fault(400, "both Content-Length and Transfer-Encoding")
        if version == "1.0":
            return Fault(400, "Transfer-Encoding in an HTTP/1.0 request")
        if encoding.lower() != b"chunked":
            return Fault(400, "a Transfer-Encoding other than chunked")
    elif length is not None:
        # llhttp has checked that it is all digits, and below 2**64.
        if length[:1] == b"0" and length != b"0":
            return Fault(400, "a Content-Length with zeros in front")
        if int(length) > limits.body_bytes:
            return body_too_large(limits)
    return None


def check_request_line(line: bytes, limits: HttpLimits) -> Fault | None:
    """The first fault of a request line, with its CRLF; or of the first bytes of one that has not ended yet."""
    if len(line) - 2 > limits.request_line_bytes:
        return Fault(414, f"the request line is longer than {limits.request_line_bytes} bytes")
    if line[-2:] != b"\r\n" or match_request_line(line) is not None:
        return None
    if b"\\" in line.partition(b"?")[0]:
        return Fault(400, "the path has a backslash")
    return Fault(400, "the request line is not a method, a target and a version, with one space between two")


def check_sizes(headers: Headers, limits: HttpLimits) -> Fault | None:
    """Whether one header, or all of them, are too large."""
    total = 0
    for name, value in headers:
        size = len(name) + len(value)
        if size > limits.header_bytes:
            return Fault(431, f"one header is larger than {limits.header_bytes} bytes")
        total += size
    return too_many_header_bytes(limits) if total > limits.headers_bytes else None


def too_many_header_bytes(limits: HttpLimits) -> Fault:
    return Fault(431, f"the headers are larger than {limits.headers_bytes} bytes")


def body_too_large(limits: HttpLimits) -> Fault:
    return Fault(413, f"the body is larger than {limits.body_bytes} bytes")


def wants_websocket(method: bytes, fields: Fields) -> bool:
    """Whether a request that asks for an upgrade asks for a WebSocket. Other upgrades are ignored; so is a WebSocket's
    where the request has a body, which no handshake has.
    """
    if method != b"GET" or b"transfer-encoding" in fields or fields.get(b"content-length", b"0").strip(b"0"):
        return False
    return any(name.strip() == b"websocket" for name in fields[b"upgrade"].lower().split(b","))


def check_websocket(version: str, fields: Fields) -> Fault | None:
    """The first fault of a WebSocket's handshake (RFC 6455, 4.2.1), or None."""
    if version != "1.1":
        return Fault(400, "a WebSocket takes HTTP/1.1")
    if fields.get(b"sec-websocket-version") != b"13":
        return Fault(426, "of the WebSocket protocol, version 13 is spoken here (Sec-WebSocket-Version)")
    if _WEBSOCKET_KEY.fullmatch(fields.get(b"sec-websocket-key", b"")) is None:
        return Fault(400, "the Sec-WebSocket-Key is not 16 bytes in base64")
    return None


def split_target(method: bytes, target: bytes) -> RequestTarget | Fault:
    """Take apart a target in origin-form, absolute-form or asterisk-form (RFC 9112, 3.2)."""
    if method == b"CONNECT":
        return Fault(400, "CONNECT is for proxies; this is none")
    if target[:1] == b"/":
        path, _, query = target.partition(b"?")
        host = None
    elif target == b"*":
        return RequestTarget("*", b"", None) if method == b"OPTIONS" else Fault(400, "the target * is for OPTIONS")
    else:
        match = _ABSOLUTE.fullmatch(target)
        if match is None or not is_host(match[1]):
            return Fault(400, "the request target is neither a path nor an http URL")
        host, path, query = match[1], match[2] or b"/", match[3] or b""
    if b"#" in target:
        return Fault(400, "the request target has a fragment")
    plain = unquote_to_bytes(path)
    if b"\0" in plain:
        return Fault(400, "the path has a %00, at which some programs end it")
    return RequestTarget(plain.decode("utf-8", "replace"), query, host)
