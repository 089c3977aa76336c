"""The request adapter ``messagepack``: a handler gets what a MessagePack body holds, and returns what one can hold."""

from __future__ import annotations

from collections.abc import Mapping

from servekit.hookspecs import hookimpl
from servekit.interfaces import RequestAdapterFactory
from servekit_messagepack.adapter import MessagePackAdapter

__all__ = ["MessagePackAdapter"]


@hookimpl
def servekit_register_request_adapters() -> Mapping[str, RequestAdapterFactory]:
    return {"messagepack": MessagePackAdapter}
