"""Bad input never kills a worker: whatever arrives, the same processes go on serving."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import instance_handlers
import msgspec
import pytest
from instance_tools import Load, Process, parent, pids

import servekit as serve

pytestmark = [
    pytest.mark.processes,
    pytest.mark.runtimes("process"),
]

RANDOM = random.Random(7)
ON_LINKS = {
    "noise": RANDOM.randbytes(5000),
    "HTTP": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a frame without end": struct.pack(">I", 2**32 - 1) + b"x" * 1000,
    "a frame longer than a handshake": struct.pack(">I", 17 * 1024) + b"x" * 17 * 1024,
    "an empty frame": struct.pack(">I", 0),
    "half a frame": struct.pack(">I", 100) + b"x" * 50,
    "half a size": b"\0\0",
    "nothing": b"",
}
MESSAGES = {
    "a proof without the token": [1, b"n" * 16, b"m" * 32, b"hello"],
    "an empty proof": [1, b"", b"", b""],
    "another protocol": [99, b"n" * 16, b"m" * 32, b"hello"],
    "another shape": {"protocol": 1},
    "other types": ["1", 2, None, []],
    "deeply nested": None,
}
GET = b"GET /model HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /model HTTP/1.1\r\nHost: x\r\n"
ON_HTTP = {
    "noise": RANDOM.randbytes(5000),
    "a TLS hello": bytes.fromhex("1603010200010001fc0303") + RANDOM.randbytes(500),
    "a long line": b"GET /" + b"a" * 100_000,
    "many headers": GET + b"a: b\r\n" * 10_000 + b"\r\n",
    "both lengths": POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a bad chunk": POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n",
    "a negative length": POST + b"Content-Length: -1\r\n\r\n",
    "a huge length": POST + b"Content-Length: 99999999999999999999\r\n\r\n",
    "half a body": POST + b"Content-Length: 100\r\n\r\nabc",
    "a null in the path": b"GET /mo\0del HTTP/1.1\r\nHost: x\r\n\r\n",
    "odd escapes": b"GET /%ff%fe%zz/%00?%ff=%zz HTTP/1.1\r\nHost: x\r\n\r\n",
    "an odd query": b"GET /model?%ff=%zz&&=&%00 HTTP/1.1\r\nHost: x\r\n\r\n",
    "odd headers": GET + b"X-Request-ID: \xff\xfe\r\nCookie: \xff=\xff;;;\r\n\r\n",
    "an odd method to call": GET + b"X-Serve-Call-Method: \xff\r\n\r\n",
    "an odd content type": POST + b"Content-Type: multipart/form-data\r\nContent-Length: 3\r\n\r\nabc",
    "many requests at once": (GET + b"\r\n") * 500,
}


def unix(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(20)
    sock.connect(str(path))
    return sock


def push(sock: socket.socket, data: bytes) -> None:
    """Send it, say that there is no more, and take what comes until the peer hangs up."""
    with sock, contextlib.suppress(ConnectionError):
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(65536):
            pass


@pytest.fixture(scope="module")
def model(instance):
    serve.create_backend("model", instance_handlers.Named, "model", config={"num_replicas": 2})
    serve.create_endpoint("model", "/model", ["GET", "POST"], backend="model")
    return instance


@pytest.fixture
def unharmed(model) -> Iterator[serve.Instance]:
    """Under load, with every process the same before and after."""

    def processes():
        ingress = {worker["pid"] for worker in model.status()["ingress"]}
        return pids(model, "model"), ingress, {parent(pid) for pid in ingress}

    before = processes()
    with Load(model, "/model", clients=2) as load:
        yield model
        load.more()
    assert load.failures == []
    assert processes() == before
    assert all(Process(pid).is_there for group in before for pid in group)


def sockets(instance: serve.Instance) -> list[Path]:
    """Of the replicas, of the ingress worker and of the controller."""
    found = [path for path in Path(instance.directory).iterdir() if path.is_socket()]
    assert len(found) == 5, found
    return found


def test_garbage_on_the_sockets_of_workers_and_controller(unharmed):
    for path in sockets(unharmed):
        for data in ON_LINKS.values():
            push(unix(path), data)


def test_strangers_who_know_the_protocol(unharmed):
    for path in sockets(unharmed):
        for name, message in MESSAGES.items():
            payload = b"\x91" * 10_000 if name == "deeply nested" else msgspec.msgpack.encode(message)
            push(unix(path), struct.pack(">I", len(payload)) + payload)


def test_many_strangers_at_once(unharmed):
    for path in sockets(unharmed):
        held = [unix(path) for _ in range(50)]
        for sock in held:
            sock.sendall(b"\0")
        for sock in held:
            sock.close()


def test_garbage_over_http(unharmed):
    url = urlsplit(unharmed.url)
    for data in ON_HTTP.values():
        push(socket.create_connection((url.hostname, url.port), timeout=20), data)


def test_the_sockets_are_for_this_user_alone(model):
    directory = Path(model.directory)
    assert directory.stat().st_mode & 0o777 == 0o700
    assert directory.parent.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in sockets(model)} == {0o600}


def test_no_token_in_the_environment(model):
    """Whoever may look at a process's environment learns nothing that opens a link. Command lines have titles in their
    places; the conformance kit of runtimes looks at those that workers are started with."""
    ingress = model.status()["ingress"][0]["pid"]
    token = model.token
    assert len(token) >= 32
    for pid in [ingress, parent(ingress), *pids(model, "model")]:
        content = Path(f"/proc/{pid}/environ").read_bytes()
        assert token.encode() not in content
        assert bytes.fromhex(token) not in content
    assert token not in os.environ.values()
