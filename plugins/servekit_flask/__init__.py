"""The default request adapter: the handler receives a real ``flask.Request`` and answers as a Flask view does.

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


@hookimpl
def servekit_register_request_adapters() -> Mapping[str, RequestAdapterFactory]:
    return {"flask": create_adapter}
