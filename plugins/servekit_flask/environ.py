"""The WSGI environ of a request (PEP 3333): the form in which werkzeug and Flask read it."""

from __future__ import annotations

import sys
from functools import lru_cache
from io import BytesIO
from typing import Any
from urllib.parse import unquote_to_bytes

from servekit.interfaces import Request

_CONSTANT: dict[str, Any] = {
    "SCRIPT_NAME": "",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "wsgi.version": (1, 0),
    "wsgi.url_scheme": "http",
    "wsgi.multithread": True,
    "wsgi.multiprocess": True,
    "wsgi.run_once": False,
    "wsgi.input_terminated": True,  # the stream ends where the body does, so werkzeug need not count bytes
}


def environ_of(request: Request) -> dict[str, Any]:
    """A fresh environ; ``servekit.request_id`` is the request's id."""
    path = request.path
    query = request.query_string.decode("latin-1")
    if request.sent_target is None and path.isascii():
        target = f"{path}?{query}" if query else path
    else:
        target = request.target.decode("latin-1")
        if not path.isascii():  # Its bytes, which need not have been UTF-8.
            path = unquote_to_bytes(request.raw_path).decode("latin-1")
    environ = _CONSTANT.copy()
    environ["REQUEST_METHOD"] = request.method
    environ["PATH_INFO"] = path
    environ["QUERY_STRING"] = query
    environ["RAW_URI"] = environ["REQUEST_URI"] = target  # As gunicorn has it, and as uWSGI has.
    environ["wsgi.input"] = BytesIO(request.body) if request.incoming is None else request.incoming
    environ["wsgi.errors"] = sys.stderr
    environ["servekit.request_id"] = request.id
    if request.client:
        environ["REMOTE_ADDR"] = request.client
    for name, value in request.headers:
        key = environ_key(name)
        if key in environ:
            environ[key] += ("; " if key == "HTTP_COOKIE" else ",") + value.decode("latin-1")
        elif key:
            environ[key] = value.decode("latin-1")
    environ["SERVER_NAME"], environ["SERVER_PORT"] = server_of(environ.get("HTTP_HOST", ""))
    if request.scheme == "https":
        environ["wsgi.url_scheme"] = "https"
        environ["SERVER_NAME"], environ["SERVER_PORT"] = server_of(environ.get("HTTP_HOST", ""), "443")
    return environ


@lru_cache(maxsize=1024)
def environ_key(name: bytes) -> str:
    """``content-type`` → ``CONTENT_TYPE``, ``x-a`` → ``HTTP_X_A``; empty for a header that must not get in.

    A name with an underscore must not: it could pass for another header (``x_user`` for ``x-user``) that a proxy in
    front of us checks or removes. nginx, gunicorn and werkzeug drop such headers too. ``Proxy`` must not either: as
    ``HTTP_PROXY`` it could pass for the variable that clients of HTTP take their proxy from (CVE-2016-5385).
    """
    if b"_" in name or name == b"proxy":
        return ""
    key = name.decode("latin-1").upper().replace("-", "_")
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"


@lru_cache(maxsize=256)
def server_of(host: str, default_port: str = "80") -> tuple[str, str]:
    """Name and port in a Host header; ``localhost`` for none, as PEP 3333 wants both."""
    name, _, port = host.rpartition(":")
    if name and not port:
        return name, default_port
    if name and port.isdecimal() and len(port) <= 5:
        return name, port
    return host or "localhost", default_port
