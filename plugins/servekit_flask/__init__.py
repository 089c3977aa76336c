"""Two request adapters: ``flask``, the default, whose handlers receive a real ``flask.Request`` and answer as Flask
views do; and ``wsgi``, for whole applications.

Discovering this plugin imports no Flask (200 ms): the replicas alone need it, and get it when they build the adapter.
"""

from __future__ import annotations

from collections.abc import Mapping

from servekit.hookspecs import hookimpl
from servekit.interfaces import RequestAdapter, RequestAdapterFactory


def create_adapter(*, secret_key: str | None = None) -> RequestAdapter:
    """The adapter ``flask``.

    ``secret_key`` signs the cookie behind `flask.session`; without one, writing to the session raises Flask's error.
    """
    from servekit_flask.adapter import FlaskAdapter

    return FlaskAdapter(secret_key=secret_key)


def create_wsgi_adapter(*, factory: bool = False) -> RequestAdapter:
    """The adapter ``wsgi``: the target is a WSGI application.

    ``factory``: the target, called without arguments, makes the application, once in each replica.
    """
    from servekit_flask.wsgi import WsgiAdapter

    return WsgiAdapter(factory=factory)


@hookimpl
def servekit_register_request_adapters() -> Mapping[str, RequestAdapterFactory]:
    return {"flask": create_adapter, "wsgi": create_wsgi_adapter}
