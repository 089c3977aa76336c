"""Talks to a controller's admin API: the one thing that the Python API and the command line do."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol

import httpx
import msgspec

from servekit import errors
from servekit.errors import ControllerGoneError
from servekit.per_process import PerProcess

_CONNECT_TIMEOUT_S = 5.0


class Client(Protocol):
    """Calls operations of an instance. Safe to use from several threads."""

    def call(self, operation: str, **arguments: Any) -> Any:
        """The operation's result. Raises the `ServekitError` that the controller raised."""

    def close(self) -> None: ...


class AdminClient:
    """A `Client` over the admin API's Unix socket; in a forked child, over a connection of the child's own."""

    def __init__(self, socket_path: str, token: bytes) -> None:
        self._socket_path = socket_path
        self._token = token
        # Two processes on one connection would read each other's answers.
        self._http = PerProcess(self._connect)

    def _connect(self) -> httpx.Client:
        # Operations are bounded by the controller (a backend's startup_timeout_s, say), so reading is not bounded here.
        return httpx.Client(
            # Neither certificates nor proxies have a part in this, and SSL_CERT_FILE may name what is not there.
            transport=httpx.HTTPTransport(uds=self._socket_path, verify=False, trust_env=False),
            trust_env=False,
            base_url="http://servekit/v1/",
            headers={"authorization": f"Bearer {self._token.hex()}", "content-type": "application/msgpack"},
            timeout=httpx.Timeout(None, connect=_CONNECT_TIMEOUT_S),
        )

    def call(self, operation: str, **arguments: Any) -> Any:
        try:
            response = self._http.get().post(operation, content=msgspec.msgpack.encode(arguments))
        except httpx.TransportError as error:
            raise ControllerGoneError(
                f"the controller of this instance cannot be reached ({error}); "
                "if it crashed, call servekit.shutdown() and servekit.init() again"
            ) from error
        answer = json.loads(response.content)
        if response.status_code != 200:
            raise errors.rebuild(answer["error"], answer["message"])
        return answer

    def close(self) -> None:
        http = self._http.made()
        if http is not None:
            http.close()


class DirectClient:
    """A `Client` of a controller in this process. Arguments and results are encoded all the same."""

    def __init__(self, run: Callable[[str, bytes], bytes]) -> None:
        """``run`` runs an operation of `servekit.control.operations` on the controller's loop."""
        self._run = run

    def call(self, operation: str, **arguments: Any) -> Any:
        return msgspec.json.decode(self._run(operation, msgspec.msgpack.encode(arguments)))

    def close(self) -> None: ...
