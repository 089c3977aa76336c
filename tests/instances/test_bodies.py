"""Long bodies over real sockets, through real processes: that they arrive, what they cost, and how they break off."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import signal
import socket
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import body_handlers
import httpx
import instance_handlers
import pytest
from instance_tools import Load, Process, pids
from tests.support.runtimes import NOT_ON_RAY
from tests.support.waiting import until

import servekit as serve

# Ray has a part in how a replica ends, and none in how bodies travel.
pytestmark = [pytest.mark.processes, pytest.mark.runtimes("process")]

TEN = 10_000_000
BODY = b"".join(b"%07d," % number for number in range(TEN // 8))
GROWTH_BYTES = 30_000_000
SPOOL_BYTES = serve.HttpLimits().spool_answer_bytes


def place(name, target, *init_args, endpoint=None, **config):
    serve.create_backend(name, target, *init_args, config=config)
    serve.create_endpoint(endpoint or name, f"/{endpoint or name}", ["GET", "POST", "PUT"], backend=name)


def split(body, size=70_001):
    return (body[at : at + size] for at in range(0, len(body), size))


def counted(endpoint, status):
    """Since the instance began: endpoints of this name that are gone count, too."""
    return serve.stat()["endpoints"].get(endpoint, {"by_status": {}})["by_status"].get(str(status), 0)


def outstanding(backend):
    return sum(replica["outstanding"] for replica in serve.status()["backends"][backend]["replicas"])


def connect(instance):
    return socket.create_connection(("127.0.0.1", urllib.parse.urlsplit(instance.url).port), timeout=60)


def resident_bytes(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"process {pid} has no memory")


class Upload:
    """A request in the middle of its body, on a socket of its own."""

    def __init__(self, instance, path, sent, method="POST", length=TEN):
        self.socket = connect(instance)
        self.left = length - sent
        head = f"{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"
        self.socket.sendall(head.encode() + bytes(sent))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def finish(self):
        self.socket.sendall(bytes(self.left))
        return self.answer()

    def answer(self):
        with http.client.HTTPResponse(self.socket) as response:
            response.begin()
            return response.status, response.read()


# -- there and back -------------------------------------------------------------------------------------------------


@pytest.mark.runtimes("process", "ray")
@pytest.mark.parametrize("slots", [pytest.param(1, marks=NOT_ON_RAY), 3])
def test_ten_megabytes_up_and_down(serving, client, slots):
    for handler in (body_handlers.whole, body_handlers.pieces, body_handlers.digest):
        place(handler.__name__, handler, max_concurrent_queries=slots)
    for body in (BODY, split(BODY)):
        assert client.post("/whole", content=body).content == BODY
    for body in (BODY, split(BODY)):
        answer = client.post("/digest", content=body).json()
        assert (answer["size"], answer["digest"]) == (TEN, hashlib.sha256(BODY).hexdigest())


@pytest.mark.parametrize("slots", [1, 3])
def test_an_echo_goes_on_in_both_directions_at_once(serving, instance, slots):
    """For a client that reads while it sends; one that does not would fill every buffer, and wait for itself."""
    place("pieces", body_handlers.pieces, max_concurrent_queries=slots)
    with Upload(instance, "/pieces", 0) as upload, ThreadPoolExecutor(1) as threads:
        sending = threads.submit(upload.socket.sendall, BODY)
        assert upload.answer() == (200, BODY)
        sending.result(60)


@pytest.mark.parametrize("path", ["/made?size=10000000", "/made?size=10000000&piece=9999"])
def test_ten_megabytes_down(serving, client, path):
    place("made", body_handlers.made)
    assert len(client.get(path).content) == TEN
    head = client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert client.get("/made?size=5").content == bytes(5)


def test_a_connection_goes_on_after_an_unread_body(serving, instance):
    place("unread", body_handlers.unread)
    connection = http.client.HTTPConnection("127.0.0.1", urllib.parse.urlsplit(instance.url).port, timeout=60)
    ports = set()
    for path in ("/unread", "/nowhere", "/unread"):
        connection.request("POST", path, BODY)
        response = connection.getresponse()
        assert response.status == (404 if path == "/nowhere" else 200)
        response.read()
        ports.add(connection.sock.getsockname())
    connection.close()
    assert len(ports) == 1


# -- memory ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("handler", "method", "path"),
    [
        (body_handlers.digest, "POST", "/b"),
        (body_handlers.whole, "POST", "/b"),
        (body_handlers.unread, "POST", "/b"),
        (body_handlers.made, "GET", "/b?size=10000000"),
        (body_handlers.made, "GET", "/b?size=10000000&piece=10000"),
    ],
)
def test_memory_does_not_grow_with_the_bodies_served(serving, client, handler, method, path):
    place("b", handler)
    (replica,) = pids(serving, "b")
    (ingress,) = (worker["pid"] for worker in serving.status()["ingress"])

    def ask(times):
        for _ in range(times):
            assert client.request(method, path, content=BODY if method == "POST" else None).status_code == 200

    ask(8)
    before = [resident_bytes(pid) for pid in (replica, ingress)]
    ask(30)
    grown = [resident_bytes(pid) - held for pid, held in zip((replica, ingress), before, strict=False)]
    assert max(grown) < GROWTH_BYTES, grown


def test_memory_does_not_grow_with_bodies_that_are_broken_off(serving, instance, tmp_path):
    place("endless", body_handlers.Endless, str(tmp_path))
    place("digest", body_handlers.digest)
    workers = [*pids(serving, "endless"), *pids(serving, "digest"), *(w["pid"] for w in serving.status()["ingress"])]

    def break_off(number):
        with httpx.stream("GET", f"{instance.url}/endless?name=n{number}", verify=False, timeout=60) as answer:
            next(answer.iter_raw())
        with Upload(instance, "/digest", 3_000_000):
            pass
        until((tmp_path / f"n{number}.closed").exists)

    for number in range(8):
        break_off(number)
    before = list(map(resident_bytes, workers))
    for number in range(8, 40):
        break_off(number)
    grown = [resident_bytes(pid) - held for pid, held in zip(workers, before, strict=False)]
    assert max(grown) < GROWTH_BYTES, grown


# -- slow readers and slow writers ------------------------------------------------------------------------------------


def test_a_slow_reader_stops_the_generator(serving, instance, client, tmp_path):
    place("endless", body_handlers.Endless, str(tmp_path))
    place("other", body_handlers.pid)
    (replica,) = pids(serving, "endless")
    (ingress,) = (worker["pid"] for worker in serving.status()["ingress"])
    before = [resident_bytes(pid) for pid in (replica, ingress)]
    gone = counted("endless", 499)
    reader = connect(instance)
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    reader.sendall(b"GET /endless?name=slow HTTP/1.1\r\nHost: a\r\n\r\n")
    made = tmp_path / "slow.made"
    until(made.exists)
    last = [""]

    def stands_still():
        """While several requests of others were answered."""
        for _ in range(100):
            client.get("/other")
        before, last[0] = last[0], made.read_text()
        return last[0] and before == last[0]

    until(stands_still)
    # What the kernel's buffers take is some megabytes, and what is spooled has a bound.
    assert int(last[0]) * body_handlers.Endless.PIECE_BYTES < SPOOL_BYTES + 30_000_000
    assert not (tmp_path / "slow.closed").exists()
    grown = [resident_bytes(pid) - held for pid, held in zip((replica, ingress), before, strict=False)]
    assert max(grown) < GROWTH_BYTES, grown
    got = 0
    while got < 20_000_000:
        got += len(reader.recv(1_000_000))
    until(lambda: int(made.read_text() or 0) > int(last[0]))
    reader.close()
    until((tmp_path / "slow.closed").exists)
    until(lambda: counted("endless", 499) > gone)
    assert client.get("/endless").text == str(replica)


def test_a_handler_that_does_not_read_holds_its_client_back(serving, instance, tmp_path):
    place("gated", body_handlers.Gated, str(tmp_path), max_concurrent_queries=2)
    with connect(instance) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        size = 60_000_000
        client.sendall(b"POST /gated?name=held HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
        client.settimeout(1)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < size:
                sent += client.send(bytes(min(100_000, size - sent)))
        assert (tmp_path / "held.begun").exists()
        assert sent < 30_000_000
        (tmp_path / "upload").touch()
        (tmp_path / "answer").touch()
        client.settimeout(60)
        client.sendall(bytes(size - sent))
        with http.client.HTTPResponse(client) as response:
            response.begin()
            assert int(response.read()[:20]) == size


# -- clients that go --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slots", [2, 4])
def test_a_client_that_goes_in_mid_upload(serving, instance, client, tmp_path, slots):
    place("gated", body_handlers.Gated, str(tmp_path), max_concurrent_queries=slots)
    """With one slot, before its call has begun; with two, while its handler reads."""
    gone = counted("gated", 499)
    (tmp_path / "upload").touch()
    for number in range(3):
        with Upload(instance, f"/gated?name=n{number}", 3_000_000):
            if slots > 1:
                until((tmp_path / f"n{number}.begun").exists)
        if slots > 1:
            until((tmp_path / f"n{number}.broken").exists)
    until(lambda: counted("gated", 499) == gone + 3)
    assert int(client.get("/gated").text) in pids(serving, "gated")
    until(lambda: outstanding("gated") == 0)
    assert len(list(tmp_path.glob("*.begun"))) == (3 if slots > 1 else 0)


def test_a_client_that_half_closes_in_mid_upload(serving, instance, client, tmp_path):
    place("gated", body_handlers.Gated, str(tmp_path), max_concurrent_queries=2)
    with Upload(instance, "/gated?name=half", 3_000_000) as upload:
        until((tmp_path / "half.begun").exists)
        upload.socket.shutdown(socket.SHUT_WR)
        (tmp_path / "upload").touch()
        assert upload.answer()[0] == 400
    until((tmp_path / "half.broken").exists)
    assert int(client.get("/gated").text) in pids(serving, "gated")


@pytest.mark.parametrize("slots", [1, 2])
def test_a_client_that_goes_in_mid_stream(serving, instance, client, tmp_path, slots):
    place("endless", body_handlers.Endless, str(tmp_path), max_concurrent_queries=slots)
    gone = counted("endless", 499)
    for number in range(3):
        with httpx.stream("GET", f"{instance.url}/endless?name=n{number}", verify=False, timeout=60) as answer:
            assert next(answer.iter_raw())
        until((tmp_path / f"n{number}.closed").exists)
    assert int(client.get("/endless").text) in pids(serving, "endless")
    until(lambda: counted("endless", 499) == gone + 3)
    until(lambda: outstanding("endless") == 0)


# -- replicas that are killed -----------------------------------------------------------------------------------------


@pytest.fixture
def load(serving):
    """Requests to others, all of which must be answered."""
    serve.create_backend("named", instance_handlers.Named, "named")
    serve.create_endpoint("named", "/named", ["GET", "POST"], backend="named")
    with Load(serving, "/named", clients=2) as load:
        yield load
    assert load.failures == []


def killed(serving, backend, pid):
    """Kill it; return once it is gone."""
    process = Process(int(pid))
    os.kill(process.pid, signal.SIGKILL)
    until(lambda: not process.is_there)


@pytest.mark.runtimes("process", "ray")
def test_a_replica_that_is_killed_in_mid_stream(serving, instance, client, load, tmp_path):
    place("endless", body_handlers.Endless, str(tmp_path), num_replicas=2)
    with httpx.stream("GET", f"{instance.url}/endless?name=cut", verify=False, timeout=60) as answer:
        received = answer.iter_raw()
        first = next(received)
        assert answer.status_code == 200
        killed(serving, "endless", first[:20])
        with pytest.raises(httpx.RemoteProtocolError):
            for _ in received:
                pass
    load.more()
    assert client.get("/endless").status_code == 200
    until(lambda: len(pids(serving, "endless")) == 2)


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_replica_that_is_killed_in_mid_upload(serving, instance, client, load, tmp_path, method):
    """It had read some of it, and that is kept nowhere else."""
    place("gated", body_handlers.Gated, str(tmp_path), num_replicas=2, max_concurrent_queries=2)
    begun = tmp_path / "n.begun"
    with Upload(instance, "/gated?name=n", 3_000_000, method) as upload:
        until(lambda: begun.exists() and begun.read_text())
        until(lambda: outstanding("gated") == 1)
        killed(serving, "gated", begun.read_text())
        status, text = upload.answer()
        assert status == 502
        assert b"'gated'" in text
        # The rest is taken all the same, and then the connection goes on.
        upload.socket.sendall(bytes(upload.left) + b"GET /named HTTP/1.1\r\nHost: a\r\n\r\n")
        assert upload.answer()[0] == 200
    load.more()
    until(lambda: len(pids(serving, "gated")) == 2)


@pytest.mark.runtimes("process", "ray")
@pytest.mark.parametrize(("method", "status"), [("PUT", 200), pytest.param("POST", 502, marks=NOT_ON_RAY)])
def test_a_replica_that_is_killed_before_it_read_any(serving, instance, load, tmp_path, method, status):
    """What it was sent of a body that waits for a slot is sent again, to another one, where the method allows it."""
    place("gated", body_handlers.Gated, str(tmp_path), max_concurrent_queries=2)
    (replica,) = pids(serving, "gated")
    with contextlib.ExitStack() as stack:
        one, two = (stack.enter_context(Upload(instance, f"/gated?name={name}", 1_000_000)) for name in ("one", "two"))
        until(lambda: all((tmp_path / f"{name}.begun").exists() for name in ("one", "two")))
        waits = stack.enter_context(Upload(instance, "/gated?name=waits", 1_000_000, method))
        until(lambda: outstanding("gated") == 3)
        killed(serving, "gated", replica)
        assert (one.answer()[0], two.answer()[0]) == (502, 502)
        if status == 502:
            assert waits.answer()[0] == 502
            return
        (tmp_path / "upload").touch()
        (tmp_path / "answer").touch()
        found, text = waits.finish()
        assert (found, int(text[:20])) == (200, TEN)
    assert (tmp_path / "waits.begun").read_text() != str(replica)
    load.more()


# -- replicas that leave ----------------------------------------------------------------------------------------------


@pytest.mark.runtimes("process", "ray")
def test_uploads_and_streams_survive_a_scale_down_and_a_change(serving, instance, client, load, tmp_path):
    place("gated", body_handlers.Gated, str(tmp_path), num_replicas=3, max_concurrent_queries=6)
    uploads = [Upload(instance, f"/gated?name=n{number}", 3_000_000) for number in range(6)]
    with ThreadPoolExecutor(6) as threads:
        until(lambda: len(list(tmp_path.glob("*.begun"))) == 6)
        used = {int((tmp_path / f"n{number}.begun").read_text()) for number in range(6)}
        assert len(used) > 1
        serve.update_backend_config("gated", {"num_replicas": 1})
        (tmp_path / "upload").touch()
        answers = [threads.submit(upload.finish) for upload in uploads]
        until(lambda: len(list(tmp_path.glob("*.answering"))) == 6)
        # Those that stay are replaced as well, in the middle of their answers.
        serve.update_backend_config("gated", {"max_concurrent_queries": 2})
        until(lambda: not pids(serving, "gated") & used)
        (tmp_path / "answer").touch()
        for answer in answers:
            status, body = answer.result(60)
            assert (status, int(body[:20]), len(body)) == (200, TEN, 20 + 1_000_000)
    for upload in uploads:
        upload.socket.close()
    assert int(client.get("/gated").text) not in used
    load.more()


def test_a_load_of_long_bodies_survives_changes(serving, instance):
    place("digest", body_handlers.digest, num_replicas=2)
    place("pieces", body_handlers.pieces, num_replicas=1)
    body = BODY[:2_000_000]
    over, fine = [], []

    def send(path):
        with httpx.Client(base_url=instance.url, timeout=60, verify=False) as client:
            while not over:
                answer = client.post(path, content=body)
                good = answer.json()["size"] == len(body) if path == "/digest" else answer.content == body
                fine.append(answer.status_code == 200 and good)

    with ThreadPoolExecutor(4) as threads:
        loads = [threads.submit(send, path) for path in ("/digest", "/pieces", "/digest")]
        try:
            for replicas in (1, 2, 1):
                serve.update_backend_config("digest", {"num_replicas": replicas})
                before = len(fine)
                until(lambda before=before: len(fine) > before + 10 or any(load.done() for load in loads))
            serve.update_backend_config("pieces", {"max_concurrent_queries": 2})
            until(lambda: len(pids(serving, "pieces")) == 1)
        finally:
            over.append(True)
        for load in loads:
            load.result(60)
    assert all(fine)


@pytest.mark.runtimes("process", "ray")
def test_a_replica_that_is_told_to_end_gives_back_or_finishes(serving, instance, tmp_path):
    """By SIGTERM: it leaves on its own, and nothing fails."""
    place("gated", body_handlers.Gated, str(tmp_path), max_concurrent_queries=2)
    (replica,) = pids(serving, "gated")
    with contextlib.ExitStack() as stack:
        one, two = (stack.enter_context(Upload(instance, f"/gated?name={name}", 3_000_000)) for name in ("one", "two"))
        until(lambda: all((tmp_path / f"{name}.begun").exists() for name in ("one", "two")))
        waits = stack.enter_context(Upload(instance, "/gated?name=waits", 1_000_000))
        until(lambda: outstanding("gated") == 3)
        os.kill(replica, signal.SIGTERM)
        until(lambda: outstanding("gated") == 2)  # what had not begun was given back
        (tmp_path / "upload").touch()
        (tmp_path / "answer").touch()
        for upload in (one, two, waits):
            status, body = upload.finish()
            assert (status, int(body[:20])) == (200, TEN)
    assert {(tmp_path / f"{name}.begun").read_text() for name in ("one", "two")} == {str(replica)}
    assert (tmp_path / "waits.begun").read_text() != str(replica)


# -- slots ----------------------------------------------------------------------------------------------------------


def test_four_run_at_once_and_never_five_each_with_its_own_request(serving, instance):
    place("together", body_handlers.Together, max_concurrent_queries=4)

    def ask(number):
        size = 1000 if number % 2 else 1_000_000
        answer = httpx.post(f"{instance.url}/together?name=n{number}", content=bytes(size), verify=False, timeout=60)
        most, *seen = answer.json()
        assert seen == [f"n{number}"] * 3 + [size]
        return most

    with ThreadPoolExecutor(16) as threads:
        assert max(threads.map(ask, range(80))) == 4
