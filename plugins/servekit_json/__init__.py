"""The request adapter ``json``: handlers receive what the annotations of their parameters say, validated, and return
what becomes JSON. Models are msgspec's or pydantic's; pydantic is imported by nobody but the user."""

from __future__ import annotations

from collections.abc import Mapping

from servekit.hookspecs import hookimpl
from servekit.interfaces import RequestAdapter, RequestAdapterFactory


def create_adapter(*, strict: bool | None = None, max_problems: int = 20) -> RequestAdapter:
    """The adapter ``json``.

    Args:
        strict: False: in a body, too, ``"1"`` will do for a number, and the like; True: it does for none. None: as is
            usual, so msgspec is strict, and a pydantic model decides.
        max_problems: how many problems one answer names, at most.
    """
    from servekit_json.adapter import JsonAdapter

    return JsonAdapter(strict=strict, max_problems=max_problems)


@hookimpl
def servekit_register_request_adapters() -> Mapping[str, RequestAdapterFactory]:
    return {"json": create_adapter}
