"""The request adapter ``validated``: a handler gets what its annotation says, and returns what becomes JSON."""

from __future__ import annotations

from collections.abc import Mapping

from servekit.hookspecs import hookimpl
from servekit.interfaces import RequestAdapterFactory
from servekit_validated.adapter import ValidatedAdapter

__all__ = ["ValidatedAdapter"]


@hookimpl
def servekit_register_request_adapters() -> Mapping[str, RequestAdapterFactory]:
    return {"validated": ValidatedAdapter}
