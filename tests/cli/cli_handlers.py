"""A handler in a module of its own: what it needs, and is frozen with it, is little."""

from __future__ import annotations

from typing import Any


def handler(flask_request: Any) -> Any:
    body = flask_request.get_data(as_text=True)
    return {"method": flask_request.method, "body": body, "x": flask_request.headers.get("x-tried")}
