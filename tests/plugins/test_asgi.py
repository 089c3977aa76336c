"""The adapter ``asgi``: scopes, HTTP both ways, errors, and the lifespan."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest

from servekit.interfaces import Request, RequestAdapter, Response
from servekit_asgi import create_adapter
from servekit_asgi.scopes import http_scope, websocket_scope

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
DEADLINE_S = 10.0


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, DEADLINE_S))


def request(path: str = "/", method: str = "GET", body: bytes = b"", route: str = "/", **more: Any) -> Request:
    headers = more.pop("headers", [(b"host", b"example.org:8080"), (b"x-a", b"1")])
    query = more.pop("query", b"")
    return Request(method, path, query, headers, body, "e", route, "id-1", "127.0.0.1", **more)


class Arriving:
    """A body that comes in pieces; ``breaks`` at its end."""

    def __init__(self, *pieces: bytes, breaks: bool = False) -> None:
        self.pieces = pieces
        self.breaks = breaks

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            yield piece
        if self.breaks:
            raise ConnectionError("the client is gone")


def answers(*messages: dict[str, Any]) -> Any:
    """An application that sends these."""

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        for message in messages:
            await send(message)

    return app


def start(status: int = 200, *headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(data: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def ask(app: Any, asked: Request | None = None, **options: Any) -> Response:
    """What a started adapter answers; it is stopped afterwards."""
    adapter = create_adapter(**{"lifespan": "off", **options})
    await adapter.start(app)
    try:
        response = await adapter.call_async(app, asked or request())
        if not isinstance(response.body, bytes):
            response.body = b"".join(await pieces_of(response))
        return response
    finally:
        await adapter.stop()


async def pieces_of(response: Response) -> list[bytes]:
    """Read as the core reads."""
    found: Any = response.body
    try:
        return [piece async for piece in found]
    finally:
        await found.aclose()


# -- scopes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("route", "mount", "path", "root_path"),
    [
        ("/app", True, "/app/x y", "/app"),
        ("/app/", True, "/app/", "/app"),
        ("/app", True, "/app", "/app"),
        ("/", True, "/x", ""),
        ("/x", False, "/x", ""),
    ],
)
def test_the_path_is_whole_and_the_prefix_is_the_root_path(route: str, mount: bool, path: str, root_path: str) -> None:
    scopes = []

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await answers(start(), body(b""))(scope, receive, send)

    sent_target = f"{path.replace(' ', '%20')}?a=%20".encode() if " " in path else None
    run(ask(app, request(path, "PUT", route=route, mount=mount, query=b"a=%20", sent_target=sent_target)))
    (scope,) = scopes
    assert (scope["path"], scope["root_path"], scope["raw_path"]) == (
        path,
        root_path,
        path.replace(" ", "%20").encode(),
    )
    del scope["path"], scope["root_path"], scope["raw_path"]
    assert scope == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "PUT",
        "scheme": "http",
        "query_string": b"a=%20",
        "headers": [(b"host", b"example.org:8080"), (b"x-a", b"1")],
        "client": ("127.0.0.1", 0),
        "server": ("example.org", 8080),
        "state": {},
    }


@pytest.mark.parametrize(
    ("host", "server"),
    [("h", ("h", 80)), ("h:", ("h", 80)), ("[::1]:81", ("[::1]", 81)), ("", None)],
)
def test_server_is_what_the_client_asked_for(host: str, server: Any) -> None:
    adapter: Any = create_adapter()
    assert adapter.decode(request(headers=[(b"host", host.encode())]))["server"] == server


def test_the_scheme_is_what_a_trusted_proxy_was_asked_by() -> None:
    asked = request(headers=[(b"host", b"h")], scheme="https")
    for scope, scheme in ((http_scope(asked, {}), "https"), (websocket_scope(asked, {}), "wss")):
        assert (scope["scheme"], scope["server"]) == (scheme, ("h", 443))


# -- requests ----------------------------------------------------------------------------------------------------------


async def collect(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Answers with what was received."""
    events = [await receive()]
    while events[-1].get("more_body"):
        events.append(await receive())
    said = " ".join(f"{event['type']}:{event.get('body', b'').decode()}" for event in events)
    await answers(start(), body(said.encode()))(scope, receive, send)


def test_a_whole_body_arrives() -> None:
    assert run(ask(collect, request(body=b"data"))).body == b"http.request:data http.request:"
    assert run(ask(collect)).body == b"http.request:"


def test_a_body_arrives_as_it_comes() -> None:
    asked = request(body=b"on", incoming=Arriving(b"on", b"e", b"two"))
    assert run(ask(collect, asked)).body == b"http.request:on http.request:e http.request:two http.request:"


def test_a_body_that_breaks_off_is_a_disconnect() -> None:
    asked = request(incoming=Arriving(b"one", breaks=True))
    assert run(ask(collect, asked)).body == b"http.request:one http.disconnect:"


def test_after_the_answer_receive_is_a_disconnect() -> None:
    seen = []

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await answers(start(), body(b"x"))(scope, receive, send)
        seen.append(await receive())

    run(ask(app, request(body=b"unread")))
    assert seen == [{"type": "http.disconnect"}]


# -- answers -----------------------------------------------------------------------------------------------------------


def test_an_answer_in_one_piece_is_bytes() -> None:
    response = run(ask(answers(start(201, (b"X-A", b"\xe4"), (b"set-cookie", b"a")), body(b"whole"))))
    assert response == Response(201, [("X-A", "ä"), ("set-cookie", "a")], b"whole")


def test_send_waits_until_a_piece_has_been_taken() -> None:
    sent = []

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await send(start())
        for number in range(5):
            await send(body(b"%d" % number, True))
            sent.append(number)
        await send(body(b""))

    async def check() -> None:
        adapter = create_adapter(lifespan="off")
        await adapter.start(app)
        response: Any = await adapter.call_async(app, request())
        for number in range(5):
            for _ in range(10):
                await asyncio.sleep(0)
            assert sent == list(range(number))
            assert await response.body.__anext__() == b"%d" % number
        assert [piece async for piece in response.body] == []
        await response.body.aclose()
        await adapter.stop()

    run(check())


@pytest.mark.parametrize("more", [False, True])
def test_head_has_the_length_and_no_body(more: bool) -> None:
    messages = [start(200, (b"content-length", b"5")), *([body(b"he", True)] if more else []), body(b"llo")]
    response = run(ask(answers(*messages), request(method="HEAD")))
    assert (response.body, response.headers) == (b"", [("content-length", "5")])


@pytest.mark.parametrize("gives_in", [False, True])
def test_an_answer_to_head_that_has_no_end_is_ended(gives_in: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("servekit_asgi.http_call.GONE_GRACE_S", 0.05)
    ended = []

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await send(start())
        try:
            while True:
                try:
                    await send(body(b"x", True))
                except OSError:
                    if gives_in:
                        raise
                    await asyncio.sleep(1000)
        except BaseException as error:
            ended.append(type(error).__name__)
            raise

    assert run(ask(app, request(method="HEAD"))).body == b""
    assert ended == ["ClientGoneError" if gives_in else "CancelledError"]


def test_an_application_goes_on_after_its_answer() -> None:
    done = []

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await answers(start(), body(b"x"))(scope, receive, send)
        await asyncio.sleep(0.01)
        done.append(1)

    assert run(ask(app)).body == b"x"
    assert done == [1]  # `stop` has waited for it.


# -- what goes wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "sent no answer"),
        ([start()], "sent no answer"),
        ([body(b"x")], "before http.response.start"),
        ([start(), start()], "a second time"),
        ([{"type": "websocket.send"}], "no message of an HTTP answer"),
        ([start(), body(b"x", True)], "before the last of its body"),
    ],
)
def test_what_breaks_the_protocol_is_said(messages: list[Any], said: str) -> None:
    with pytest.raises(RuntimeError, match=said):
        run(ask(answers(*messages)))


def test_what_an_application_raises_comes_out() -> None:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await send(start())
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        run(ask(app))


def test_what_is_raised_in_mid_answer_breaks_it_off() -> None:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await answers(start(), body(b"one", True))(scope, receive, send)
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        run(ask(app))


def test_what_is_raised_after_the_answer_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await answers(start(), body(b"x"))(scope, receive, send)
        raise ValueError("mine")

    assert run(ask(app)).body == b"x"
    assert [record.exc_info[1].args for record in caplog.records if record.exc_info] == [("mine",)]  # type: ignore[union-attr]


class Waits:
    """An application that never ends by itself, before or within its answer."""

    def __init__(self, begins: bool, listens: bool) -> None:
        self.begins = begins
        self.listens = listens
        self.ended = ""

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        try:
            if self.begins:
                await answers(start(), body(b"one", True))(scope, receive, send)
            if self.listens:
                while (await receive())["type"] != "http.disconnect":
                    pass
                self.ended = "told"
            else:
                await asyncio.sleep(1000)
        except asyncio.CancelledError:
            self.ended = "cancelled"
            raise


@pytest.mark.parametrize("begins", [False, True])
@pytest.mark.parametrize("listens", [False, True])
def test_an_answer_that_nobody_waits_for_ends(begins: bool, listens: bool) -> None:
    app = Waits(begins, listens)

    async def check() -> None:
        adapter = create_adapter(lifespan="off")
        await adapter.start(app)
        call = asyncio.ensure_future(adapter.call_async(app, request()))
        if begins:
            response: Any = await call
            await response.body.__anext__()
            await asyncio.sleep(0.01)
            await response.body.aclose()
        else:
            await asyncio.sleep(0.01)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            assert call.cancelled()
        assert app.ended == ("told" if listens else "cancelled")
        await adapter.stop()

    run(check())


def test_send_raises_once_the_client_is_gone() -> None:
    raised = []

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await send(start())
        try:
            while True:
                await send(body(b"x", True))
        except OSError as error:
            raised.append(error)
            raise

    async def check() -> None:
        adapter = create_adapter(lifespan="off")
        await adapter.start(app)
        response: Any = await adapter.call_async(app, request())
        assert await response.body.__anext__() == b"x"
        await response.body.aclose()
        await adapter.stop()

    run(check())
    assert "the client is gone" in str(raised[0])


# -- the lifespan ------------------------------------------------------------------------------------------------------


def lived(events: list[str], fails: str = "", state: dict[str, Any] | None = None) -> Any:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            events.append(f"request {scope['state']}")
            scope["state"]["own"] = 1
            await answers(start(), body(b"x"))(scope, receive, send)
            return
        for what in ("startup", "shutdown"):
            assert (await receive())["type"] == f"lifespan.{what}"
            events.append(what)
            if fails == what:
                await send({"type": f"lifespan.{what}.failed", "message": "no model here"})
                return
            scope["state"].update(state or {})
            await send({"type": f"lifespan.{what}.complete"})

    return app


def test_the_lifespan_is_around_the_requests_and_gives_each_a_copy_of_its_state() -> None:
    events: list[str] = []
    app = lived(events, state={"model": "m"})

    async def check() -> None:
        adapter = create_adapter()
        await adapter.start(app)
        for _ in range(2):
            await adapter.call_async(app, request())
        await adapter.stop()

    run(check())
    assert events == ["startup", *["request {'model': 'm'}"] * 2, "shutdown"]


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_a_startup_that_fails_says_why(mode: str) -> None:
    with pytest.raises(RuntimeError, match="startup failed: no model here"):
        run(ask(lived([], fails="startup"), lifespan=mode))


def test_a_shutdown_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    run(ask(lived([], fails="shutdown"), lifespan="on"))
    assert "the application's shutdown failed: no model here" in caplog.text


def test_without_a_lifespan_it_goes_on_unless_that_must_be() -> None:
    app = answers(start(), body(b"x"))
    assert run(ask(app, lifespan="auto")).body == b"x"
    with pytest.raises(RuntimeError, match='lifespan="on" requires'):
        run(ask(app, lifespan="on"))


def test_off_asks_for_no_lifespan() -> None:
    events: list[str] = []
    run(ask(lived(events), lifespan="off"))
    assert events == ["request {}"]


def test_a_shutdown_is_bounded(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    from servekit_asgi import lifespan

    monkeypatch.setattr(lifespan, "SHUTDOWN_TIMEOUT_S", 0.05)

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await asyncio.sleep(1000)

    async def check() -> None:
        adapter = create_adapter()
        await adapter.start(app)
        await adapter.stop()

    with caplog.at_level(logging.WARNING):
        run(check())
    assert "did not shut down within 0.05 s" in caplog.text


# -- targets and options -----------------------------------------------------------------------------------------------


def test_a_factory_makes_the_application_once() -> None:
    made = []

    def make() -> Any:
        made.append(1)
        return answers(start(), body(b"made"))

    async def check() -> None:
        adapter = create_adapter(factory=True, lifespan="off")
        await adapter.start(make)
        assert [(await adapter.call_async(make, request())).body for _ in range(3)] == [b"made"] * 3
        await adapter.stop()

    run(check())
    assert made == [1]


class TwoCalls:
    """As in ASGI 2."""

    def __init__(self, scope: Any) -> None: ...

    async def __call__(self, receive: Any, send: Any) -> None: ...


@pytest.mark.parametrize("app", [TwoCalls, lambda environ, start_response: [], lambda: None])
def test_what_is_no_asgi_3_application_is_refused_at_the_start(app: Any) -> None:
    with pytest.raises(TypeError, match="no ASGI 3 application.*guarantee_single_callable"):
        run(ask(app))


@pytest.mark.parametrize(
    "options", [{"lifespan": "maybe"}, {"ws_ping_interval_s": 0}, {"ws_max_message_bytes": 0}], ids=str
)
def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(ValueError, match=name):
        create_adapter(**options)


@pytest.mark.parametrize("method", ["call", "encode"])
def test_the_other_ways_in_say_that_they_are_none(method: str) -> None:
    adapter: RequestAdapter = create_adapter()
    with pytest.raises(TypeError, match="`call_async` alone"):
        getattr(adapter, method)(*([None, request()] if method == "call" else [None]))


def test_what_could_pass_for_something_else_is_not_in_the_scope() -> None:
    seen: dict[str, Any] = {}

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        seen.update(scope)
        await send(start())
        await send(body(b""))

    sent = [b"host", b"proxy", b"x_user", b"x-user", b"proxy-authorization"]
    asked = request(headers=[(name, b"1") for name in sent])
    adapter = create_adapter()

    async def ask() -> None:
        await adapter.start(app)
        await adapter.call_async(app, asked)
        await adapter.stop()

    run(ask())
    assert [name for name, _ in seen["headers"]] == [b"host", b"x-user", b"proxy-authorization"]
