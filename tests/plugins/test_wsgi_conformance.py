"""The adapter ``wsgi`` does what every request adapter must, with an application for a handler."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from servekit.interfaces import Handler, RequestAdapter
from servekit.testing.conformance import RequestAdapterTests
from servekit.testing.conformance.exchanges import Answer, Seen
from servekit_flask import create_wsgi_adapter


class TestWsgiAdapter(RequestAdapterTests):
    only_call = True
    unanswerable = ()

    def make_adapter(self) -> RequestAdapter:
        return create_wsgi_adapter()

    def handler(self, act: Answer) -> Handler:
        def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            headers = [(key[5:].replace("_", "-"), value) for key, value in environ.items() if key.startswith("HTTP_")]
            path = (environ["SCRIPT_NAME"] + environ["PATH_INFO"]).encode("latin-1").decode()
            answer = act(Seen(environ["wsgi.input"].read(), headers, path, environ["QUERY_STRING"].encode("latin-1")))
            start_response(f"{answer.status} As the kit says", answer.headers)
            body: Any = answer.body
            return [body] if isinstance(body, bytes) else body

        return application
