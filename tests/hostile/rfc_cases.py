"""What RFC 9110 and RFC 9112 say of requests, as bytes: what a server that nobody can smuggle by does with each.

No suite of others is copied here: each case is written from the section that it names.
"""

from __future__ import annotations

from typing import NamedTuple


class Case(NamedTuple):
    """One connection: the client sends all of it, and then no more."""

    section: str
    name: str
    sent: bytes
    statuses: list[int]
    """Of the answers, in order, interim ones included. Behind the last the connection is closed."""
    seen: list[bytes]
    """What the handler was given: method, target, body."""
    why: str


HOST = b"Host: a\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n"


def get(lines: bytes = b"", target: bytes = b"/", *, method: bytes = b"GET", host: bytes = HOST) -> bytes:
    return b"%b %b HTTP/1.1\r\n%b%b\r\n" % (method, target, host, lines)


def post(lines: bytes, body: bytes) -> bytes:
    return get(lines, method=b"POST") + body


def line(request_line: bytes) -> bytes:
    return request_line + b"\r\n" + HOST + b"\r\n"


def chunked(body: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked\r\n", body)


def ok(section: str, name: str, sent: bytes, *seen: bytes, why: str) -> Case:
    return Case(section, name, sent, [200] * len(seen), list(seen), why)


def no(section: str, name: str, sent: bytes, why: str, status: int = 400) -> Case:
    """Refused; a request that would follow is sent as well, and must not be answered."""
    return Case(section, name, sent + SMUGGLED, [status], [], why)


MESSAGE = [  # RFC 9112, 2.2
    ok("9112 2.2", "empty line in front", b"\r\n" + get(), b"GET / ", why="SHOULD ignore at least one empty line"),
    ok("9112 2.2", "two in front", b"\r\n\r\n" + get(), b"GET / ", why="at least one; more do no harm"),
    ok(
        "9112 2.2",
        "empty line behind a body",
        post(b"Content-Length: 1\r\n", b"x") + b"\r\n" + get(),
        b"POST / x",
        b"GET / ",
        why="old clients send one there",
    ),
    no("9112 2.2", "bare LF in front", b"\n" + get(), "it is no CRLF"),
    no("9112 2.2", "bare CR in front", b"\r" + get(), "a bare CR MUST be invalid"),
    no("9112 2.2", "LF, CR in front", b"\n\r" + get(), "it is no CRLF"),
    no(
        "9112 2.2",
        "LF ends the request line",
        b"GET / HTTP/1.1\n" + HOST + b"\r\n",
        "MAY be taken; one of two would not",
    ),
    no("9112 2.2", "LF ends a field", b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", "the next field may be seen or not"),
    no("9112 2.2", "LF ends the head", b"GET / HTTP/1.1\r\nHost: a\r\n\n", "the head may end there or not"),
    no("9112 2.2", "all LF", b"GET / HTTP/1.1\nHost: a\n\n", "no CRLF anywhere"),
    no("9112 2.2", "bare CR in a value", get(b"X: a\rY: b\r\n"), "a bare CR MUST be invalid"),
    no("9112 2.2", "CR, CR, LF", get(b"X: a\r\r\n"), "a bare CR MUST be invalid"),
    no("9112 2.2", "bare CR in the request line", line(b"GET /\r HTTP/1.1"), "a bare CR MUST be invalid"),
    no("9112 2.2", "bare CR for a space", line(b"GET\r/\rHTTP/1.1"), "a bare CR MUST be invalid"),
    no(
        "9112 2.2",
        "blank before the first field",
        b"GET / HTTP/1.1\r\n " + HOST + b"\r\n",
        "MUST be rejected or skipped",
    ),
    no(
        "9112 2.2",
        "tab before the first field",
        b"GET / HTTP/1.1\r\n\t" + HOST + b"\r\n",
        "MUST be rejected or skipped",
    ),
    no("9112 2.2", "byte order mark", b"\xef\xbb\xbf" + get(), "octets of a superset of US-ASCII, not text"),
    no("9112 2.2", "TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "not HTTP"),
    no("9112 2.2", "PROXY protocol", b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n" + get(), "not HTTP"),
]
VERSION = [  # RFC 9112, 2.3; RFC 9110, 2.5
    ok("9112 2.3", "1.0", b"GET / HTTP/1.0\r\n\r\n", b"GET / ", why="it needs no Host"),
    no("9112 2.3", "in lower case", line(b"GET / http/1.1"), "the name is case-sensitive"),
    no("9112 2.3", "two digits", line(b"GET / HTTP/1.10"), "one digit each"),
    no("9112 2.3", "a zero in front", line(b"GET / HTTP/01.1"), "one digit each"),
    no("9112 2.3", "no minor", line(b"GET / HTTP/1"), "one digit each"),
    no("9112 2.3", "no digits", line(b"GET / HTTP/a.b"), "one digit each"),
    no("9112 2.3", "a comma", line(b"GET / HTTP/1,1"), "a dot between them"),
    no("9112 2.3", "a space within", line(b"GET / HTTP/ 1.1"), "no blanks"),
    no("9112 2.3", "a letter behind", line(b"GET / HTTP/1.1x"), "nothing behind it"),
    no("9112 2.3", "another protocol", line(b"SOURCE / ICE/1.0"), "it is no HTTP"),
    no("9112 2.3", "RTSP", line(b"DESCRIBE / RTSP/1.0"), "it is no HTTP"),
    no("9112 2.3", "HTTPS", line(b"GET / HTTPS/1.1"), "it is no HTTP"),
    no("9112 2.3", "none", b"GET /\r\n\r\n", "HTTP/0.9 has no framing"),
    no("9110 2.5", "2.0", line(b"GET / HTTP/2.0"), "another major version", 505),
    no("9110 2.5", "0.9", line(b"GET / HTTP/0.9"), "another major version", 505),
    no("9110 2.5", "preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "no h2 by prior knowledge"),
]
REQUEST_LINE = [  # RFC 9112, 3
    no("9112 3", "two spaces behind the method", line(b"GET  / HTTP/1.1"), "single SP"),
    no("9112 3", "two spaces before the version", line(b"GET /  HTTP/1.1"), "single SP"),
    no("9112 3", "three spaces", line(b"GET   /   HTTP/1.1"), "single SP"),
    no("9112 3", "tabs", line(b"GET\t/\tHTTP/1.1"), "MAY be taken; one of two would not"),
    no("9112 3", "tab and space", line(b"GET \t/ HTTP/1.1"), "single SP"),
    no("9112 3", "form feed", line(b"GET\x0c/ HTTP/1.1"), "single SP"),
    no("9112 3", "vertical tab", line(b"GET /\x0bHTTP/1.1"), "single SP"),
    no("9112 3", "no-break space", line(b"GET\xa0/ HTTP/1.1"), "single SP"),
    no("9112 3", "a space in front", line(b" GET / HTTP/1.1"), "nothing before the method"),
    no("9112 3", "a space behind", line(b"GET / HTTP/1.1 "), "nothing behind the version"),
    no("9112 3", "a space in the target", line(b"GET /a b HTTP/1.1"), "SHOULD be 400"),
    no("9112 3", "two versions", line(b"GET / HTTP/1.1 HTTP/1.1"), "SHOULD be 400"),
    no("9112 3", "no target", line(b"GET HTTP/1.1"), "three parts"),
    no("9112 3", "an empty target", line(b"GET  HTTP/1.1"), "three parts"),
    no("9112 3", "no method", line(b"/ HTTP/1.1"), "three parts"),
    no("9112 3.1", "method in lower case", line(b"get / HTTP/1.1"), "methods are case-sensitive"),
    no("9112 3.1", "unknown method", line(b"BREW / HTTP/1.1"), "none of ours"),
    no("9112 3.1", "method that is no token", line(b"G@T / HTTP/1.1"), "a token"),
    no("9112 3.1", "method with a colon", line(b"GET: / HTTP/1.1"), "a token"),
]
TARGET = [  # RFC 9112, 3.2; RFC 9110, 4 and 7.1; RFC 3986
    ok("9112 3.2.1", "a path", get(target=b"/a/b;c=d,e"), b"GET /a/b;c=d,e ", why="origin-form"),
    ok("9112 3.2.1", "a query", get(target=b"/a?b=c?d/e"), b"GET /a?b=c?d/e ", why="the first ? alone separates"),
    ok("9112 3.2.1", "an empty query", get(target=b"/a?"), b"GET /a? ", why="kept as sent"),
    ok("9112 3.2.1", "slashes", get(target=b"//a//b"), b"GET //a//b ", why="it is no authority"),
    ok("9112 3.2.1", "dots", get(target=b"/a/../b/./c"), b"GET /a/../b/./c ", why="nothing is resolved on the way"),
    ok("9112 3.2.1", "escapes", get(target=b"/%41%2fb"), b"GET /%41%2fb ", why="kept as sent"),
    ok("9112 3.2.1", "broken escapes", get(target=b"/%zz%"), b"GET /%zz% ", why="they stand for themselves"),
    ok("9112 3.2.2", "absolute-form", get(target=b"http://b:1/x?y"), b"GET http://b:1/x?y ", why="MUST be accepted"),
    ok("9112 3.2.2", "without a path", get(target=b"http://b"), b"GET http://b ", why="an empty path is /"),
    ok("9112 3.2.2", "https", get(target=b"HTTPS://b/"), b"GET HTTPS://b/ ", why="schemes are case-insensitive"),
    no("9112 3.2.2", "absolute, and no Host", get(target=b"http://b/", host=b""), "Host is needed all the same"),
    no("9110 4.2.4", "a user in it", get(target=b"http://u:p@b/"), "userinfo SHOULD be treated as an error"),
    no("9110 4.2.1", "an empty host", get(target=b"http:///x"), "MUST be rejected"),
    no("9112 3.2.2", "another scheme", get(target=b"ftp://b/"), "no http URI"),
    no("9112 3.2.2", "no slashes", get(target=b"http:b"), "no http URI"),
    no("9112 3.2.3", "authority-form", get(target=b"b:80"), "for CONNECT alone"),
    no("9112 3.2.3", "CONNECT", get(target=b"b:80", method=b"CONNECT"), "for proxies"),
    no("9112 3.2.3", "CONNECT to a path", get(target=b"/", method=b"CONNECT"), "not even by its form"),
    no("9112 3.2.4", "GET *", get(target=b"*"), "for OPTIONS alone"),
    no("9110 7.1", "a fragment", get(target=b"/a#b"), "it is not part of a target"),
    no("9112 3.2", "relative", get(target=b"a/b"), "none of the four forms"),
    no("9112 3.2", "a query alone", get(target=b"?a"), "none of the four forms"),
    no("3986 2", "a backslash", get(target=b"/a\\..\\b"), "no character of a URI; some read a slash"),
    no("3986 2", "a backslash in front", get(target=b"\\a"), "no character of a URI; some read a slash"),
    ok("3986 2", "a backslash in the query", get(target=b"/?a\\b"), b"GET /?a\\b ", why="browsers send it as it is"),
    no("3986 2", "a NUL", get(target=b"/a\0b"), "no character of a URI"),
    no("3986 7.3", "an escaped NUL", get(target=b"/a%00b"), "some end the path there"),
    no("3986 7.3", "an escaped NUL in a URL", get(target=b"http://b/a%00"), "some end the path there"),
    ok("3986 7.3", "an escaped NUL in the query", get(target=b"/?a=%00"), b"GET /?a=%00 ", why="data, no path"),
    no("3986 2", "UTF-8", get(target=b"/\xc3\xa9"), "no character of a URI"),
    no("3986 2", "DEL", get(target=b"/\x7f"), "no character of a URI"),
]
HOSTS = [  # RFC 9112, 3.2; RFC 9110, 7.2
    no("9112 3.2", "none", get(host=b""), "MUST be 400"),
    no("9112 3.2", "two", get(HOST), "MUST be 400"),
    no("9112 3.2", "two that differ", get(b"Host: b\r\n"), "MUST be 400"),
    no("9112 3.2", "two, far from each other", get(b"X: y\r\nhost: b\r\n"), "MUST be 400"),
    no("9112 3.2", "empty", get(host=b"Host:\r\n"), "for a target without an authority, of which there is none"),
    no("9112 3.2", "a list", get(host=b"Host: a, b\r\n"), "two that a proxy joined"),
    no("9112 3.2", "a path", get(host=b"Host: a/b\r\n"), "uri-host and port"),
    no("9112 3.2", "a user", get(host=b"Host: u@a\r\n"), "uri-host and port"),
    no("9112 3.2", "a space", get(host=b"Host: a b\r\n"), "uri-host and port"),
    no("9112 3.2", "a URL", get(host=b"Host: http://a\r\n"), "uri-host and port"),
    no("9112 3.2", "a port in letters", get(host=b"Host: a:b\r\n"), "uri-host and port"),
    no("9112 3.2", "a signed port", get(host=b"Host: a:+1\r\n"), "uri-host and port"),
    no("9112 3.2", "an open bracket", get(host=b"Host: [::1\r\n"), "uri-host and port"),
    ok("9112 3.2", "IPv6", get(host=b"Host: [::1]:80\r\n"), b"GET / ", why="uri-host and port"),
    ok("9112 3.2", "an empty port", get(host=b"Host: a:\r\n"), b"GET / ", why="port = *DIGIT"),
    ok("9110 5.1", "in other letters", get(host=b"hOST: a\r\n"), b"GET / ", why="names are case-insensitive"),
    no("9112 3.2", "two in 1.0", b"GET / HTTP/1.0\r\n" + HOST + HOST + b"\r\n", "MUST be 400"),
]
FIELDS = [  # RFC 9112, 5; RFC 9110, 5
    ok("9112 5.1", "no blank", get(b"X:v\r\n"), b"GET / X=v", why="OWS is optional"),
    ok("9112 5.1", "blanks around", get(b"X:  \t v w \t \r\n"), b"GET / X=v w", why="they are not part of the value"),
    ok("9112 5.1", "blanks before a length", post(b"Content-Length: \t1 \r\n", b"x"), b"POST / x", why="OWS"),
    ok(
        "9112 5.1",
        "blanks around an encoding",
        post(b"Transfer-Encoding:\tchunked \r\n", b"0\r\n\r\n"),
        b"POST / ",
        why="OWS",
    ),
    ok("9110 5.5", "empty", get(b"X:\r\n"), b"GET / X=", why="*field-content"),
    ok("9110 5.5", "obs-text", get(b"X: \xe9\r\n"), b"GET / X=\xe9", why="opaque data"),
    ok("9110 5.6.2", "all of a token", get(b"!#$%&'*+-.^_`|~09aZ: v\r\n"), b"GET / ", why="tchar"),
    no("9112 5.1", "a space before the colon", get(b"X : v\r\n"), "MUST be 400"),
    no("9112 5.1", "a tab before the colon", get(b"X\t: v\r\n"), "MUST be 400"),
    no("9112 5.1", "a space before a length's", post(b"Content-Length : 1\r\n", b"x"), "MUST be 400"),
    no(
        "9112 5.1",
        "a space before an encoding's",
        post(b"Transfer-Encoding : chunked\r\n", b"0\r\n\r\n"),
        "MUST be 400",
    ),
    no("9112 5", "no colon", get(b"X\r\n"), "field-name and a colon"),
    no("9112 5", "no name", get(b": v\r\n"), "a token is not empty"),
    *(
        no("9110 5.1", f"a name with {byte!r}", get(b"X" + byte + b"Y: v\r\n"), "a token")
        for byte in (
            b" ",
            b"\t",
            b"(",
            b",",
            b"/",
            b";",
            b"=",
            b"@",
            b"[",
            b"\\",
            b"{",
            b'"',
            b"\0",
            b"\x7f",
            b"\xc3\xa9",
        )
    ),
    no("9112 5.2", "folded", get(b"X: a\r\n b\r\n"), "MUST be 400, or be unfolded"),
    no("9112 5.2", "folded by a tab", get(b"X: a\r\n\tb\r\n"), "MUST be 400, or be unfolded"),
    no(
        "9112 5.2",
        "a folded encoding",
        post(b"Transfer-Encoding:\r\n chunked\r\n", b"0\r\n\r\n"),
        "it hides the encoding",
    ),
    no("9112 5.2", "a line of blanks", get(b"X: a\r\n \r\n"), "MUST be 400, or be unfolded"),
    *(
        no("9110 5.5", f"a value with {byte!r}", get(b"X: a" + byte + b"b\r\n"), "invalid and dangerous")
        for byte in (b"\0", b"\x01", b"\x08", b"\x0b", b"\x0c", b"\x1b", b"\x7f")
    ),
    no(
        "9110 5.5",
        "a vertical tab in front of chunked",
        post(b"Transfer-Encoding: \x0bchunked\r\n", b"0\r\n\r\n"),
        "no OWS",
    ),
    ok("9110 5.3", "a list in two", get(b"X: a\r\nX: b\r\nAccept: a\r\nAccept: b\r\n"), b"GET / X=a X=b", why="lists"),
    no(
        "9110 5.3",
        "two content types",
        post(b"Content-Type: a/b\r\nContent-Type: c/d\r\nContent-Length: 0\r\n", b""),
        "no list",
    ),
    no("9110 5.3", "two equal content types", get(b"Content-Type: a/b\r\nContent-Type: a/b\r\n"), "no list"),
    no("9110 5.3", "two authorizations", get(b"Authorization: a\r\nAuthorization: b\r\n"), "no list"),
    no("9110 5.3", "two origins", get(b"Origin: http://a\r\nOrigin: http://b\r\n"), "no list"),
    no("9110 5.3", "two ranges", get(b"Range: bytes=0-1\r\nRange: bytes=1-2\r\n"), "no list"),
]
LENGTH = [  # RFC 9110, 8.6; RFC 9112, 6.2 and 6.3
    ok("9110 8.6", "zero", post(b"Content-Length: 0\r\n", b""), b"POST / ", why="a length"),
    ok("9110 8.6", "with GET", get(b"Content-Length: 2\r\n") + b"xy", b"GET / xy", why="framing is the same for all"),
    ok("9112 6.3", "none", get(method=b"POST") + get(), b"POST / ", b"GET / ", why="then there is no body"),
    *(
        no(
            "9110 8.6",
            f"a length of {name}",
            post(b"Content-Length: " + value + b"\r\n", b"x"),
            "1*DIGIT, read by all alike",
        )
        for name, value in {
            "zeros and a digit": b"01",
            "two zeros": b"00",
            "many zeros": b"0" * 5000 + b"1",
            "a plus": b"+1",
            "a minus": b"-1",
            "a hexadecimal": b"0x1",
            "a letter": b"1a",
            "a dot": b"1.0",
            "an underscore": b"1_0",
            "a blank within": b"1 0",
            "nothing": b"",
            "a quoted": b'"1"',
            "a list": b"1, 1",
            "a list that differs": b"1, 2",
            "a comma behind": b"1,",
            "a semicolon": b"1;",
            "other digits": b"\xd9\xa1",
            "2**64 + 1": b"18446744073709551617",
        }.items()
    ),
    no("9112 6.3", "two lengths", post(b"Content-Length: 1\r\nContent-Length: 2\r\n", b"x"), "unrecoverable"),
    no(
        "9112 6.3",
        "two equal lengths",
        post(b"Content-Length: 1\r\nContent-Length: 1\r\n", b"x"),
        "MAY be taken; one of two would not",
    ),
    no("9112 6.3", "a length that is too long", post(b"Content-Length: 99999999999\r\n", b""), "beyond the limit", 413),
    Case(
        "9112 6.3",
        "more than the length",
        post(b"Content-Length: 1\r\n", b"x") + b"y" + get(),
        [200, 400],
        [b"POST / x"],
        "the rest is the next request",
    ),
    Case("9112 8", "less than the length", post(b"Content-Length: 9\r\n", b"x"), [], [], "incomplete: not handled"),
]
ENCODING = [  # RFC 9112, 6.1 and 6.3
    ok(
        "9112 6.1",
        "in other letters",
        post(b"Transfer-Encoding: CHUNKED\r\n", b"1\r\nx\r\n0\r\n\r\n"),
        b"POST / x",
        why="case-insensitive",
    ),
    ok(
        "9112 6.1",
        "with GET",
        get(b"Transfer-Encoding: chunked\r\n") + b"1\r\nx\r\n0\r\n\r\n",
        b"GET / x",
        why="framing is the same for all",
    ),
    *(
        no(
            "9112 6.1",
            f"an encoding of {name}",
            post(b"Transfer-Encoding: " + value + b"\r\n", b"0\r\n\r\n"),
            "chunked alone is read by all alike",
        )
        for name, value in {
            "gzip": b"gzip",
            "identity": b"identity",
            "gzip and chunked": b"gzip, chunked",
            "chunked and gzip": b"chunked, gzip",
            "chunked twice": b"chunked, chunked",
            "chunked and a comma": b"chunked,",
            "a comma and chunked": b",chunked",
            "chunked and a parameter": b"chunked;a=b",
            "quoted chunked": b'"chunked"',
            "xchunked": b"xchunked",
            "nothing": b"",
            "chunked with a NUL": b"chunked\0",
            "chunked with a no-break space": b"chunked\xa0",
        }.items()
    ),
    no(
        "9112 6.1",
        "two lines",
        post(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
        "MUST NOT be applied twice",
    ),
    no(
        "9112 6.1",
        "identity, then chunked",
        post(b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
        "one may take either",
    ),
    no(
        "9112 6.1",
        "with a length",
        post(b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
        "an attempt to smuggle",
    ),
    no(
        "9112 6.1",
        "before a length",
        post(b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", b"0\r\n\r\n"),
        "an attempt to smuggle",
    ),
    no("9112 6.1", "in 1.0", b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "faulty framing"),
    ok(
        "9112 6.1",
        "by another name",
        post(b"Transfer_Encoding: chunked\r\nContent-Length: 1\r\n", b"x"),
        b"POST / x",
        why="another field",
    ),
    ok("9112 6.1", "TE", get(b"TE: chunked\r\nConnection: TE\r\n"), b"GET / ", why="it says nothing of this message"),
]
CHUNKS = [  # RFC 9112, 7.1
    ok("9112 7.1", "two chunks", chunked(b"1\r\nx\r\n2\r\nyz\r\n0\r\n\r\n"), b"POST / xyz", why="the form"),
    ok("9112 7.1", "none", chunked(b"0\r\n\r\n"), b"POST / ", why="the last chunk alone"),
    ok(
        "9112 7.1",
        "letters",
        chunked(b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n"),
        b"POST / " + b"0123456789" * 2,
        why="HEXDIG, case-insensitive",
    ),
    ok("9112 7.1", "zeros", chunked(b"0001\r\nx\r\n000\r\n\r\n"), b"POST / x", why="1*HEXDIG"),
    ok(
        "9112 7.1",
        "what looks like an end",
        chunked(b"5\r\n0\r\n\r\n\r\n0\r\n\r\n"),
        b"POST / 0\r\n\r\n",
        why="sizes alone count",
    ),
    ok(
        "9112 7.1",
        "another request behind",
        chunked(b"1\r\nx\r\n0\r\n\r\n") + get(),
        b"POST / x",
        b"GET / ",
        why="it ends there",
    ),
    ok(
        "9112 7.1.1", "an extension", chunked(b"1;a=b\r\nx\r\n0;c\r\n\r\n"), b"POST / x", why="MUST ignore unknown ones"
    ),
    ok("9112 7.1.1", "blanks", chunked(b"1; some; parameters=stuff\r\nx\r\n0\r\n\r\n"), b"POST / x", why="BWS"),
    ok("9112 7.1.1", "blanks everywhere", chunked(b"1 \t; a \t= \tb ;c\r\nx\r\n0\r\n\r\n"), b"POST / x", why="BWS"),
    ok(
        "9112 7.1.1",
        "a quoted value",
        chunked(b'1;a="b;\\"c\\\\ 0"\r\nx\r\n0\r\n\r\n'),
        b"POST / x",
        why="quoted-string",
    ),
    ok("9112 7.1.2", "trailers", chunked(b"1\r\nx\r\n0\r\nX: y\r\nA:b\r\n\r\n"), b"POST / x", why="MAY be dropped"),
    ok(
        "9112 7.1.2",
        "a Host in the trailers",
        chunked(b"0\r\nHost: b\r\n\r\n"),
        b"POST / ",
        why="MUST NOT be merged: dropped",
    ),
    *(
        no("9112 7.1", f"a size of {name}", chunked(value + b"\r\nx\r\n0\r\n\r\n"), "1*HEXDIG")
        for name, value in {
            "nothing": b"",
            "0x": b"0x1",
            "a plus": b"+1",
            "a minus": b"-1",
            "a letter beyond f": b"g",
            "an underscore": b"0_1",
            "a blank in front": b" 1",
            "a blank behind": b"1 ",
            "a tab behind": b"1\t",
            "a NUL": b"1\0",
            "a comma": b"1,",
            "17 digits": b"00000000000000001",
            "2**64 + 1": b"10000000000000001",
        }.items()
    ),
    *(
        no("9112 7.1.1", f"an extension of {name}", chunked(value + b"\r\nx\r\n0\r\n\r\n"), "token, or quoted-string")
        for name, value in {
            "nothing": b"1;",
            "blanks": b"1; ",
            "no name": b"1;=b",
            "no value": b"1;a=",
            "an open quote": b'1;a="b',
            "a bare LF": b'1;a="\n"',
            "a bare CR": b"1;a\rb",
            "a NUL": b"1;a=\0",
            "two names": b"1;a b",
            "17 KB": b"1;" + b"a" * 17_000,
        }.items()
    ),
    no(
        "9112 7.1.1",
        "extensions of 17 KB in all",
        chunked(b"1;%b\r\nx\r\n" % (b"a" * 500) * 34 + b"0\r\n\r\n"),
        "MUST limit them",
    ),
    no("9112 7.1", "LF behind the size", chunked(b"1\nx\r\n0\r\n\r\n"), "CRLF"),
    no("9112 7.1", "LF behind the bytes", chunked(b"1\r\nx\n0\r\n\r\n"), "CRLF"),
    no("9112 7.1", "CR behind the bytes", chunked(b"1\r\nx\r0\r\n\r\n"), "CRLF"),
    no("9112 7.1", "nothing behind the bytes", chunked(b"1\r\nx0\r\n\r\n"), "CRLF"),
    no("9112 7.1", "a chunk that is longer", chunked(b"1\r\nxy\r\n0\r\n\r\n"), "the size says one"),
    no("9112 7.1", "a chunk that is shorter", chunked(b"5\r\nxy\r\n0\r\n\r\n"), "the size says five"),
    no("9112 7.1", "an empty line in front", chunked(b"\r\n1\r\nx\r\n0\r\n\r\n"), "a size comes first"),
    no("9112 7.1.2", "a trailer that is none", chunked(b"0\r\nX\r\n\r\n"), "a field"),
    no("9112 7.1.2", "a trailer with a blank", chunked(b"0\r\nX : y\r\n\r\n"), "a field"),
    no("9112 7.1.2", "a folded trailer", chunked(b"0\r\nX: y\r\n z\r\n\r\n"), "a field"),
    no("9112 7.1.2", "a trailer that LF ends", chunked(b"0\r\nX: y\n\r\n"), "CRLF"),
    no("9112 7.1.2", "LF for the last line", chunked(b"0\r\n\n"), "CRLF"),
    no(
        "9110 6.5.1",
        "a length in the trailers",
        chunked(b"0\r\nContent-Length: 9\r\n\r\n"),
        "framing MUST NOT be there",
    ),
    no(
        "9110 6.5.1",
        "an encoding in the trailers",
        chunked(b"0\r\nTransfer-Encoding: chunked\r\n\r\n"),
        "framing MUST NOT be there",
    ),
    Case("9112 8", "no last chunk", chunked(b"1\r\nx\r\n"), [], [], "incomplete: not handled"),
    Case("9112 8", "half a chunk", chunked(b"9\r\nx"), [], [], "incomplete: not handled"),
    Case("9112 8", "no end of the trailers", chunked(b"0\r\nX: y\r\n"), [], [], "incomplete: not handled"),
]
CONNECTION = [  # RFC 9112, 9; RFC 9110, 7.6 to 7.8, 9, 10.1
    ok(
        "9112 9.3",
        "two in turn",
        get(target=b"/1") + get(target=b"/2"),
        b"GET /1 ",
        b"GET /2 ",
        why="persistent by default",
    ),
    ok("9112 9.3", "close", get(b"Connection: close\r\n") + SMUGGLED, b"GET / ", why="MUST NOT process any further"),
    ok(
        "9112 9.3",
        "close among others",
        get(b"Connection: x, Close\r\n") + SMUGGLED,
        b"GET / ",
        why="a list, case-insensitive",
    ),
    ok("9112 9.3", "1.0 ends", b"GET / HTTP/1.0\r\n\r\n" + SMUGGLED, b"GET / ", why="not persistent by default"),
    ok(
        "9112 9.3",
        "1.0 that stays",
        b"GET /1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + get(),
        b"GET /1 ",
        b"GET / ",
        why="it asks for that",
    ),
    ok(
        "9110 7.6.1",
        "names framing",
        post(b"Connection: content-length\r\nContent-Length: 1\r\n", b"x"),
        b"POST / x",
        why="this is the end of the road",
    ),
    ok(
        "9110 7.8",
        "another protocol",
        get(b"Connection: upgrade\r\nUpgrade: h2c\r\n") + get(),
        b"GET / ",
        b"GET / ",
        why="MAY be ignored",
    ),
    ok(
        "9110 7.8",
        "with a body",
        post(b"Connection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 1\r\n", b"x") + get(),
        b"POST / x",
        b"GET / ",
        why="MAY be ignored",
    ),
    ok(
        "9110 7.8",
        "with chunks",
        post(b"Connection: upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n", b"1; a\r\nx\r\n0\r\n\r\n")
        + get(),
        b"POST / x",
        b"GET / ",
        why="MAY be ignored",
    ),
    ok("9110 9.3.2", "HEAD", get(method=b"HEAD") + get(), b"HEAD / ", b"GET / ", why="no body comes back"),
    ok("9110 9.1", "DELETE", get(method=b"DELETE"), b"DELETE / ", why="a method"),
    ok("9110 9.1", "PATCH", get(b"Content-Length: 1\r\n", method=b"PATCH") + b"x", b"PATCH / x", why="a method"),
    Case(
        "9110 10.1.1",
        "continue",
        post(b"Expect: 100-continue\r\nContent-Length: 1\r\n", b""),
        [100],
        [],
        "before the body",
    ),
    ok(
        "9110 10.1.1",
        "continue, and the body",
        post(b"Expect: 100-Continue\r\nContent-Length: 1\r\n", b"x"),
        b"POST / x",
        why="MAY omit it",
    ),
    ok(
        "9110 10.1.1",
        "continue in 1.0",
        b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
        b"POST / x",
        why="MUST ignore it",
    ),
    no("9110 10.1.1", "another expectation", get(b"Expect: cake\r\n"), "MAY be 417", 417),
    Case("9112 8", "half a head", b"GET / HTTP/1.1\r\nHost: a\r\n", [], [], "incomplete: not handled"),
    Case("9112 8", "half a request line", b"GET /", [], [], "incomplete: not handled"),
    Case("9112 8", "nothing", b"", [], [], "nobody asked"),
]
CASES = [
    *MESSAGE, *VERSION, *REQUEST_LINE, *TARGET, *HOSTS, *FIELDS, *LENGTH, *ENCODING, *CHUNKS, *CONNECTION
]  # fmt: skip
