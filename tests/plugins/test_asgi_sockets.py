"""WebSockets of the adapter ``asgi``: the messages of an application on one side, frames on the other."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import CLIENT, Protocol

from servekit.interfaces import Request, RequestAdapter, Response
from servekit_asgi import create_adapter

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
DEADLINE_S = 10.0


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, DEADLINE_S))


class Incoming:
    """What the client sends, as the core hands it on."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.put = self._queue.put_nowait

    def vanish(self) -> None:
        self.put(None)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (data := await self._queue.get()) is not None:
            if not data:
                return
            yield data
        raise ConnectionError("the client is gone")


class Client:
    """The client's end, by the `websockets` library; its bytes go straight to the adapter and back."""

    def __init__(self, app: Any, headers: list[tuple[bytes, bytes]] | None = None, **options: Any) -> None:
        self.adapter: RequestAdapter = create_adapter(**{"lifespan": "off", "ws_ping_interval_s": None, **options})
        self.app = app
        self.incoming = Incoming()
        self.protocol = Protocol(CLIENT)
        self.pongs = True
        key = [(b"host", b"h"), (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ==")]
        self.request = Request("GET", "/app/ws", b"q=1", [*key, *(headers or [])], b"", "e", "/app", "id-1", "")
        self.request.mount = self.request.upgrade = True
        self.request.sent_target = b"/app/%77s?q=1"
        self.request.incoming = self.incoming
        self.ended = False
        self.error: BaseException | None = None

    async def __aenter__(self) -> Client:
        await self.adapter.start(self.app)
        self.response: Any = await self.adapter.call_async(self.app, self.request)
        return self

    async def __aexit__(self, *_: object) -> None:
        if not isinstance(self.response.body, bytes):
            await self.response.body.aclose()
        await self.adapter.stop()

    def flush(self) -> None:
        for data in self.protocol.data_to_send():
            if data:
                self.incoming.put(data)

    def send(self, data: str | bytes) -> None:
        send: Any = self.protocol.send_text if isinstance(data, str) else self.protocol.send_binary
        send(data.encode() if isinstance(data, str) else data)
        self.flush()


async def frames(client: Client, count: int = 1) -> list[Frame]:
    """The next ``count`` frames, or all to the end if that comes first. Pongs are sent where ``client.pongs`` says."""
    found: list[Frame] = []
    while len(found) < count and not client.ended:
        try:
            data = await client.response.body.__anext__()
        except Exception as error:
            client.ended = True
            client.error = None if isinstance(error, StopAsyncIteration) else error
            client.protocol.receive_eof()
            break
        if data:
            client.protocol.receive_data(data)
        found += client.protocol.events_received()  # type: ignore[arg-type]
        if client.pongs:
            client.flush()
    return found


async def to_the_end(client: Client) -> list[Frame]:
    return await frames(client, 1_000_000)


async def echo(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": event["text"], "bytes": event["bytes"]})


class Told:
    """Accepts, and notes every event."""

    def __init__(self, *first: dict[str, Any], raises: BaseException | None = None, returns: bool = False) -> None:
        self.first = first
        self.raises = raises
        self.returns = returns
        self.events: list[dict[str, Any]] = []
        self.scope: dict[str, Any] = {}

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        self.scope = scope
        for message in self.first:
            await send(message)
        if self.raises is not None:
            raise self.raises
        while not self.returns:
            self.events.append(await receive())
            if self.events[-1]["type"] == "websocket.disconnect":
                return


ACCEPT = {"type": "websocket.accept"}


def test_the_scope_and_the_handshake() -> None:
    app = Told({"type": "websocket.accept", "subprotocol": "b", "headers": [(b"x-a", b"1")]})

    async def check() -> Response:
        async with Client(app, [(b"sec-websocket-protocol", b"a, b")]) as client:
            return client.response

    response = run(check())
    assert response.status == 101
    assert response.headers == [
        ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),  # RFC 6455, 1.3
        ("Sec-WebSocket-Protocol", "b"),
        ("x-a", "1"),
    ]
    scope = app.scope
    assert (scope["type"], scope["scheme"], scope["subprotocols"]) == ("websocket", "ws", ["a", "b"])
    assert (scope["path"], scope["root_path"], scope["query_string"]) == ("/app/ws", "/app", b"q=1")
    assert scope["raw_path"] == b"/app/%77s"
    assert scope["extensions"] == {"websocket.http.response": {}}


def test_text_and_bytes_both_ways() -> None:
    async def check() -> None:
        async with Client(echo) as client:
            for data in ("", "text", "äöü€😀", b"", b"\x00\xff", "x" * 200_000, bytes(300_000)):
                client.send(data)
                (frame,) = await frames(client)
                assert frame.opcode is (Opcode.TEXT if isinstance(data, str) else Opcode.BINARY)
                assert frame.data == (data.encode() if isinstance(data, str) else data)

    run(check())


def test_a_message_in_fragments_is_one_message() -> None:
    async def check() -> None:
        async with Client(echo) as client:
            client.protocol.send_text("ä".encode()[:1], fin=False)
            client.protocol.send_ping(b"between")
            client.protocol.send_continuation("ä".encode()[1:] + b"b", fin=False)
            client.protocol.send_continuation(b"", fin=True)
            client.flush()
            pong, frame = await frames(client, 2)
            assert (pong.opcode, pong.data) == (Opcode.PONG, b"between")
            assert (frame.opcode, frame.data) == (Opcode.TEXT, "äb".encode())

    run(check())


def test_bytes_may_come_one_by_one() -> None:
    async def check() -> None:
        async with Client(echo) as client:
            client.protocol.send_text(b"slowly")
            for data in client.protocol.data_to_send():
                for byte in data:
                    client.incoming.put(bytes([byte]))
            (frame,) = await frames(client)
            assert frame.data == b"slowly"

    run(check())


@pytest.mark.parametrize("fragments", [1, 3])
def test_a_message_that_is_too_long_closes(fragments: int) -> None:
    app = Told(ACCEPT)

    async def check() -> None:
        async with Client(app, ws_max_message_bytes=100) as client:
            client.send(b"x" * 100)
            for number in range(fragments):
                send = client.protocol.send_continuation if number else client.protocol.send_binary
                send(b"x" * (101 if fragments == 1 else 34), fin=number == fragments - 1)
            client.flush()
            await to_the_end(client)
            assert client.protocol.close_code == 1009
            assert client.error is None

    run(check())
    assert [event.get("bytes") for event in app.events] == [None, b"x" * 100, None]
    assert app.events[-1]["code"] == 1009


def test_the_client_closes() -> None:
    app = Told(ACCEPT)

    async def check() -> None:
        async with Client(app) as client:
            client.send("one")
            client.protocol.send_close(4001, "why not")
            client.flush()
            (answer,) = await to_the_end(client)
            assert (answer.opcode, client.protocol.close_code) == (Opcode.CLOSE, 4001)

    run(check())
    assert app.events[1]["text"] == "one"
    assert app.events[2] == {"type": "websocket.disconnect", "code": 4001, "reason": "why not"}


@pytest.mark.parametrize("ends", ["vanish", "half-close", "let go"])
def test_a_client_that_vanishes_is_a_disconnect_by_1006(ends: str) -> None:
    app = Told(ACCEPT)

    async def check() -> None:
        async with Client(app) as client:
            await frames(client, 0)
            if ends == "vanish":
                client.incoming.vanish()
                await to_the_end(client)
            elif ends == "half-close":
                client.incoming.put(b"")
                await to_the_end(client)
                assert client.protocol.close_code == CloseCode.SERVICE_RESTART

    run(check())
    assert app.events[-1] == {"type": "websocket.disconnect", "code": 1006, "reason": ""}


@pytest.mark.parametrize(("message", "code"), [({}, 1000), ({"code": 4000, "reason": "bye"}, 4000)])
def test_the_application_closes(message: dict[str, Any], code: int) -> None:
    app = Told(ACCEPT, {"type": "websocket.send", "text": "last"}, {"type": "websocket.close", **message})

    async def check() -> None:
        async with Client(app) as client:
            last, close = await to_the_end(client)
            assert (last.data, close.opcode) == (b"last", Opcode.CLOSE)
            assert (client.protocol.close_code, client.protocol.close_reason) == (code, message.get("reason", ""))

    run(check())
    assert app.events[-1]["code"] == code


def test_an_application_that_returns_closes() -> None:
    async def check() -> None:
        async with Client(Told(ACCEPT, returns=True)) as client:
            await to_the_end(client)
            assert (client.protocol.close_code, client.error) == (1000, None)

    run(check())


def test_an_application_that_raises_closes_and_its_error_comes_out() -> None:
    async def check() -> None:
        async with Client(Told(ACCEPT, raises=ValueError("mine"))) as client:
            await to_the_end(client)
            assert (client.protocol.close_code, str(client.error)) == (1011, "mine")

    run(check())


def test_a_client_that_does_not_answer_a_close_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from servekit_asgi import open_socket

    monkeypatch.setattr(open_socket, "CLOSE_TIMEOUT_S", 0.05)

    async def check() -> None:
        async with Client(Told(ACCEPT, returns=True)) as client:
            client.pongs = False
            await to_the_end(client)
            assert client.ended

    run(check())


def test_a_draining_replica_closes_its_sockets() -> None:
    app = Told(ACCEPT)

    async def check() -> None:
        async with Client(app) as client:
            client.adapter.drain()
            await to_the_end(client)
            assert client.protocol.close_code == CloseCode.SERVICE_RESTART

    run(check())
    assert app.events[-1]["code"] == 1012


def test_what_is_no_frame_closes() -> None:
    app = Told(ACCEPT)

    async def check() -> None:
        async with Client(app) as client:
            client.incoming.put(b"\xff\xff\xff\xff\xff\xff")
            await to_the_end(client)
            assert client.protocol.close_code == CloseCode.PROTOCOL_ERROR

    run(check())
    assert app.events[-1]["code"] == 1002


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_a_close_instead_of_an_accept_is_a_403() -> None:
    async def check() -> None:
        async with Client(Told({"type": "websocket.close"})) as client:
            assert (client.response.status, client.response.body) == (403, b"Forbidden\n")

    run(check())


@pytest.mark.parametrize("pieces", [[b"no"], [b"n", b"o"]])
def test_a_refusal_of_the_applications_own(pieces: list[bytes]) -> None:
    messages: list[dict[str, Any]] = [
        {"type": "websocket.http.response.start", "status": 401, "headers": [(b"x-a", b"1")]},
        *({"type": "websocket.http.response.body", "body": piece, "more_body": True} for piece in pieces[:-1]),
        {"type": "websocket.http.response.body", "body": pieces[-1]},
    ]

    async def check() -> None:
        async with Client(Told(*messages, returns=True)) as client:
            response = client.response
            assert (response.status, response.headers) == (401, [("x-a", "1")])
            body = response.body
            if not isinstance(body, bytes):
                body = b"".join([piece async for piece in body])
            assert body == b"no"

    run(check())


@pytest.mark.parametrize(
    ("app", "said"),
    [
        (Told(returns=True), "neither accepted the WebSocket nor refused it"),
        (Told(raises=ValueError("mine")), "mine"),
        (Told({"type": "websocket.send", "text": "x"}), "handshake has no place"),
    ],
)
def test_an_application_that_does_not_answer_the_handshake(app: Any, said: str) -> None:
    async def check() -> None:
        async with Client(app):
            pass

    with pytest.raises((RuntimeError, ValueError), match=said):
        run(check())


def test_a_call_that_is_cancelled_before_the_answer_is_a_disconnect() -> None:
    app = Told()

    async def check() -> None:
        client = Client(app)
        await client.adapter.start(app)
        call = asyncio.ensure_future(client.adapter.call_async(app, client.request))
        await asyncio.sleep(0.01)
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await call
        await client.adapter.stop()

    run(check())
    assert [event["type"] for event in app.events] == ["websocket.connect", "websocket.disconnect"]


# -- pings, and who waits for whom -------------------------------------------------------------------------------------


def test_a_client_that_answers_pings_stays() -> None:
    async def check() -> None:
        async with Client(echo, ws_ping_interval_s=0.02) as client:
            pings = await frames(client, 5)
            assert [frame.opcode for frame in pings] == [Opcode.PING] * 5
            client.send("still there")
            while (frame := (await frames(client))[0]).opcode is Opcode.PING:
                pass
            assert frame.data == b"still there"

    run(check())


def test_a_client_that_answers_no_pings_is_gone() -> None:
    app = Told(ACCEPT)

    async def check() -> None:
        async with Client(app, ws_ping_interval_s=0.02) as client:
            client.pongs = False
            await to_the_end(client)
            assert client.protocol.close_code == 1011

    run(check())
    assert app.events[-1]["code"] == 1006


def test_send_waits_for_a_client_that_does_not_read() -> None:
    sent = []

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        for number in range(100):
            await send({"type": "websocket.send", "bytes": bytes(10_000)})
            sent.append(number)
        await send({"type": "websocket.close"})

    async def check() -> None:
        async with Client(app) as client:
            await asyncio.sleep(0.05)
            assert len(sent) < 10
            found = await to_the_end(client)
            assert len(found) == 101

    run(check())


def test_a_client_is_read_no_further_than_the_application_receives() -> None:
    go = asyncio.Event()
    events = []

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        await go.wait()
        while (event := await receive())["type"] != "websocket.disconnect":
            events.append(event["bytes"])

    async def check() -> None:
        async with Client(app) as client:
            for number in range(200):
                client.send(b"%d" % number)
            await asyncio.sleep(0.05)
            assert client.incoming._queue.qsize() > 100
            go.set()
            client.protocol.send_close(1000)
            client.flush()
            await to_the_end(client)

    run(check())
    assert events == [b"%d" % number for number in range(200)]


def test_send_raises_once_the_client_is_gone() -> None:
    raised: list[BaseException] = []

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        await receive()
        await receive()
        try:
            await send({"type": "websocket.send", "text": "too late"})
        except OSError as error:
            raised.append(error)
            raise

    async def check() -> None:
        async with Client(app) as client:
            client.incoming.vanish()
            await to_the_end(client)

    run(check())
    assert len(raised) == 1


def test_without_wsproto_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in ("wsproto", "wsproto.connection"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "servekit_asgi.open_socket", raising=False)
    monkeypatch.delattr("servekit_asgi.open_socket", raising=False)

    async def check() -> None:
        async with Client(echo):
            pass

    with pytest.raises(RuntimeError, match=r"pip install 'servekit\[asgi\]'"):
        run(check())
