"""A process may have no more descriptors."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import time
import urllib.parse
from collections.abc import Iterator

from benchmarks.faults.row import Row
from benchmarks.faults.scene import Scene, nothing, scene, watched

CONNECTIONS = 200
WITHOUT_S = 3.0


@contextlib.contextmanager
def none_left(pid: int) -> Iterator[None]:
    """A process may open nothing more (RLIMIT_NOFILE, prlimit(2)), but for what it closes before."""
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    most = max(int(name) for name in os.listdir(f"/proc/{pid}/fd")) + 1
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


def connected(at: Scene) -> list[socket.socket]:
    """Clients that connect and ask."""
    server = urllib.parse.urlsplit(at.instance.url)
    clients = []
    for number in range(CONNECTIONS):
        clients.append(socket.create_connection((server.hostname or "", server.port or 0), timeout=30))
        clients[-1].sendall(f"GET /echo?id={number} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    return clients


def first_words(client: socket.socket) -> str:
    try:
        return client.recv(65536)[9:12].decode() or "closed"
    except OSError as error:
        return type(error).__name__


def exhausted(runtime: str) -> Row:
    """Beside those connections that are there, others come."""
    with scene(runtime) as at:
        with watched(at) as watch:
            (worker,) = at.ingress()
            with watch.fault(), none_left(worker):
                clients = connected(at)
                time.sleep(WITHOUT_S)
            began_s = time.monotonic()
            answers = [first_words(client) for client in clients]
            took_s = time.monotonic() - began_s
            watch.until_whole(lambda: True)
            for client in clients:
                client.close()
            told = ", ".join(f"{answers.count(kind)} {kind}" for kind in dict.fromkeys(answers))
            watch.notes.append(f"{CONNECTIONS} connections came meanwhile; their answers: {told}")
            watch.notes.append(f"they waited for {WITHOUT_S:.0f} s, and then for {took_s:.2f} s more")
        return watch.row("an ingress worker has no descriptor left", nothing, "")


FAULTS = {"descriptors": exhausted}
