"""Long bodies through a whole instance, in process: what a handler and its client see of them."""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import flask
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.waiting import until

import servekit
from servekit.interfaces import Request, RequestAdapter, Response
from servekit.wire.loop_thread import LoopThread

DEADLINE_S = 20.0
MEGABYTE = 1_000_000
SPOOL_BYTES = servekit.HttpLimits().spool_answer_bytes


class Local:
    """A handler with locks and the like, which could not travel; in process it need not."""

    def __init__(self, handler: Any) -> None:
        self._handler = handler

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __call__(self, request: Any) -> Any:
        return self._handler(request)


def serve(name: str, handler: Any, *, adapter: Any = None, timeout_s: float = 60.0, **config: Any) -> None:
    more = {} if adapter is None else {"adapter": adapter}
    servekit.create_backend(name, Local(handler), config=config, **more)
    servekit.create_endpoint(name, f"/{name}", methods=["GET", "POST", "PUT"], backend=name, timeout_s=timeout_s)


def counted(endpoint: str, status: int) -> int:
    found = servekit.stat()["endpoints"].get(endpoint)
    return found["by_status"].get(str(status), 0) if found else 0


def outstanding(backend: str) -> int:
    return sum(replica["outstanding"] for replica in servekit.status()["backends"][backend]["replicas"])


@pytest.fixture(scope="module", autouse=True)
def clients() -> Iterator[None]:
    """The loop of the clients that are `Raw`."""
    Raw.thread = LoopThread("test-clients")
    yield
    Raw.thread.close()


class Raw(asyncio.Protocol):
    """A client that sends what it likes, and reads when it likes: ``reads``, at the start."""

    thread: LoopThread

    def __init__(self, served: Any, data: bytes = b"", *, reads: bool = True) -> None:
        self.data = b""
        self.is_closed = False
        loop = self.thread.loop
        connecting = loop.create_unix_connection(lambda: self, sock=served.instance.connect())
        self._transport, _ = asyncio.run_coroutine_threadsafe(connecting, loop).result(DEADLINE_S)
        if not reads:
            self._call(self._transport.pause_reading)
        if data:
            self.send(data)

    def data_received(self, data: bytes) -> None:
        self.data += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True

    def send(self, data: bytes) -> None:
        self._call(self._transport.write, data)

    def read_on(self) -> None:
        self._call(self._transport.resume_reading)

    def close(self) -> None:
        self._call(self._transport.close)

    def half_close(self) -> None:
        self._call(self._transport.write_eof)

    def _call(self, function: Any, *arguments: Any) -> None:
        self.thread.loop.call_soon_threadsafe(function, *arguments)


def post(path: str, length: int, sent: int) -> bytes:
    """A request with the first part of its body."""
    return b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (path.encode(), length) + bytes(sent)


def echo(request: flask.Request) -> bytes:
    return request.get_data()


def echo_pieces(request: flask.Request) -> Iterator[bytes]:
    stream = request.stream
    return iter(lambda: stream.read(50_000), b"")


class Whole(RequestAdapter):
    """Knows nothing of streams."""

    def decode(self, request: Request) -> bytes:
        return request.body

    def encode(self, result: bytes) -> Response:
        return Response(200, [], result)


# -- all of it arrives ----------------------------------------------------------------------------------------------


@pytest.fixture
def echoes(serve_instance: Any) -> Any:
    serve("whole", echo)
    serve("pieces", echo_pieces)
    serve("threads", echo, max_concurrent_queries=3)
    serve("plain", lambda body: body, adapter=Whole())
    return serve_instance


PATHS = ["/whole", "/pieces", "/threads", "/plain"]
SIZES = [0, 1, 65_535, 65_536, 65_537, 327_679, 327_680, 327_681, 3 * MEGABYTE]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("chunked", [False, True])
def test_bodies_come_back_as_they_were_sent(echoes: Any, path: str, chunked: bool) -> None:
    for size in SIZES:
        body = b"".join(b"%07d," % number for number in range(size // 8 + 1))[:size]
        pieces = (body[at : at + 70_001] for at in range(0, size, 70_001))
        answer = echoes.client.post(path, content=pieces if chunked else body)
        assert answer.status_code == 200
        assert answer.content == body


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.one_of(st.integers(1, 300), st.integers(60_000, 400_000)), max_size=8),
    st.sampled_from(PATHS),
    st.booleans(),
)
def test_any_split_of_a_body_arrives_both_ways(echoes: Any, sizes: list[int], path: str, chunked: bool) -> None:
    pieces = [bytes([number + 1]) * size for number, size in enumerate(sizes)]
    headers = {} if chunked else {"Content-Length": str(sum(sizes))}
    answer = echoes.client.post(path, content=iter(pieces), headers=headers)
    assert answer.status_code == 200
    assert answer.content == b"".join(pieces)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.one_of(st.integers(0, 300), st.integers(60_000, 400_000)), max_size=8), st.booleans())
def test_any_pieces_of_an_answer_arrive(serve_instance: Any, sizes: list[int], known: bool) -> None:
    pieces = [bytes([number + 1]) * size for number, size in enumerate(sizes)]

    def handler(request: Any) -> Any:
        return flask.Response(iter(pieces), headers={"Content-Length": str(sum(sizes))} if known else {})

    serve("made", handler)
    answer = serve_instance.client.get("/made")
    assert answer.content == b"".join(pieces)
    assert ("content-length" in answer.headers) is known
    servekit.delete_endpoint("made")
    servekit.delete_backend("made")


def test_many_at_once(echoes: Any) -> None:
    def one(number: int) -> bool:
        body = bytes([number]) * (MEGABYTE + number)
        return bool(echoes.client.post(PATHS[number % len(PATHS)], content=body).content == body)

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(one, range(36)))


def test_forms_and_files_are_read_from_the_stream(serve_instance: Any) -> None:
    def form(request: flask.Request) -> dict[str, Any]:
        data = request.files["file"].read()
        return {"field": request.form["field"], "size": len(data), "ends": data[-3:].decode()}

    serve("form", form)
    files = {"file": ("a.bin", bytes(2 * MEGABYTE) + b"end")}
    answer = serve_instance.client.post("/form", data={"field": "f"}, files=files)
    assert answer.json() == {"field": "f", "size": 2 * MEGABYTE + 3, "ends": "end"}


def test_json_of_a_megabyte(serve_instance: Any) -> None:
    serve("json", lambda request: {"sum": sum(request.get_json())})
    numbers = list(range(200_000))
    assert serve_instance.client.post("/json", json=numbers).json() == {"sum": sum(numbers)}


# -- uploads that are not read, or end early --------------------------------------------------------------------------


def test_a_connection_goes_on_after_an_unread_body(serve_instance: Any) -> None:
    serve("ignore", lambda request: "ignored")
    serve("refuse", lambda request: ("no", 403))
    paths = ("/ignore", "/refuse", "/nowhere")
    lines = [post(path, size, size) for path in paths for size in (100_000, 2 * MEGABYTE)]
    client = Raw(serve_instance, b"".join(lines) + b"GET /ignore HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    until(lambda: client.is_closed)
    assert [int(part[:3]) for part in client.data.split(b"HTTP/1.1 ")[1:]] == [200, 200, 403, 403, 404, 404, 200]


class Reader:
    """Reads its body, and keeps what came of that."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.results: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def __call__(self, request: flask.Request) -> str:
        if request.method == "GET":
            return "free"
        self.begun.release()
        try:
            size = len(request.stream.read())
        except BaseException as error:
            self.results.put(error)
            raise
        self.results.put(size)
        return "read"


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("sent", [100_000, 700_000])
def test_a_client_that_goes_in_mid_upload(serve_instance: Any, slots: int, sent: int) -> None:
    """Before its call has begun (100,000 bytes are awaited, and with one slot all), and while its handler reads."""
    reader, begins = Reader(), sent > 600_000 and slots > 1
    serve("reader", reader, max_concurrent_queries=slots)
    for _ in range(3):
        client = Raw(serve_instance, post("/reader", 2 * MEGABYTE, sent))
        if begins:
            assert reader.begun.acquire(timeout=DEADLINE_S)
        client.close()
        if begins:
            assert isinstance(reader.results.get(timeout=DEADLINE_S), ConnectionError)
    until(lambda: counted("reader", 499) == 3)
    assert serve_instance.client.get("/reader").text == "free"
    until(lambda: outstanding("reader") == 0)
    assert reader.results.empty()


def test_a_half_close_in_mid_upload_is_a_400(serve_instance: Any) -> None:
    reader = Reader()
    serve("reader", reader, max_concurrent_queries=2)
    client = Raw(serve_instance, post("/reader", 2 * MEGABYTE, 700_000))
    assert reader.begun.acquire(timeout=DEADLINE_S)
    client.half_close()
    until(lambda: client.is_closed)
    assert client.data.startswith(b"HTTP/1.1 400 ")
    assert isinstance(reader.results.get(timeout=DEADLINE_S), ConnectionError)
    assert serve_instance.client.get("/reader").text == "free"


def test_a_deadline_in_mid_upload(serve_instance: Any) -> None:
    reader = Reader()
    serve("reader", reader, timeout_s=0.3, max_concurrent_queries=2)
    client = Raw(serve_instance, post("/reader", 2 * MEGABYTE, 700_000))
    until(lambda: client.data)
    assert client.data.startswith(b"HTTP/1.1 504 ")
    assert isinstance(reader.results.get(timeout=DEADLINE_S), ConnectionError)
    client.send(bytes(2 * MEGABYTE - 700_000) + b"GET /reader HTTP/1.1\r\nHost: a\r\n\r\n")
    until(lambda: client.data.endswith(b"free"))
    client.close()


def test_an_upload_that_is_malformed_or_too_long(serve_instance: Any) -> None:
    reader = Reader()
    serve("reader", reader, max_concurrent_queries=2)
    head = b"POST /reader HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n7a120\r\n" + bytes(500_000) + b"\r\n"
    for bad, status in ((b"no chunk\r\n", 400), (b"4000000\r\n" + bytes(64 * 1024 * 1024), 413)):
        client = Raw(serve_instance, head)
        assert reader.begun.acquire(timeout=DEADLINE_S)
        client.send(bad)
        until(lambda client=client: client.data)
        assert client.data.startswith(b"HTTP/1.1 %d " % status)
        assert isinstance(reader.results.get(timeout=DEADLINE_S), ConnectionError)
        client.close()
    assert serve_instance.client.get("/reader").text == "free"


def test_a_reader_takes_no_more_than_it_asks_for(serve_instance: Any) -> None:
    """What is not read is not even received: the client is held back."""
    gate = threading.Event()

    def slow(request: flask.Request) -> dict[str, int]:
        first = len(request.stream.read(100_000))
        assert gate.wait(DEADLINE_S)
        return {"first": first, "rest": len(request.stream.read())}

    serve("slow", slow, max_concurrent_queries=2)
    client = Raw(serve_instance, post("/slow", 8 * MEGABYTE, 0))
    for _ in range(80):
        client.send(bytes(100_000))
    transport = client._transport

    def stands_still() -> bool:
        before = transport.get_write_buffer_size()
        time.sleep(0.05)
        return bool(before == transport.get_write_buffer_size() < 8 * MEGABYTE)

    until(stands_still)
    gate.set()
    until(lambda: b"}" in client.data)
    assert b'{"first":100000,"rest":7900000}' in client.data.replace(b" ", b"").replace(b"\n", b"")
    client.close()


# -- answers that are made piece by piece -----------------------------------------------------------------------------


@pytest.mark.parametrize("slots", [1, 3])
def test_a_stream_has_its_request(serve_instance: Any, slots: int) -> None:
    def handler(request: flask.Request) -> Any:
        flask.g.name = request.args["name"]

        def pieces() -> Iterator[str]:
            for _ in range(50):
                yield f"{flask.request.args['name']} {flask.g.name} {flask.current_app.name}\n"

        return flask.stream_with_context(pieces())

    serve("stream", handler, max_concurrent_queries=slots)

    def ask(number: int) -> None:
        text = serve_instance.client.get("/stream", params={"name": f"n{number}"}).text
        assert set(text.splitlines()) == {f"n{number} n{number} servekit_flask"}
        assert len(text.splitlines()) == 50

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(ask, range(60)))


def test_without_its_context_a_stream_has_no_request(serve_instance: Any) -> None:
    """As in Flask; and the one of a later call is not taken for it."""

    def handler(request: flask.Request) -> Any:
        return ("yes" if flask.has_request_context() else "no" for _ in range(3))

    for slots in (1, 2):
        serve(f"stream{slots}", handler, max_concurrent_queries=slots)
        for _ in range(3):
            assert serve_instance.client.get(f"/stream{slots}").text == "nonono"


def test_a_stream_that_fails(serve_instance: Any) -> None:
    def handler(request: flask.Request) -> Any:
        def pieces() -> Iterator[str]:
            for _ in range(int(request.args["after"])):
                yield "piece"
            raise LookupError("the handler's own trouble")

        return pieces()

    serve("failing", handler)
    assert serve_instance.client.get("/failing?after=0").status_code == 500
    for after in (1, 2, 1000):
        with serve_instance.client.stream("GET", f"/failing?after={after}") as answer:
            assert answer.status_code == 200
            with pytest.raises(httpx.RemoteProtocolError):
                answer.read()
    assert serve_instance.client.get("/failing?after=0").status_code == 500
    until(lambda: counted("failing", 500) == 2)
    assert counted("failing", 200) == 3


@pytest.mark.parametrize("http", ["1.0", "1.1"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("known", [False, True])
def test_how_a_stream_is_framed(serve_instance: Any, http: str, method: str, known: bool) -> None:
    closed = threading.Event()

    def handler(request: flask.Request) -> Any:
        answer = flask.Response(iter(["one", "two"]), headers={"Content-Length": "6"} if known else {})
        answer.call_on_close(closed.set)
        return answer

    serve("framed", handler)
    client = Raw(serve_instance, f"{method} /framed HTTP/{http}\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
    until(lambda: client.is_closed)
    assert closed.wait(DEADLINE_S)
    head, _, body = client.data.partition(b"\r\n\r\n")
    assert (b"content-length: 6" in head.lower()) is known
    assert (b"transfer-encoding: chunked" in head.lower()) is (http == "1.1" and not known)
    if method == "HEAD":
        assert body == b""
    else:
        assert body == (b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n" if http == "1.1" and not known else b"onetwo")


LENGTHS = {"unsaid": None, "none": 0, "some": 1234}


def bare_handler(said: int | None) -> Any:
    def handler(request: flask.Request) -> Any:
        answer = flask.Response()
        if said is not None:
            answer.content_length = said
        return answer

    return handler


def bare_wsgi(said: int | None) -> Any:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [] if said is None else [("Content-Length", str(said))])
        return []

    return application


def bare_asgi(said: int | None) -> Any:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        headers = [] if said is None else [(b"content-length", b"%d" % said)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    return application


def streaming_flask(said: int | None) -> Any:
    app = flask.Flask("head")
    headers = {} if said is None else {"Content-Length": str(said)}
    app.get("/bare")(lambda: flask.Response(iter(["a" * 1234]), headers=headers))
    return app.wsgi_app


BARE = [(bare_handler, None), (bare_wsgi, "wsgi"), (streaming_flask, "wsgi"), (bare_asgi, "asgi")]


@pytest.mark.parametrize("said", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize(("make", "adapter"), BARE, ids=lambda each: getattr(each, "__name__", each))
def test_an_answer_to_head_has_the_length_that_it_says_or_none(
    serve_instance: Any, make: Any, adapter: str | None, said: int | None
) -> None:
    """Without a body of its own it does not say how long that of GET is, and 0 would be wrong (RFC 9110, 8.6)."""
    servekit.create_backend("bare", make(said), adapter=adapter or "flask")
    servekit.create_endpoint("bare", "/bare", backend="bare")
    client = Raw(
        serve_instance,
        b"HEAD /bare HTTP/1.1\r\nHost: a\r\n\r\nHEAD /bare HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    )
    until(lambda: client.is_closed)
    first, second, body = client.data.lower().split(b"\r\n\r\n")
    assert body == b""
    for head in (first, second):
        assert head.startswith(b"http/1.1 200 ")
        lengths = [line for line in head.split(b"\r\n") if line.startswith(b"content-length")]
        assert lengths == ([b"content-length: %d" % said] if said else [])


class Endless:
    """Makes pieces for ever; counts them, and says when it was closed."""

    def __init__(self) -> None:
        self.made = 0
        self.closed = threading.Event()

    def __call__(self, request: flask.Request) -> Any:
        if request.args.get("free"):
            return "free"
        self.closed.clear()

        def pieces() -> Iterator[bytes]:
            try:
                for self.made in itertools.count(1):
                    yield bytes(10_000)
            finally:
                self.closed.set()

        return pieces()


def test_a_slow_reader_stops_the_generator(serve_instance: Any) -> None:
    endless = Endless()
    serve("endless", endless)
    client = Raw(serve_instance, b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n", reads=False)

    def stands_still() -> bool:
        before = endless.made
        time.sleep(0.1)
        return before == endless.made > 0

    until(stands_still)
    # What is spooled, and two windows: what the connection holds, and what the replica may have sent beyond it.
    assert endless.made * 10_000 < SPOOL_BYTES + 2 * MEGABYTE
    before = endless.made
    client.read_on()
    until(lambda: endless.made > before + 1000)
    assert not endless.closed.is_set()
    client.close()
    assert endless.closed.wait(DEADLINE_S)
    assert serve_instance.client.get("/endless?free=1").text == "free"
    until(lambda: counted("endless", 499) == 1)


@pytest.mark.parametrize("slots", [1, 2])
def test_a_client_that_goes_closes_the_generator_and_frees_the_slot(serve_instance: Any, slots: int) -> None:
    endless = Endless()
    serve("endless", endless, max_concurrent_queries=slots)
    for number in range(1, 5):
        with serve_instance.client.stream("GET", "/endless") as answer:
            assert next(answer.iter_bytes())
        assert endless.closed.wait(DEADLINE_S)
        assert serve_instance.client.get("/endless?free=1").text == "free"
        until(lambda number=number: counted("endless", 499) == number)
    until(lambda: outstanding("endless") == 0)


# -- slots ----------------------------------------------------------------------------------------------------------


def test_four_run_at_once_and_never_five_each_with_its_own_request(serve_instance: Any) -> None:
    running, most, lock, together = 0, 0, threading.Lock(), threading.Barrier(4)

    def handler(request: flask.Request) -> Any:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        flask.g.name = request.args["name"]
        together.wait(DEADLINE_S)
        seen = [flask.request.args["name"], flask.g.name, request.args["name"], str(flask.request.content_length)]
        with lock:
            running -= 1
        return seen

    serve("four", handler, max_concurrent_queries=4)

    def ask(number: int) -> None:
        size = 1000 if number % 2 else 500_000
        answer = serve_instance.client.post("/four", params={"name": str(number)}, content=bytes(size))
        assert answer.json() == [str(number)] * 3 + [str(size)]

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(ask, range(80)))
    assert most == 4


# -- changes --------------------------------------------------------------------------------------------------------


def test_replicas_that_leave_finish_what_they_have(serve_instance: Any) -> None:
    """Uploads and streams go on while their replicas are drained, replaced and deleted."""
    gate = threading.Event()

    def slow(request: flask.Request) -> Any:
        sizes = [len(request.stream.read(100_000))]
        assert gate.wait(DEADLINE_S)
        sizes.append(len(request.stream.read()))

        def pieces() -> Iterator[bytes]:
            yield bytes(sum(sizes))

        return pieces()

    serve("slow", slow, num_replicas=2, max_concurrent_queries=3)
    client = serve_instance.client
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(client.post, "/slow", content=bytes(2 * MEGABYTE)) for _ in range(6)]
        until(lambda: outstanding("slow") == 6)
        shrinking = pool.submit(servekit.update_backend_config, "slow", {"num_replicas": 1})
        shrinking.result(DEADLINE_S)
        replacing = pool.submit(servekit.update_backend_config, "slow", {"max_concurrent_queries": 2})
        gate.set()
        for answer in answers:
            assert answer.result(DEADLINE_S).status_code == 200
            assert len(answer.result().content) == 2 * MEGABYTE
        replacing.result(DEADLINE_S)
    assert len(client.post("/slow", content=bytes(MEGABYTE)).content) == MEGABYTE


def test_changes_under_a_load_of_long_bodies_lose_nothing(echoes: Any) -> None:
    stop = threading.Event()
    body = bytes(range(256)) * 3000

    def load(path: str) -> list[bool]:
        fine = []
        while not stop.is_set():
            answer = echoes.client.post(path, content=body)
            fine.append(answer.status_code == 200 and answer.content == body)
        return fine

    with ThreadPoolExecutor(6) as pool:
        loads = [pool.submit(load, path) for path in PATHS]
        for replicas in (3, 1, 2):
            for name in ("whole", "pieces", "threads", "plain"):
                servekit.update_backend_config(name, {"num_replicas": replicas})
        stop.set()
        fine = [one for result in loads for one in result.result()]
    assert fine
    assert all(fine)


def test_slow_uploads_do_not_keep_a_replica_from_others(serve_instance: Any) -> None:
    """Those of which too little has come for their call to begin."""
    serve("hello", lambda request: "hello")
    slow = [Raw(serve_instance, post("/hello", 200_000, 100_000)) for _ in range(10)]
    answer = serve_instance.client.get("/hello", timeout=5)
    assert answer.text == "hello"
    for client in slow:
        client.send(bytes(100_000))
    until(lambda: all(client.data.endswith(b"hello") for client in slow))
    for client in slow:
        client.close()
