from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import enum
import gc
import json
import pathlib
import subprocess
import sys
import threading
import uuid
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, time, timezone
from decimal import Decimal
from http import HTTPStatus
from io import BytesIO
from typing import Any
from urllib.parse import quote

import flask
import msgspec
import pytest
import werkzeug
from hypothesis import example, given
from hypothesis import strategies as st
from markupsafe import Markup
from werkzeug.exceptions import HTTPException, NotFound
from werkzeug.test import EnvironBuilder

from servekit.errors import ResultError
from servekit.interfaces import Request, RequestAdapter, Response
from servekit_flask import create_adapter, servekit_register_request_adapters
from servekit_flask.adapter import FlaskAdapter

WRK_HEADERS = [(b"host", b"localhost:8000"), (b"user-agent", b"wrk"), (b"accept", b"*/*")]


def a_request(**changes: Any) -> Request:
    given_by_name: dict[str, Any] = {
        "method": "GET",
        "path": "/simple",
        "query_string": b"",
        "headers": list(WRK_HEADERS),
        "body": b"",
        "endpoint": "simple",
        "route": "/simple",
        "id": "request-1",
        "client": "127.0.0.1",
    }
    return Request(**{**given_by_name, **changes})


def call(handler: Callable[..., Any], /, adapter: FlaskAdapter | None = None, **changes: Any) -> Response:
    return (adapter or FlaskAdapter()).call(handler, a_request(**changes))


def returned(value: Any) -> Response:
    """What a client gets when a handler returns ``value``."""
    return call(lambda request: value)


def content(response: Response) -> bytes:
    body: Any = response.body
    return body if isinstance(body, bytes) else b"".join(body)


def header(response: Response, name: str) -> str | None:
    return next((value for key, value in response.headers if key.lower() == name.lower()), None)


def as_sent(response: flask.Response) -> tuple[int, list[tuple[str, str]], bytes]:
    """What a WSGI server would send, without what the core adds itself."""
    pieces, status, headers = response.get_wsgi_response(EnvironBuilder().get_environ())
    return int(status[:3]), without_length(headers), b"".join(pieces)


def without_length(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers if name != "Content-Length"]


# -- the plugin ---------------------------------------------------------------------------------------


def test_the_plugin_gives_the_adapter_and_its_options() -> None:
    factory = servekit_register_request_adapters()["flask"]
    adapter = factory(secret_key="s")
    assert isinstance(adapter, RequestAdapter)
    with pytest.raises(TypeError, match="secret_kye"):
        create_adapter(secret_kye="s")  # type: ignore[call-arg]


def test_discovering_the_plugin_does_not_import_flask() -> None:
    program = "import sys, servekit_flask; print('flask' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"


# -- decode: what the handler receives ------------------------------------------------------------------

token = st.from_regex(r"[a-z][a-z0-9-]{0,12}", fullmatch=True)
visible = st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_categories=("Cc",)), max_size=20)
special = {"host", "content-length", "content-type", "transfer-encoding", "cookie"}
own_headers = st.dictionaries(token.filter(lambda name: name not in special), visible, max_size=6)
paths = st.text(st.characters(exclude_categories=("Cs",)), max_size=20).map(lambda text: "/" + text.lstrip("/"))
queries = st.one_of(
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=20),
    st.dictionaries(st.text(max_size=4), st.text(max_size=6), max_size=3).map(
        lambda pairs: "&".join(f"{quote(key)}={quote(value)}" for key, value in pairs.items())
    ),
)
content_types = st.sampled_from([None, "application/json", "application/x-www-form-urlencoded", "text/plain; x=y"])
cookies = st.dictionaries(token, token, max_size=3).map(lambda pairs: "; ".join(f"{k}={v}" for k, v in pairs.items()))


def seen(request: flask.Request) -> dict[str, Any]:
    """What a handler can learn from a request, in a form that compares."""
    return {
        "method": request.method,
        "path": request.path,
        "query_string": request.query_string,
        "full_path": request.full_path,
        "url": request.url,
        "base_url": request.base_url,
        "root_url": request.root_url,
        "root_path": request.root_path,
        "script_root": request.script_root,
        "host": request.host,
        "scheme": request.scheme,
        "is_secure": request.is_secure,
        "remote_addr": request.remote_addr,
        "args": request.args.to_dict(flat=False),
        "headers": sorted((name, value) for name, value in request.headers if name != "Content-Length"),
        "cookies": request.cookies.to_dict(flat=False),
        "content_type": request.content_type,
        "mimetype": request.mimetype,
        "user_agent": request.user_agent.string,
        "accept": str(request.accept_mimetypes),
        "form": request.form.to_dict(flat=False),
        "values": request.values.to_dict(flat=False),
        "data": request.get_data(),
        "json": request.get_json(silent=True),
        "endpoint": request.endpoint,
        "view_args": request.view_args,
        "blueprint": request.blueprint,
    }


@given(
    method=st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"]),
    path=paths,
    query=queries,
    headers=own_headers,
    host=st.sampled_from(["localhost", "localhost:8000", "example.org:80", "[::1]:8000", "127.0.0.1:1"]),
    cookie=cookies,
    content_type=content_types,
    body=st.one_of(st.binary(max_size=60), st.just(b'{"a": [1, "\\u00e9"]}'), st.just(b"a=1&a=2&b=%20")),
)
def test_a_request_is_what_a_real_flask_app_would_get(
    method: str,
    path: str,
    query: str,
    headers: dict[str, str],
    host: str,
    cookie: str,
    content_type: str | None,
    body: bytes,
) -> None:
    sent = {"Host": host, **headers}
    sent |= {"Cookie": cookie} if cookie else {}
    sent |= {"Content-Type": content_type} if content_type else {}
    wire_headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in sent.items()]
    request = a_request(
        method=method,
        path=path,
        query_string=query.encode(),
        headers=[*wire_headers, (b"content-length", str(len(body)).encode())],
        body=body,
        endpoint="all",
        route="/<path:rest>",
        view_args={"rest": path[1:]},
    )
    ours: list[dict[str, Any]] = []
    FlaskAdapter().call(lambda received: ours.append(seen(received)) or "", request)

    builder = EnvironBuilder(
        path=quote(path), base_url=f"http://{host}/", query_string=query, method=method, headers=sent, data=body
    )
    environ = builder.get_environ()
    environ["REMOTE_ADDR"] = "127.0.0.1"
    environ["HTTP_HOST"] = host  # the builder leaves a default port out
    with flask.Flask("real").request_context(environ):
        flask.request.url_rule = werkzeug.routing.Rule("/<path:rest>", endpoint="all")
        flask.request.view_args = {"rest": path[1:]}
        theirs = seen(flask.request)
    assert ours == [theirs]


def test_a_request_is_a_flask_request_with_route_and_id() -> None:
    request = FlaskAdapter().decode(
        a_request(path="/users/7", endpoint="users", route="/users/<int:id>", view_args={"id": 7})
    )
    assert type(request) is flask.Request
    assert request.view_args == {"id": 7}
    assert request.endpoint == "users"
    assert request.url_rule is not None
    assert request.url_rule.rule == "/users/<int:id>"
    assert request.environ["servekit.request_id"] == "request-1"


def test_an_endpoint_without_a_route_has_a_name() -> None:
    request = FlaskAdapter().decode(a_request(route="", endpoint="hidden"))
    assert request.endpoint == "hidden"
    assert request.view_args == {}


def test_repeated_headers_are_joined() -> None:
    pairs = [(b"x-a", b"1"), (b"cookie", b"a=1"), (b"x-a", b"2"), (b"cookie", b"b=2")]
    request = FlaskAdapter().decode(a_request(headers=pairs))
    assert request.headers["X-A"] == "1,2"
    assert dict(request.cookies) == {"a": "1", "b": "2"}


def test_a_header_with_an_underscore_cannot_pass_for_another() -> None:
    request = FlaskAdapter().decode(a_request(headers=[(b"x_user", b"admin"), (b"x-user", b"guest")]))
    assert request.headers["X-User"] == "guest"


@pytest.mark.parametrize(
    ("host", "server"),
    [
        (b"example.org", ("example.org", 80)),
        (b"example.org:81", ("example.org", 81)),
        (b"example.org:", ("example.org", 80)),
        (b"x:" + b"9" * 5000, ("x:" + "9" * 5000, 80)),
        (b"[::1]", ("[::1]", 80)),
        (b"[::1]:81", ("[::1]", 81)),
        (None, ("localhost", 80)),
    ],
    ids=["plain", "port", "empty port", "absurd port", "IPv6", "IPv6 and port", "none"],
)
def test_the_server_is_that_of_the_host_header(host: bytes | None, server: tuple[str, int]) -> None:
    request = FlaskAdapter().decode(a_request(headers=[] if host is None else [(b"host", host)]))
    assert request.server == server


def test_the_scheme_is_what_a_trusted_proxy_was_asked_by() -> None:
    asked = a_request(headers=[(b"host", b"example.org")])
    asked.scheme = "https"
    request = FlaskAdapter().decode(asked)
    assert (request.url_root, request.is_secure) == ("https://example.org/", True)
    assert request.server == ("example.org", 443)
    assert request.environ["wsgi.url_scheme"] == "https"


def test_a_body_of_unstated_length_is_read_whole() -> None:
    request = FlaskAdapter().decode(a_request(method="POST", headers=[(b"transfer-encoding", b"chunked")], body=b"abc"))
    assert request.stream.read(1) == b"a"
    assert request.stream.read() == b"bc"


def test_a_request_without_peer_has_no_address() -> None:
    assert FlaskAdapter().decode(a_request(client="")).remote_addr is None


def test_uploaded_files_arrive_and_are_closed_after_the_call() -> None:
    builder = EnvironBuilder(method="POST", data={"image": (BytesIO(b"pixels"), "a.png"), "n": "1"})
    environ = builder.get_environ()
    files: list[Any] = []

    def handler(request: flask.Request) -> bytes:
        files.append(request.files["image"])
        assert request.form["n"] == "1"
        return request.files["image"].read()

    headers = [(b"content-type", environ["CONTENT_TYPE"].encode())]
    assert call(handler, method="POST", headers=headers, body=environ["wsgi.input"].read()).body == b"pixels"
    assert files[0].stream.closed


# -- encode: what the client gets -------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
bodies = st.one_of(
    st.text(st.characters(exclude_categories=("Cs",))),
    st.binary(),
    st.binary().map(bytearray),
    st.lists(json_values, max_size=3),
    st.dictionaries(st.text(), json_values, max_size=3),
    st.text(st.characters(exclude_categories=("Cs",))).map(Markup),
)
statuses = st.one_of(
    st.integers(200, 599), st.sampled_from(list(HTTPStatus)[4:]), st.sampled_from(["201 CREATED", "404", "418 TEA"])
)
header_pairs = st.lists(st.tuples(st.sampled_from(["X-A", "X-B", "Content-Type", "Location"]), visible), max_size=4)
headers_given = st.one_of(header_pairs, header_pairs.map(dict), header_pairs.map(werkzeug.datastructures.Headers))
results = st.one_of(
    bodies,
    st.tuples(bodies, statuses),
    st.tuples(bodies, headers_given),
    st.tuples(bodies, statuses, headers_given),
    st.tuples(bodies, st.none(), headers_given),
)


@given(results)
@example(("x", 204))
@example(("x", 304))
@example(({"a": 1}, 304))
def test_a_result_is_what_flask_would_make_of_it(result: Any) -> None:
    real = flask.Flask("real")
    with real.test_request_context():
        expected = as_sent(real.make_response(result))
    response = FlaskAdapter().encode(result)
    got = (response.status, without_length(response.headers), content(response))
    assert got[:2] == expected[:2]
    if response.status not in (204, 304):  # the core drops those bodies, as it does for HEAD
        assert got[2] == expected[2]


@given(st.lists(st.one_of(st.text(st.characters(exclude_categories=("Cs",))), st.binary()), max_size=4))
def test_an_iterator_stays_one_and_gives_bytes(pieces: list[str | bytes]) -> None:
    response = FlaskAdapter().encode((iter(pieces), 202, {"X-A": "1"}))
    assert (response.status, header(response, "x-a")) == (202, "1")
    assert not isinstance(response.body, bytes)
    assert list(response.body) == [p.encode() if isinstance(p, str) else p for p in pieces]  # type: ignore[union-attr]


def test_nothing_of_a_generator_runs_before_it_is_asked_and_close_reaches_it() -> None:
    events: list[str] = []

    def generate() -> Iterator[str]:
        events.append("begun")
        try:
            yield "a"
            yield "b"
        finally:
            events.append("closed")

    body: Any = returned(generate()).body
    assert events == []
    pieces = iter(body)
    assert next(pieces) == b"a"
    body.close()
    assert events == ["begun", "closed"]


def test_an_async_generator_gives_bytes() -> None:
    async def generate() -> Any:
        yield "é"
        yield b"b"

    async def collect(body: Any) -> list[bytes]:
        return [piece async for piece in body]

    response = returned((generate(), 201, {"Content-Type": "text/event-stream"}))
    assert (response.status, header(response, "content-type")) == (201, "text/event-stream")
    assert asyncio.run(collect(response.body)) == ["é".encode(), b"b"]


def test_responses_of_flask_and_werkzeug_pass() -> None:
    for kind in (flask.Response, werkzeug.Response):
        response = FlaskAdapter().encode(kind("x", status=418, headers={"X-A": "1"}, mimetype="text/plain"))
        assert (response.status, content(response)) == (418, b"x")
        assert header(response, "x-a") == "1"
        assert header(response, "content-type") == "text/plain; charset=utf-8"


def test_a_response_keeps_repeated_headers_and_its_close_functions() -> None:
    closed: list[bool] = []
    made = flask.Response("x")
    made.set_cookie("a", "1")
    made.set_cookie("b", "2")
    made.call_on_close(lambda: closed.append(True))
    response = FlaskAdapter().encode(made)
    assert [value.split(";")[0] for name, value in response.headers if name == "Set-Cookie"] == ["a=1", "b=2"]
    assert closed == [True]


def test_a_streamed_response_runs_its_close_functions_when_closed() -> None:
    closed: list[bool] = []
    made = flask.Response(iter(["a", "b"]))
    made.call_on_close(lambda: closed.append(True))
    body: Any = FlaskAdapter().encode(made).body
    assert list(body) == [b"a", b"b"]
    assert closed == []
    body.close()
    assert closed == [True]


def test_a_wsgi_application_can_be_returned() -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("203 OK", [("X-Path", environ["PATH_INFO"])])
        return [b"wsgi"]

    response = returned(application)
    assert (response.status, header(response, "x-path"), content(response)) == (203, "/simple", b"wsgi")


@dataclasses.dataclass
class Point:
    x: int


@pytest.mark.parametrize(
    "value",
    [datetime(2026, 1, 2, tzinfo=timezone.utc), uuid.UUID(int=1), Decimal("1.50"), Point(1), Markup("<b>")],
    ids=lambda value: type(value).__name__,
)
def test_what_flask_can_write_as_json_can_be_nested(value: Any) -> None:
    real = flask.Flask("real")
    for nested in ({"v": value}, [value]):
        with real.app_context():
            expected = flask.jsonify(nested).get_data()
        assert returned(nested).body == expected
        assert content(call(lambda request, nested=nested: flask.jsonify(nested))) == expected


def test_json_settings_of_the_app_hold_for_dicts_too() -> None:
    def handler(request: flask.Request) -> dict[str, Any]:
        flask.current_app.json.sort_keys = False  # type: ignore[attr-defined]
        return {"b": 1, "a": "é"}

    adapter = FlaskAdapter()
    assert call(handler, adapter).body == b'{"b":1,"a":"\\u00e9"}\n'
    adapter.app.json.ensure_ascii = False
    adapter.app.json.compact = False
    assert call(handler, adapter).body == '{\n  "b": 1,\n  "a": "é"\n}\n'.encode()


def numpy_values() -> list[tuple[Any, Any]]:
    np = pytest.importorskip("numpy")
    return [
        (np.float32(0.5), 0.5),
        (np.float64(0.5), 0.5),
        (np.longdouble(0.5), 0.5),
        (np.int64(3), 3),
        (np.uint8(255), 255),
        (np.bool_(True), True),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (np.array(1.5), 1.5),
        (np.array([0.5], dtype=np.longdouble), [0.5]),
        (np.array([], dtype=np.float32), []),
        (np.array(["a", "b"]), ["a", "b"]),
        (np.array([{"p": np.float32(0.25)}], dtype=object), [{"p": 0.25}]),
    ]


def test_numpy_values_are_json() -> None:
    for value, plain in numpy_values():
        for result, expected in [
            (value, plain),
            ({"deep": [{"v": value}]}, {"deep": [{"v": plain}]}),
            ([value], [plain]),
            ((value, 201), plain),
            ((value, 201, {"X-A": "1"}), plain),
        ]:
            response = returned(result)
            assert header(response, "content-type") == "application/json"
            assert json.loads(content(response)) == expected
            assert response.status == (201 if isinstance(result, tuple) else 200)
        for through in (flask.jsonify, flask.make_response):
            assert json.loads(content(call(lambda request, f=through, v=value: f(v)))) == plain


def test_pydantic_models_are_json() -> None:
    pydantic = pytest.importorskip("pydantic")
    model = pydantic.create_model("Prediction", label=(str, ...), at=(datetime, ...))
    value = model(label="cat", at=datetime(2026, 1, 2))
    plain = {"label": "cat", "at": "2026-01-02T00:00:00"}
    for result, expected in [(value, plain), ({"p": value}, {"p": plain}), (([value], 201), [plain])]:
        assert json.loads(content(returned(result))) == expected
    assert json.loads(content(call(lambda request: flask.jsonify(value)))) == plain


@pytest.mark.parametrize("value", [object(), 1j, range(3), {}.keys()], ids=lambda value: str(type(value)))
def test_a_wrong_type_is_named_with_what_may_be_returned(value: Any) -> None:
    for result in (value, (value, 200)):
        with pytest.raises(TypeError, match=f"returned {type(value).__name__}, .*dict, list, a generator"):
            returned(result)


def test_a_handler_that_returns_none_is_told_so() -> None:
    for result in (None, (None, 200), (None, 200, {})):
        with pytest.raises(TypeError, match="either returned None or ended without a return statement"):
            returned(result)


@pytest.mark.parametrize("value", [{"x": object()}, [1j], {("a", "b"): 1}, ("x",), ("x", 200, {}, 1)])
def test_what_cannot_be_encoded_is_a_type_error(value: Any) -> None:
    with pytest.raises(TypeError):
        returned(value)


@pytest.mark.parametrize("value", ["\ud800", ("x",), ("x", "made"), ("x", 200, 5), ("x", 200, {"a": "b\n"})], ids=repr)
def test_what_is_no_response_is_a_result_error(value: Any) -> None:
    with pytest.raises(ResultError):
        returned(value)


@pytest.mark.parametrize("value", [7, -1.5, True, 0, 10**30], ids=str)
def test_numbers_are_json_as_inside_a_dict(value: Any) -> None:
    for result, status in [(value, 200), ((value, 201), 201), ((value, 201, {"X-A": "1"}), 201)]:
        response = returned(result)
        assert (response.status, header(response, "content-type")) == (status, "application/json")
        assert content(response) == json.dumps(value).encode() + b"\n"


class Colour(enum.Enum):
    RED = "red"
    TWO = 2


class Box(msgspec.Struct, rename="camel"):
    side_cm: float
    more: Any = None


CONVERTED = [
    ({2}, [2]),
    (frozenset("a"), ["a"]),
    (Colour.RED, "red"),
    (pathlib.PurePosixPath("/a/b"), "/a/b"),
    (time(1, 2), "01:02:00"),
    (date(2026, 1, 2), "Fri, 02 Jan 2026 00:00:00 GMT"),
    (Decimal("1.50"), "1.50"),
    (uuid.UUID(int=1), str(uuid.UUID(int=1))),
    (Point(1), {"x": 1}),
    (Box(2.0), {"sideCm": 2.0, "more": None}),
    ({Colour.TWO: {Colour.RED: (1, 2)}}, {"2": {"red": [1, 2]}}),
    ({"a": 1, 2: 3, None: 4, True: 5}, {"a": 1, "2": 3, "null": 4, "true": 5}),
    ({uuid.UUID(int=1): 1, Decimal("1.5"): 2}, {str(uuid.UUID(int=1)): 1, "1.5": 2}),
]


@pytest.mark.parametrize(("value", "expected"), CONVERTED, ids=lambda value: str(value)[:40])
def test_what_becomes_json_does_so_alone_nested_and_by_jsonify(value: Any, expected: Any) -> None:
    for result in ({"deep": [value]}, ({"deep": (value,)}, 200)):
        assert json.loads(content(returned(result))) == {"deep": [expected]}
    assert json.loads(content(returned(value))) == expected
    assert json.loads(content(call(lambda request: flask.jsonify(value)))) == expected


def test_keys_of_numpy_are_json() -> None:
    np = pytest.importorskip("numpy")
    counts = {np.int64(3): 1, np.str_("a"): {np.bool_(True): np.float32(0.5)}}
    assert json.loads(content(returned(counts))) == {"3": 1, "a": {"true": 0.5}}


class Opaque:
    pass


NOT_JSON = [
    ({"a": [1, float("nan")]}, "result['a'][1] is nan, which JSON does not have"),
    ([{"b": -float("inf")}], "result[0]['b'] is -inf"),
    (float("nan"), "result is nan"),
    ({"p": Point(float("inf"))}, "result['p']['x'] is inf"),  # type: ignore[arg-type]
    ({"a": {"b": Opaque()}}, "result['a']['b'] has the type tests.plugins.test_flask.Opaque, which cannot become JSON"),
    ({"box": Box(1.0, Opaque())}, "result['box'].more has the type tests.plugins.test_flask.Opaque"),
    ({"raw": b"x"}, "result['raw'] has the type bytes, which cannot become JSON: return what its decode() gives"),
    ({"a": {(1, 2): 3}}, "result['a'] has the key (1, 2), of type tuple"),
    ({1: 1, "1": 2}, "result has two keys that are both '1' in JSON"),
    ({"n": {float("nan"): 1}}, "result['n'] has the key nan"),
]


@pytest.mark.parametrize(("value", "said"), NOT_JSON, ids=lambda value: str(value)[:40])
def test_what_json_cannot_have_is_named_by_its_place(value: Any, said: str) -> None:
    for handler in (lambda request: value, lambda request: flask.jsonify(value), lambda request: (value, 201)):
        with pytest.raises(ResultError) as raised:
            call(handler)
        assert said in str(raised.value)


def test_numpy_that_is_not_finite_is_named_by_its_place() -> None:
    np = pytest.importorskip("numpy")
    with pytest.raises(ResultError, match=r"result\['scores'\]\[0\]\[1\] is nan"):
        returned({"scores": np.array([[1.0, np.nan]])})
    with pytest.raises(ResultError, match="result is inf"):
        returned(np.float32("inf"))


def test_what_holds_itself_is_named_and_does_not_end_the_replica() -> None:
    circle: dict[str, Any] = {"a": []}
    circle["a"].append(circle)
    with pytest.raises(ResultError, match=r"result\['a'\]\[0\] holds itself"):
        returned(circle)


def test_a_stream_of_something_else_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="made of str and bytes; int came"):
        content(returned(iter([1])))


@pytest.mark.parametrize("bad", ["a\r\nSet-Cookie: x=1", "a\nb", "a\r"])
def test_a_line_break_in_a_header_is_refused(bad: str) -> None:
    for headers in ({"X-A": bad}, [("X-A", bad)]):
        with pytest.raises(ResultError, match="newline"):
            returned(("x", 200, headers))


# -- call: the Flask context ---------------------------------------------------------------------------


def test_flasks_globals_work_in_a_handler() -> None:
    adapter = FlaskAdapter()

    def handler(request: flask.Request) -> flask.Response:
        assert flask.has_request_context()
        assert flask.has_app_context()
        assert flask.request == request
        assert flask.current_app == adapter.app
        assert "n" not in flask.g
        flask.g.n = 1
        assert flask.render_template_string("{{ request.path }} {{ g.n }}") == "/simple 1"
        response = flask.make_response(flask.jsonify(path=flask.request.path), 202)
        response.headers["X-G"] = str(flask.g.n)
        return response

    for _ in range(2):
        response = call(handler, adapter)
        assert (response.status, header(response, "x-g")) == (202, "1")
        assert json.loads(content(response)) == {"path": "/simple"}
        assert not flask.has_request_context()
        assert not flask.has_app_context()


@pytest.mark.parametrize("error", [ValueError("mine"), SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_other_exceptions_come_through_and_leave_no_context(error: BaseException) -> None:
    def handler(request: flask.Request) -> str:
        raise error

    with pytest.raises(type(error)) as caught:
        call(handler)
    assert caught.value is error
    assert not flask.has_request_context()
    assert not flask.has_app_context()


def test_http_exceptions_are_responses_as_in_flask() -> None:
    def raising(error: Any) -> Callable[..., Any]:
        def handler(*_: Any) -> Any:
            flask.abort(error)

        return handler

    for error in (404, 418, flask.Response("own", 409)):
        real = flask.Flask("real")
        real.add_url_rule("/simple", view_func=raising(error))
        expected = real.test_client().get("/simple")
        response = call(raising(error))
        assert (response.status, content(response)) == (expected.status_code, expected.data)
        assert header(response, "content-type") == expected.headers["Content-Type"]


def test_an_http_exception_may_be_returned_too() -> None:
    assert returned(NotFound()).status == 404
    assert FlaskAdapter().encode(NotFound()).status == 404


def test_a_bad_json_body_is_a_client_error() -> None:
    json_header = [(b"content-type", b"application/json")]
    assert call(lambda request: request.get_json(), method="POST", headers=json_header, body=b"{").status == 400
    assert call(lambda request: request.get_json(), method="POST", body=b"{}").status == 415
    assert call(lambda request: request.args["missing"]).status == 400


def test_redirect_and_url_for_the_endpoint_itself() -> None:
    def handler(request: flask.Request) -> Any:
        assert flask.url_for("users", id=8, _external=True) == "http://localhost:8000/users/8"
        assert flask.url_for("users", id=8, page=2) == "/users/8?page=2"
        return flask.redirect(flask.url_for("users", id=9))

    response = call(handler, path="/users/7", endpoint="users", route="/users/<int:id>", view_args={"id": 7})
    assert (response.status, header(response, "location")) == (302, "/users/9")


@pytest.mark.parametrize("route", ["/simple", ""])
def test_url_for_an_endpoint_that_was_not_asked_fails(route: str) -> None:
    with pytest.raises(werkzeug.routing.BuildError):
        call(lambda request: flask.url_for("other"), route=route)


def test_after_this_request_sees_the_response_in_order() -> None:
    def handler(request: flask.Request) -> str:
        for mark in "ab":

            @flask.after_this_request
            def add(response: flask.Response, mark: str = mark) -> flask.Response:
                response.headers.add("X-Mark", mark)
                return response

        return "x"

    response = call(handler)
    assert [value for name, value in response.headers if name == "X-Mark"] == ["a", "b"]
    assert content(response) == b"x"


def test_after_this_request_runs_after_abort_too() -> None:
    def handler(request: flask.Request) -> Any:
        flask.after_this_request(lambda response: flask.Response("replaced", 410))
        flask.abort(404)

    assert call(handler).status == 410


def test_a_session_is_saved_and_read_again() -> None:
    adapter = FlaskAdapter(secret_key="secret")

    def count(request: flask.Request) -> str:
        flask.session["n"] = flask.session.get("n", 0) + 1
        flask.flash("hello")
        return str(flask.session["n"])

    first = call(count, adapter)
    cookie = header(first, "set-cookie")
    assert cookie is not None
    assert header(first, "vary") == "Cookie"
    second = call(count, adapter, headers=[(b"cookie", cookie.split(";")[0].encode())])
    assert (content(first), content(second)) == (b"1", b"2")
    forged = call(count, FlaskAdapter(secret_key="other"), headers=[(b"cookie", cookie.split(";")[0].encode())])
    assert content(forged) == b"1"


def test_a_session_that_nobody_touched_sets_nothing() -> None:
    response = call(lambda request: "x", FlaskAdapter(secret_key="secret"))
    assert response.headers == [("Content-Type", "text/html; charset=utf-8")]


def test_a_session_without_a_secret_key_can_be_read_and_sets_nothing() -> None:
    response = call(lambda request: flask.session.get("n", "none"))
    assert without_length(response.headers) == [("Content-Type", "text/html; charset=utf-8")]
    assert content(response) == b"none"


def test_without_a_secret_key_flask_says_what_is_missing() -> None:
    def handler(request: flask.Request) -> str:
        assert flask.session.get("n") is None
        flask.session["n"] = 1
        return "x"

    with pytest.raises(RuntimeError, match="no secret key was set"):
        call(handler)


def test_functions_on_the_app_run_around_each_call() -> None:
    adapter = FlaskAdapter()
    told: list[tuple[str, str | None]] = []
    adapter.app.teardown_request(lambda error: told.append(("request", error and str(error))))
    adapter.app.teardown_appcontext(lambda error: told.append(("app", error and str(error))))
    adapter.app.after_request(lambda response: response.headers.add("X-After", "1") or response)
    adapter.app.register_error_handler(404, lambda error: ("no such thing", 404))
    assert header(call(lambda request: "x", adapter), "x-after") == "1"
    assert told == [("request", None), ("app", None)]

    def fails(request: flask.Request) -> str:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        call(fails, adapter)
    assert told[2:] == [("request", "mine"), ("app", "mine")]
    try:
        raise KeyError("of somebody else")
    except KeyError:
        call(lambda request: "x", adapter)
    assert told[4:] == [("request", None), ("app", None)]
    assert not flask.has_request_context()
    assert content(call(lambda request: flask.abort(404), adapter)) == b"no such thing"


def test_signal_receivers_are_told_of_teardown() -> None:
    told: list[Any] = []

    def receiver(sender: Any, **_: Any) -> None:
        told.append(sender)

    adapter = FlaskAdapter()
    with flask.request_tearing_down.connected_to(receiver):
        call(lambda request: "x", adapter)
    call(lambda request: "x", adapter)
    assert told == [adapter.app]


def test_a_handler_cannot_set_up_the_app_for_the_requests_after_it() -> None:
    with pytest.raises(AssertionError, match="has already handled its first request"):
        call(lambda request: flask.current_app.before_request(lambda: None))


def test_a_call_within_a_call_has_its_own_context() -> None:
    adapter = FlaskAdapter()

    def inner(request: flask.Request) -> str:
        assert "n" not in flask.g
        flask.g.n = 2
        return flask.request.path

    def outer(request: flask.Request) -> str:
        flask.g.n = 1
        for other in (adapter, FlaskAdapter()):
            assert content(call(inner, other, path="/inner")) == b"/inner"
            assert (flask.g.n, flask.request.path) == (1, "/simple")
            assert flask.current_app == adapter.app
        return "x"

    assert content(call(outer, adapter)) == b"x"
    assert not flask.has_app_context()


def test_threads_do_not_see_each_other() -> None:
    adapter = FlaskAdapter()
    inside = threading.Barrier(4)

    def handler(request: flask.Request) -> str:
        flask.g.path = flask.request.path
        inside.wait(10)
        assert flask.g.path == flask.request.path == request.path
        inside.wait(10)
        return flask.g.path

    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(lambda path: content(call(handler, adapter, path=path)), ["/a", "/b", "/c", "/d"])
    assert list(answers) == [b"/a", b"/b", b"/c", b"/d"]


def test_a_call_in_a_copied_context_leaves_the_outer_one_alone() -> None:
    adapter = FlaskAdapter()

    async def main() -> list[bytes]:
        def one(path: str) -> bytes:
            return content(call(lambda request: flask.request.path, adapter, path=path))

        answers = await asyncio.gather(asyncio.to_thread(one, "/a"), asyncio.to_thread(one, "/b"))
        assert not flask.has_request_context()
        return [*answers, contextvars.copy_context().run(one, "/c")]

    assert asyncio.run(main()) == [b"/a", b"/b", b"/c"]


def test_copy_current_request_context_works_in_another_thread() -> None:
    def handler(request: flask.Request) -> str:
        flask.session.get("n")

        @flask.copy_current_request_context
        def work() -> str:
            return flask.request.path + str(flask.session.get("n")) + flask.current_app.name

        with ThreadPoolExecutor(1) as pool:
            return pool.submit(work).result(10)

    assert content(call(handler)) == b"/simpleNoneservekit_flask"


def test_stream_with_context_keeps_request_g_and_session() -> None:
    def handler(request: flask.Request) -> Any:
        flask.g.n = 1
        flask.session["user"] = "ada"

        def generate() -> Iterator[str]:
            yield flask.request.path
            yield str(flask.g.n)
            yield flask.session["user"]

        assert "".join(flask.stream_with_context(generate())) == "/simple1ada"  # the context outlives this
        assert flask.g.n == 1
        return flask.stream_with_context(generate()), {"Content-Type": "text/plain"}

    response = call(handler, FlaskAdapter(secret_key="s"))
    assert not flask.has_request_context()
    assert content(response) == b"/simple1ada"
    assert not flask.has_request_context()
    assert not flask.has_app_context()


def test_head_is_answered_as_get() -> None:
    assert content(call(lambda request: request.method, method="HEAD")) == b"HEAD"
    assert content(call(lambda request: flask.make_response("x", 200), method="HEAD")) == b"x"


def test_nothing_of_a_call_waits_for_the_garbage_collector() -> None:
    kept: list[weakref.ref[Any]] = []

    def handler(request: flask.Request) -> str:
        kept.extend((weakref.ref(request), weakref.ref(flask.g._get_current_object())))
        return "x"

    gc.disable()
    try:
        call(handler)
        assert [reference() for reference in kept] == [None, None]
    finally:
        gc.enable()


def test_flask_debug_in_the_environment_changes_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASK_DEBUG", "1")
    assert content(call(lambda request: flask.jsonify({"a": [1]}))) == b'{"a":[1]}\n'


def test_http_exception_without_a_code_is_an_answer_of_its_own() -> None:
    class Answer(HTTPException):
        def get_response(self, *_: Any) -> werkzeug.Response:
            return werkzeug.Response("own", 299)

    def handler(request: flask.Request) -> Any:
        raise Answer

    response = call(handler)
    assert (response.status, content(response)) == (299, b"own")
