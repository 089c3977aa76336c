"""The answers that the ingress gives itself: one function a case, ``(status, head, body)``."""

from __future__ import annotations

from typing import TypeAlias

from servekit.http1.responses import TEXT

Refused: TypeAlias = "tuple[int, bytes, bytes]"


def _text(status: int, message: str, head: bytes = b"") -> Refused:
    return status, TEXT + head, message.encode() + b"\n"


def no_route(path: str) -> Refused:
    return _text(404, f"Not Found: no endpoint has the path {path!r}. GET /-/routes lists those there are.")


def wrong_method(method: str, allow: str) -> Refused:
    message = f"Method Not Allowed: this endpoint does not take {method}. It takes {allow}."
    return _text(405, message, f"allow: {allow}\r\n".encode())


def options(allow: str) -> Refused:
    return 200, TEXT + f"allow: {allow}\r\n".encode(), b""


def moved(location: str) -> Refused:
    return _text(308, f"Permanent Redirect: {location}", f"location: {location}\r\n".encode())


def no_traffic(endpoint: str) -> Refused:
    return _text(
        503,
        f"Service Unavailable: endpoint {endpoint!r} has no traffic. servekit.set_traffic({endpoint!r}, …) gives it.",
    )


def no_replica(endpoint: str) -> Refused:
    return _text(
        503,
        f"Service Unavailable: no backend of endpoint {endpoint!r} has a replica, and none is coming (num_replicas 0).",
    )


def version_down(backend: str) -> Refused:
    return _text(503, f"Service Unavailable: backend {backend!r} was chosen and has no live replica (strict endpoint).")


def queue_full(what: str) -> Refused:
    return _text(503, f"Service Unavailable: the queue of {what} is full; try again later.", b"retry-after: 1\r\n")


def no_room_for_body() -> Refused:
    # Not 507: of that, RFC 4918, 11.5, says that it must not be sent again by itself, and proxies hold to it.
    return _text(
        503,
        "Service Unavailable: there is no room to take in a body of this length; try again later.",
        b"retry-after: 1\r\n",
    )


def too_late(endpoint: str, timeout_s: float) -> Refused:
    return _text(504, f"Gateway Timeout: endpoint {endpoint!r} did not answer within its {timeout_s:g} s.")


def replica_died(backend: str) -> Refused:
    return _text(502, f"Bad Gateway: the replica of backend {backend!r} that had this request died.")


def method_not_callable(backend: str, method: str) -> Refused:
    return _text(
        400,
        f"Bad Request: backend {backend!r} does not let the method {method!r} be called; "
        "its config's callable_methods lists those that may be.",
    )


def call_cycle(backend: str, way: str) -> Refused:
    return _text(
        508,
        f"Loop Detected: every replica of backend {backend!r} waits for this call itself: it came by way of {way}. "
        "Do not call in a circle, or give the backend more replicas or more slots (max_concurrent_queries).",
    )


def policy_failed(endpoint: str) -> Refused:
    return _text(
        500, f"Internal Server Error: the routing policy of endpoint {endpoint!r} failed; see the ingress log."
    )


def no_endpoint(endpoint: str, known: str) -> Refused:
    return _text(404, f"Not Found: there is no endpoint {endpoint!r}{known}")


def endpoint_gone(endpoint: str) -> Refused:
    return _text(404, f"Not Found: endpoint {endpoint!r} was deleted.")
