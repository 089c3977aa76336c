"""A real instance whose processes may have few descriptors."""

from __future__ import annotations

import http.client
import os
import resource
import socket
from urllib.parse import urlsplit

import pytest
from instance_tools import Scripts, told
from tests.support.waiting import until

pytestmark = pytest.mark.processes

SCRIPT = """
import json
import servekit

def hello(request):
    return "hello"

instance = servekit.init(runtime="process", http_port=0)
servekit.create_backend("hello", hello)
servekit.create_endpoint("hello", "/hello", backend="hello")
(worker,) = instance.status()["ingress"]
print("TOLD", json.dumps({"url": instance.url, "worker": worker["pid"]}), flush=True)
servekit.wait()
"""
REFUSED = "no connection can be taken"
MOST = (300 - 128) // 2


def ask(connection: http.client.HTTPConnection) -> tuple[int, str | None]:
    connection.request("GET", "/hello")
    answer = connection.getresponse()
    answer.read()
    return answer.status, answer.headers["retry-after"]


def test_connections_that_there_are_no_descriptors_for_are_told_so(scripts: Scripts) -> None:
    scripts.write("main.py", SCRIPT)
    script = scripts.shell("ulimit -n 300; exec $PYTHON main.py")
    address = urlsplit(told(script)["url"]).netloc
    connections = [http.client.HTTPConnection(address, timeout=30) for _ in range(MOST + 10)]
    answers = [ask(connection) for connection in connections]
    assert answers == [(200, None)] * MOST + [(503, "1")] * 10
    for connection in connections:
        connection.close()

    def is_served() -> bool:
        fresh = http.client.HTTPConnection(address, timeout=30)
        try:
            return ask(fresh)[0] == 200
        finally:
            fresh.close()

    until(is_served)
    script.terminate()
    assert script.wait(60) == 0


def test_connections_wait_while_a_process_has_no_descriptor_for_them(scripts: Scripts) -> None:
    scripts.write("main.py", SCRIPT)
    script = scripts.shell("exec $PYTHON main.py")
    known = told(script)
    address = urlsplit(known["url"])
    worker = known["worker"]
    limits = resource.prlimit(worker, resource.RLIMIT_NOFILE)
    most = max(int(name) for name in os.listdir(f"/proc/{worker}/fd")) + 1
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (most, limits[1]))
    clients = [socket.create_connection((address.hostname, address.port), timeout=30) for _ in range(most)]
    for client in clients:
        client.sendall(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")
    assert script.stdout is not None
    next(line for line in script.stdout if REFUSED in line)
    resource.prlimit(worker, resource.RLIMIT_NOFILE, limits)
    for client in clients:
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
        client.close()
    script.terminate()
    assert REFUSED not in script.stdout.read()
    assert script.wait(60) == 0
