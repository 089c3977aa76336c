"""What the calling process adds to a runtime's options: `ReplicaRuntime.complete_options`, called where it can know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def complete(name: str, options: Mapping[str, Any], *, outlives: bool) -> dict[str, Any]:
    """The options of the runtime ``name``, as it completes them here. Raises the `ServekitError` that it raises.

    A name that no plugin gives is the controller's to refuse, which knows why.
    """
    from servekit.plugins import Kind, find

    provided = find(Kind.RUNTIME, name)
    # A factory may be a function, which has no say.
    completed = getattr(provided and provided.factory, "complete_options", None)
    return dict(options if completed is None else completed(options, outlives=outlives))
