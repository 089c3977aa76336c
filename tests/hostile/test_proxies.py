"""Through real proxies: no request that the proxy does not know of, and no answer to another's request."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.hostile.rfc_cases import CASES, HOST, chunked, get, post
from tests.support.waiting import until

DEADLINE_S = 20.0
LAST = get(b"Connection: close\r\n", b"/last")
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])

NGINX = """
daemon off; master_process off; worker_processes 1; pid {here}/pid; error_log {here}/log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {here}/1; proxy_temp_path {here}/2; fastcgi_temp_path {here}/3;
    uwsgi_temp_path {here}/4; scgi_temp_path {here}/5;
    client_header_timeout 300ms; client_body_timeout 300ms; keepalive_timeout 300ms; lingering_close off;
    {options}
    upstream servekit {{ server unix:{behind}; keepalive 2; }}
    server {{
        listen unix:{here}/front;
        location / {{ proxy_pass http://servekit; proxy_http_version 1.1; proxy_set_header Connection "";
                      proxy_next_upstream off; {to_server} }}
    }}
}}
"""
HAPROXY = """
defaults
    mode http
    timeout client 300ms
    timeout http-request 300ms
    timeout http-keep-alive 300ms
    timeout connect 5s
    timeout server 20s
    {options}
    http-reuse always
    retries 0
frontend front
    bind unix@{here}/front
    default_backend servekit
backend servekit
    server one unix@{behind}
"""


class Kind(NamedTuple):
    program: str
    config: str
    options: str = ""
    to_server: str = ""

    def command(self, config: Path) -> list[str]:
        program = shutil.which(self.program, path=PATH)
        if program is None:
            pytest.skip(f"{self.program} is not installed")
        more = ["-p", str(config.parent), "-c", str(config)] if self.program == "nginx" else ["-f", str(config)]
        return [program, *more]


KINDS = {
    "nginx": Kind("nginx", NGINX),
    "nginx, lenient": Kind(
        "nginx",
        NGINX,
        "ignore_invalid_headers off; underscores_in_headers on; merge_slashes off;",
        "proxy_request_buffering off; proxy_pass_request_headers on;",
    ),
    "haproxy": Kind("haproxy", HAPROXY),
    "haproxy, lenient": Kind("haproxy", HAPROXY, "option accept-invalid-http-request"),
}
TWO_LENGTHS = b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n"
HIDDEN = b"GET /hidden HTTP/1.1\r\n" + HOST + b"\r\n"
SMUGGLING = {
    "CL.TE": post(b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n" % (5 + len(HIDDEN)), b"0\r\n\r\n" + HIDDEN),
    "TE.CL": post(TWO_LENGTHS, b"%x\r\n%b\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN)),
    **{
        f"TE.TE {value!r}": post(b"Content-Length: 5\r\n" + value + b"\r\n", b"0\r\n\r\n" + HIDDEN)
        for value in (
            b"Transfer-Encoding: xchunked",
            b"Transfer-Encoding : chunked",
            b"Transfer-Encoding:\x0bchunked",
            b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
            b"X: y\nTransfer-Encoding: chunked",
            b" Transfer-Encoding: chunked",
            b"Transfer-Encoding\r\n : chunked",
            b"Transfer_Encoding: chunked",
            b"transfer-encoding: identity, chunked",
            b'Transfer-Encoding: "chunked"',
        )
    },
    "CL.CL": post(b"Content-Length: 0\r\nContent-Length: %d\r\n" % len(HIDDEN), HIDDEN),
    "CL.0": get(b"Content-Length: %d\r\n" % len(HIDDEN)) + HIDDEN,
    "octal length": post(b"Content-Length: 0%d\r\n" % len(HIDDEN), HIDDEN),
    "signed length": post(b"Content-Length: +%d\r\n" % len(HIDDEN), HIDDEN),
    "extension with LF": chunked(b"1;a\nb\r\nx\r\n0\r\n\r\n" + HIDDEN),
    "extension with blanks": chunked(b"1; a = b\r\nx\r\n0\r\n\r\n"),
    "LF for CRLF": chunked(b"1\nx\n0\n\n" + HIDDEN),
    "long size": chunked(b"1000000000000000%x\r\n%b\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN)),
    "trailers": chunked(b"1\r\nx\r\n0\r\nContent-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN),
    "upgrade": get(b"Connection: upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n") + HIDDEN,
    "websocket of no version": get(
        b"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 777\r\nSec-WebSocket-Key: a\r\n"
    )
    + HIDDEN,
    "HEAD": get(method=b"HEAD") + HIDDEN,
    "expect": post(b"Expect: 100-continue\r\nContent-Length: %d\r\n" % len(HIDDEN), HIDDEN),
    "expect nothing": get(b"Expect: cake\r\nContent-Length: %d\r\n" % len(HIDDEN)) + HIDDEN,
    "split by the target": get(target=b"/%0d%0aHost:%20b%0d%0a%0d%0aGET%20/hidden"),
    "absolute": get(target=b"http://b/x") + HIDDEN,
    "hop by hop": post(b"Connection: close, Content-Length\r\nContent-Length: %d\r\n" % len(HIDDEN), HIDDEN),
    "1.0 with chunks": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "early answer": post(b"Content-Length: 99999999999\r\n", HIDDEN),
}  # fmt: skip
WITHOUT_HEAD = ["9112 2.3 none"]
"""nginx takes it for HTTP/0.9, makes HTTP/1.1 of it, and hands the body back alone."""
REQUESTS = {f"{case.section} {case.name}": case.sent for case in CASES if case.statuses not in ([], [100])} | SMUGGLING


class Proxy:
    def __init__(self, address: str, front: Any) -> None:
        self._address = address
        self._front = front

    def answers(self, data: bytes) -> list[tuple[int, int | None, bytes]]:
        """Send it all, and return what comes until the proxy closes: status, number of the request seen, and body."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(DEADLINE_S)
            client.connect(self._address)
            answered = b""
            try:
                client.sendall(data)
                while piece := client.recv(65536):
                    answered += piece
            except (ConnectionResetError, BrokenPipeError):
                pass  # It was refused before all was read.
        return read_answers(answered, head=data.startswith(b"HEAD"))

    def check(self, data: bytes) -> None:
        before = len(self._front.seen)
        answers = self.answers(data + LAST)
        probe = b"/probe%d" % before
        answers += self.answers(get(b"Connection: close\r\n", probe))
        seen = self._front.seen[before:]
        # What the handler was given was answered, once, and in order; and the next client got an answer of its own.
        assert [number for _, number, _ in answers if number is not None] == [before + n for n in range(len(seen))], (
            answers,
            seen,
        )
        assert all(body in (b"", self._front.seen[number]) for _, number, body in answers if number is not None)
        assert seen[-1] == b"GET %b " % probe
        assert answers[-1] == (200, len(self._front.seen) - 1, seen[-1])


def read_answers(data: bytes, *, head: bool) -> list[tuple[int, int | None, bytes]]:
    answers: list[tuple[int, int | None, bytes]] = []
    while data.startswith(b"HTTP/1."):
        lines, _, data = data.partition(b"\r\n\r\n")
        line, *fields = lines.split(b"\r\n")
        named = {name.lower(): value for name, _, value in (each.partition(b": ") for each in fields)}
        status = int(line.split()[1])
        if status == 100:
            continue
        size = int(named.get(b"content-length", len(data)))
        body, data = (b"", data) if head and not answers else (data[:size], data[size:])
        answers.append((status, int(named[b"x-seen"]) if b"x-seen" in named else None, body))
    return answers


@pytest.fixture(scope="module", params=KINDS)
def proxy(request: pytest.FixtureRequest, front: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    kind = KINDS[request.param]
    here = tmp_path_factory.mktemp("p")
    config = here / "config"
    config.write_text(
        kind.config.format(here=here, behind=front.socket, options=kind.options, to_server=kind.to_server)
    )
    with (here / "out").open("wb") as out:
        process = subprocess.Popen(kind.command(config), stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        one = Proxy(str(here / "front"), front)

        def serves() -> bool:
            assert process.poll() is None, (here / "out").read_text()
            try:
                return bool(one.answers(get(b"Connection: close\r\n"))[0][0] == 200)
            except (FileNotFoundError, ConnectionRefusedError):
                return False

        until(serves)
        yield one
    finally:
        process.terminate()
        process.wait(DEADLINE_S)


@pytest.mark.processes
def test_a_proxy_and_the_handler_know_of_the_same_requests(proxy: Proxy) -> None:
    failures = {}
    for name in sorted(REQUESTS.keys() - WITHOUT_HEAD):
        try:
            proxy.check(REQUESTS[name])
        except AssertionError as error:
            failures[name] = str(error)
    assert not failures
