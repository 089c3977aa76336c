"""A service for the files beside this one: ``python app.py`` serves until SIGTERM, and answers first what it has."""

from __future__ import annotations

import os
from typing import Any

import servekit as serve


def hello(request: Any) -> dict[str, str]:
    return {"hello": request.args.get("name", "world"), "client": request.remote_addr, "scheme": request.scheme}


if __name__ == "__main__":
    serve.init(
        runtime="process",
        http_host=os.environ.get("HOST", "127.0.0.1"),
        http_port=int(os.environ.get("PORT", "8000")),
        # Who may say who the client is: the proxies in front, by address or network.
        trusted_proxies=os.environ.get("TRUSTED_PROXIES", "").split(),
        # Served on, though not ready, so that load balancers hear of it first; then what is in flight may end.
        drain_delay_s=float(os.environ.get("DRAIN_DELAY_S", "5")),
        drain_timeout_s=60.0,
    )
    serve.create_backend("hello", hello, config={"num_replicas": 2}, placement={"threads": 1})
    serve.create_endpoint("hello", "/hello", backend="hello")
    print(f"serving at {serve.current().url}", flush=True)
    serve.wait()
