"""The errors that the ingress answers: one function a case."""

from __future__ import annotations

from servekit.error_answers import ErrorAnswer


def no_route(path: str) -> ErrorAnswer:
    return ErrorAnswer("not_found", f"no endpoint has the path {path!r}. GET /-/routes lists those there are.")


def wrong_method(method: str, allow: str) -> ErrorAnswer:
    message = f"this endpoint does not take {method}. It takes {allow}."
    return ErrorAnswer("method_not_allowed", message, f"allow: {allow}\r\n".encode())


def no_traffic(endpoint: str) -> ErrorAnswer:
    return ErrorAnswer(
        "no_traffic", f"endpoint {endpoint!r} has no traffic. servekit.set_traffic({endpoint!r}, …) gives it."
    )


def no_replica(endpoint: str) -> ErrorAnswer:
    return ErrorAnswer(
        "no_replica", f"no backend of endpoint {endpoint!r} has a replica, and none is coming (num_replicas 0)."
    )


def not_ready(missing: str) -> ErrorAnswer:
    return ErrorAnswer("not_ready", missing)


def version_down(backend: str) -> ErrorAnswer:
    return ErrorAnswer("version_down", f"backend {backend!r} was chosen and has no live replica (strict endpoint).")


def queue_full(what: str) -> ErrorAnswer:
    return ErrorAnswer("queue_full", f"the queue of {what} is full; try again later.", b"retry-after: 1\r\n")


def overloaded(backend: str, retry_after_s: int) -> ErrorAnswer:
    message = f"backend {backend!r} has more requests than it can answer in time, this one among them; try again later."
    return ErrorAnswer("overloaded", message, b"retry-after: %d\r\n" % retry_after_s)


def no_room_for_body() -> ErrorAnswer:
    # Not 507: of that, RFC 4918, 11.5, says that it must not be sent again by itself, and proxies hold to it.
    message = "there is no room to take in a body of this length; try again later."
    return ErrorAnswer("no_room", message, b"retry-after: 1\r\n")


def too_late(endpoint: str, timeout_s: float) -> ErrorAnswer:
    return ErrorAnswer("deadline", f"endpoint {endpoint!r} did not answer within its {timeout_s:g} s.")


def replica_died(backend: str) -> ErrorAnswer:
    return ErrorAnswer("replica_died", f"the replica of backend {backend!r} that had this request died.")


def deadly() -> ErrorAnswer:
    return ErrorAnswer(
        "deadly_request",
        "replicas have died again and again with a request that is the same as this one; it is refused for a while. "
        "Their logs, and that of the instance, may say of what.",
    )


def method_not_callable(backend: str, method: str) -> ErrorAnswer:
    return ErrorAnswer(
        "method_not_callable",
        f"backend {backend!r} does not let the method {method!r} be called; "
        "its config's callable_methods lists those that may be.",
    )


def call_cycle(backend: str, way: str) -> ErrorAnswer:
    return ErrorAnswer(
        "call_cycle",
        f"every replica of backend {backend!r} waits for this call itself: it came by way of {way}. "
        "Do not call in a circle, or give the backend more replicas or more slots (max_concurrent_queries).",
    )


def policy_failed(endpoint: str) -> ErrorAnswer:
    return ErrorAnswer("policy_failed", f"the routing policy of endpoint {endpoint!r} failed; see the ingress log.")


def no_endpoint(endpoint: str, known: str) -> ErrorAnswer:
    return ErrorAnswer("not_found", f"there is no endpoint {endpoint!r}{known}")


def endpoint_gone(endpoint: str) -> ErrorAnswer:
    return ErrorAnswer("not_found", f"endpoint {endpoint!r} was deleted.")
